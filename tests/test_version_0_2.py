"""What programs written for version 0.2 use: names, positions, messages and what can be read, in virtual time."""

import asyncio
import copy
import pickle
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode, AsyncParallelBatchFlow, AsyncParallelBatchNode

import pocketflow_throttled
from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    FlowPresets,
    FlowRateLimitConfig,
    LimiterRegistry,
    Presets,
    RateLimitConfig,
    RateLimiter,
    RateLimitHit,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)


def test_every_name_is_to_be_had_from_the_package() -> None:
    assert set(pocketflow_throttled.__all__) <= set(dir(pocketflow_throttled))
    for name in """
        AdaptiveThrottledBatchFlow AdaptiveThrottledNode FlowPresets FlowRateLimitConfig LimiterRegistry Presets RateLimitConfig
        RateLimitHit RateLimiter ThrottledAsyncParallelBatchFlow ThrottledParallelBatchNode
    """.split():
        assert name in pocketflow_throttled.__all__
    assert pocketflow_throttled.__version__


# --- RateLimiter


def test_a_limiter_takes_its_settings_by_position_and_by_name() -> None:
    for limiter in (RateLimiter(3, 10, 60), RateLimiter(max_concurrent=3, max_per_window=10, window_seconds=60.0)):
        assert (limiter.max_concurrent, limiter.max_per_window, limiter.window_seconds) == (3, 10, 60.0)


def test_the_defaults_are_five_at_once_and_no_window() -> None:
    limiter = RateLimiter()
    assert (limiter.max_concurrent, limiter.max_per_window, limiter.window_seconds) == (5, None, 60.0)


def test_acquire_and_release_are_the_halves_of_async_with() -> None:
    async def main() -> None:
        limiter = RateLimiter(2, 10)
        assert await limiter.acquire() is None
        async with limiter as same:
            assert same is limiter
            assert (limiter.active, limiter.current_window_count) == (2, 2)
        async with RateLimiter(1) as limiter_of_one:
            waiter = asyncio.create_task(_enter(limiter_of_one))
            await asyncio.sleep(1)
        assert await waiter is limiter_of_one
        limiter.release()
        assert (limiter.active, limiter.current_window_count) == (0, 2)
        limiter.reset()
        assert limiter.current_window_count == 0

    run_virtual(main())


async def _enter(limiter: RateLimiter) -> RateLimiter:
    async with limiter as entered:
        return entered


def test_async_with_gives_the_slot_back_after_an_error() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        for _ in range(3):
            with pytest.raises(KeyError):
                async with limiter:
                    raise KeyError
        assert limiter.active == 0

    run_virtual(main())


def test_a_window_without_a_limit_counts_nothing() -> None:
    async def main() -> int:
        limiter = RateLimiter(5)
        async with limiter:
            return limiter.current_window_count

    assert run_virtual(main()) == 0


def test_a_limiter_shows_its_settings_and_its_live_numbers() -> None:
    async def main() -> str:
        limiter = RateLimiter(3, 10, 30.0)
        async with limiter:
            return repr(limiter)

    shown = run_virtual(main())
    for part in (
        "RateLimiter",
        "max_concurrent=3",
        "max_per_window=10",
        "window_seconds=30.0",
        "current_window_count=1",
        "active=1",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_concurrent": 0}, "max_concurrent must be at least 1"),
        ({"max_concurrent": -1}, "max_concurrent must be at least 1"),
        ({"max_per_window": 0}, "max_per_window must be at least 1"),
        ({"max_per_window": -5}, "max_per_window must be at least 1"),
        ({"window_seconds": 0}, "window_seconds must be positive"),
        ({"window_seconds": -1.0}, "window_seconds must be positive"),
    ],
)
def test_bad_settings_are_value_errors_with_the_messages_of_0_2(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateLimiter(**bad)
    with pytest.raises(ValueError, match=message):
        LimiterRegistry.register("api", **bad)


# --- LimiterRegistry


def test_a_limiter_is_registered_by_position_and_by_name() -> None:
    first = LimiterRegistry.register("x", 3, 10, 60.0)
    second = LimiterRegistry.register(name="y", max_concurrent=3, max_per_window=10, window_seconds=60.0)
    for limiter in (first, second):
        assert isinstance(limiter, RateLimiter)
        assert (limiter.max_concurrent, limiter.max_per_window, limiter.window_seconds) == (3, 10, 60.0)
    assert LimiterRegistry.get_or_create("x", 3, 10, 60.0) is first
    assert LimiterRegistry.get_or_create("z", max_concurrent=2).max_concurrent == 2


def test_what_the_registry_tells_of_its_limiters() -> None:
    LimiterRegistry.register("b", 3, 10, 30.0)
    LimiterRegistry.register("a")
    assert LimiterRegistry.list_names() == ["b", "a"]
    assert LimiterRegistry.list_all()["b"]["max_concurrent"] == 3
    assert run_virtual(_used("b")) == 1
    stats = LimiterRegistry.stats("b")
    names = ("max_concurrent", "max_per_window", "window_seconds", "current_window_count")
    assert [stats[name] for name in names] == [3, 10, 30.0, 1]
    assert (LimiterRegistry.exists("a"), LimiterRegistry.exists("c")) == (True, False)
    with pytest.raises(KeyError, match="not found"):
        LimiterRegistry.get("c")
    with pytest.raises(ValueError, match="Limiter 'a' already exists"):
        LimiterRegistry.register("a")
    LimiterRegistry.reset("a")
    LimiterRegistry.reset("never there")
    assert LimiterRegistry.list_names() == ["b"]
    LimiterRegistry.reset()
    assert LimiterRegistry.list_names() == []


async def _used(name: str) -> int:
    async with LimiterRegistry.get(name):
        return LimiterRegistry.get(name).current_window_count


# --- presets


def test_configs_are_frozen_and_leave_out_what_is_no_limit() -> None:
    config = RateLimitConfig(5, None, "five")
    assert config.to_dict() == {"max_concurrent": 5}
    assert RateLimitConfig(max_concurrent=5, max_per_minute=60).to_dict() == {"max_concurrent": 5, "max_per_minute": 60}
    assert RateLimitConfig(5, 60).description == FlowRateLimitConfig(5, 60).description == ""
    flow_config = FlowRateLimitConfig(max_concurrent_flows=5, max_flows_per_minute=60, description="five")
    assert flow_config.to_dict() == {"max_concurrent_flows": 5, "max_flows_per_minute": 60}
    assert FlowRateLimitConfig(5, None).to_dict() == {"max_concurrent_flows": 5}
    for frozen, name in ((config, "max_concurrent"), (flow_config, "max_concurrent_flows")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 6)


def test_configs_are_dicts_from_lower_case_names() -> None:
    for presets, config in ((Presets, RateLimitConfig), (FlowPresets, FlowRateLimitConfig)):
        assert isinstance(presets.CONFIGS, dict)
        for name, value in presets.CONFIGS.items():
            assert name == name.lower()
            assert isinstance(value, config)
            assert presets.list_presets()[name] == value.description
            assert value.to_dict().items() <= getattr(presets, name.upper()).items()


@pytest.mark.parametrize(
    "name",
    "OPENAI_FREE OPENAI_TIER1 OPENAI_TIER2 OPENAI_TIER3 OPENAI_TIER4 OPENAI_TIER5 ANTHROPIC_FREE ANTHROPIC_BUILD_TIER1 "
    "ANTHROPIC_BUILD_TIER2 ANTHROPIC_BUILD_TIER3 ANTHROPIC_BUILD_TIER4 ANTHROPIC_STANDARD ANTHROPIC_SCALE GOOGLE_FREE "
    "GOOGLE_PAY_AS_YOU_GO COHERE_TRIAL COHERE_PRODUCTION HUGGINGFACE_FREE HUGGINGFACE_PRO MISTRAL_FREE MISTRAL_STANDARD "
    "CONSERVATIVE MODERATE AGGRESSIVE UNLIMITED_CONCURRENT SCRAPING_POLITE SCRAPING_MODERATE SCRAPING_AGGRESSIVE".split(),
)
def test_the_node_presets_of_0_2_are_there(name: str) -> None:
    preset = getattr(Presets, name)
    node = ThrottledParallelBatchNode(**preset)
    assert node.limiter.max_concurrent == preset["max_concurrent"] >= 1
    assert node.limiter.max_per_window == preset["max_per_minute"]


@pytest.mark.parametrize(
    "name",
    "CONSERVATIVE MODERATE AGGRESSIVE HIGH_THROUGHPUT BATCH_PROCESSING DATA_PIPELINE REALTIME HEAVY_PROCESSING UNLIMITED "
    "ADAPTIVE_CONSERVATIVE ADAPTIVE_MODERATE ADAPTIVE_AGGRESSIVE".split(),
)
def test_the_flow_presets_of_0_2_are_there(name: str) -> None:
    assert getattr(FlowPresets, name)["max_concurrent_flows"] >= 1


# --- nodes


def test_nodes_and_flows_are_pocketflows_own() -> None:
    for cls in (ThrottledParallelBatchNode, AdaptiveThrottledNode):
        assert issubclass(cls, AsyncParallelBatchNode)
    for cls in (ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow):
        assert issubclass(cls, AsyncParallelBatchFlow)
        assert issubclass(cls, AsyncFlow)


@pytest.mark.parametrize("cls", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
def test_a_node_takes_retries_and_wait_by_position(cls: Any) -> None:
    assert (cls().max_retries, cls().wait) == (1, 0)
    node = cls(3, 1)
    assert (node.max_retries, node.wait) == (3, 1)
    node = cls(max_retries=3, wait=0.5, max_concurrent=7, max_per_minute=60)
    assert (node.max_retries, node.wait, node.max_concurrent, node.max_per_minute) == (3, 0.5, 7, 60)


def test_what_can_be_read_on_a_node() -> None:
    class Ask(ThrottledParallelBatchNode):
        max_concurrent = 3
        max_per_minute = 30

    node = Ask()
    assert isinstance(node.limiter, RateLimiter)
    assert (node.limiter.max_concurrent, node.limiter.max_per_window, node.limiter.window_seconds) == (3, 30, 60.0)
    assert node.limiter is node.limiter
    stats = node.stats
    assert (stats["max_concurrent"], stats["max_per_minute"], stats["current_window_count"]) == (3, 30, 0)
    node.reset_limiter()


def test_what_can_be_read_on_an_adaptive_node() -> None:
    node = AdaptiveThrottledNode()
    assert (node.initial_concurrent, node.min_concurrent, node.max_concurrent) == (5, 1, 20)
    assert (node.backoff_factor, node.recovery_threshold, node.recovery_factor) == (0.5, 10, 1.2)
    assert (node.current_concurrent, node.propagate_rate_limit) == (5, False)
    names = ("current_concurrent", "total_successes", "total_rate_limits", "consecutive_successes")
    assert [node.stats[name] for name in names] == [5, 0, 0, 0]
    given = AdaptiveThrottledNode(initial_concurrent=8, min_concurrent=2, max_concurrent=9, recovery_threshold=3)
    assert (given.current_concurrent, given.min_concurrent, given.max_concurrent, given.recovery_threshold) == (8, 2, 9, 3)


def test_an_adaptive_node_counts_adapts_and_is_reset() -> None:
    class Ask(AdaptiveThrottledNode):
        refusals = 1

        async def prep_async(self, shared: Any) -> Any:
            return range(3)

        async def exec_async(self, item: int) -> int:
            await asyncio.sleep(1)
            if item == 2 and self.cur_retry == 0 and shared["left"]:
                shared["left"] -= 1
                raise Exception("429 Too Many Requests")
            return item

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            shared["results"] = exec_res_list

    shared: dict[str, Any] = {"left": 1}
    node = Ask()
    run_virtual(node.run_async(shared))
    assert shared["results"] == [0, 1, 2]
    assert (node.stats["total_successes"], node.stats["total_rate_limits"]) == (3, 1)
    assert node.current_concurrent < 5
    node.reset_adaptive_state()
    names = ("current_concurrent", "total_successes", "total_rate_limits", "consecutive_successes")
    assert [node.stats[name] for name in names] == [5, 0, 0, 0]


# --- flows


def test_a_flow_takes_its_start_by_position_and_by_name() -> None:
    start = AsyncNode()
    for cls in (ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow):
        assert cls(start).start_node is cls(start=start).start_node is start
        assert cls().start_node is None


def test_what_can_be_read_on_a_flow() -> None:
    class Users(ThrottledAsyncParallelBatchFlow):
        max_concurrent_flows = 3

    flow = Users(start=AsyncNode(), max_flows_per_minute=30)
    assert isinstance(flow.flow_limiter, RateLimiter)
    assert (flow.flow_limiter.max_concurrent, flow.flow_limiter.max_per_window) == (3, 30)
    names = ("max_concurrent_flows", "max_flows_per_minute", "completed_flows", "failed_flows")
    assert [flow.stats[name] for name in names] == [3, 30, 0, 0]
    assert (ThrottledAsyncParallelBatchFlow().max_concurrent_flows, ThrottledAsyncParallelBatchFlow().max_flows_per_minute) == (
        5,
        None,
    )


def test_what_can_be_read_on_an_adaptive_flow() -> None:
    flow = AdaptiveThrottledBatchFlow(AsyncNode())
    assert (flow.initial_concurrent_flows, flow.min_concurrent_flows, flow.max_concurrent_flows) == (5, 1, 20)
    assert flow.current_concurrent_flows == flow.flow_limiter.max_concurrent == 5
    names = ("current_concurrent_flows", "max_concurrent_flows", "completed_flows", "consecutive_successes", "total_rate_limits")
    assert [flow.stats[name] for name in names] == [5, 20, 0, 0, 0]


@pytest.mark.parametrize("cls", [ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow])
def test_resetting_a_flow_zeroes_its_counters(cls: Any) -> None:
    class Fails(AsyncNode):
        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            if self.params["fails"]:
                raise ValueError("no")

    class Users(cls):
        async def prep_async(self, shared: Any) -> Any:
            return [{"fails": False}, {"fails": True}]

    flow = Users(Fails(), max_flows_per_minute=60)
    for reset in (flow.reset_flow_limiter, *([flow.reset_adaptive_state] if cls is AdaptiveThrottledBatchFlow else [])):
        run_virtual(flow.run_async({}))
        assert (flow.stats["completed_flows"], flow.stats["failed_flows"]) == (1, 1)
        reset()
        assert (flow.stats["completed_flows"], flow.stats["failed_flows"]) == (0, 0)
    flow.reset_flow_limiter()
    assert flow.flow_limiter.current_window_count == 0


# --- RateLimitHit and what is a refusal


def test_a_rate_limit_hit_has_a_message_a_wait_and_a_source() -> None:
    hit = RateLimitHit("Test", retry_after=10.0, source="api")
    assert repr(hit) == "RateLimitHit('Test', retry_after=10.0, source='api')"
    assert (str(hit), hit.retry_after, hit.source) == ("Test", 10.0, "api")
    assert isinstance(hit, Exception)
    bare = RateLimitHit()
    assert str(bare)
    assert (bare.retry_after, bare.source) == (None, None)
    assert RateLimitHit("slow", 2.0, "api").retry_after == 2.0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda hit: pickle.loads(pickle.dumps(hit))])
def test_a_rate_limit_hit_survives_a_copy(duplicate: Any) -> None:
    hit = duplicate(RateLimitHit("Test", retry_after=10.0, source="api"))
    assert (str(hit), hit.retry_after, hit.source) == ("Test", 10.0, "api")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda hit: pickle.loads(pickle.dumps(hit))])
def test_a_copy_of_a_rate_limit_hit_has_all_that_was_told_of_it_since(duplicate: Any) -> None:
    hit = RateLimitHit("Test", retry_after=10.0)
    hit.args = ("Test (refused once in 3.0 s)",)
    hit.add_note("in item 3")
    same = duplicate(hit)
    assert (str(same), same.retry_after, same.__notes__) == ("Test (refused once in 3.0 s)", 10.0, ["in item 3"])


class QuotaHit(RateLimitHit):
    """One that takes other arguments than its base."""

    def __init__(self, code: int) -> None:
        super().__init__("Test", retry_after=10.0)
        self.code = code


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda hit: pickle.loads(pickle.dumps(hit))])
def test_a_rate_limit_hit_of_a_programs_own_survives_a_copy(duplicate: Any) -> None:
    same = duplicate(QuotaHit(5))
    assert (type(same), str(same), same.code, same.retry_after) == (QuotaHit, "Test", 5, 10.0)


class RateLimitError(Exception):
    """Named as the SDKs name theirs."""


REFUSALS = [
    RateLimitHit("slow"),
    RateLimitError("no"),
    *map(
        Exception,
        [
            "429 Too Many Requests",
            "HTTP 429",
            "Error code: 429 - rate limited",
            "status code 429",
            "Rate limit exceeded",
            "rate limit reached for gpt-4",
            "RATE LIMIT",
            "rate_limit_exceeded",
            "{'type': 'error', 'error': {'type': 'rate_limit_error'}}",
            "RateLimitError: slow down",
            "RateLimitExceeded",
            "too_many_requests",
            "TooManyRequests: slow down",
            "API returned 429",
            "Request failed with 429",
            "Error 429",
            "code: 429",
            "429 RESOURCE_EXHAUSTED",
            "ThrottlingException: Rate exceeded",
            "rate-limited, slow down",
            "ratelimit",
            "Too many requests",
            "API quota exceeded",
            "Quota exceeded for this month",
        ],
    ),
]


@pytest.mark.parametrize("exc", REFUSALS, ids=str)
@pytest.mark.parametrize("cls", [ThrottledParallelBatchNode, AdaptiveThrottledNode, ThrottledAsyncParallelBatchFlow])
def test_a_refusal_is_known_by_its_name_or_its_message(cls: Any, exc: Exception) -> None:
    assert cls.is_rate_limit_error(exc) is True
    assert cls().is_rate_limit_error(exc) is True


@pytest.mark.parametrize(
    "message",
    [
        "Connection refused",
        "timeout",
        "Invalid API key",
        "Internal server error",
        "",
        "order 4290",
        "500 error",
        "unlimited rate",
        "429 items processed",
        "the search returned 429 documents",
        "line 429",
        "ThrottledParallelBatchNode has no setting 'x'",
    ],
)
def test_any_other_error_is_no_refusal(message: str) -> None:
    assert ThrottledParallelBatchNode.is_rate_limit_error(Exception(message)) is False
    assert AdaptiveThrottledNode.is_rate_limit_error(ValueError(message)) is False


@pytest.mark.parametrize("where", ["status_code", "status", "code", "response"])
def test_a_refusal_is_known_by_its_status_wherever_it_stands(where: str) -> None:
    for status, is_refusal in ((429, True), (400, False), (500, False)):
        exc = Exception("no")
        if where == "response":
            exc.response = type("Response", (), {"status_code": status, "headers": {}})()  # type: ignore[attr-defined]
        else:
            setattr(exc, where, status)
        assert ThrottledParallelBatchNode.is_rate_limit_error(exc) is is_refusal

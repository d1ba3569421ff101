"""What nodes promise of tokens, and limiters of headers, in virtual time."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import Presets, RateLimiter, SimulatedAPI, ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.tokens import Correction, estimate, used

from .test_nodes import Batch, now, run
from .test_signals import NAMES, TEXT, SDKError


class Tokens(Batch):
    """Items are what they cost."""

    def estimate_tokens(self, item: int) -> int:
        return item


@pytest.mark.parametrize(
    ("item", "tokens"),
    [
        ("", 0),
        ("abcde", 2),
        ("x" * 400, 100),
        ([{"role": "user", "content": "x" * 40}, {"role": "system", "content": "x" * 4}], 19),
        ({"role": "user", "content": [{"type": "text", "text": "x" * 40}]}, 14),
        ({"messages": [{"role": "user", "content": "x" * 40}]}, 14),
        (42, 0),
        (None, 0),
    ],
)
def test_items_are_estimated_at_4_characters_a_token(item: Any, tokens: int) -> None:
    assert estimate(item) == tokens


def test_the_output_a_class_allows_is_added() -> None:
    class Node(ThrottledParallelBatchNode):
        max_output_tokens = 500

    assert Node().estimate_tokens("x" * 40) == 510


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 8}}, 15),
        ({"prompt_tokens": 10, "completion_tokens": 5}, 15),
        ({"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, 10),
        ({"input_tokens": 7, "output_tokens": 300, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 4}, 11),
        ({"input_tokens": 7, "output_tokens": 300, "cache_read_input_tokens": None, "cache_creation_input_tokens": None}, 7),
        ({"total_tokens": "many"}, None),
        ({}, None),
    ],
)
def test_usage_is_counted_as_the_provider_does(usage: dict[str, Any], tokens: int | None) -> None:
    assert used({"usage": usage}) == tokens
    assert used(SimpleNamespace(usage=SimpleNamespace(**usage))) == tokens
    assert used("no usage") is None
    assert used(SimpleNamespace(usage_metadata=SimpleNamespace(prompt_token_count=5))) == 5


def test_a_node_keeps_to_its_tokens() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        return item

    node = Tokens(call, max_concurrent=10, max_tokens_per_minute=100)
    assert run(node, [40, 40, 40, 10, 5000, 1]) == [40, 40, 40, 10, 5000, 1]
    assert starts == pytest.approx([0, 0, 60, 60, 120, 180], abs=1e-3)


def test_no_slot_is_held_while_waiting_for_tokens() -> None:
    async def main() -> None:
        async def call(item: int) -> int:
            return item

        node = Tokens(call, max_concurrent=5, max_tokens_per_minute=100)
        task = asyncio.create_task(node.run_async({"items": [100, 50, 50]}))
        await asyncio.sleep(10)
        assert (node.limiter.active, node.limiter.waiting) == (0, 1)
        await task

    run_virtual(main())


def test_a_call_that_cost_less_gives_back_at_once_and_one_that_cost_more_is_debt() -> None:
    starts: list[float] = []

    async def call(item: int) -> dict[str, Any]:
        starts.append(now())
        await asyncio.sleep(1)
        return {"usage": {"total_tokens": 10 if item == 90 else 300}}

    node = Tokens(call, max_concurrent=1, max_tokens_per_minute=100)
    run(node, [90, 60, 1])
    assert starts == pytest.approx([0, 1, 61], abs=1e-3)
    assert (node.stats["tokens_estimated"], node.stats["tokens_used"]) == (151, 610)


@pytest.mark.parametrize("factor", [1 / 3, 1, 3])
@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket"])
def test_estimates_that_are_wrong_by_a_factor_cost_neither_refusals_nor_throughput(factor: float, algorithm: Any) -> None:
    api = SimulatedAPI(max_tokens_per_window=60_000, latency=2.0, algorithm=algorithm, retry_after=True)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return math.ceil(100 * factor)

    async def call(item: int) -> dict[str, Any]:
        await api.call(item, tokens=100)
        return {"usage": {"total_tokens": 100}}

    async def main() -> float:
        await Node(call, max_concurrent=50, max_tokens_per_minute=60_000).run_async({"items": range(3000)})
        return now()

    seconds = run_virtual(main())
    assert api.served == 3000
    assert api.refused <= 30
    assert seconds <= (4 * 60 + 24) / 0.95  # 600 a minute, the last of them in the fifth, at 25 a second


def test_the_first_wave_is_small_enough_for_estimates_three_times_too_low() -> None:
    """The server counts what calls cost; only the first answer tells the node."""
    api = SimulatedAPI(max_tokens_per_window=3_000, latency=5.0)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return 50

    async def call(item: int) -> dict[str, Any]:
        await api.call(item, tokens=150)
        return {"usage": {"total_tokens": 150}}

    run(Node(call, max_concurrent=50, max_tokens_per_minute=3_000), range(100))
    assert (api.served, api.refused) == (100, 0)


def test_who_waits_is_estimated_again_when_an_answer_tells_what_calls_cost() -> None:
    starts: list[float] = []

    async def call(item: int) -> dict[str, Any]:
        starts.append(now())
        await asyncio.sleep(1)
        return {"usage": {"total_tokens": 10}}

    run(Tokens(call, max_concurrent=5, max_tokens_per_minute=100), [100] * 5)
    assert starts == [0, 1, 1, 1, 1]


def test_estimates_wrong_in_different_ways_are_corrected_on_the_whole() -> None:
    correction = Correction()
    for _ in range(50):
        correction.learn(300, 100)
        correction.learn(33, 100)
    assert 0.6 * 300 <= correction.apply(300) <= 300
    assert correction.apply(0) == 0


def test_a_call_that_tells_no_usage_is_counted_as_estimated() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        await asyncio.sleep(1)
        return item

    node = Tokens(call, max_concurrent=10, max_tokens_per_minute=100)
    run(node, [25] * 8)
    assert starts == pytest.approx([0, 1, 1, 1, 60, 61, 61, 61], abs=1e-3)
    assert (node.stats["tokens_estimated"], node.stats["tokens_used"]) == (200, 200)


def test_bad_estimates_name_the_item() -> None:
    async def call(item: Any) -> Any:
        return item

    class Node(Batch):
        def estimate_tokens(self, item: Any) -> Any:
            return item

    with pytest.raises(ValueError, match=r"estimate_tokens must be at least 0, got -1") as caught:
        run(Node(call, max_tokens_per_minute=10), [-1])
    assert any("item 0" in note for note in caught.value.__notes__)


def test_presets_carry_tokens_where_the_provider_publishes_them() -> None:
    assert Presets.OPENAI_TIER1["max_tokens_per_minute"] == 500_000
    assert Presets.ANTHROPIC_BUILD_TIER1["max_tokens_per_minute"] == 30_000
    assert "input" in Presets.list_presets()["anthropic_build_tier1"]
    assert "max_tokens_per_minute" not in Presets.CONSERVATIVE


# --- headers


def observed(limiter: RateLimiter, **headers: str) -> RateLimiter:
    limiter.observe({name.replace("_", "-"): value for name, value in headers.items()})
    return limiter


def test_a_limit_the_headers_name_becomes_the_limit_when_none_was_set() -> None:
    limiter = observed(RateLimiter(), x_ratelimit_limit_requests="50", x_ratelimit_limit_tokens="1000")
    assert (limiter.max_per_window, limiter.max_tokens_per_window) == (50, 1000)


def test_it_is_never_raised_above_what_was_set() -> None:
    limiter = observed(RateLimiter(5, 20), x_ratelimit_limit_requests="50")
    assert limiter.max_per_window == 20
    assert observed(limiter, x_ratelimit_limit_requests="10").max_per_window == 10
    assert observed(limiter, x_ratelimit_limit_requests="500").max_per_window == 20


def test_what_is_left_beats_what_was_counted_until_the_reset() -> None:
    async def main() -> None:
        limiter = RateLimiter(100, 60)
        observed(limiter, x_ratelimit_limit_requests="60", x_ratelimit_remaining_requests="2", x_ratelimit_reset_requests="10s")
        assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
        await asyncio.sleep(10.01)
        assert limiter.current_window_count == 2

    run_virtual(main())


def test_at_none_left_it_pauses_until_the_reset() -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(), x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="6m0s")
        assert limiter.paused_for == 360
        limiter = observed(RateLimiter(), retry_after="5")
        assert limiter.paused_for == 5
        limiter = observed(RateLimiter(), retry_after="1000000")
        assert limiter.paused_for == 600

    run_virtual(main())


def test_what_it_has_counted_itself_reopens_as_its_own_log_says() -> None:
    async def main() -> float:
        limiter = RateLimiter(10, 4, 60.0)
        for _ in range(4):
            await limiter.acquire()
            limiter.release()
            await asyncio.sleep(5)
        # All four are used. "Whole again" is a minute after the last; the first comes back a minute after the first.
        observed(limiter, x_ratelimit_limit_requests="4", x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="55s")
        await limiter.acquire()
        return now()

    assert run_virtual(main()) == pytest.approx(60, abs=1e-3)


def test_a_limit_per_day_is_not_taken_for_one_a_minute() -> None:
    limiter = RateLimiter()
    observed(
        limiter, x_ratelimit_limit_requests="1000", x_ratelimit_remaining_requests="990", x_ratelimit_reset_requests="14m24s"
    )
    assert limiter.max_per_window is None


def test_it_is_an_event_hook_of_an_http_client() -> None:
    limiter = RateLimiter()

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"x-ratelimit-limit-requests": "7", "x-ratelimit-remaining-requests": "6"})

    async def main() -> None:
        hooks = {"response": [limiter.observe_response]}
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks) as client:
            await client.get("https://api.example/")

    asyncio.run(main())
    assert (limiter.max_per_window, limiter.current_window_count) == (7, 1)


def test_headers_on_an_exception_are_observed_by_the_node() -> None:
    calls = 0

    async def call(item: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            headers = {"x-ratelimit-limit-req-minute": "30", "x-ratelimit-remaining-req-minute": "10", "retry-after": "2"}
            raise SDKError("slow down", 429, headers)
        return item

    node = Batch(call, max_concurrent=1)
    assert run(node, range(3)) == [0, 1, 2]
    assert node.limiter.max_per_window == 30


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, TEXT))
def test_no_headers_raise_or_pause_beyond_the_cap(headers: dict[str, str]) -> None:
    limiter = RateLimiter(5, 10, max_tokens_per_window=100)
    limiter.observe(headers)
    assert 0 <= limiter.paused_for <= 600
    assert 1 <= (limiter.max_per_window or 1) <= 10
    for nonsense in (None, 5, "x", [1], [("a",)], {"retry-after": object()}):
        limiter.observe(nonsense)

"""What nodes promise of tokens, and limiters of headers, in virtual time."""

import asyncio
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    Presets,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledParallelBatchNode,
    run_virtual,
)
from pocketflow_throttled.tokens import estimate, used, written

from .test_nodes import Batch, now, run
from .test_signals import Raising, RaisingDict


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


def nested(depth: int) -> list[Any]:
    item: list[Any] = []
    for _ in range(depth):
        item = [item]
    return item


def test_what_stands_in_many_places_is_counted_in_each_and_takes_no_time() -> None:
    message = {"role": "user", "content": "x" * 40}
    assert estimate([message] * 3) == 3 * 14
    item: Any = "x" * 4
    for _ in range(40):
        item = [item, item]
    assert estimate(item) == 2**40


def test_an_item_that_holds_itself_is_estimated_without_itself() -> None:
    message: dict[str, Any] = {"role": "user"}
    message["content"] = ["x" * 40, message, [message]]
    assert estimate([message]) == 14


def test_an_item_is_estimated_once_as_it_was_before_its_call_changed_it() -> None:
    class Chats(Batch):
        max_tokens_per_minute = 10_000

        def estimate_tokens(self, item: Any) -> int:
            return len(item["text"])

    async def call(item: dict[str, str]) -> str:
        return item.pop("text")

    node = Chats(call)
    assert run(node, [{"text": "x" * 10}, {"text": "y" * 20}]) == ["x" * 10, "y" * 20]
    assert node.stats["tokens_estimated"] == 30


def test_no_item_makes_estimating_it_raise() -> None:
    for item in (nested(10**5), Raising(), [Raising()], {"content": Raising()}, RaisingDict(a=1)):
        assert estimate(item) == 0


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.binary(max_size=9) | st.builds(Raising),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "messages", "usage", "usage_metadata"]), inner)
        | st.builds(lambda usage: SimpleNamespace(usage=usage, usage_metadata=usage), inner)
        | st.dictionaries(st.sampled_from(["total_tokens", "prompt_tokens", "completion_tokens", "input_tokens"]), inner)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(ANYTHING)
def test_no_item_and_no_answer_makes_counting_tokens_raise(thing: Any) -> None:
    node = ThrottledParallelBatchNode()
    for tokens in (node.estimate_tokens(thing), node.count_tokens(thing, thing), node.count_tokens(thing, {"usage": thing})):
        assert tokens is None or (type(tokens) is int and tokens >= 0)


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


@pytest.mark.no_cover  # a long simulation
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


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("before", [1 / 3, 1])
def test_estimates_that_become_three_times_too_high_cost_neither_refusals_nor_throughput(before: float) -> None:
    """Long calls that started before still end when what others cost has long been learned."""
    api = SimulatedAPI(max_tokens_per_window=400_000, latency=lambda item: 5 + item % 7 / 7)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return round(800 * before) if item < 1000 else 2400

    async def call(item: int) -> dict[str, Any]:
        await api.call(item, tokens=800)
        return {"usage": {"total_tokens": 800}}

    async def main() -> float:
        await Node(call, max_concurrent=1000, max_tokens_per_minute=400_000).run_async({"items": range(2000)})
        return now()

    seconds = run_virtual(main())
    assert api.served == 2000
    assert api.refused <= 2
    assert seconds <= (3 * 60 + 15) / 0.95  # 500 a minute, at once if there is room; the last of them in the fourth


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


def test_estimates_that_become_three_times_too_low_where_they_were_three_times_too_high_cost_few_refusals() -> None:
    """As where a batch goes on to other items. Those under way by the first answer are all that may be too many."""
    api = SimulatedAPI(max_tokens_per_window=60_000, latency=5.0, retry_after=True)
    chance = random.Random(4)

    class Node(Batch):
        def estimate_tokens(self, item: tuple[int, int]) -> int:
            return item[0]

    async def call(item: tuple[int, int]) -> dict[str, Any]:
        await api.call(item, tokens=item[1])
        return {"usage": {"total_tokens": item[1]}}

    costs = [round(100 * math.exp(chance.gauss(0, 0.5))) for _ in range(3000)]
    items = [(cost * 3 if place < 1500 else math.ceil(cost / 3), cost) for place, cost in enumerate(costs)]

    async def main() -> float:
        await Node(call, max_concurrent=200, max_tokens_per_minute=60_000).run_async({"items": items})
        return now()

    seconds = run_virtual(main())
    assert api.served == 3000
    assert api.refused <= 60
    assert seconds <= sum(costs) / 1000


def test_who_waits_is_estimated_again_when_an_answer_tells_what_calls_cost() -> None:
    starts: list[float] = []

    async def call(item: int) -> dict[str, Any]:
        starts.append(now())
        await asyncio.sleep(1)
        return {"usage": {"total_tokens": 10}}

    run(Tokens(call, max_concurrent=5, max_tokens_per_minute=400), [100] * 5)
    assert starts == [0, 1, 1, 1, 1]


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


_HUGE = (10**307, 10**308, int(1.7e308), 10**400)


@pytest.mark.parametrize("cost", [*_HUGE, 10**12])
def test_a_cost_beyond_all_reason_fills_the_window_until_it_leaves_it(cost: int) -> None:
    async def main() -> float:
        limiter = RateLimiter(max_tokens_per_window=1000)
        async with limiter.reserve(tokens=10) as permit:
            permit.settle(tokens=cost)
        assert limiter.stats["current_window_tokens"] == 10**12
        async with limiter.reserve(tokens=cost):
            return now()

    assert run_virtual(main()) == pytest.approx(60.0)


@pytest.mark.parametrize("base", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
@pytest.mark.parametrize("limit", [None, 1000, 10**308])
@pytest.mark.parametrize("seed", range(6))
def test_no_usage_however_large_ends_a_batch_or_makes_reading_headers_raise(base: Any, limit: int | None, seed: int) -> None:
    chance = random.Random(seed)

    class Node(base):  # type: ignore[misc]
        max_concurrent, max_tokens_per_minute = 5, limit

        async def prep_async(self, shared: dict[str, Any]) -> range:
            return range(30)

        def estimate_tokens(self, item: int) -> int:
            return chance.choice([10, 10, 10, 50, *_HUGE])

        async def exec_async(self, item: int) -> SimpleNamespace:
            await asyncio.sleep(3 * chance.random())
            told = chance.choice([(1000, 0), (1000, 500), (10**308, 10**308), (10**5, 500)])
            names = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
            self.limiter.observe(dict(zip(names, (*map(str, told), chance.choice(["6s", "0s", "1ms"])), strict=True)))
            cost = chance.choice([12, 12, 50, *_HUGE])
            return SimpleNamespace(item=item, usage=SimpleNamespace(total_tokens=cost))

        async def post_async(self, shared: dict[str, Any], prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["items"] = [answer.item for answer in exec_res_list]

    shared: dict[str, Any] = {}
    run_virtual(Node().run_async(shared))
    assert shared["items"] == list(range(30))


def test_bad_estimates_name_the_item() -> None:
    async def call(item: Any) -> Any:
        return item

    class Node(Batch):
        def estimate_tokens(self, item: Any) -> Any:
            return item

    with pytest.raises(ValueError, match=r"estimate_tokens must be at least 0, got -1") as caught:
        run(Node(call, max_tokens_per_minute=10), [-1])
    assert any("for item 0: " in note for note in caught.value.__notes__)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_item_without_an_estimate_is_collected_and_does_not_end_the_batch(is_async: bool) -> None:
    async def call(item: str) -> str:
        await asyncio.sleep(1)
        return item

    async def awaited(items: list[Any]) -> Any:
        for item in items:
            yield item

    class Node(Batch):
        def estimate_tokens(self, item: str) -> int:
            return {"a": 1, "b": 1, "c": 1}[item]

    for items in ([None], [None, "a"], ["a", None], ["a", None, None, "b", "c"], [None] * 100):
        node = Node(call, max_tokens_per_minute=10, max_concurrent=2, on_error="collect")
        shared = {"items": awaited(items) if is_async else items}
        run_virtual(node.run_async(shared))
        assert [None if isinstance(result, KeyError) else result for result in shared["results"]] == items
        assert (node.stats["completed"], node.stats["failed"]) == (len(items) - items.count(None), items.count(None))
        assert any("for item " in note for error in shared["results"] if error not in items for note in error.__notes__)


def test_presets_carry_tokens_where_the_provider_publishes_them() -> None:
    assert Presets.OPENAI_TIER1["max_tokens_per_minute"] == 500_000
    assert Presets.ANTHROPIC_BUILD_TIER1["max_tokens_per_minute"] == 30_000
    assert "input" in Presets.list_presets()["anthropic_build_tier1"]
    assert "max_tokens_per_minute" not in Presets.CONSERVATIVE


def test_a_window_that_holds_ten_calls_is_used_by_ten_however_these_are_estimated() -> None:
    api = SimulatedAPI(max_tokens_per_window=30_000, latency=4.0)
    chance = random.Random(6)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return item

    async def call(item: int) -> dict[str, Any]:
        await api.call(item, tokens=3000)
        return {"usage": {"total_tokens": 3000}}

    async def main() -> float:
        items = [round(3000 * 3 ** chance.uniform(-1, 1)) for _ in range(400)]
        await Node(call, max_concurrent=20, max_tokens_per_minute=30_000).run_async({"items": items})
        return now()

    seconds = run_virtual(main())
    assert (api.served, api.refused) == (400, 0)
    assert seconds <= 40 * 60 * 1.03


@pytest.mark.parametrize("fails", [False, True])
def test_room_is_kept_for_calls_that_may_cost_more_only_while_they_are_under_way(fails: bool) -> None:
    started = 0

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return 200

    async def call(item: int) -> dict[str, Any]:
        nonlocal started
        started += 1
        await asyncio.sleep(1)
        if fails and item >= 100:
            raise ValueError("no answer")
        return {"usage": {"total_tokens": 100 if item % 2 else 300}}

    node = Node(call, max_concurrent=100, max_tokens_per_minute=10_000, on_error="collect")

    async def main() -> tuple[int, int]:
        nonlocal started
        await node.run_async({"items": range(100)})
        await asyncio.sleep(100)
        started = 0
        batch = asyncio.create_task(node.run_async({"items": range(100, 160)}))
        await asyncio.sleep(0.5)
        at_first = started
        await asyncio.sleep(20)
        batch.cancel()
        return at_first, started

    at_first, all_in_all = run_virtual(main())
    assert 44 <= at_first <= 46  # of 50, for which 1.5 times the root of so many times 100 is kept
    assert 48 <= all_in_all <= 50


def test_calls_that_were_refused_when_little_was_known_cost_what_is_known_by_the_time_their_items_are_served() -> None:
    sent = list[int]()

    async def call(item: int) -> Any:
        sent.append(item)
        await asyncio.sleep(0.1)
        if item != 100 and sent.count(item) == 1:
            raise RateLimitHit("tokens", retry_after=2.0)
        await asyncio.sleep(1)
        return {"usage": {"total_tokens": 100}}

    node = Tokens(call, max_concurrent=3, max_tokens_per_minute=1000)
    run(node, [100, 101, 102])
    assert sorted(sent) == [100, 101, 101, 102, 102]
    assert node.limiter.stats["current_window_tokens"] == 500


def test_calls_that_failed_when_little_was_known_cost_what_is_known_by_the_time_their_items_are_served() -> None:
    """What they cost, nobody tells: the server counts them, and they were booked at three times their estimate."""
    tried = list[int]()

    async def call(item: int) -> Any:
        tried.append(item)
        await asyncio.sleep(1)
        if tried.count(item) == 1:
            raise ValueError("500")
        return {"usage": {"total_tokens": 100}}

    node = Tokens(call, max_concurrent=20, max_tokens_per_minute=10_100, max_retries=2)

    async def main() -> float:
        await node.run_async({"items": range(300, 310)})
        assert node.stats["current_window_tokens"] == 20 * 100
        return now()

    assert run_virtual(main()) == 3


def test_all_that_start_again_after_a_pause_cost_what_was_learned_in_it() -> None:
    class OverloadedError(Exception):
        status_code = 529
        headers = {"retry-after": "5"}

    starts = list[float]()

    async def call(item: int) -> Any:
        starts.append(now())
        if 1 < len(starts) <= 6:
            raise OverloadedError
        await asyncio.sleep(1)
        return {"usage": {"total_tokens": 100}}

    run(Tokens(call, max_concurrent=6, max_tokens_per_minute=2000), [100] * 6)
    assert starts[:6] == pytest.approx([0] * 6, abs=0.01)  # at three times the estimate, all that there is room for
    assert starts[6:] == pytest.approx([5] * 5, abs=0.01)


class TokenRefusalError(Exception):
    """A 429 that says what is left of the tokens."""

    def __init__(self, remaining: int) -> None:
        super().__init__("429")
        self.status_code = 429
        self.headers = {
            "anthropic-ratelimit-input-tokens-limit": "1000",
            "anthropic-ratelimit-input-tokens-remaining": str(remaining),
            "retry-after": "20",
        }


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_an_item_that_is_refused_with_all_of_the_limit_left_is_given_up_soon(share: float) -> None:
    """It is more than the API takes in a minute, which the API does not say; the others have done nothing to wait for it."""

    async def call(item: int) -> int:
        if item > 1000:
            raise TokenRefusalError(1000)
        return item

    class Collecting(Tokens):
        async def exec_fallback_async(self, prep_res: int, exc: Exception) -> int:
            errors.append(str(exc))
            return -1

        def count_tokens(self, item: int, result: int) -> int:
            return int(item * share)

    errors: list[str] = []
    ends: list[float] = []

    async def main() -> None:
        node = Collecting(call, max_tokens_per_minute=1000)
        assert await node._exec([400, 5000, 400]) == [400, -1, 400]
        ends.append(now())

    run_virtual(main())
    assert "never fit" in errors[0]
    assert ends[0] < 300


def test_an_item_that_is_known_to_exceed_the_limit_by_what_others_cost_is_given_up_soon() -> None:
    async def call(item: int) -> int:
        if item > 1000:
            raise TokenRefusalError(1000)
        return item

    class Low(Tokens):
        def estimate_tokens(self, item: int) -> int:
            return item // 3

        def count_tokens(self, item: int, result: int) -> int:
            return item

    async def main() -> float:
        results = await Low(call, max_tokens_per_minute=1000, on_error="collect")._exec([30] * 20 + [2400])
        assert "never fit" in str(results[-1])
        return now()

    assert run_virtual(main()) < 300


@pytest.mark.parametrize("remaining", [1000, 0])
def test_an_item_that_may_fit_is_sent_again_however_often_it_is_refused(remaining: int) -> None:
    """Its estimate is too large, or others leave nothing."""
    calls = 0

    async def call(item: int) -> int:
        nonlocal calls
        calls += 1
        if calls < 6:
            raise TokenRefusalError(remaining)
        return item

    assert run(Tokens(call, max_tokens_per_minute=1000), [900 if remaining else 5000]) == [900 if remaining else 5000]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, 5),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, 5),  # as litellm tells what Anthropic does
        ({"output_tokens": 0}, 0),
        ({"output_tokens": True}, None),
        ({"output_tokens": -1}, None),
        ({}, None),
        (None, None),
    ],
)
def test_what_an_answer_wrote_is_read_from_its_usage(usage: Any, tokens: int | None) -> None:
    assert written({"usage": usage}) == tokens
    assert written("text") is None

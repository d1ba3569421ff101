"""What a server counts for each token that was estimated, measured by its answers, and what a node makes of it."""

import asyncio
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled import ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.counted_window import CountedWindow
from pocketflow_throttled.counting import Way
from pocketflow_throttled.measured import Measured
from pocketflow_throttled.token_window import Spend

from .providers.counting import Count, Counting
from .providers.model import Model, jitter

COUNTINGS: tuple[Counting, ...] = ("sliding", "fixed", "bucket")
ORDER = (3, 1, 5, 2, 6, 4)  # in which the answers of six calls come, by the order of their arrival
EACH = [1500 * place for place in ORDER]


def measured(
    told: list[int], *, estimated: int = 500, cost: int = 700, into: Measured | None = None, at: float = 0.0
) -> Measured:
    """Let as many calls start at a time as answers tell what is used, and end."""
    found = into or Measured(60.0)
    spends = [Spend(at, estimated, estimated=estimated) for _ in told]
    for spend in spends:
        found.started(spend)
    for spend, used in zip(spends, told, strict=True):
        found.told(used, at)
        found.ended(spend, at + 4.0, cost)
    return found


def test_what_one_call_after_another_was_counted_for_is_known_once_all_have_ended() -> None:
    assert measured(EACH).ratio == pytest.approx(3.0)
    assert measured([used + 300 for used in EACH]).ratio == pytest.approx(3.0)  # others had used that before
    assert measured(EACH).of(100) == 300
    assert measured(EACH).of(0) == 0
    assert Measured(60.0).of(100) == 100


@pytest.mark.parametrize(
    "told",
    [
        EACH[:4],  # too few
        sorted(EACH),  # as they are used up, whichever moment answers tell of
        [1500, 4500, 3000, 6000, 7500, 9000],  # fewer once: a window may have passed
        [used + 9000 for used in EACH],  # of calls that all had started before
        [used - 1500 for used in EACH],  # less than the call's own
        [4500, 1500, 27_500, 3000, 29_000, 6000],  # others took 20,000 meanwhile
        [3202, 1202, 5202, 2202, 6202, 4202],  # told to a thousand
    ],
)
def test_nothing_is_known_by_answers_that_may_tell_of_something_else(told: list[int]) -> None:
    assert measured(told).ratio is None


def test_nothing_is_known_by_answers_of_which_some_are_those_of_other_calls() -> None:
    found, spends = Measured(60.0), [Spend(0.0, 500, estimated=500) for _ in EACH]
    for spend in spends:
        found.started(spend)
    for used in (*EACH, 90_000):
        found.told(used, -math.inf)
    assert not any(found.ended(spend, 4.0, 700) for spend in spends)
    assert found.ratio is None


def test_nothing_is_known_by_the_answers_of_some_calls() -> None:
    found, spends = Measured(60.0), [Spend(0.0, 500, estimated=500) for _ in range(7)]
    for spend in spends:
        found.started(spend)
    for used in EACH:
        found.told(used, 0.0)
    assert not any(found.ended(spend, 4.0, 700) for spend in spends)
    assert found.ratio is None


@pytest.mark.parametrize(("estimated", "cost"), [(1500, 700), (1300, 700), (500, 1500), (500, 1300)])
def test_a_server_that_counts_about_what_was_estimated_or_what_calls_cost_needs_no_ratio(estimated: int, cost: int) -> None:
    assert measured(EACH, estimated=estimated, cost=cost).ratio is None


def test_calls_that_were_not_served_are_not_counted() -> None:
    found, spends = Measured(60.0), [Spend(0.0, 500, estimated=500) for _ in range(8)]
    for spend in spends:
        found.started(spend)
    for spend in spends[:2]:
        assert not found.ended(spend, 1.0, 0, is_served=False)
    for spend, used in zip(spends[2:], EACH, strict=True):
        found.told(used, 0.0)
        found.ended(spend, 4.0, 700)
    assert found.ratio == pytest.approx(3.0)


def test_after_calls_of_which_the_last_was_not_served_the_next_are_measured() -> None:
    found = Measured(60.0)
    spend = Spend(0.0, 500, estimated=500)
    found.started(spend)
    found.ended(spend, 0.5, 0, is_served=False)
    assert measured(EACH, into=found, at=10.0).ratio == pytest.approx(3.0)


def test_another_ratio_is_believed_once_it_was_measured_twice() -> None:
    found = measured(EACH)
    measured(EACH, estimated=3000, into=found, at=60.0)
    assert found.ratio == pytest.approx(3.0)
    measured(EACH, estimated=3000, into=found, at=120.0)
    assert found.ratio == pytest.approx(0.5)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_whatever_is_told_the_ratio_is_one_to_be_counted_by(told: list[int], estimated: int, cost: int) -> None:
    found = measured(told, estimated=estimated, cost=cost)
    assert found.ratio is None or 0 < found.ratio <= 100
    assert found.of(estimated) >= 0


class Node(ThrottledParallelBatchNode):
    """Calls whose estimates are wrong, while the server counts 1,500 for each."""

    max_concurrent = 60
    max_tokens_per_minute = 200_000
    model: Model
    estimate = 1500
    returns_usage = True
    items = 500
    dear = 0  # of these, which the server counts three times

    async def prep_async(self, shared: Any) -> Any:
        return range(self.items)

    def estimate_tokens(self, item: int) -> int:
        return self.estimate

    async def exec_async(self, item: int) -> Any:
        response = await self.model.call(4500 if item < self.dear else 1500)
        await self.limiter.observe_response(response)
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=700)) if self.returns_usage else "text"


def run(node: Node) -> float:
    async def main() -> float:
        await node.run_async({})
        return asyncio.get_running_loop().time()

    return run_virtual(main())


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("estimate", [500, 4500])
@pytest.mark.parametrize("returns_usage", [True, False])
def test_a_server_that_counts_neither_what_was_estimated_nor_what_calls_cost_is_used_as_one_that_does(
    counting: Counting, estimate: int, *, returns_usage: bool
) -> None:
    """As where `max_tokens` are counted in full, or where results are mere text."""
    seconds, refused = [], []
    for each in (estimate, 1500):
        node = Node()
        node.model = Model(tokens=Count(200_000, 60.0, counting, phase=22.0), latency=jitter(random.Random(3), 2.0, 6.0))
        node.model.delay = jitter(random.Random(4), 0.02, 0.06)
        node.estimate, node.returns_usage = each, returns_usage
        seconds.append(run(node))
        refused.append(node.model.refused)
    assert refused[0] <= max(refused[1], 4)
    assert seconds[0] <= 1.1 * seconds[1]


def test_once_it_is_measured_what_text_costs_all_that_fits_is_sent() -> None:
    node = Node()
    node.model = Model(tokens=Count(200_000, 60.0, "sliding"), latency=jitter(random.Random(3), 2.0, 6.0))
    node.model.delay = jitter(random.Random(4), 0.02, 0.06)
    node.estimate, node.returns_usage, node.items = 4500, False, 130
    assert run(node) < 30  # 195,000 tokens


def test_what_answers_denied_of_estimates_that_were_wrong_is_forgotten() -> None:
    window = CountedWindow(1_000_000, 60.0)
    window.counting.deny(Way.ESTIMATE, 1000.0)
    spends = [window.add(0.0, 500, estimated=500) for _ in EACH]
    for second, (spend, used) in enumerate(zip(spends, EACH, strict=True)):
        assert window.counting.is_ruled_out(Way.ESTIMATE)
        window.compare(2.0 + second, used, -math.inf, (0, 0, 0, 0))
        window.correct(spend, 700, 2.0 + second)
    assert not window.counting.is_ruled_out(Way.ESTIMATE)


def test_what_was_booked_for_text_before_is_corrected_too() -> None:
    node = Node()
    node.model = Model(tokens=Count(200_000, 60.0, "sliding"), latency=jitter(random.Random(3), 2.0, 6.0))
    node.model.delay = jitter(random.Random(4), 0.02, 0.06)
    node.estimate, node.returns_usage, node.items = 4500, False, 40

    async def main() -> None:
        await node.run_async({})
        assert node.limiter.stats["current_window_tokens"] == pytest.approx(40 * 1500, rel=0.01)

    run_virtual(main())
    assert node.stats["tokens_used"] < node.stats["tokens_estimated"]


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("returns_usage", [True, False])
def test_a_batch_whose_first_calls_were_dearer_than_the_others_is_hardly_slower(
    counting: Counting, *, returns_usage: bool
) -> None:
    seconds = []
    for dear in (40, 0):
        node = Node()
        node.model = Model(tokens=Count(200_000, 60.0, counting, phase=22.0), latency=jitter(random.Random(3), 2.0, 6.0))
        node.model.delay = jitter(random.Random(4), 0.02, 0.06)
        node.dear, node.returns_usage = dear, returns_usage
        seconds.append(run(node))
        assert node.model.refused <= 0.05 * node.items
    assert seconds[0] <= seconds[1] + 60 + 10  # what they were counted for more is less than a minute's limit


@pytest.mark.parametrize("cost", [100, 500, 4000])
def test_nothing_of_what_was_counted_before_stays_once_it_has_left_the_window(cost: int) -> None:
    window = CountedWindow(1_000_000, 60.0)
    spends = [window.add(0.0, 500, estimated=500) for _ in EACH]
    for second, (spend, used) in enumerate(zip(spends, EACH, strict=True)):
        window.compare(2.0 + second, used, -math.inf, (0, 0, 0, 0))
        window.correct(spend, cost, 2.0 + second)
    later = window.add(10.0, cost, estimated=500)
    assert later.estimated == 1500
    window.correct(later, cost, 12.0)
    assert max(window.counts(12.0)) <= 7 * max(cost, 1500)
    assert window.counts(100.0) == (0, 0, 0, 0)

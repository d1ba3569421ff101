"""What answers tell of how a server cannot count, whoever else uses the key, in virtual time."""

import asyncio
import heapq
import math
import random
from typing import Any

import pytest

from pocketflow_throttled import run_virtual
from pocketflow_throttled.boundary import Boundary
from pocketflow_throttled.counted_window import CountedWindow
from pocketflow_throttled.counting import Way
from pocketflow_throttled.denial import Answered, Denial, Denials, Told
from pocketflow_throttled.token_window import Spend

from .providers.counting import Count, Counting
from .providers.model import Model, jitter
from .test_nodes import Batch

COUNTINGS: tuple[Counting, ...] = ("sliding", "fixed", "bucket")
LIMIT, COST, TIMES = 100_000, 1000, 3  # by which an estimate is too high


class Others(Model):
    """Others on the same key, who take a part of each limit."""

    async def use(self, *, at_a_time: int, gap: float) -> None:
        assert self.tokens is not None
        await asyncio.sleep(gap / 2)
        while True:
            self.tokens.add(asyncio.get_running_loop().time(), at_a_time * COST)
            await asyncio.sleep(gap)


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("tells_late", [False, True])
@pytest.mark.parametrize(("at_a_time", "gap"), [(10, 30.0), (1, 3.0)])
def test_refusals_for_what_others_took_do_not_leave_two_thirds_unused_where_estimates_are_too_high(
    counting: Counting, tells_late: bool, at_a_time: int, gap: float
) -> None:
    """A fifth is the others', and the answers tell so; one that counts estimates would have told of thrice as much."""
    model = Others(
        tokens=Count(LIMIT, 60.0, counting, phase=17.0), tells_late=tells_late, latency=jitter(random.Random(7), 0.5, 2.0)
    )

    async def call(item: int) -> Any:
        response = await model.call(COST)
        await node.limiter.observe_response(response)
        return response

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return TIMES * COST

    node = Node(call, max_concurrent=20, max_tokens_per_minute=LIMIT)

    async def main() -> float:
        others = asyncio.create_task(model.use(at_a_time=at_a_time, gap=gap))
        await node.run_async({"items": list(range(800))})
        others.cancel()
        return asyncio.get_running_loop().time()

    minutes = run_virtual(main()) / 60
    assert minutes <= 800 / 80 + 2  # in one of them it finds out that there are others, and some are rare
    assert model.refused <= 0.08 * 800


def is_denied(window: CountedWindow, way: Way, now: float) -> bool:
    return now < window.counting._doubts[way].denied_until


def denied(chance: random.Random, counting: Counting, *, by_estimates: bool, tells_late: bool, others: float) -> set[Way]:
    """Return the ways that are denied by a server that admits what fits, told by answers that take different times."""
    window, server = CountedWindow(LIMIT, 60.0), Count(LIMIT, 60.0, counting, phase=chance.uniform(0, 60))
    under_way: list[tuple[float, int, float, int, Any, Any]] = []
    now, number = 0.0, 0
    while now < 300:
        at_once = chance.choice([1, 1, 1, 8])
        for _ in range(at_once):
            cost = chance.randint(500, 1500)
            counted = TIMES * cost if by_estimates else cost
            if not server.wait(now, counted):
                server.add(now, counted)
                spend = window.add(now, cost, estimated=TIMES * cost)
                number += 1
                ends = now + chance.uniform(0.5, 9.0)
                heapq.heappush(under_way, (ends, number, now, LIMIT - server.left(now), spend, window.counts(now)))
        if chance.random() < others:
            server.add(now, 4 * COST)
        now += chance.expovariate(0.4)
        while under_way and under_way[0][0] <= now:
            ended, _, started, used, spend, counts = heapq.heappop(under_way)
            used = LIMIT - server.left(ended) if tells_late else used
            window.compare(ended, used, started, counts)
            window.deny(ended, used, started, limit=LIMIT, began_at=(-float("inf"), -float("inf")))
            window.correct(spend, spend.cost, ended)
    return {way for way in Way if way and is_denied(window, way, now)}


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("tells_late", [False, True])
@pytest.mark.parametrize("others", [0.0, 0.2])
def test_a_way_of_counting_is_never_denied_that_is_right(counting: Counting, tells_late: bool, others: float) -> None:
    for seed in range(10):
        ways = denied(random.Random(seed), counting, by_estimates=True, tells_late=tells_late, others=others)
        assert Way.ESTIMATE not in ways, seed


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("tells_late", [False, True])
@pytest.mark.parametrize("others", [0.0, 0.2])
def test_a_server_that_counts_what_calls_cost_denies_that_it_counts_estimates(
    counting: Counting, tells_late: bool, others: float
) -> None:
    for seed in range(5):
        ways = denied(random.Random(seed), counting, by_estimates=False, tells_late=tells_late, others=others)
        assert Way.ESTIMATE in ways, seed


def test_a_fixed_window_turns_a_whole_number_of_windows_later() -> None:
    """Two answers far apart tell of it as well as two that are close."""
    denial = Denial(60.0)
    steps = [(time, 100) for time in (1.0, 50.0, 55.0, 63.0, 64.0)]

    def learn(moment: float, used: int) -> None:
        denial.learn(Told(moment, moment, moment, used), steps, steps, clearly=10, rate=0.0)

    for moment, used in ((2.0, 100), (56.0, 100), (61.0, 100), (65.0, 100)):  # it has turned in [2, 56] and in [61, 65]
        learn(moment, used)
    assert not denial.holds(65.0)


def test_a_server_that_tells_of_no_limit_or_that_nothing_is_left_denies_nothing() -> None:
    window = CountedWindow(LIMIT, 60.0)
    for number in range(60):
        spend = window.add(float(number), COST, estimated=TIMES * COST)
        window.deny(number + 0.5, LIMIT, float(number), limit=LIMIT, began_at=(None, None))
        window.correct(spend, COST, number + 0.5)
    assert not any(is_denied(window, way, 60.0) for way in Way if way)


def test_refusals_tell_again_how_is_counted_once_answers_have_long_denied_it_no_more() -> None:
    window = CountedWindow(LIMIT, 60.0)
    for number in range(50):
        spend = window.add(float(number), COST, estimated=TIMES * COST)
        window.correct(spend, COST, number + 0.5)
        window.deny(number + 0.5, (number + 1) * COST, float(number), limit=LIMIT, began_at=(None, None))
    assert is_denied(window, Way.ESTIMATE, 50.0)
    window.counting.started(51.0, [Way.ESTIMATE], {Way.ESTIMATE: 1.0})
    assert not window.counting.refused(51.0)
    assert not is_denied(window, Way.ESTIMATE, 200.0)


def test_a_reset_that_is_always_told_alike_does_not_tell_that_a_window_is_not_fixed() -> None:
    always, moving = Boundary(), Boundary()
    for second in range(0, 100, 5):
        always.learn(second, second + 1.0, second + 61.0, second, seconds=60.0)
        moving.learn(second, second + 1.0, second + 61.0 - 0.3 * second, second, seconds=60.0)
    assert always.began_at(100.0, 60.0) == -math.inf
    assert moving.began_at(100.0, 60.0) is None


def test_the_more_is_booked_the_more_rarely_all_of_it_is_looked_at() -> None:
    """A look takes some microseconds a call, and answers come by hundreds a second."""

    def looks(calls: int) -> int:
        spends, looked = [Spend(0.0, 100, 0, 300) for _ in range(calls)], 0
        denials = Denials(60.0)
        for answer in range(600):
            now = 10.0 + answer / 10
            asked = iter(spends)
            denials.learn(Answered(now, now - 1.0, 500, 1_000_000, 100.0, (-math.inf, -math.inf)), asked, [])
            looked += next(asked, None) is None
        return looked

    assert 150 < looks(100) <= 200
    assert looks(2000) <= 11

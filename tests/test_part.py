"""What is promised of a part of a window, which a server may keep as a slice or as a bucket, with `now` given."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, RateLimitHit, run_virtual
from pocketflow_throttled.part import Part
from pocketflow_throttled.simulation import _ALGORITHMS
from pocketflow_throttled.sliced_window import SlicedWindow
from pocketflow_throttled.token_bucket import TokenBucket
from pocketflow_throttled.token_window import Spend

from .test_nodes import Batch, now, run

# --- the bucket


@given(
    st.integers(100, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 1000), st.booleans()), min_size=1, max_size=60),
)
def test_no_more_is_taken_in_any_time_than_a_bucket_holds_and_gets_back_in_it(
    holds: int, rate: float, calls: list[tuple[float, int, bool]]
) -> None:
    """A call that costs more than it holds takes all of it, and is over a while later."""
    bucket, time, taken = TokenBucket(holds, rate), 0.0, list[tuple[float, int]]()
    for gap, cost, is_free in calls:
        time += gap
        if not bucket.fits(time, cost):
            assert bucket.opens_at > time
            time = bucket.opens_at
            assert bucket.fits(time, cost)
        bucket.take(time, cost)
        if is_free:
            bucket.change(time, -cost)
            continue
        taken.append((time, cost))
        for first, (since, _) in enumerate(taken):
            in_it = [each for _, each in taken[first:]]
            most = max(holds, in_it[-1]) + (time - since) * rate
            assert sum(in_it) <= most + max(0, max(in_it) - holds) * len(in_it) + 1e-3 * holds


def test_what_a_call_cost_more_or_less_is_taken_or_given_back_unless_the_bucket_was_full_since() -> None:
    bucket = TokenBucket(holds=100, rate=10.0)
    bucket.take(0.0, 40)
    bucket.change(0.0, 30)
    assert bucket.lacks(1.0) == 60
    bucket.change(0.0, -50)
    assert bucket.lacks(1.0) == 10
    bucket.take(5.0, 20)
    bucket.change(0.0, 500)
    assert bucket.lacks(5.0) == 20


def test_a_bucket_holds_less_once_for_all_that_are_refused_together_and_more_bit_by_bit() -> None:
    bucket = TokenBucket(holds=1000, rate=10.0)
    for started in (0.0, 0.1, 0.2):
        bucket.refused(started, cost=100, last_started=0.2)
    assert bucket.holds == 850
    bucket.refused(0.3, cost=100, last_started=0.3)
    assert bucket.holds == pytest.approx(722.5)
    for _ in range(217):
        bucket.served()
    assert bucket.holds == pytest.approx(850, rel=0.001)


def test_where_the_largest_call_is_refused_all_wait_longer_for_a_full_bucket() -> None:
    bucket = TokenBucket(holds=100, rate=10.0)
    bucket.refused(0.0, cost=100, last_started=0.0)
    assert (bucket.holds, bucket.late) == (100, 0.05)
    bucket.take(1.0, 100)
    assert not bucket.fits(11.0, 100)
    assert bucket.opens_at == pytest.approx(11.05)
    assert bucket.fits(11.05, 100)
    bucket.take(11.05, 100)
    assert not bucket.fits(21.05, 100)
    bucket.refused(11.05, cost=100, last_started=11.05)
    assert bucket.late == pytest.approx(0.075)
    for _ in range(101):
        bucket.served()
    assert bucket.late == pytest.approx(0.05, rel=0.01)


# --- which of them it is


def started(part: Part, time: float, cost: int = 100) -> Spend:
    spend = Spend(time, cost)
    part.add(spend)
    return spend


def tried(part: Part) -> list[Spend]:
    """Return the six calls of 100 that start as they fit, of which a slice of 190 tokens has room for one in ten seconds."""
    spends, time = list[Spend](), 0.0
    while len(spends) < 6:
        if not part.fits(time, 100):
            assert part.opens_at(time) > time
            time = part.opens_at(time)
        spends.append(started(part, time))
    return spends


def test_what_has_room_in_a_bucket_only_is_tried_one_at_a_time() -> None:
    part = Part(190, 10.0, 60.0)
    assert part.fits(0.0, 100)
    started(part, 0.0)
    assert not part.fits(0.0, 100)
    assert part.opens_at(0.0) == pytest.approx(10 / 190 * 10)
    assert part.fits(0.6, 100)
    started(part, 0.6)
    assert not part.fits(1.5, 1)  # an answer is waited for
    assert part.opens_at(1.5) == 1.6
    assert part.fits(1.6, 10)


def test_six_tries_that_are_served_tell_a_bucket_which_is_all_that_counts_from_then_on() -> None:
    part = Part(190, 10.0, 60.0)
    for spend in [*tried(part), *(started(part, 100.0 + 5.3 * each) for each in range(2))]:
        assert not part.is_bucket
        part.correct(spend, 100, is_served=True)
    assert part.is_bucket
    assert part.fits(107.0, 100)  # though 200 started in the ten seconds before
    assert not part.fits(107.0, 130)


def test_a_call_that_a_slice_may_have_had_room_for_on_its_way_tells_no_bucket() -> None:
    part = Part(190, 10.0, 60.0)
    for time in range(0, 200, 9):
        if part.fits(time, 100):
            part.correct(started(part, time), 100, is_served=True)
    assert not part.is_bucket


def test_a_refused_try_ends_the_tries_for_half_a_window_and_then_for_three_times_as_long() -> None:
    part, time = Part(190, 10.0, 60.0), 0.0
    for waits in (30, 90, 270):
        started(part, time)
        refused = started(part, time + 6)
        refused.is_try = True
        assert part.refuse(refused, time + 6)
        for fits_at in (time + 6.1, time + 9.9):
            assert not part.fits(fits_at, 100)
        started(part, time + 20)
        assert not part.fits(time + 28, 100)
        time += 6 + waits
        started(part, time - 7)
        assert part.fits(time + 0.01, 100)
        time += 30


def test_in_a_short_slice_the_answer_of_a_try_is_waited_for_half_as_long() -> None:
    part = Part(190, 1.0, 60.0)
    started(part, 0.0)
    started(part, 0.1)
    assert part.opens_at(0.1) == 0.1 + 0.5 or not part.fits(0.1, 1)
    assert not part.fits(0.59, 1)
    assert part.fits(0.61, 1)


def test_tries_that_are_refused_together_are_waited_for_once_and_a_bucket_holds_less_in_the_next() -> None:
    part = Part(190, 10.0, 60.0)
    for time in (0.0, 1.0, 2.0):
        started(part, time)
    tries = [started(part, 40.0 + 2 * number) for number in range(4)][2:]
    for spend in tries:
        assert part.refuse(spend, 46.0)
    started(part, 70.0, 150)
    assert not part.fits(73.9, 50)
    assert part.opens_at(73.9) == 74.0
    assert not part.fits(74.0, 100)
    assert part.opens_at(74.0) == pytest.approx(70 + (150 - 0.85 * 190 + 100) / 19)  # it may hold 190 less a part


def test_six_tries_tell_a_bucket_only_if_none_is_refused_between() -> None:
    part = Part(190, 10.0, 60.0)
    spends = tried(part)
    for spend in spends[1:]:
        part.correct(spend, 100, is_served=True)
    refused = started(part, spends[-1].time + 1.5)
    part.refuse(refused, refused.time)
    start = refused.time + 60
    started(part, start)
    part.correct(started(part, start + 6), 100, is_served=True)
    assert not part.is_bucket


def test_what_a_refused_call_would_have_taken_is_given_back() -> None:
    part = Part(190, 10.0, 60.0)
    part.is_bucket = True
    assert part.refuse(started(part, 0.0, 150), 0.0)
    assert part.fits(0.0, 150)


def test_what_a_call_cost_less_is_given_back_to_the_bucket() -> None:
    part = Part(190, 10.0, 60.0)
    part.is_bucket = True
    spend = started(part, 0.0, 150)
    assert not part.fits(0.0, 100)
    part.correct(spend, 50, is_served=True)
    assert part.fits(0.0, 100)


@pytest.mark.parametrize(("holds", "refusals"), [(1900, 5), (100, 7)])
def test_a_bucket_that_is_refused_again_and_again_is_none(holds: int, refusals: int) -> None:
    """It holds less and less; where it holds one call, that waits longer and longer."""
    part = Part(holds, 10.0, 60.0)
    part.is_bucket = True
    for number in range(refusals):
        assert part.is_bucket
        refused = started(part, 20.0 * number)
        assert part.refuse(refused, refused.time)
    assert not part.is_bucket


def test_what_headers_tell_is_a_slice_and_nothing_is_tried() -> None:
    part = Part(190, 10.0, 60.0, is_told=True)
    first = started(part, 0.0)
    assert not part.fits(9.9, 100)
    assert part.opens_at(9.9) == 10.0
    part.correct(first, 90, is_served=True)
    assert part.fits(0.1, 100)
    assert not part.refuse(first, 0.0)


def test_a_bucket_is_taken_to_hold_no_more_than_was_served_of_it_at_once() -> None:
    part = Part(1000, 10.0, 60.0)
    spends = [Spend(time, 100) for time in (0.0, 0.0, 0.1, 0.1)]
    spends[3].is_refused = True
    part.replay(spends)
    part.is_bucket = True
    assert part.fits(2.9, 280)
    assert not part.fits(2.9, 290)


@pytest.mark.parametrize(("estimated", "is_misfit"), [(300, True), (110, False)])
def test_refusals_of_what_has_room_tell_that_estimates_are_counted_if_these_are_more(estimated: int, is_misfit: bool) -> None:
    part = Part(1900, 10.0, 60.0)
    for number in range(5):
        served, refused = (Spend(20.0 * number + later, 100, estimated=estimated) for later in (0.0, 1.0))
        for spend in (served, refused):
            assert part.fits(spend.time, 100, 0, estimated)
            part.add(spend)
        part.correct(served, 100, is_served=True)
        part.refuse(refused, refused.time)
        assert not part.is_misfit or number >= 3
    assert part.is_misfit is is_misfit


def test_one_refusal_in_ten_tells_no_such_thing() -> None:
    part = Part(1900, 10.0, 60.0)
    for number in range(200):
        spend = Spend(float(number), 100, estimated=300)
        part.add(spend)
        if number % 10:
            part.correct(spend, 100, is_served=True)
        else:
            part.refuse(spend, spend.time)
    assert not part.is_misfit


def test_neither_a_try_nor_what_is_counted_by_estimates_tells_that_these_are_counted() -> None:
    part, by_estimates = Part(1900, 10.0, 60.0), Part(1900, 10.0, 60.0, by_estimates=True)
    for number in range(9):
        for each, is_try in ((part, True), (by_estimates, False)):
            served, refused = (Spend(20.0 * number + later, 100, estimated=300) for later in (0.0, 1.0))
            for spend in (served, refused):
                each.add(spend)
            each.correct(served, 100, is_served=True)
            assert refused.of_part is not None
            refused.of_part.is_try = is_try
            each.refuse(refused, refused.time)
            assert not each.is_misfit


def test_refusals_on_end_with_nothing_served_between_tell_no_such_thing() -> None:
    part = Part(1900, 10.0, 60.0)
    part.correct(started(part, 0.0), 100, is_served=True)
    for number in range(20):
        spend = Spend(20.0 * number, 100, estimated=300)
        part.add(spend)
        part.refuse(spend, spend.time)
    assert not part.is_misfit


def test_estimates_are_counted_for_good_where_they_are_more_than_what_a_call_cost() -> None:
    """And nothing is kept for how far estimates are off."""
    part = Part(900, 10.0, 60.0, by_estimates=True)
    spends = [Spend(0.0, 100, variance=5000, estimated=300) for _ in range(3)]
    for spend in spends:
        assert part.fits(0.0, 100, 5000, 300)
        part.add(spend)
    assert not part.fits(0.0, 50, 0, 150)
    part.correct(spends[0], 90, is_served=True)
    assert not part.fits(0.0, 50, 0, 150)
    part.correct(spends[1], 0, is_served=False)  # it was never sent
    assert part.fits(0.0, 100, 5000, 300)


def refused_together() -> SlicedWindow:
    """Return a window of which the first calls were refused, and so a slice is found."""
    window = SlicedWindow(limit=6000, seconds=60.0)
    for spend in [window.add(0.0, 100) for _ in range(3)]:
        window.refuse(spend)
    window.find_slice(0.0)
    return window


def test_a_window_keeps_a_part_that_is_a_bucket_whatever_a_slice_would_explain_or_a_try_beyond_it_tells() -> None:
    window = refused_together()
    part = window.part
    assert part is not None
    part.is_bucket = True
    refused = window.add(20.0, 100)
    window.refuse(refused)
    window.find_slice(20.0)
    assert window.part is part
    beyond = [window.add(30.0, 100) for _ in range(2)]
    assert beyond[1].of_part is None
    window.refuse(beyond[1])
    assert window.part is part


@pytest.mark.parametrize("cost", [10, 100])
def test_a_window_whose_part_counts_estimates_takes_no_less_for_it_than_the_largest(cost: int) -> None:
    """The longest slice that explains what was refused, or the shortest of all."""
    window = refused_together()
    assert window.slice is not None
    assert window.slice.limit == 100
    for number in range(5):
        served, refused = (window.add(2.0 * number + later, cost, 0, 350) for later in (1.0, 2.0))
        assert refused.of_part is not None
        refused.of_part.is_try = served.of_part is None
        window.correct(served, cost, 2.0 * number + 1.5)
        window.refuse(refused)
    assert window.part is not None
    assert window.part.by_estimates
    assert window.slice.limit >= 350
    window.unslice()
    window.find_slice(13.0)
    assert window.part is not None
    assert not window.part.by_estimates


def test_what_leaves_the_window_gives_nothing_back_to_a_bucket() -> None:
    """A minute after it started, what a call took of the bucket has long been refilled."""
    window = refused_together()
    part = window.part
    assert part is not None
    assert part._bucket is not None
    part.is_bucket = True
    for time in range(1, 30):
        window.correct(window.add(float(time), 105), 105, float(time))
    before = part._bucket.lacks(30.0)
    assert before > 0
    window.forget(75.0)
    assert part._bucket.lacks(30.0) == before


# --- and what comes of it


class Tokens(Batch):
    times: int = 1

    def estimate_tokens(self, item: int) -> int:
        return self.times * item


def ended(
    algorithm: str, holds: int, *, times: int = 1, item: int = 2000, items: int = 600, adaptive: bool = False
) -> tuple[float, int]:
    """Return when a batch ends, and how often it was refused.

    The server allows 3,000 tokens in a second, counts estimates of so many times what calls cost, and keeps a part.
    """
    server, refused, last = _ALGORITHMS[algorithm](holds, holds / 3000), 0, 0.0

    async def call(item: int) -> Any:
        nonlocal refused, last
        await asyncio.sleep(0.05)
        if server.wait(now(), times * item) > 0:
            refused += 1
            raise RateLimitHit("tokens", retry_after=1.0)
        server.take(now(), times * item)
        await asyncio.sleep(1)
        last = now()
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=item))

    class Fixed(Tokens):
        pass

    class Adaptive(Tokens, AdaptiveThrottledNode):
        pass

    make = Adaptive if adaptive else Fixed
    make.times = times
    run(make(call, max_concurrent=12, max_tokens_per_minute=180_000), [item] * items)
    return last, refused


def test_a_bucket_that_holds_one_call_and_a_half_is_emptied_as_fast_as_it_fills() -> None:
    """A slice of that time would have room for one call: for 600 seconds, not 400."""
    took, refused = ended("token_bucket", 3000)
    assert took <= 400 / 0.95
    assert refused <= 0.04 * 600


@pytest.mark.parametrize(("holds", "item"), [(9000, 2000), (30_000, 5000)])
def test_an_adaptive_batch_empties_a_small_bucket_as_fast_as_it_fills(holds: int, item: int) -> None:
    took, refused = ended("token_bucket", holds, item=item, adaptive=True)
    assert took <= 600 * item / 3000 / 0.99
    assert refused <= 0.02 * 600


def test_a_part_that_an_outage_seemed_to_tell_is_forgotten_where_costs_are_given_and_not_estimated() -> None:
    """Bursts of 100 calls, of which a minute has room for 600."""
    took: list[float] = []

    async def call(limiter: RateLimiter) -> None:
        while True:
            async with limiter.reserve(tokens=500) as permit:
                await asyncio.sleep(0.1)
                if now() < 90:
                    permit.refused(1.0)
                    continue
                await asyncio.sleep(1)
                permit.settle(500)
                return

    async def main() -> None:
        limiter = RateLimiter(200, max_tokens_per_window=300_000)
        for burst in range(8):
            began = now()
            await asyncio.gather(*(call(limiter) for _ in range(100)))
            took.append(now() - began)
            await asyncio.sleep(60 * (burst + 2) - now() % 60)

    run_virtual(main())
    assert took[0] > 90
    assert took[-1] == pytest.approx(1.1)


def test_a_window_of_a_second_is_not_taken_for_a_bucket() -> None:
    took, refused = ended("sliding_window", 3000)
    assert took <= 600 / 0.95
    assert refused <= 0.05 * 600


@pytest.mark.parametrize("holds", [9000, 30_000])
def test_a_bucket_that_counts_estimates_is_found_by_a_few_refusals(holds: int) -> None:
    took, refused = ended("token_bucket", holds, times=3, item=1000)
    assert took <= 600 / 0.95
    assert refused <= 0.08 * 600

"""What is promised of tokens that a server allows in a shorter time than the window, with `now` given."""

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled import RateLimitHit, run_virtual
from pocketflow_throttled.budget import Budget
from pocketflow_throttled.part import Part
from pocketflow_throttled.simulation import _ALGORITHMS
from pocketflow_throttled.sliced_window import SlicedWindow
from pocketflow_throttled.token_window import Spend

from .test_nodes import Batch, now, run


class OverloadedError(Exception):
    status_code = 529


class Tokens(Batch):
    def estimate_tokens(self, item: int) -> int:
        return 3 * item


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 1200), st.integers(0, 1200)), max_size=80),
    st.integers(0, 80),
)
def test_never_more_than_the_limit_in_any_window_nor_in_any_slice_of_it(
    allowed: int, calls: list[tuple[float, int, int]], sliced_after: int
) -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    booked: list[tuple[float, Spend]] = []
    time = 0.0
    for number, (gap, cost, really) in enumerate(calls):
        time += gap
        if number == sliced_after:
            window.set_slice(allowed, 7.0, time)
        while not window.fits(time, cost):
            opens_at = window.opens_at(time)
            assert opens_at > time
            time = opens_at
        for limit, seconds in [(1000, 60.0)] + [(allowed, 7.0)] * (number >= sliced_after):
            inside = sum(spend.cost for at, spend in booked if at + seconds > time)
            assert inside + min(cost, limit) <= limit
        booked.append((time, window.add(time, cost)))
        window.correct(booked[number // 2][1], really)


def test_what_is_never_sent_or_costs_less_is_free_at_once_in_a_slice_too() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    early = window.add(0.0, 100)
    window.set_slice(100, 6.0, 1.0)
    assert not window.fits(1.0, 10)
    window.correct(early, 80)
    assert window.fits(1.0, 20)
    late = window.add(1.0, 20)
    assert not window.fits(1.0, 1)
    window.take_back(late)
    assert window.fits(1.0, 20)
    window.insert(0.5, 15)
    assert not window.fits(1.0, 6)
    window.clear()
    assert window.fits(1.0, 500)


def test_a_slice_that_changes_takes_over_what_is_counted() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    spends = [window.add(float(at), 50) for at in range(10)]
    window.set_slice(100, 6.0, 10.0)
    window.fits(10.0, 1)
    window.set_slice(200, 12.0, 10.0)
    assert not window.fits(10.0, 1)
    for spend in spends:
        window.correct(spend, 10)
    assert window.fits(10.0, 100)
    assert not window.fits(10.0, 101)


@pytest.mark.parametrize("parts", [2, 3, 5, 12, 60])
@pytest.mark.parametrize("algorithm", sorted(_ALGORITHMS))
def test_a_slice_is_found_by_what_is_refused_however_a_server_counts(parts: int, algorithm: str) -> None:
    """Until all that started with what was refused have told their cost, it may be the shortest."""
    window, server = SlicedWindow(limit=12_000, seconds=60.0), _ALGORITHMS[algorithm](12_000 // parts, 60 / parts)
    served, refused = [], []
    for spend in [window.add(0.0, 300) for _ in range(100)]:  # they cost a third of that
        if server.wait(0.1, 100) > 0:
            refused.append(spend)
            window.refuse(spend)
            window.find_slice(0.2)
        else:
            server.take(0.1, 100)
            served.append(spend)
    for spend in refused + served:
        assert seconds_of(window) == 2.0  # the shortest that holds 300
        window.correct(spend, 100)
    assert seconds_of(window) == 60 / parts


def seconds_of(window: SlicedWindow) -> float | None:
    return None if window.slice is None else window.slice.seconds


def test_a_slice_that_was_found_too_long_is_found_anew_and_a_right_one_is_kept() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    window.set_slice(1000, 10.0, 0.0)
    for at in (0.0, 12.0):  # it allows 500 in five seconds, and the server tells of ten
        for call in range(10):
            spend = window.add(at, 100)
            if call < 5:
                window.correct(spend, 100)
            else:
                window.refuse(spend)
        window.find_slice(at)
        assert seconds_of(window) == 5.0
    window.set_slice(1000, 10.0, 13.0)
    assert seconds_of(window) == 5.0


def test_no_slice_is_found_that_holds_less_than_a_call_costs_nor_without_a_call_that_cost_something() -> None:
    window = SlicedWindow(limit=600, seconds=60.0)
    window.find_slice(0.0)
    assert window.slice is None
    window.refuse(window.add(0.0, 250))
    window.find_slice(0.1)
    assert seconds_of(window) == 30.0
    window = SlicedWindow(limit=600, seconds=60.0)
    window.refuse(window.add(0.0, 350))
    window.find_slice(0.1)
    assert window.slice is None
    window = SlicedWindow(limit=50, seconds=60.0)
    refused = window.add(0.0, 5)
    window.refuse(refused)
    window.correct(refused, 0)
    window.find_slice(0.1)
    assert seconds_of(window) == 2.0  # none of nothing
    window.add(0.2, 5)
    assert not window.fits(0.2, 5)


def test_a_refusal_that_tells_how_a_server_counts_tells_of_no_slice() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    window.set_slice(1000, 10.0, 0.0)
    for at in (0.0, 11.0, 22.0):
        for _ in range(9):
            window.correct(window.add(at, 100, estimated=300), 100, at)
    assert window.fits(33.0, 100, estimated=700)
    window.refuse(window.add(33.0, 100, estimated=700))
    assert window.slice is None


def test_a_budget_forgets_a_slice_with_the_limit_or_the_pace() -> None:
    budget = Budget(requests=None, tokens=1000, burst=None, seconds=60.0)
    assert budget.tokens is not None
    for forget in (lambda: budget.set_tokens(2000), budget.forget_pace, budget.clear):
        budget.tokens.set_slice(100, 6.0, 0.0)
        assert budget.window("tokens") is budget.tokens.slice
        forget()
        assert budget.window("tokens") is budget.tokens
        assert budget.fits(0.0, 500)


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize(
    ("seconds", "algorithm", "hint"),
    [
        (5, "fixed_window", True),
        (5, "sliding_window", False),
        (5, "token_bucket", True),
        (10, "sliding_window", True),
        (10, "token_bucket", False),
        (10, "fixed_window", False),
        (30, "sliding_window", True),
    ],
)
def test_tokens_a_minute_that_are_enforced_in_less_cost_few_refusals_and_little_time(
    seconds: int, algorithm: str, hint: bool
) -> None:
    """Who takes all of a minute's tokens at once is refused; of 60 at once, most at first."""
    server, refused, ended = _ALGORITHMS[algorithm](5000 * seconds, float(seconds)), 0, 0.0

    async def call(item: int) -> Any:
        nonlocal refused, ended
        await asyncio.sleep(0.1)
        wait = server.wait(now(), item)
        if wait > 0:
            refused += 1
            raise RateLimitHit("tokens", retry_after=wait if hint else None)
        server.take(now(), item)
        await asyncio.sleep(2)
        ended = now()
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=item))

    run(Tokens(call, max_concurrent=60, max_tokens_per_minute=300_000), [1000] * 1500)
    assert refused <= 0.05 * 1500
    assert ended <= 300 / 0.89


def sliced(window: SlicedWindow, now: float) -> None:
    """Let a server refuse what has room, until it looks as if the minute's tokens were allowed by the second."""
    for spend in [window.add(now, 100) for _ in range(3)]:
        window.refuse(spend)
    window.find_slice(now)
    assert seconds_of(window) == 1.0


def served_at(window: SlicedWindow, start: float, until: float) -> list[Spend]:
    """Return the calls of 100 that start as they fit, each of which is served after a second."""
    spends: list[Spend] = []
    while start < until and window.slice is not None:
        if window.fits(start, 100):
            spends.append(window.add(start, 100))
        for spend in spends:
            if spend.is_under_way and spend.time + 1 <= start:
                window.correct(spend, 100, start)
        start += 0.05
    return spends


def test_a_slice_is_forgotten_by_which_a_server_would_have_served_less() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    sliced(window, 0.0)
    assert len(served_at(window, 1.0, 30.0)) == 29
    served_at(window, 30.0, 35.0)
    assert window.slice is None


def test_a_slice_is_kept_beyond_which_a_try_is_refused_and_tried_ever_more_rarely() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    sliced(window, 0.0)
    for tried_at, next_at in ((30.0, 150.0), (150.0, 630.0)):
        tries: list[Spend] = []
        while window.fits(tried_at, 100):
            tries.append(window.add(tried_at, 100))
        for spend in reversed(tries):
            assert not window.refuse(spend)
        assert window.opens_at(tried_at + 1) <= next_at
        assert len(served_at(window, tried_at + 1, next_at)) <= next_at - tried_at
        assert seconds_of(window) == 1.0


def test_refusals_for_another_reason_slow_a_batch_down_for_a_while_only() -> None:
    """What a server says that was down for a moment looks like tokens that are allowed by the second."""
    starts: list[float] = []

    async def call(item: int) -> Any:
        if 61 <= now() < 64:
            raise RateLimitHit("too many requests", retry_after=1)
        starts.append(now())
        await asyncio.sleep(1)
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=item))

    costs = [200 + 2400 * (item % 7 == 0) for item in range(500)]
    run(Tokens(call, max_concurrent=40, max_tokens_per_minute=30_000), costs)
    assert starts[-1] <= 1.08 * 60 * sum(costs) / 30_000


def test_refusals_for_another_reason_slow_bursts_down_for_a_while_only() -> None:
    """Of a batch a minute, which takes a sixth of the limit at once, each has to tell by itself that the server serves that."""
    took: list[float] = []

    async def call(item: int) -> Any:
        if now() < 90:
            raise RateLimitHit("too many requests", retry_after=1)
        await asyncio.sleep(3)
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=item))

    node = Tokens(call, max_concurrent=200, max_tokens_per_minute=300_000)

    async def main() -> None:
        await node.run_async({"items": [500] * 2000})
        for _ in range(6):
            await asyncio.sleep(57)
            since = now()
            await node.run_async({"items": [500] * 100})
            took.append(now() - since)

    run_virtual(main())
    assert took[0] > 5  # by a slice
    assert took[3:] == pytest.approx([3.0] * 3)


def test_a_try_that_is_refused_when_all_has_left_the_window_ends_no_batch() -> None:
    window = SlicedWindow(limit=600, seconds=6.0)
    sliced(window, 0.0)
    tried_at = window._try_at
    tries = []
    while window.fits(tried_at, 50):
        tries.append(window.add(tried_at, 50))
    assert tries[-1].time >= window._tried_since
    window.forget(tried_at + 60)
    assert not window.spends
    assert not window.refuse(tries[-1])


def test_calls_that_an_overloaded_server_refused_count_as_none_it_served_and_tell_of_no_slice() -> None:
    budget = Budget(requests=None, tokens=6000, burst=None, seconds=60.0)
    assert budget.tokens is not None
    dropped = [budget.book(0.0, 100) for _ in range(30)]
    for spend in dropped:
        budget.refused(0.0, spend, is_of_limits=False)
    assert budget.served("tokens", 1.0) == 0
    budget.tokens.find_slice(1.0)
    assert budget.tokens.slice is None
    budget.refused(1.0, budget.book(1.0, 100))
    budget.tokens.find_slice(1.0)  # of which what was dropped explains nothing
    assert seconds_of(budget.tokens) == 1.0


@pytest.mark.parametrize(("seed", "times"), [(1, 1.0), (2, 2.5)])
def test_an_overloaded_server_that_keeps_a_bucket_slows_a_batch_down_by_little_more_than_what_it_refuses(
    seed: int, times: float
) -> None:
    """Also where all that wait start together after a pause, and an overload is the first refusal of these."""
    bucket, random, seen = _ALGORITHMS["token_bucket"](30_000, 6.0), Random(seed), [0, 0]

    async def call(item: int) -> Any:
        await asyncio.sleep(0.05)
        seen[0] += 1
        if random.random() < 0.2:
            raise OverloadedError
        if bucket.wait(now(), item):
            seen[1] += 1
            raise RateLimitHit("too many requests")
        bucket.take(now(), item)
        await asyncio.sleep(2 * (0.5 + random.random()))
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=item))

    costs = Random(seed)

    class Estimated(Batch):
        def estimate_tokens(self, item: int) -> int:
            return int(times * item)

    async def main() -> float:
        batch = Estimated(call, max_retries=30, max_concurrent=200, max_tokens_per_minute=300_000)
        await batch.run_async({"items": [int(500 * (0.5 + costs.random())) for _ in range(1500)]})
        return now()

    took = run_virtual(main())
    assert took < 300, (took, seen)
    assert seen[1] < 300


def test_what_told_its_cost_only_as_it_ended_takes_from_a_bucket_too() -> None:
    part = Part(limit=200, seconds=10.0, window=60.0)
    part.is_bucket = True
    part.add(Spend(time=0.0, cost=100))
    late = Spend(time=1.0, cost=100)
    part.insert(late)
    assert not part.fits(4.0, 100)
    part.correct(late, 0, is_served=False)  # never sent, after all
    assert part.fits(4.0, 100)
    assert not part.fits(4.0, 190)


def misfits(window: SlicedWindow, since: float) -> float:
    """Refuse calls that have room, each after one was served, until that seems to be for their estimates; return when it does."""
    at = since
    while window.part is None or not window.part.by_estimates:
        assert at < since + 60
        served, refused = (window.add(at + after, 5, estimated=20) for after in (0.0, 0.5))
        window.correct(served, 5, at + 0.6)
        window.refuse(refused)
        at += 3
    return at - 2.5


def test_that_a_slice_counts_estimates_is_believed_for_a_while_only_and_for_longer_each_time() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    sliced(window, 0.0)
    for seconds in (120, 360):
        at = misfits(window, window.spends[-1].time + 1)
        window.add(at + seconds - 1, 5, estimated=20)
        assert window.part is not None
        assert window.part.by_estimates
        window.add(at + seconds, 5, estimated=20)
        assert not window.part.by_estimates


def test_a_slice_that_seems_to_count_estimates_is_kept_by_costs_if_more_is_served_than_that_allows() -> None:
    window = SlicedWindow(limit=6000, seconds=60.0)
    sliced(window, 0.0)
    misfits(window, 1.0)
    seconds = seconds_of(window)
    tried_at = window._try_at
    while window.part is not None and window.part.by_estimates:
        spend = window.add(tried_at, 5, estimated=20)
        window.correct(spend, 5, tried_at)
        tried_at += 0.01
        assert tried_at < window.seconds
    assert seconds_of(window) == seconds

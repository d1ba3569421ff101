"""Windows by an API's own clock, whose length and phase nobody tells: what explains when it refused, and how the next is met."""

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled import SimulatedAPI, run_virtual
from pocketflow_throttled.clock_fit import Fit, Shut, clock_that_explains
from pocketflow_throttled.clock_window import ClockWindow
from pocketflow_throttled.closing import Closing
from pocketflow_throttled.evidence import Evidence
from pocketflow_throttled.learned_rate import LearnedRate
from pocketflow_throttled.slow_start import SlowStart
from pocketflow_throttled.timing import Timing

from .test_adaptive import Adapting
from .test_nodes import now

REFUSAL = 0.05  # seconds that one takes


class Clocked:
    """An API that admits `count` calls in each `seconds` of its own clock."""

    def __init__(self, count: int, seconds: float, phase: float = 0.0) -> None:
        self.count, self.seconds, self.phase = count, seconds, phase
        self.admitted: dict[int, int] = {}

    def admits(self, at: float) -> bool:
        period = math.floor((at - self.phase) / self.seconds)
        used = self.admitted.get(period, 0)
        self.admitted[period] = min(used + 1, self.count)
        return used < self.count


def use(window: ClockWindow, evidence: Evidence, api: Clocked, since: float, until: float) -> list[float]:
    """Start calls as soon as the window allows them, and return when those started that the API refused."""
    refused = []
    at = since
    while (at := max(at, window.opens_at(at))) < until:
        window.started(at, 1)
        if api.admits(at):
            at += 0.01
        else:
            refused.append(at)
            evidence.forget(at)
            if not window.correct_length(at):
                assert window.explains(at)
                window.correct(at)
            at += REFUSAL
    return refused


def held(fit: Fit, opened: float) -> tuple[ClockWindow, Evidence]:
    timing, evidence = Timing(), Evidence()
    timing.refused(REFUSAL)
    return ClockWindow(evidence, timing, fit, opened), evidence


def use_up(window: ClockWindow, evidence: Evidence, count: int, at: float) -> None:
    """Start as many as fit, and one beyond, which is refused."""
    for level in range(count):
        window.started(at, level)
    beyond = window.opens_at(at)
    window.started(beyond, count)
    evidence.forget(beyond)
    assert window.explains(beyond)
    window.correct(beyond)


# --- what explains when it refused


def test_two_times_that_it_refused_tell_about_how_long_a_period_is() -> None:
    starts = [*(at / 10 for at in range(50)), *(at / 10 for at in range(220, 270))]  # by its clock: from 0, and from 20 on
    fit = clock_that_explains(starts, [Shut(4.9, 18.0, 22.0), Shut(26.9, 39.0, 41.0)])
    assert fit is not None
    assert fit.count == 50
    assert fit.length[0] < 20.0 < fit.length[1]
    assert fit.begun[0] < 40.0 < fit.begun[1]


def test_more_of_them_tell_more() -> None:
    starts = [20 * period + at / 10 for period in range(4) for at in range(20, 70)]
    shuts = [Shut(20 * period + 6.9, 20 * period + 18.0, 20 * period + 22.0) for period in range(4)]
    two, four = clock_that_explains(starts, shuts[-2:]), clock_that_explains(starts, shuts)
    assert two is not None
    assert four is not None
    assert two.length[0] < four.length[0] < 20.0 < four.length[1] < two.length[1]


def test_a_time_that_it_was_open_may_be_two_periods() -> None:
    """By its clock, 15 seconds long, 50 fit; the batch found it open for the late part of one and all of the next."""
    starts = [*(at / 10 for at in range(60, 100, 2)), *(at / 10 for at in range(105, 155))]
    starts += [*(at / 10 for at in range(330, 380, 2)), *(at / 10 for at in range(405, 455))]
    fit = clock_that_explains(starts, [Shut(15.4, 24.0, 33.0), Shut(45.4, 54.0, 57.0)])
    assert fit is not None
    assert fit.count == 50
    assert fit.length[0] < 15.0 < fit.length[1]


def test_what_was_admitted_by_no_clock_is_explained_by_none() -> None:
    starts = [*[0.0] * 50, *[22.0] * 30]
    assert clock_that_explains(starts, [Shut(0.0, 18.0, 22.0), Shut(22.0, 39.0, 41.0)]) is None


@pytest.mark.parametrize(("before", "is_told"), [(12, True), (100, False)])
def test_a_wait_that_is_always_as_long_makes_no_clock_where_far_more_were_admitted_before(before: int, is_told: bool) -> None:
    """Thirteen a second, say, and a wait of eight seconds when more come: thirteen in each nine seconds would explain as much."""
    waits = [109.0 + 9 * wait for wait in range(3)]
    starts = [100.0 - each / 13 for each in reversed(range(before + 1))]
    starts += [wait + each / 13 for wait in waits for each in range(13)]
    shuts = [Shut(since, since + 7.1, since + 8.1) for since in (100.0, *(wait + 12 / 13 for wait in waits))]
    assert (clock_that_explains(starts, shuts) is not None) == is_told


def test_what_is_counted_in_a_few_seconds_is_no_matter_of_a_clock() -> None:
    starts = [*(at / 10 for at in range(10)), *(2 + at / 10 for at in range(10))]
    assert clock_that_explains(starts, [Shut(0.9, 1.5, 2.0), Shut(2.9, 3.5, 4.0)]) is None


# --- how the next period is met


@given(
    count=st.integers(5, 80),
    seconds=st.floats(6.0, 90.0),
    phase=st.floats(0.0, 1.0),
    blur=st.tuples(*[st.floats(0.02, 0.2)] * 4),
)
def test_each_period_is_used_to_the_full_and_found_ever_closer(
    count: int, seconds: float, phase: float, blur: tuple[float, float, float, float]
) -> None:
    shorter, longer, sooner, later = (seconds * each for each in blur)
    begun = phase * seconds
    api = Clocked(count, seconds, begun)
    window, evidence = held(Fit(count, (seconds - shorter, seconds + longer), (begun - sooner, begun + later)), begun + later)
    early = use(window, evidence, api, begun + later, begun + 10 * seconds)
    late = use(window, evidence, api, begun + 10 * seconds, begun + 30 * seconds)
    assert len(early) <= 25
    assert len(late) <= 15
    periods = [api.admitted.get(period, 0) for period in range(10, 29)]
    assert sum(periods) >= 0.95 * 19 * count


def test_a_period_may_begin_a_bit_later_than_is_possible() -> None:
    window, evidence = held(Fit(10, (20.0, 20.2), (0.0, 0.1)), 0.1)
    refused = use(window, evidence, Clocked(10, 20.8), 0.1, 100.0)
    assert 1 <= len(refused) <= 6
    assert 20.3 <= window.seconds <= 21.3


def test_a_period_that_does_not_begin_when_it_must_is_none() -> None:
    window, evidence = held(Fit(10, (20.0, 20.2), (0.0, 0.1)), 0.1)
    use_up(window, evidence, 10, 1.0)
    answers, at = [], 1.0
    for _ in range(20):
        at = window.opens_at(at)
        window.started(at, 1)
        evidence.forget(at)
        answers.append(window.correct_length(at))
    assert answers[0]
    assert not answers[-1]


def test_a_try_that_was_never_sent_tells_nothing() -> None:
    window, evidence = held(Fit(2, (20.0, 24.0), (0.0, 1.0)), 1.0)
    use_up(window, evidence, 2, 1.0)
    first = window.opens_at(1.0)
    assert first > 20.0
    window.started(first, 1)
    evidence.forget(first)
    assert window.opens_at(first + 1.0) == pytest.approx(max(first + 1.0, first))  # it may be tried again, by one
    window.started(first + 1.0, 1)
    assert window.opens_at(first + 1.0) > first + 1.0


def test_a_time_without_calls_leaves_all_of_a_period() -> None:
    window, _ = held(Fit(3, (20.0, 20.1), (0.0, 0.1)), 0.1)
    for _ in range(3):
        window.started(0.1, 1)
    assert window.opens_at(1e6) == 1e6
    for _ in range(3):
        assert window.opens_at(1e6) == 1e6
        window.started(1e6, 1)


def test_more_that_fit_are_found_out() -> None:
    window, evidence = held(Fit(40, (30.0, 30.1), (0.0, 0.1)), 0.1)
    refused = use(window, evidence, Clocked(60, 30.0), 0.1, 30.0 * 60)
    assert window.count >= 0.9 * 60
    assert len(refused) <= 40


class Capped(Clocked):
    """An API that admits `count` calls at once, each of a second."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 1.0)
        self.ends: list[float] = []

    def admits(self, at: float) -> bool:
        self.ends = [end for end in self.ends if end > at]
        if len(self.ends) == self.count:
            return False
        self.ends.append(at + 1.0)
        return True


def test_what_was_taken_for_a_clock_and_is_a_cap_does_not_refuse_one_more_than_fit() -> None:
    """The first beyond is tried as none of the others is under way."""
    timing, evidence = Timing(), Evidence()
    timing.refused(REFUSAL)
    timing.served(1.0)
    window = ClockWindow(evidence, timing, Fit(5, (8.0, 8.0), (0.0, 0.0)), 0.0)
    assert use(window, evidence, Capped(5), 0.0, 1.4) == []
    assert evidence.starts[5] > 1.0


def test_where_more_than_fit_are_admitted_again_and_again_no_period_is_waited_for() -> None:
    """An API that was down twice looked like a window by its clock."""
    window, evidence = held(Fit(100, (20.0, 22.0), (0.0, 1.0)), 1.0)
    assert use(window, evidence, Clocked(10_000, 1.0), 1.0, 20.0) == []
    assert len(evidence.starts) > 500


def test_many_less_that_fit_are_another_matter() -> None:
    window, evidence = held(Fit(40, (30.0, 30.1), (0.0, 0.1)), 0.1)
    for call in range(28):
        window.started(0.1 + call / 100, 1)
    window.started(0.4, 1)
    evidence.forget(0.4)
    assert not window.correct_length(0.4)
    assert not window.explains(0.4)


def test_after_a_pause_twice_as_many_go_each_time_that_none_was_refused() -> None:
    timing = Timing()
    timing.refused(REFUSAL)
    start, at, times = SlowStart(timing), 5.0, []
    start.begin(at, count=40)
    for _ in range(20):
        at = max(at, start.opens_at)
        start.started(at)
        times.append(at)
    apart = timing.unrefused_after
    assert times == pytest.approx([5 + apart] * 2 + [5 + 2 * apart] * 4 + [5 + 3 * apart] * 8 + [5 + 4 * apart] * 6)
    assert start.is_over


# --- nodes that meet such an API


@pytest.mark.parametrize(
    ("limit", "seconds", "started"), [(67, 32.9, 10.0), (50, 19.5, 15.0), (97, 33.3, 20.0), (114, 15.1, 4.5)]
)
def test_an_odd_window_by_the_servers_clock_is_found_out_whenever_the_batch_starts(
    limit: int, seconds: float, started: float
) -> None:
    chance = random.Random(1)
    api = SimulatedAPI(
        max_per_window=limit,
        window_seconds=seconds,
        algorithm="fixed_window",
        latency=lambda _: chance.lognormvariate(math.log(0.5), 0.5),
        refusal_latency=REFUSAL,
        retry_after=False,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)
    items = range(10 * limit)

    async def later() -> float:
        await api.call("its clock is counted from the first call")
        await asyncio.sleep(started - now())
        shared = {"items": items}
        await node.run_async(shared)
        assert shared["results"] == list(items)
        return now()

    assert run_virtual(later()) <= 12 * seconds + 5.0
    assert api.refused <= 0.05 * len(items) + 5


@pytest.mark.parametrize(("holds", "periods"), [("pace", 2), ("nothing", 3)])
def test_a_clock_is_told_by_the_times_that_it_was_shut_whatever_was_held(holds: str, periods: int) -> None:
    """Periods of 20 seconds, open for 14 of them: too long for the time that it was shut to tell a window."""
    rate = LearnedRate(Timing())
    for period in range(periods):
        for start in range(28):
            (rate.held or rate.evidence).started(20.0 * period + start / 2, 1)
        for tried in (14.0, 17.0, 19.5):
            rate.evidence.log_refusal(20.0 * period + tried, 20.0 * period + tried + 0.1, 1)
        shut = Closing(20.0 * period, 20.0 * period + 14.0, last=20.0 * period + 19.5, tries=3, is_rate=True)
        now = 20.0 * (period + 1)
        rate.evidence.started(now, 1)
        if holds == "pace" and not period:
            rate.held = rate._pace
            rate._pace.hold(0.6)
        elif period == periods - 1:
            assert rate.explain(shut, now).is_rate
        rate.evidence.forget(now)
    assert isinstance(rate.held, ClockWindow)
    assert rate.held.count == 29  # one more is tried at once
    assert rate.held.seconds == pytest.approx(20.0, rel=0.05)


def test_a_call_that_others_overtook_is_refused_as_all_were_used() -> None:
    window, evidence = held(Fit(40, (20.0, 20.0), (0.0, 0.0)), 0.0)
    for tenth in range(41):
        window.started(tenth / 10, 1)
    evidence.forget(3.0)
    for started, took in ((-9.0, 0.1), (3.0, 1.2)):
        evidence.log_refusal(started, started + took, 1)
    assert window.explains(3.0)
    window.correct(3.0)
    assert window.count == 40
    evidence.log_refusal(2.0, 2.1, 1)  # not overtaken
    assert not window.explains(2.0)

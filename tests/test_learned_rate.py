"""What is learned of a rate that nobody told: the evidence, the timing, and what is held and probed."""

import math
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketflow_throttled import Adaptive
from pocketflow_throttled.aimd import AdaptiveRule
from pocketflow_throttled.blame import Blame
from pocketflow_throttled.ceiling import Ceiling
from pocketflow_throttled.closing import Closing, RefusedCall
from pocketflow_throttled.conclusions import is_alone, starts_a_second, told_cap
from pocketflow_throttled.evidence import Evidence
from pocketflow_throttled.learned_rate import LearnedRate
from pocketflow_throttled.learned_window import LearnedWindow
from pocketflow_throttled.timing import Timing
from pocketflow_throttled.window_fit import WindowFit, window_that_explains

times = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60).map(sorted)


# --- evidence


@given(times, st.floats(0.1, 50.0))
def test_the_most_starts_in_a_window_are_those_of_some_window(starts: list[float], seconds: float) -> None:
    evidence = Evidence()
    for start in starts:
        evidence.started(start)
    assert evidence.most(seconds) == max(sum(end - seconds < start <= end for start in starts) for end in starts)


@given(times, st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_starts_are_counted_after_a_time_and_up_to_another(starts: list[float], since: float, until: float) -> None:
    evidence = Evidence()
    for start in starts:
        evidence.started(start)
    if since <= until:
        assert evidence.between(since, until) == sum(since < start <= until for start in starts)


def test_there_are_no_starts_in_a_time_that_ends_before_it_begins() -> None:
    evidence = Evidence()
    for start in (1.0, 2.0, 3.0):
        evidence.started(start)
    assert evidence.between(3.0, 1.0) == 0


def test_a_start_that_was_refused_is_taken_back_and_any_other_stays() -> None:
    evidence = Evidence()
    for start in (1.0, 2.0, 2.0, 3.0):
        evidence.started(start)
    evidence.forget(2.0)
    evidence.forget(2.5)
    assert list(evidence.starts) == [1.0, 2.0, 3.0]


def test_a_start_that_was_never_sent_is_none_that_an_api_could_have_counted() -> None:
    evidence = Evidence()
    for start in (1.0, 2.0, 3.0):
        evidence.started(start)
    evidence.forget(1.0)
    evidence.unsent(2.0)
    evidence.unsent(2.5)
    assert list(evidence.sent) == [1.0, 3.0]
    assert list(evidence.starts) == [3.0]


def test_a_time_that_the_clock_cannot_tell_holds_one_start() -> None:
    evidence = Evidence()
    for start in (1e6, 2e6):
        evidence.started(start)
    assert evidence.most(1e-12) == 1


def test_the_log_of_starts_is_bounded() -> None:
    evidence = Evidence()
    for start in range(50_000):
        evidence.started(float(start))
    assert len(evidence.starts) <= 10_000
    assert evidence.between(49_000.0, 50_000.0) == 999


KNOWN = 50  # starts of a window that `closed` tells; one more is tried at once


def begin(rate: LearnedRate, now: float) -> None:
    """Start a call, as the rule does."""
    (rate.held or rate.evidence).started(now, 1)


def closed(opened: float, since: float, *tries: float, hinted_until: float = 0.0) -> tuple[LearnedRate, Closing]:
    """Return a rate that knows ten starts a second from `opened` to `since`, and the closing with these tries."""
    rate = LearnedRate(Timing())
    for tenth in range(round((since - opened) * 10)):
        begin(rate, opened + tenth / 10)
    for started in (since, *tries):
        rate.refused(started)
    last = tries[-1] if tries else since
    return rate, Closing(opened, since, last, 1 + len(tries), hinted_until, is_rate=True)


def test_a_minute_is_known_by_its_end() -> None:
    rate, closing = closed(0.0, 5.0, 5.1, 6.0, 20.0, 40.0)
    assert rate.explain(closing, now=60.3).is_rate
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, pytest.approx(60.3))


class Minute:
    """An API that admits ten in any minute, and may count what it refuses."""

    def __init__(self, *, counts_refused: bool) -> None:
        self.counts_refused = counts_refused
        self.counted: list[float] = []
        self.refused = 0

    def admits(self, now: float) -> bool:
        is_admitted = sum(start > now - 60.0 for start in self.counted) < 10
        if is_admitted or self.counts_refused:
            self.counted.append(now)
        self.refused += not is_admitted
        return is_admitted


@pytest.mark.parametrize("counts_refused", [False, True])
def test_refused_calls_count_where_a_minute_explains_nothing_without_them(counts_refused: bool) -> None:
    api, evidence = Minute(counts_refused=counts_refused), Evidence()
    for start in (*range(10), 10.0, 30.0, 60.5, 61.5, 75.0):
        evidence.started(start)
        if not api.admits(start):
            evidence.log_refusal(start, start + 0.1, level=1)
            evidence.log_to_explain(start)
    window = window_that_explains(evidence, Closing(opened=0.0, since=61.5, last=61.5), now=75.0)
    assert window == WindowFit(60.0, 10, 60.0, is_sure=False, counts_refused=counts_refused)


@pytest.mark.parametrize("counts_refused", [False, True])
def test_a_window_that_counts_refused_calls_is_used_up_by_them(counts_refused: bool) -> None:
    api, evidence, timing = Minute(counts_refused=True), Evidence(), Timing()
    for start in (*range(10), *range(10, 50, 10)):
        evidence.started(start)
        if not api.admits(start):
            evidence.forget(start)
    window = LearnedWindow(evidence, timing, WindowFit(60.0, 10, 60.0, is_sure=True, counts_refused=counts_refused))
    now, api.refused = 50.0, 0
    for _ in range(100):
        now = max(now, window.opens_at(now))
        window.started(now, 1)
        if api.admits(now):
            window.succeeded(now)
        else:
            evidence.forget(now)
            assert not counts_refused or window.explains(now)
            window.correct(now)
    assert (api.refused <= 2) == counts_refused  # the first probe, and one more


def test_an_odd_window_is_as_long_as_the_api_says() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=37.0)
    assert rate.explain(closing, now=37.0).is_rate
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, 37.0)


def test_an_odd_window_is_known_better_each_time_and_no_shorter_than_it_is() -> None:
    rate, closing = closed(0.0, 5.0, 10.0, 20.0, 30.0)
    now = 41.0  # the first try that was admitted; the window is 37 s long
    rate.explain(closing, now)
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, 41.0)
    starts = [tenth / 10 for tenth in range(50)]
    for _ in range(200):
        now = max(now, rate.opens_at(now))
        is_admitted = sum(start > now - 37.0 for start in starts) < 50
        begin(rate, now)
        if is_admitted:
            starts.append(now)
            rate.succeeded(now)
        else:
            rate.evidence.forget(now)
            rate.correct(now)
        now += 0.001
    assert 37.0 <= rate.held.seconds <= 37.0 * 1.05


@pytest.mark.parametrize("is_window", [True, False])
def test_a_long_window_is_believed_when_two_probes_were_refused_one_in_the_midst_of_its_pause(is_window: bool) -> None:
    rate, closing = closed(0.0, 5.0, 5.1, 6.0, 20.0, 100.0, 250.0)
    assert rate.explain(closing, now=301.0).is_rate
    starts, now = [], 301.0
    for _ in range(KNOWN + 2):
        now = rate.opens_at(now)
        begin(rate, now)
        starts.append(now)
        if len(starts) == KNOWN + 1:  # by whatever it was refused
            rate.evidence.forget(now)
            assert rate.correct(now)
        now += 0.1
    assert 0.1 * 300 < starts[-1] - starts[-2] < 0.2 * 300
    if is_window:
        rate.evidence.forget(starts[-1])
        assert rate.correct(starts[-1])
        assert rate.opens_at(now) - starts[0] > 270  # a length of which there is more doubt yet
    else:
        rate.succeeded(starts[-1])
        assert rate.held is None


@pytest.mark.parametrize("seconds", [10.0, 60.0])
def test_a_usual_window_is_doubted_once(seconds: float) -> None:
    rate, closing = closed(0.0, 3.0, 0.7 * seconds)
    rate.explain(closing, now=seconds)
    assert isinstance(rate.held, LearnedWindow)
    rate.held.correct(0.0)
    opened, shorter = seconds, 0
    for _ in range(5):
        for tenth in range(30):
            begin(rate, opened + tenth / 10)
        again = rate.opens_at(opened + 3.0)
        if again < opened + 0.99 * seconds:  # it was tried whether the window is shorter, and it is not
            shorter += 1
            begin(rate, again)
            rate.evidence.forget(again)
            assert rate.correct(again)
        opened += rate.held.seconds
    assert shorter == 1
    assert (rate.held.count, rate.held.seconds) == (30, pytest.approx(1.005 * seconds))


def test_one_call_tries_whether_a_window_has_passed_until_it_is_known_when_it_does() -> None:
    evidence, timing = Evidence(), Timing()
    timing.refused(0.2)
    window = LearnedWindow(evidence, timing, WindowFit(seconds=17.0, count=10, too_short=17.0, is_sure=True))
    starts = [0.0]

    def start() -> None:
        starts.append(window.opens_at(starts[-1]))
        window.started(starts[-1], 1)

    for _ in range(11):  # ten are known to fit, and one more is tried
        start()
    evidence.forget(starts[-1])
    window.correct(starts[-1])
    for _ in range(10):
        start()
    assert starts[-10:] == [17.0, *[17.0 + timing.unrefused_after] * 9]
    window.succeeded(17.0)
    for _ in range(10):
        start()
    assert starts[-10:] == [34.0, *[34.0 + timing.unrefused_after] * 9]  # as the window has room, and none goes first


def test_a_window_of_which_every_start_was_refused_at_last_is_no_trouble() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=37.0)
    rate.explain(closing, now=37.0)
    begin(rate, 37.0)
    for start in (*rate.evidence.starts,):
        rate.evidence.forget(start)
    assert not rate.correct(37.0)
    assert rate.opens_at(38.0) == 38.0


def test_what_closes_for_a_moment_is_a_pace() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    assert rate.explain(closing, now=5.1).is_rate
    assert rate.held.count == 1
    assert 0.1 <= rate.held.seconds <= 0.15


def test_a_pace_that_holds_is_probed_by_steps_that_grow_and_a_refused_one_is_taken_back() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    rate.explain(closing, now=5.1)
    now, first = 5.1, rate.held.seconds
    for _ in range(200):
        now = max(now, rate.opens_at(now))
        begin(rate, now)
    assert rate.held.seconds < 0.7 * first
    probed = rate.held.seconds
    rate.evidence.forget(now)
    assert rate.correct(now)
    assert probed < rate.held.seconds < first


def starts_between_refused_probes(wait: float) -> int:
    """Return how many starts, of ten a second, there were before the last of ten probes of a faster pace, each refused."""
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    rate.explain(closing, now=5.1)
    rate._pace.hold(0.1)
    now = 5.1
    for _ in range(10):
        starts = 0
        while not rate._pace.is_probing:
            now = rate.opens_at(now)
            begin(rate, now)
            rate.succeeded(now)
            starts += 1
        rate._pace.correct(now, wait)
    return starts


def test_a_faster_pace_is_tried_the_more_rarely_the_longer_the_api_asks_to_wait_when_it_is_refused() -> None:
    assert starts_between_refused_probes(wait=0.0) == starts_between_refused_probes(wait=0.5)
    assert starts_between_refused_probes(wait=2.0) == pytest.approx(50 * 2.0 / 0.1, abs=5)  # a fiftieth of the starts is lost


def test_a_wait_beyond_all_measure_is_no_trouble_to_a_pace() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    rate.explain(closing, now=5.1)
    rate._pace._probe()
    rate._pace.correct(5.2, wait=1e308)
    assert not rate._pace.is_probing


def test_refusals_in_a_row_are_no_mere_correction_of_a_pace() -> None:
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    rate.explain(closing, now=5.1)
    now = 5.1
    for _ in range(30):
        now = max(now, rate.opens_at(now))
        begin(rate, now)
    absorbed = []
    for _ in range(4):
        now = max(now + 0.05, rate.opens_at(now))
        begin(rate, now)
        rate.evidence.forget(now)
        absorbed.append(rate.correct(now))
    assert absorbed == [True, True, False, False]


def test_of_two_windows_that_explain_as_much_the_longer_is_held() -> None:
    rate, closing = closed(0.0, 5.0, 6.0, 9.0, 14.5)
    assert rate.explain(closing, now=20.1).is_rate  # fifteen seconds would do as well
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, pytest.approx(20.1))


def test_a_window_by_the_clock_is_known_by_what_was_admitted_since_it_opened() -> None:
    rate, first = closed(20.0, 25.0, 30.0, 54.95)  # the minute began before the first call, and ends at 55
    rate.explain(first, now=55.0)
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, 35.0)
    for tenth in range(50):
        begin(rate, 55.0 + tenth / 10)
    for started in (60.0, 70.0, 90.0):
        rate.refused(started)
    assert rate.explain(Closing(55.0, 60.0, 90.0, 3, is_rate=True), now=115.0).is_rate
    assert (rate.held.count, rate.held.seconds) == (KNOWN + 1, pytest.approx(60.3))


def test_a_time_of_no_service_at_all_is_no_window_by_the_clock() -> None:
    rate = LearnedRate(Timing())
    for tenth in range(1200):
        begin(rate, tenth / 10)
    for started in (120.0, 121.0, 125.0, 129.0):
        rate.refused(started)
    closing = Closing(110.0, 120.0, 129.0, 4, is_rate=True)  # ten seconds of calls, and ten without: but there were more before
    rate.explain(closing, now=130.0)
    assert rate.held.count != 100


def test_calls_a_bit_sooner_than_in_the_window_before_do_not_make_it_larger() -> None:
    rate, closing = closed(0.0, 5.0, 10.0, 30.0, 50.0)
    rate.explain(closing, now=60.0)
    now = 60.0
    for _ in range(500):  # ten windows; the API admits 50 in any minute, and the rate leaves it 0.3 s more
        now = max(now, rate.opens_at(now))
        begin(rate, now)
        if rate.evidence.between(now - 60.0, now) > 50:
            rate.evidence.forget(now)
            rate.correct(now)
            assert rate.held.count == 50
        else:
            rate.succeeded(now)
        now += 0.001
    assert rate.held is not None
    assert rate.held.count <= 51


@pytest.mark.parametrize("saves", [False, True], ids=["a second", "a bucket"])
def test_a_refused_probe_leads_back_to_what_was_admitted_and_for_a_bucket_beyond(saves: bool) -> None:
    """Ten a second, counted by the second, or refilled into a bucket that holds sixty."""
    rate, closing = closed(0.0, 5.0, hinted_until=5.1)
    rate.explain(closing, now=5.1)
    now, filled, at, paces = 5.1, 60.0 if saves else 0.0, 5.1, []
    for _ in range(4000):
        now = max(now, rate.opens_at(now)) + 1e-6
        begin(rate, now)
        filled, at = min(60.0, filled + 10 * (now - at)), now
        if filled >= 1 if saves else rate.evidence.between(now - 1.0, now) <= 10:
            filled -= 1
            rate.succeeded(now)
        else:
            rate.evidence.forget(now)
            if not rate.correct(now):
                rate.refused(now)
                rate.explain(Closing(now - 1, now, now, 1, is_rate=True), now=now + 0.1)
            now += 0.1
            paces.append(rate.held.seconds)
    assert 0.095 <= rate.held.seconds <= 0.125
    assert len(paces) < 60  # of 4,000


# --- levels


def levels(*admitted: int) -> Evidence:
    evidence = Evidence()
    for at, level in enumerate(admitted):
        evidence.started(float(at), level)
    return evidence


def test_calls_refused_where_hardly_any_was_admitted_tell_a_cap() -> None:
    evidence = levels(*[8, 9, 10] * 20)
    for started in (0.5, 20.5, 40.5):
        evidence.log_telling(started, 11)
    assert told_cap(evidence) is None  # three are too few
    evidence.log_telling(50.5, 11)
    assert told_cap(evidence) == 10


def test_a_cap_is_told_though_some_calls_are_admitted_where_others_are_refused() -> None:
    """The server may not know yet that a call has ended, or the client that one has begun."""
    evidence = levels(*[6, 7, 8, 9, 6, 7, 8, 6, 7, 8] * 10)
    for started, level in ((0.5, 9), (20.5, 10), (40.5, 9), (60.5, 10)):
        evidence.log_telling(started, level)
    assert told_cap(evidence) == 8


def test_calls_refused_at_any_level_tell_no_cap() -> None:
    evidence = levels(*range(1, 11), *range(1, 11), *range(1, 11))
    for started, level in ((0.5, 8), (7.5, 11), (14.5, 9), (21.5, 7)):
        evidence.log_telling(started, level)
    assert told_cap(evidence) is None


def test_refused_calls_took_no_place_at_the_server() -> None:
    evidence = Evidence()
    for start, level in ((0.0, 1), (1.0, 2), (2.0, 3), (6.0, 3)):
        evidence.started(start, level)
    evidence.log_refusal(1.0, 5.0, level=1)
    assert [evidence.served_level(at, 3) for at in (0.5, 1.0, 1.5, 4.9, 5.0, 7.0)] == [3, 3, 2, 2, 3, 3]
    assert evidence.served_level(1.5, 1) == 1
    evidence.log_refusal(1.2, 5.5, level=1)
    assert [evidence.served_level(at, 3) for at in (1.1, 1.5, 5.2)] == [2, 1, 2]


def test_a_refusal_that_comes_later_tells_that_one_before_it_had_less_under_way() -> None:
    evidence = Evidence()
    for start, level in ((0.0, 1), (1.0, 2), (2.0, 3), (3.0, 4)):
        evidence.started(start, level)
    for started, ended, level in ((3.0, 3.5, 4), (2.0, 3.8, 3), (1.0, 4.0, 2)):
        evidence.log_refusal(started, ended, level)
        evidence.log_telling(started, level)
    assert [evidence.refused_level(started, 9) for started in (1.0, 2.0, 3.0, 0.0)] == [2, 2, 2, 9]


def test_a_refusal_that_took_longer_than_others_may_have_arrived_later() -> None:
    evidence = Evidence()
    assert (evidence.spread, evidence.arrived_by(5.0)) == (0.0, 5.0)
    for started, took in ((1.0, 0.2), (2.0, 0.5), (3.0, 0.3)):
        evidence.log_refusal(started, started + took, level=1)
    assert evidence.spread == pytest.approx(0.3)
    assert [evidence.arrived_by(at) for at in (1.0, 2.0, 3.0, 4.0)] == pytest.approx([1.0, 2.3, 3.1, 4.0])


def test_a_window_is_told_though_calls_did_not_arrive_as_they_started() -> None:
    """Thirty in a minute: the last five overtook one that was refused, and one was on its way until the first of them left."""
    evidence = Evidence()
    for tenth in range(30):
        evidence.started(tenth / 10)
    evidence.started(59.95)
    for started, took in ((2.45, 0.6), (59.0, 0.1)):
        evidence.log_refusal(started, started + took, level=1)
        evidence.log_to_explain(started)
    window = window_that_explains(evidence, Closing(opened=0.0, since=59.0, last=59.0, tries=1), now=61.0)
    assert window is not None
    assert (window.seconds, window.count) == (60.0, 30)


def test_one_refusal_that_hung_does_not_tell_by_how_much_calls_differ_on_their_way() -> None:
    evidence = Evidence()
    for at in range(20):
        evidence.log_refusal(float(at), at + (30.0 if at == 7 else 0.1 + at / 100), level=1)
    assert evidence.spread == pytest.approx(0.19)
    assert evidence.arrived_by(7.0) == pytest.approx(7.19)


@pytest.mark.parametrize(("before", "cap"), [(7, 10), (9, None)])
def test_a_call_refused_in_a_second_that_is_full_tells_no_cap(before: int, cap: int | None) -> None:
    """Ten a second are held to be what is counted, and so many started in the last of them, one earlier in it."""
    rate = LearnedRate(Timing())
    rate._pace.hold_by_the_second(10)
    rate.held = rate._pace
    for start in range(60):
        rate.held.started(float(start), 8)
    for start in range(before):
        rate.held.started(59.1 + 0.1 * start, 8)
    for started in (0.5, 20.5, 40.5, 59.99):
        rate.evidence.log_telling(started, 11)
    assert rate.tells_cap(59.99) == cap


def test_calls_refused_where_others_were_admitted_tell_no_cap() -> None:
    evidence = levels(*[8, 11, 10] * 20)
    for started in (0.5, 20.5, 40.5):
        evidence.log_telling(started, 11)
    assert told_cap(evidence) is None


def test_a_few_refusals_or_starts_tell_no_cap() -> None:
    evidence = levels(*[8, 9, 10] * 20)
    for started in (0.5, 20.5):
        evidence.log_telling(started, 11)
    assert told_cap(evidence) is None
    evidence = levels(*[8, 9, 10] * 20)
    for started in (50.5, 51.5, 52.5):
        evidence.log_telling(started, 11)
    assert told_cap(evidence) is None


@pytest.mark.parametrize(("admitted", "level", "alone"), [(20, 9, True), (19, 9, False), (20, 11, False)])
def test_a_refusal_where_many_were_admitted_since_the_one_before_tells_nothing(admitted: int, level: int, alone: bool) -> None:
    evidence = levels(10)
    evidence.log_telling(0.5, 8)
    assert not is_alone(evidence, 8), "the first one is no exception"
    for at in range(admitted):
        evidence.started(1.0 + at, 10)
    evidence.log_telling(30.0, level)
    assert is_alone(evidence, level, until=30.0) is alone
    assert not is_alone(evidence, level, until=10.0), "what started since may be refused as well"


def bursts(*, level: int, before: int = 10) -> Evidence:
    """Ten calls now and then in a second, and an eleventh that was refused."""
    evidence = Evidence()
    for at in range(0, 60, 6):
        for call in range(before):
            evidence.started(at + 0.05 * call, level=20 + call)
        evidence.log_telling(at + 0.7, level)
    evidence.started(60.0)
    return evidence


def test_a_second_that_was_full_at_each_refusal_and_never_fuller_is_what_is_counted() -> None:
    assert starts_a_second(bursts(level=21)) == 10


def test_a_second_is_no_reason_where_a_cap_is_or_where_as_many_were_admitted() -> None:
    assert starts_a_second(bursts(level=30)) is None
    fuller = bursts(level=21)
    for call in range(12):
        fuller.started(70 + 0.05 * call, level=20)
    fuller.log_telling(75.0, 21)
    assert starts_a_second(fuller) is None
    assert starts_a_second(bursts(level=21, before=1)) is None, "one a second is a pace, which its refusals tell"


def test_refusals_of_one_second_do_not_tell_what_is_counted_in_it() -> None:
    evidence = Evidence()
    for call in range(10):
        evidence.started(0.05 * call, level=20 + call)
    for call in range(3):
        evidence.log_telling(0.7 + 0.05 * call, 21)
    assert starts_a_second(evidence) is None


# --- timing


def test_starts_are_spaced_by_the_time_a_refusal_takes_and_by_a_guess_before() -> None:
    timing = Timing()
    assert timing.spacing == 0.05
    timing.served(1.0)
    assert timing.spacing == 0.005
    timing.refused(0.3)
    assert timing.spacing == 0.3


@given(
    st.floats(0.0, 1e6),
    st.floats(0.0, 1e6),
    st.floats(0.0, 1.0),
    st.integers(1, 1000),
    st.floats(0.0, 100.0),
    st.floats(0.0, 100.0),
)
def test_the_next_try_is_neither_at_once_nor_never(
    opened: float, after: float, is_open: float, tries: int, latency: float, refusal: float
) -> None:
    timing = Timing()
    timing.served(latency)
    timing.refused(refusal)
    now = opened + after
    since = opened + is_open * after
    gap = timing.gap(now, opened, since, tries, least=0.0)
    assert 0.0 < gap <= 1.1 * 1.5 * max(60.0, 0.05 * latency, 1.5 * refusal) + 1e-6


# --- the rule


@pytest.mark.no_cover  # most of it is looking for buckets
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, 0.0, 0.001, 1.0, 30.0]), st.floats(0.0, 0.5))
@example(165, 30.0, 2.3e-308)  # calls that take no time, but for one, take less and less of it on average
def test_time_moves_on_with_every_refusal(seed: int, hint: float | None, refusal: float) -> None:
    """An API whose refusals take no time must not be asked again and again at the same moment."""
    chance = random.Random(seed)
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    now, refused_at_once = 0.0, 0
    for _ in range(300):
        now = max(now, rule.opens_for(1))
        if not rule.may_start(now, 1):
            assert rule.opens_for(1) > now
            continue
        level = chance.randint(1, rule.limit)
        rule.started(now, level)
        started, before = now, now
        now += refusal if chance.random() < 0.6 else chance.random()
        if chance.random() < 0.6:
            rule.refused(now, started, level, hint)
            now = max(now, rule.opens_for(1))
            refused_at_once = 0 if now > before else refused_at_once + 1
            assert refused_at_once == 0
        else:
            rule.succeeded(now, started, level, in_use=True, clean=True)
        assert 1 <= rule.limit <= 100
        assert math.isfinite(rule.opens_for(1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.001, 0.1, 1.0]), st.sampled_from([0.0, 0.02, 1.0]))
@example(289, 0.1, 1.0)  # a bucket is told while the limit returns to what was proven: the refusal must not raise it
@example(537182, 0.0, 0.0)  # a rate by the second is told after the limit was lowered by hand
def test_whatever_happens_in_whatever_order_limits_and_times_are_sound(seed: int, scale: float, skew: float) -> None:
    """Loops of several threads share a rule, and their clocks differ by `skew`; refusals may be later than any successes."""
    chance = random.Random(seed)
    rule, now, calls = AdaptiveRule(Adaptive(chance.choice([None, 2]), chance.choice([1, 2]), 30)), 0.0, list[tuple[float, int]]()
    hints = chance.choice([[None], [0.0], [None, 0.0, 1.0, 30.0, 1e9]])
    refused = chance.choice([0.02, 0.3, 0.9])
    for _ in range(400):
        now += chance.choice([0.0, chance.expovariate(1.0) * scale, max(0.0, rule.opens_at - now), chance.choice([0.0, 400.0])])
        time = now - chance.uniform(0.0, skew)
        if chance.random() < 0.01:
            chance.choice([rule.forget_times, partial(rule.set_limit, time, chance.randint(2, 30))])()
        elif not calls or chance.random() < 0.5:
            if len(calls) < rule.limit and rule.may_start(time, len(calls) + 1):
                calls.append((time, len(calls) + 1))
                rule.started(time, len(calls))
        else:
            started, level = calls.pop(chance.choice([0, -1]))
            limit, ending = rule.limit, chance.random()
            if ending < 0.03:
                rule.unsent(started)
            elif ending < 0.03 + refused:
                rule.refused(time, started, level, chance.choice(hints))
                assert rule.limit <= limit
            else:
                rule.succeeded(time, started, level, in_use=chance.random() < 0.7, clean=chance.random() < 0.8)
        assert rule.settings.min_concurrent <= rule.limit <= 30
        assert rule.opens_at < math.inf
        assert rule.rate.held is None or 0.0 < rule.rate.held.seconds < math.inf


def test_a_call_that_ended_before_it_started_took_no_time() -> None:
    """So it is by the clocks of two loops that differ."""
    timing = Timing()
    timing.served(-0.5)
    timing.refused(-0.5)
    assert (timing.latency, timing.refusal) == (0.0, 0.0)


def test_a_refusal_raises_no_limit_that_was_lowered_by_hand() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 10)
    rule.refused(0.1, 0.0, 9)
    now = 1.0
    while rule.limit <= 8:
        now = max(now, rule.opens_at) + 0.1
        if rule.may_start(now, 1):
            rule.started(now, rule.limit)
            rule.succeeded(now + 0.5, now, rule.limit, in_use=True, clean=True)
        now += 0.5
    now = max(now, rule.opens_at)
    rule.started(now, 9)
    rule.set_limit(now, 2)
    rule.refused(now + 0.1, now, 9)
    assert rule.limit == 2


def test_calls_that_take_no_time_that_the_clock_can_tell_are_no_trouble() -> None:
    """A coarse clock says so of fast calls: their average comes ever closer to zero."""
    rule, now = AdaptiveRule(Adaptive(initial_concurrent=10)), 1000.0
    rule.started(now - 1.0, 1)
    rule.succeeded(now, now - 1.0, 1, in_use=False, clean=True)
    for _ in range(10_000):
        now += 1.0
        rule.started(now, 1)
        rule.succeeded(now, now, 1, in_use=False, clean=True)
    rule.refused(now, now, 1)
    now = rule.opens_at
    rule.started(now, 1)
    rule.succeeded(now, now, 1, in_use=False, clean=True)
    assert rule.rate.held is not None
    assert math.isfinite(rule.rate.held.seconds)
    assert rule.rate.opens_at(now) <= now + 60.0


def test_a_call_that_is_refused_after_times_were_forgotten_may_be_older_than_all_that_is_known() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10))
    rule.started(0.0, 1)
    rule.forget_times()
    rule.started(1.0, 2)
    rule.succeeded(1.0, 1.0, 2, in_use=False, clean=True)
    rule.refused(1.0, 0.0, 1, 0.0)
    rule.started(1.0, 1)
    rule.refused(1.0, 1.0, 1, 0.0)
    rule.started(1.0, 1)
    assert not rule.may_start(1.0, 1)
    assert rule.may_start(rule.opens_at, 1)


def fill(rule: AdaptiveRule, now: float, size: int) -> None:
    for level in range(1, size + 1):
        rule.started(now, level)


def test_starts_are_spaced_by_a_guess_only_until_the_first_answer_tells_how_long_a_call_takes() -> None:
    """Else a limiter asks the rule before each start, for as long as a batch of instant calls takes."""
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    rule.started(0.0, 1)
    assert rule.beyond_at == rule.opens_for(2) == 0.05
    rule.succeeded(0.001, 0.0, 1, in_use=False, clean=True)
    assert rule.beyond_at == rule.opens_for(2) < 0.002


def test_a_short_retry_after_says_nothing_of_what_is_limited() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 10)
    rule.refused(0.1, 0.0, 9, 1.0)
    assert rule.limit == 5
    assert not rule.may_start(1.05, 1)
    assert rule.may_start(1.1, 1)
    rule.started(1.1, 5)
    rule.succeeded(2.1, 1.1, 5, in_use=True, clean=True)
    assert rule._ceiling.level == 8
    assert rule.rate.held is None


def test_a_rate_is_no_reason_for_fewer_calls_at_once() -> None:
    """Ten at once were admitted before, so that a refusal with a long wait cannot be meant for ten at once."""
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 10)
    rule.succeeded(1.0, 0.0, 10, in_use=False, clean=True)
    rule.started(1.1, 10)
    rule.refused(1.2, 1.1, 10, 60.0)
    assert rule.limit == 5
    rule.started(61.2, 1)
    assert rule.may_start(rule.opens_at, 1)
    assert rule.limit == 10
    assert [change.reason for change in rule.history] == ["refused", "it was a rate"]


def refuse_with_a_wait(rule: AdaptiveRule, now: float, level: int, wait: float) -> float:
    """Refuse the call that is the `level`-th under way, let the next be admitted after the wait, and return when."""
    rule.started(now, level)
    rule.refused(now + 0.1, now, level, wait)
    rule.started(now + 0.1 + wait, 1)
    assert not rule.may_start(now + 0.1 + wait, 2)
    rule.may_start(now + 0.3 + wait, 2)
    return now + 0.1 + wait


def test_a_long_wait_where_more_than_ever_are_under_way_leaves_open_what_is_limited() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 9)
    refuse_with_a_wait(rule, 0.05, 10, 30.0)
    assert rule.limit == 5
    assert rule._ceiling.level == 8  # and one less, as the network blurs it
    assert rule.rate.held is None


def test_as_many_calls_until_the_next_wait_tell_a_window() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 9)
    reopened = refuse_with_a_wait(rule, 0.05, 10, 30.0)
    for call in range(8):
        rule.started(reopened + 0.01 * call, min(2 + call, 8))
    refuse_with_a_wait(rule, reopened + 0.2, 8, 29.85)
    assert rule.limit == 10
    assert rule.rate.held.count == 9 + 1  # one more is tried at once
    assert rule.rate.held.seconds == pytest.approx(30.15, abs=0.2)


def test_many_more_calls_until_the_next_wait_tell_a_cap() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 9)
    reopened = refuse_with_a_wait(rule, 0.05, 10, 30.0)
    for call in range(40):
        rule.started(reopened + 1 + call, 8)
        rule.succeeded(reopened + 2 + call, reopened + 1 + call, 8, in_use=False, clean=True)
    refuse_with_a_wait(rule, reopened + 41, 8, 30.0)
    assert rule.rate.held is None
    assert rule._ceiling.level is not None
    assert rule._ceiling.level < 8


def test_a_second_that_is_asked_for_again_and_again_is_no_word_on_when() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 10)
    rule.succeeded(30.0, 0.0, 1, in_use=True, clean=True)
    now, waits = 30.0, []
    for _ in range(6):
        rule.refused(now, now - 0.01, 1, 1.0)
        waits.append(rule.opens_at - now)
        now = rule.opens_at + 0.01
        rule.started(now - 0.01, 1)
    assert waits[:2] == pytest.approx([1.0, 1.0])
    assert waits[2:] == sorted(waits[2:])
    assert sum(waits) > 10.0


def test_a_second_that_is_asked_for_again_and_again_does_not_make_a_window_longer() -> None:
    closing = Closing(opened=0.0, since=1.0)
    for started in (1.0, 2.0, 3.0):
        closing.refused(RefusedCall(started, started, 1, 1.0))
    assert closing.hinted_until == 2.0
    closing.refused(RefusedCall(4.0, 4.0, 1, 30.0))
    assert closing.hinted_until == 34.0


@pytest.mark.parametrize(
    ("before", "hint", "tells"),
    [(1.0, 9.0, True), (1.0, 4.0, False), (0.0, 9.0, False), (0.0, 11.0, True), (0.4, 1.9, False), (9.0, 11.0, True)],
)
def test_a_wait_far_longer_than_where_too_many_are_under_way_tells_a_window_though_calls_take_long(
    before: float, hint: float, tells: bool
) -> None:
    timing = Timing()
    timing.served(5.0)
    blame = Blame(Adaptive(), timing)
    blame._asked.seconds = before
    refusal = RefusedCall(100.0, 100.0, 6, hint)
    closing = Closing(opened=0.0, since=100.0)
    closing.refused(refusal)
    blame.closed(closing, refusal, 3)
    assert closing.is_asked == closing.is_rate == tells


def test_a_refusal_that_stands_alone_and_asks_to_wait_for_long_tells_a_window() -> None:
    def tells_nothing(hint: float) -> bool:
        timing = Timing()
        timing.served(5.0)
        blame = Blame(Adaptive(), timing)
        blame._asked.seconds = 1.0
        evidence = blame.rate.evidence
        for start in range(60):
            evidence.started(float(start), 6)
            if start in {0, 58}:
                evidence.log_telling(start + 0.5, 6)
        return blame.tells_nothing(RefusedCall(60.0, 58.5, 6, hint))

    assert tells_nothing(1.0)
    assert not tells_nothing(9.0)


@pytest.mark.parametrize(("hint", "limit"), [(None, 11), (1.0, 11), (30.0, 10)])
def test_calls_that_are_served_after_a_refusal_lead_back_unless_a_window_is_to_pass(hint: float | None, limit: int) -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=20, max_concurrent=100))
    fill(rule, 0.0, 20)
    rule.refused(0.5, 0.0, 20, hint)
    assert rule.limit == 10
    rule.succeeded(0.6, 0.0, 5, in_use=True, clean=True)
    assert rule.limit == limit


def test_only_what_goes_beyond_proven_ground_waits_for_what_went_there() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    rule.started(0.0, 1)
    assert not rule.may_start(0.01, 2)
    rule.succeeded(1.0, 0.0, 1, in_use=False, clean=True)
    rule.started(1.0, 2)
    assert rule.may_start(1.001, 1)
    assert not rule.may_start(1.001, 2)
    assert rule.opens_for(1) <= 1.001 < rule.opens_for(2)


def test_a_call_admitted_with_as_many_under_way_shows_that_it_is_no_cap() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 3)
    rule.refused(0.1, 0.0, 3, 0.9)
    rule.started(1.0, 3)
    rule.may_start(rule.opens_at, 1)
    assert (rule.limit, rule._ceiling.level) == (10, None)


def test_a_ceiling_that_holds_is_tried_after_fewer_calls_where_they_are_slow() -> None:
    """A rise of the API's limit is not missed for as long as so many slow calls take."""

    def rarest(latency: float) -> int:
        timing = Timing()
        timing.served(latency)
        ceiling = Ceiling(timing, rare=20)
        ceiling.found(8, is_doubted=False)
        for _ in range(10):
            ceiling.probe_more_rarely(1.0)
        return next(successes for successes in range(1000) if ceiling.is_to_be_probed(8, successes))

    assert rarest(0.1) == rarest(1.0) == 160  # a second in 160 calls, or 20 of them
    assert rarest(1.6) == 100  # twenty seconds
    assert rarest(5.0) == rarest(60.0) == 80  # a refused call in so many is what it may cost


def test_a_ceiling_is_tried_sooner_where_one_below_it_turned_out_to_be_none() -> None:
    timing = Timing()
    timing.served(1.0)
    ceiling = Ceiling(timing, rare=20)
    ceiling.found(8, is_doubted=False)
    for _ in range(9):
        ceiling.probe_more_rarely(1.0)
    assert not ceiling.is_to_be_probed(8, 159)
    ceiling.lift(10)
    ceiling.probe_more_rarely(1.0)
    assert ceiling.is_to_be_probed(10, 20)


def test_a_small_step_beyond_a_ceiling_that_went_well_by_chance_is_taken_back_and_cuts_nothing() -> None:
    ceiling = Ceiling(Timing())
    ceiling.found(20, is_doubted=False)
    ceiling.lift(21)
    assert ceiling.went_too_far(21)
    assert not ceiling.went_too_far(20)  # with as many as were admitted for long
    ceiling.probe_refused(21)
    assert ceiling.level == ceiling.target == 20
    ceiling.lift(21)
    ceiling.stands()  # it went well for long
    assert not ceiling.went_too_far(21)
    ceiling.found(4, is_doubted=False)
    ceiling.lift(5)
    assert not ceiling.went_too_far(5)  # a fourth of it is not small


@pytest.mark.parametrize("hint", [None, 1.0])
def test_a_new_ceiling_is_tried_soon_and_one_that_holds_ever_more_rarely(hint: float | None) -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=100))
    fill(rule, 0.0, 10)
    rule.refused(0.1, 0.0, 9, hint)
    now, probes, served = 2.0, [], 0
    for _ in range(2_000):
        now = max(now, rule.opens_at) + 0.01
        if not rule.may_start(now, 1):
            continue
        rule.started(now, rule.limit)
        if rule.limit > 8:
            rule.refused(now + 0.1, now, rule.limit, hint)
            probes.append(served)
        else:
            served += 1
            rule.succeeded(now + 0.5, now, rule.limit, in_use=True, clean=True)
        now += 0.5
    between: list[Any] = [later - earlier for earlier, later in zip(probes, probes[1:], strict=False)]
    assert probes[0] <= 10
    assert between[-1] > 100
    assert rule.limit == 8


def test_a_rate_is_guessed_by_a_few_starts_and_then_doubled_until_it_is_refused() -> None:
    rate = LearnedRate(Timing())
    for start in (0.0, 0.05, 0.1):
        begin(rate, start)
    rate.evidence.log_to_explain(started=0.15)
    assert rate.explain(Closing(opened=0.0, since=0.15, last=0.15, tries=1, is_rate=True), now=1.2).is_rate
    assert rate.held.seconds == pytest.approx(0.4), "three in 1.2 s"
    now = 1.2
    while rate.held.seconds > 0.3:
        now = rate.opens_at(now)
        begin(rate, now)
    assert rate.held.seconds == pytest.approx(0.2)
    assert now <= 1.2 + 6 * 0.4


def test_a_rate_is_not_guessed_by_a_few_starts_where_it_was_closed_for_long() -> None:
    rate = LearnedRate(Timing())
    for start in (0.0, 0.05, 0.1):
        begin(rate, start)
    rate.evidence.log_to_explain(started=0.15)
    rate.explain(Closing(opened=0.0, since=0.15, last=2.5, tries=3, is_rate=True), now=3.5)
    assert rate.held is None


def test_a_window_that_a_long_wait_may_have_meant_is_forgotten_with_all_times() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=50))
    for call in range(60):
        rule.started(0.1 * call, 2)
        rule.succeeded(0.1 * call + 0.05, 0.1 * call, 2, in_use=False, clean=True)
    rule.started(6.0, 10)
    rule.refused(6.1, 6.0, 10, hint=54.0)  # either 60 in a minute, or fewer than 10 at once
    rule.started(60.2, 5)
    rule.succeeded(60.3, 60.2, 5, in_use=True, clean=True)
    rule.forget_times()
    rule.started(1000.0, 1)
    rule.refused(1000.1, 1000.0, 1, hint=30.0)
    rule.started(1030.2, 1)
    rule.succeeded(1030.3, 1030.2, 1, in_use=False, clean=True)
    assert rule.rate.held is None

"""Outputs: what calls may still write, by what an API tells and what calls wrote."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled.headers import Quota
from pocketflow_throttled.outputs import Outputs


def quota(remaining: int | None, reset: float | None = None, limit: int | None = 6000) -> Quota:
    return Quota("tokens", limit=limit, remaining=remaining, reset=reset)


def refused(outputs: Outputs, now: float, reset: float | None = 60.0, default: float = 60.0) -> Outputs:
    """Let it be told that a call was refused as none was left."""
    outputs.told(quota(0, reset), now, default, is_answer=False)
    outputs.is_enforced = True
    return outputs


def answered(outputs: Outputs, now: float, remaining: int, reset: float | None = None) -> Outputs:
    """Let it be told by an answer what is left."""
    outputs.told(quota(remaining, reset), now, 60.0, is_answer=True)
    return outputs


def test_nothing_is_held_back_before_a_call_was_refused_as_none_was_left() -> None:
    outputs = answered(Outputs(), 0.0, remaining=0)
    outputs.ended(now=4.0, started=0.0, tokens=6000)
    outputs.told(quota(0), 4.0, 60.0, is_answer=False)  # an error, for another reason
    assert outputs.opens_at(4.0, active=100) == 4.0
    assert refused(outputs, 5.0).opens_at(5.0, active=1) > 5.0


def test_nothing_is_held_back_before_calls_tell_what_they_write() -> None:
    assert refused(Outputs(), 0.0).opens_at(1.0, active=100) == 1.0


def test_what_tells_no_limit_tells_nothing() -> None:
    outputs = Outputs()
    outputs.told(quota(0, limit=None), 0.0, 60.0, is_answer=False)
    assert not outputs.limit


def test_a_call_waits_until_as_much_is_back_as_one_writes() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=2.0, started=1.0, tokens=1000)
    assert outputs.opens_at(2.0, active=0) == pytest.approx(20.0)  # 1000 are owed; 100 a second come back
    assert outputs.opens_at(20.0, active=0) == 20.0


def test_what_is_owed_is_paid_off_first() -> None:
    outputs = refused(Outputs(), 0.0, reset=90.0)  # in which 9000 come back: so 3000 are owed
    outputs.ended(now=1.0, started=0.9, tokens=1000)
    assert outputs.opens_at(40.0, active=0) == pytest.approx(50.0)


@pytest.mark.parametrize("reset", [1e9, 1e300])
def test_a_call_waits_ten_windows_at_most_for_what_is_owed(reset: float) -> None:
    outputs = refused(Outputs(), 0.0, reset)
    outputs.ended(now=1.0, started=0.9, tokens=1000)
    assert outputs.opens_at(1.0, active=0) <= 600.0


@pytest.mark.parametrize("default", [3600.0, 86_400.0])
def test_they_come_back_in_a_minute_whatever_the_limiter_counts_in(default: float) -> None:
    outputs = refused(Outputs(), 0.0, default=default)
    outputs.ended(now=1.0, started=0.9, tokens=1000)
    assert outputs.opens_at(1.0, active=0) == pytest.approx(20.0)


@pytest.mark.parametrize("default", [3600.0, 86_400.0])
def test_so_they_do_where_answers_tell_no_reset(default: float) -> None:
    outputs = refused(Outputs(), 0.0, default=default)
    outputs.told(quota(1000), 1.0, default, is_answer=True)
    outputs.ended(now=2.0, started=1.9, tokens=1500)
    assert outputs.opens_at(2.0, active=0) == pytest.approx(21.0)  # 400 are owed, and 100 a second come back


def test_what_calls_write_is_an_average_of_which_the_last_23_make_up_half() -> None:
    outputs = refused(Outputs(), 0.0)
    for _ in range(500):
        outputs.ended(now=1.0, started=0.0, tokens=100)
    for _ in range(23):
        outputs.ended(now=1.0, started=0.0, tokens=1000)
    assert outputs.each == pytest.approx(550.0, rel=0.02)


def test_a_single_call_tells_little_of_how_long_calls_take() -> None:
    outputs = refused(Outputs(), 0.0)
    for _ in range(20):
        outputs.ended(now=301.0, started=1.0, tokens=200)
    outputs.ended(now=302.0, started=301.0, tokens=200)
    assert outputs.opens_at(303.0, active=100) == 303.0  # of 20000, what ends within a minute has room


def test_resets_of_answers_tell_that_they_come_back_in_less() -> None:
    outputs = refused(answered(Outputs(), 0.0, remaining=1000, reset=5.0), 1.0, reset=12.0)
    outputs.ended(now=2.0, started=1.9, tokens=1000)
    assert outputs.opens_at(2.0, active=0) < 10.0


def test_a_call_that_those_under_way_leave_nothing_for_waits_for_one_of_them_but_for_a_window_at_most() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=1.0, started=0.9, tokens=1500)
    assert outputs.opens_at(50.0, active=2) == 50.0
    outputs.started(now=50.0)
    assert 60.0 < outputs.opens_at(50.0, active=3) < 61.0  # with what was written before, they take all of a window
    assert outputs.opens_at(50.0, active=4) == 110.0  # they may be none that write
    assert outputs.opens_at(110.0, active=4) == 110.0


def test_of_calls_that_take_longer_than_a_window_as_many_more_are_under_way() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=301.0, started=1.0, tokens=1000)
    assert outputs.opens_at(340.0, active=24) == 340.0  # 24 in 300 s are not quite 5 in 60 s, and one has just been written
    assert outputs.opens_at(340.0, active=30) > 340.0


def test_a_call_that_writes_more_than_the_limit_starts_alone() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=1.0, started=0.0, tokens=50_000)
    assert outputs.each == 6000.0  # it takes all there is
    assert outputs.opens_at(1.0, active=1) == 61.0
    opens_at = outputs.opens_at(1.0, active=0)
    assert 1.0 < opens_at <= 61.0
    assert outputs.opens_at(opens_at, active=0) <= opens_at


def test_what_an_answer_tells_to_be_left_beats_what_was_counted() -> None:
    outputs = refused(Outputs(), 0.0)
    for _ in range(12):
        outputs.ended(now=1.0, started=0.0, tokens=500)
    assert outputs.opens_at(2.0, active=0) > 2.0
    assert answered(outputs, 2.0, remaining=5000).opens_at(2.0, active=0) == 2.0


def test_what_its_own_answer_left_is_taken_off_once_and_what_a_stream_told_as_it_began_is_not() -> None:
    answer, stream = (refused(Outputs(), 0.0) for _ in range(2))
    answered(answer, 10.0, remaining=1000).ended(now=10.1, started=4.0, tokens=1000)
    answered(stream, 4.1, remaining=1000).ended(now=10.1, started=4.0, tokens=1000)
    assert answer.opens_at(10.1, active=0) == 10.1
    assert stream.opens_at(10.1, active=0) > 10.1


def test_what_was_written_since_the_moment_that_an_answer_tells_of_is_taken_off() -> None:
    outputs = refused(Outputs(), 0.0)
    for second in (1.0, 2.0, 3.0):
        outputs.ended(now=second, started=second - 10.0, tokens=1000)
    outputs.told(quota(3000), 4.0, 60.0, is_answer=True, since=1.5)
    # 2000 of the 3000 were written after that, and 250 are back
    outputs.ended(now=4.0, started=1.5, tokens=1000)
    assert outputs.opens_at(4.0, active=0) == pytest.approx(4.0 + 750 / 100)


def test_an_answer_tells_of_no_moment_before_as_long_as_calls_take() -> None:
    outputs = refused(Outputs(), 0.0)
    for second in (10.0, 20.0):
        outputs.ended(now=second, started=second - 2.0, tokens=1000)
    outputs.told(quota(1000), 21.0, 60.0, is_answer=True, since=-math.inf)
    assert outputs.opens_at(21.0, active=0) == pytest.approx(21.0 + 800 / 100)  # 200 are back in two seconds, 1000 were written


def test_where_little_is_left_calls_start_no_closer_than_they_are_paid_off() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=1.0, started=0.0, tokens=500)
    for left, wait in ((1400, 5.0), (1600, 0.0)):
        answered(outputs, 10.0, remaining=left)
        outputs.started(10.0)
        assert outputs.opens_at(10.0, active=1) == pytest.approx(10.0 + wait)


@pytest.mark.parametrize(("seconds", "is_early"), [(0.5, True), (2.4, True), (2.6, False), (math.inf, False)])
def test_an_answer_that_comes_long_before_calls_end_is_that_of_a_stream(seconds: float, *, is_early: bool) -> None:
    outputs = refused(Outputs(), 0.0)
    assert not outputs.is_early(seconds)
    outputs.ended(now=10.0, started=0.0, tokens=100)
    assert outputs.is_early(seconds) == is_early


def test_where_a_call_does_not_tell_what_it_wrote_nothing_is_held_back_until_one_does() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=1.0, started=0.0, tokens=3000)
    assert outputs.opens_at(1.0, active=1) > 1.0
    outputs.ended(now=2.0, started=0.0, tokens=None)
    assert outputs.opens_at(2.0, active=100) == 2.0
    outputs.ended(now=3.0, started=0.0, tokens=3000)
    assert outputs.opens_at(3.0, active=1) > 3.0


@pytest.mark.parametrize("tokens", [None, 7])
def test_what_was_written_long_ago_is_not_kept(tokens: int | None) -> None:
    outputs = answered(Outputs(), 0.0, remaining=6000)
    for second in range(10_000):
        outputs.ended(now=float(second), started=second - 1.0, tokens=tokens)
        answered(outputs, float(second), remaining=5000)
    assert len(outputs._window._entries) <= 60
    assert len(outputs._overlap._entries) <= 60


def test_all_is_forgotten_when_it_is_cleared() -> None:
    outputs = refused(Outputs(), 0.0)
    outputs.ended(now=1.0, started=0.0, tokens=6000)
    outputs.clear()
    assert outputs.opens_at(1.0, active=100) == 1.0
    assert (outputs.limit, outputs.each) == (0, 0.0)


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.sampled_from(["answered", "refused", "started", "ended"]),
        st.one_of(st.none(), st.just(0), st.integers(0, 10**12)),
        st.one_of(st.none(), st.floats(0, 1e9)),
        st.integers(1, 10**12),
    ),
    max_size=30,
)


@given(EVENTS, st.integers(0, 50), st.sampled_from([1.0, 60.0, 86_400.0]))
def test_whatever_is_told_a_call_waits_ten_minutes_at_most(
    events: list[tuple[float, str, int | None, float | None, int]], active: int, default: float
) -> None:
    outputs, now = Outputs(), 0.0
    for seconds, event, number, reset, limit in events:
        now += seconds
        if event in ("answered", "refused"):
            outputs.told(Quota("tokens", limit, number, reset), now, default, is_answer=event == "answered")
            outputs.is_enforced |= event == "refused"
        elif event == "started":
            outputs.started(now)
        elif outputs.limit:
            outputs.ended(now, now - seconds, number)
    opens_at = outputs.opens_at(now, active)
    assert now <= opens_at <= now + 600.0
    for _ in range(100):  # each time one of those that were written has left the window
        if outputs.opens_at(opens_at, active) <= opens_at:
            break
        later = outputs.opens_at(opens_at, active)
        assert later > opens_at or math.isclose(later, opens_at)
        opens_at = later
    assert outputs.opens_at(opens_at, active) <= opens_at <= now + 600.0

"""Outputs: what calls may still write, by what an API tells and what calls wrote."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled.headers import Quota
from pocketflow_throttled.outputs import Outputs


def told(remaining: int | None, reset: float | None = None, limit: int | None = 6000) -> Quota:
    return Quota("tokens", limit=limit, remaining=remaining, reset=reset)


def scarce(remaining: int = 1500) -> Outputs:
    """Return those of an API that has told, at 0 s, that little is left."""
    outputs = Outputs()
    outputs.told(told(remaining), now=0.0, default=60.0)
    return outputs


def test_nothing_is_held_back_before_little_is_left() -> None:
    outputs = scarce(5000)
    outputs.ended(now=4.0, started=0.0, tokens=6000)
    assert outputs.opens_at(4.0, active=100) == 4.0
    outputs.told(told(1500), now=5.0, default=60.0)
    assert outputs.opens_at(5.0, active=1) > 5.0


def test_nothing_is_held_back_before_calls_tell_what_they_write() -> None:
    outputs = scarce(0)
    assert outputs.opens_at(1.0, active=100) == 1.0


def test_no_limit_that_is_told_is_none() -> None:
    outputs = Outputs()
    outputs.told(told(0, limit=None), now=0.0, default=60.0)
    assert not outputs.limit
    assert not outputs.is_scarce


def test_a_call_waits_until_what_one_writes_is_back() -> None:
    outputs = scarce(1000)
    outputs.ended(now=2.0, started=-3.0, tokens=1000)  # it was told in its second half, and is no part of what is left
    assert outputs.opens_at(2.0, active=0) == 2.0
    outputs.ended(now=10.0, started=9.0, tokens=1000)
    assert outputs.opens_at(10.0, active=0) == pytest.approx(10.0)  # 8 s and 2 s brought back 1000


def test_what_is_owed_is_paid_off_first() -> None:
    outputs = scarce()
    outputs.ended(now=1.0, started=0.9, tokens=1000)
    outputs.told(told(0, reset=90.0), now=10.0, default=60.0)  # 90 s bring 9000: so 3000 are owed
    assert outputs.opens_at(10.0, active=0) == pytest.approx(10.0 + 40.0)


def test_who_tells_of_an_endless_debt_is_not_believed() -> None:
    outputs = scarce()
    outputs.ended(now=1.0, started=0.9, tokens=1000)
    outputs.told(told(0, reset=1e9), now=10.0, default=60.0)
    assert outputs.opens_at(10.0, active=0) <= 10.0 + 10 * 60.0


def test_a_call_that_those_under_way_leave_nothing_for_waits_for_one_of_them() -> None:
    outputs = scarce(1500)
    outputs.ended(now=1.0, started=0.9, tokens=1500)
    assert outputs.opens_at(30.0, active=2) <= 30.0
    assert 60.0 < outputs.opens_at(30.0, active=3) < 61.0  # with what was written before, they take all of a window
    assert outputs.opens_at(30.0, active=4) == math.inf


def test_a_call_that_writes_more_than_the_limit_starts_alone() -> None:
    outputs = scarce()
    outputs.ended(now=1.0, started=0.0, tokens=50_000)
    assert outputs.opens_at(1.0, active=1) == math.inf
    opens_at = outputs.opens_at(1.0, active=0)
    assert opens_at == pytest.approx(105.0)  # 4400 are owed at 1 s, and all of the limit must be back
    assert outputs.opens_at(opens_at, active=0) <= opens_at


def test_what_an_answer_tells_to_be_left_beats_what_was_counted() -> None:
    outputs = scarce()
    for _ in range(12):
        outputs.ended(now=1.0, started=0.0, tokens=500)
    assert outputs.opens_at(1.0, active=0) > 1.0
    outputs.told(told(5000), now=2.0, default=60.0)
    assert outputs.opens_at(2.0, active=0) == 2.0


def test_what_calls_had_written_before_a_refusal_tells_what_each_writes() -> None:
    outputs = Outputs()
    outputs.served(now=159.0, calls=20, seconds=59.0)
    outputs.told(told(0, reset=100.0), now=160.0, default=60.0, is_refused=True)
    assert outputs.each == pytest.approx(800.0)  # 6000 at first, 6000 since, and 4000 that are owed


def test_what_calls_do_not_tell_is_thought_to_be_less_and_less() -> None:
    outputs = Outputs()
    outputs.served(now=159.0, calls=20, seconds=59.0)
    outputs.told(told(0, reset=100.0), now=160.0, default=60.0, is_refused=True)
    for _ in range(100):
        outputs.ended(now=300.0, started=299.0, tokens=None)
    assert 500.0 < outputs.each < 750.0


def test_where_answers_tell_what_is_left_no_refusal_is_asked_what_calls_write() -> None:
    outputs = scarce()
    outputs.ended(now=1.0, started=0.0, tokens=None)
    outputs.told(told(0, reset=100.0), now=160.0, default=60.0, is_refused=True)
    assert outputs.each == 0.0


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.sampled_from(["told", "refused", "served", "ended"]),
        st.one_of(st.none(), st.integers(0, 10**12)),
        st.one_of(st.none(), st.floats(0, 1e9)),
        st.integers(1, 10**12),
    ),
    max_size=30,
)


@given(EVENTS, st.integers(0, 50))
def test_whatever_is_told_a_call_waits_ten_windows_at_most_or_for_one_that_ends(
    events: list[tuple[float, str, int | None, float | None, int]], active: int
) -> None:
    outputs, now = Outputs(), 0.0
    for seconds, event, number, reset, limit in events:
        now += seconds
        if event in ("told", "refused"):
            outputs.told(Quota("tokens", limit, number, reset), now, 60.0, is_refused=event == "refused")
        elif not outputs.limit:
            outputs.served(now, calls=limit, seconds=seconds)
        else:
            outputs.ended(now, now - seconds, number)
    opens_at = outputs.opens_at(now, active)
    assert opens_at >= now
    if opens_at == math.inf:
        assert active
        opens_at = outputs.opens_at(now, 0)
    for _ in range(100):  # each time one of those that were written has left the window
        if outputs.opens_at(opens_at, 0) <= opens_at:
            break
        opens_at = outputs.opens_at(opens_at, 0)
    assert outputs.opens_at(opens_at, 0) <= opens_at
    assert opens_at <= now + 60.0 * (12 + len(events))

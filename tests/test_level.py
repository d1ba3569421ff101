"""What is known of a small bucket by what a server says is left, and how starts are held back for it."""

import random
from collections.abc import Iterator
from typing import Literal

import pytest

from pocketflow_throttled.gate import Gate, Hold
from pocketflow_throttled.level import Level
from pocketflow_throttled.window import SlidingWindow

RATE, MOST = 5.0, 20  # a second; calls in the bucket


def answers(others: float, told_when: Literal["start", "end"]) -> Iterator[tuple[float, float, int, SlidingWindow]]:
    """Yield when each call was answered and started, what was left, and the starts until then.

    They start as often as others leave room for, and take between one and four seconds.
    """
    chance = random.Random(1)
    starts = [index / (RATE - (others or 0.1)) for index in range(600)]
    ends = [start + chance.uniform(1, 4) for start in starts]
    taken = [index / others for index in range(int(starts[-1] * others))]
    events = [(time, what, index) for what, times in enumerate((taken, starts, ends)) for index, time in enumerate(times)]
    window = SlidingWindow(round(60 * RATE), 60.0)
    level, at, left = MOST / 2, 0.0, {}
    for now, what, index in sorted(events):
        level, at = min(MOST, level + RATE * (now - at)) - (what < 2), now
        if what == 1:
            window.add(now)
        if what == (1 if told_when == "start" else 2):
            left[index] = int(level)
        if what == 2:
            yield now, starts[index], left[index], window


@pytest.mark.parametrize("told_when", ["start", "end"])
def test_a_bucket_that_its_own_calls_empty_is_shared_with_nobody(told_when: Literal["start", "end"]) -> None:
    level = Level()
    holds = []
    for now, started, left, window in answers(0.0, told_when):
        level.learn(now, started, left, window, rate=RATE, most=MOST - 1)
        holds.append(level.hold(now, window, rate=RATE, most=MOST - 1, is_blamed=True))
    assert holds[0] is None
    assert not any(hold is None or hold.is_shared for hold in holds[100:])


@pytest.mark.parametrize("told_when", ["start", "end"])
@pytest.mark.parametrize("others", [1.0, 2.5])
def test_starts_are_held_to_what_others_leave_whichever_moment_answers_tell_of(
    others: float, told_when: Literal["start", "end"]
) -> None:
    level = Level()
    rates = []
    for now, started, left, window in answers(others, told_when):
        level.learn(now, started, left, window, rate=RATE, most=MOST - 1)
        hold = level.hold(now, window, rate=RATE, most=MOST - 1, is_blamed=True)
        rates.append(0.0 if hold is None else hold.rate)
    late = rates[200:560]  # after the last start it fills
    assert sum(late) / len(late) == pytest.approx(RATE - others, rel=0.15)


def told(window: SlidingWindow, *answers: tuple[float, int], most: int = MOST) -> Level:
    level = Level()
    for now, left in answers:
        level.learn(now, now, left, window, rate=RATE, most=most)
    return level


def test_what_others_take_is_not_known_after_a_moment() -> None:
    window = SlidingWindow(300, 60.0)
    assert told(window, (0.0, 15), (1.0, 10)).hold(1.0, window, rate=RATE, most=MOST, is_blamed=True) is None
    assert told(window, (0.0, 15), (4.0, 10)).hold(4.0, window, rate=RATE, most=MOST, is_blamed=True) is not None


def test_others_take_nothing_if_they_are_not_to_blame() -> None:
    """What looks like their share may be how the server counts."""
    window = SlidingWindow(300, 60.0)
    level = told(window, *((second, 10) for second in range(20)))
    hold = level.hold(19.0, window, rate=RATE, most=MOST, is_blamed=False)
    assert hold is not None
    assert (hold.rate, hold.is_shared) == (RATE, False)


def test_calls_that_were_refused_took_nothing() -> None:
    """Others take two of the five that come back each second; one of its own four calls a second is refused."""
    window = SlidingWindow(300, 60.0)
    level = Level()
    for second in range(40):
        for _ in range(4):
            window.add(second + 0.5)
        level.learn(second + 0.9, second + 0.5, 10, window, rate=RATE, most=MOST)
        window.refuse(second + 0.5)
        level.refused(second + 0.5)
    hold = level.hold(40.0, window, rate=RATE, most=MOST, is_blamed=True)
    assert hold is not None
    assert hold.rate == pytest.approx(3.0, rel=0.05)


def test_the_less_is_known_of_the_present_the_more_is_kept_in_the_bucket() -> None:
    window = SlidingWindow(300, 60.0)
    level = told(window, *((second, 10) for second in range(20)))  # others take all that comes back
    soon, late = (
        level.hold(19.1, window, rate=RATE, most=MOST, is_blamed=True),
        level.hold(21.0, window, rate=RATE, most=MOST, is_blamed=True),
    )
    assert soon is not None
    assert late is not None
    assert late.left < soon.left < 10
    assert soon.rate == pytest.approx(0.1 * RATE)


def test_of_a_bucket_of_one_others_take_any_or_none() -> None:
    window = SlidingWindow(300, 60.0)
    hold = told(window, *((second, 0) for second in range(20)), most=1).hold(20.0, window, rate=RATE, most=1, is_blamed=True)
    assert hold is not None
    assert not hold.is_shared


def passed(gate: Gate, now: float, calls: int) -> list[float]:
    """Return when so many start that always wait."""
    times = []
    for _ in range(calls):
        now = max(now, gate.next_at)
        gate.started(now)
        times.append(now)
    return times


def test_a_gate_lets_through_what_is_left_and_then_as_much_as_comes_back() -> None:
    gate = Gate(Hold(left=3.0, rate=2.0, apart=0.1, most=10.0), 100.0, 160.0)
    assert passed(gate, 100.0, 6) == pytest.approx([100.0, 100.1, 100.2, 100.5, 101.0, 101.5])


def test_what_is_not_left_yet_is_waited_for() -> None:
    assert Gate(Hold(left=0.5, rate=2.0, apart=0.1, most=10.0), 100.0, 160.0).next_at == 100.25


def test_a_gate_that_is_set_anew_keeps_starts_apart() -> None:
    gate = Gate(Hold(left=9.0, rate=2.0, apart=0.3, most=10.0), 100.0, 160.0)
    gate.started(100.0)
    gate.set(Hold(left=9.0, rate=2.0, apart=0.2, most=10.0), 100.15, 160.0)
    assert gate.next_at == pytest.approx(100.3)


def test_after_a_while_without_any_start_no_more_go_through_than_the_bucket_holds() -> None:
    gate = Gate(Hold(left=1.0, rate=1.0, apart=0.1, most=3.0), 0.0, 60.0)
    assert passed(gate, 50.0, 5) == pytest.approx([50.0, 50.1, 50.2, 51.0, 52.0])


def test_a_gate_that_is_not_set_anew_ends_in_time() -> None:
    gate = Gate(Hold(left=1.0, rate=1.0, apart=0.1, most=3.0), 0.0, 60.0)
    assert gate.started(59.0)
    assert not gate.started(60.0)

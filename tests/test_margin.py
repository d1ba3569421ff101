"""The margin between spaced starts: it grows with refusals, once for those under way together, and shrinks with calls."""

import pytest

from pocketflow_throttled.margin import Margin


def test_it_is_nothing_before_a_refusal() -> None:
    margin = Margin()
    assert margin.part == 0
    assert margin.look_at == float("inf")


def test_it_grows_with_each_refusal_up_to_twice_the_time() -> None:
    margin = Margin()
    parts = []
    for now in range(20):
        margin.grow(now, 1.0)
        parts.append(margin.part)
    assert parts == sorted(parts)
    assert parts[0] == 0.03
    assert parts[-1] == 1.0


def test_what_started_before_it_grew_tells_nothing_of_it() -> None:
    assert Margin().since == -float("inf")
    margin = Margin(since=3.0)
    margin.grow(10.0, 1.0)
    assert margin.since == 10.0


@pytest.mark.parametrize("rate", [0.1, 10.0])
def test_it_shrinks_with_the_calls_that_may_have_been_made_until_it_is_nothing(rate: float) -> None:
    margin = Margin()
    for now in range(20):
        margin.grow(now, rate)
    looks, now = 0, 19.0
    while margin.part:
        assert margin.look_at > now
        now = margin.look_at
        margin.shrink(now, rate)
        looks += 1
    assert margin.look_at == float("inf")
    assert 1000 < (now - 19) * rate < 5000
    assert looks < 250


def test_a_clock_that_goes_back_makes_it_no_larger() -> None:
    margin = Margin()
    margin.grow(1000.0, 1.0)
    margin.shrink(5.0, 1.0)
    assert margin.part == 0.03

"""The margin between spaced starts: it grows with refusals, once for those under way together, and shrinks with calls."""

import random

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
        margin.grow(now, 1.0, calls=1)
        parts.append(margin.part)
    assert parts == sorted(parts)
    assert parts[0] == 0.12
    assert parts[-1] == 1.0


def test_it_grows_by_the_more_the_sooner_refusals_come() -> None:
    grown = []
    for calls in (1, 2, 5, 10, 30, 100, 1000, 1_000_000):
        margin = Margin()
        margin.grow(0.0, 1.0, calls)
        grown.append(margin.part / 0.03)
    assert grown == sorted(grown, reverse=True)
    assert grown[0] == grown[1] == grown[2] == 4.0
    assert 1.4 < grown[5] < 1.6
    assert grown[-1] == pytest.approx(1.1)


def test_one_refusal_that_comes_soon_by_chance_makes_it_grow_by_little() -> None:
    margin = Margin()
    margin.grow(0.0, 1.0, calls=1)
    margin.grow(300.0, 1.0, calls=300)
    before = margin.part
    margin.grow(301.0, 1.0, calls=1)
    assert 1.1 < margin.part / before < 1.6
    before = margin.part
    margin.grow(302.0, 1.0, calls=1)
    assert margin.part / before == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("mean", [0.02, 0.05, 0.15])
def test_some_calls_in_a_thousand_are_refused_and_the_margin_is_no_larger_than_it_must_be(mean: float) -> None:
    """Of calls that are late by exponential times, of which this is the mean, as a part of the time between starts."""
    chance = random.Random(5)
    margin, refused, parts, since = Margin(), 0, [], 0
    for call in range(20_000):
        late, before = chance.expovariate(1 / mean), chance.expovariate(1 / mean)
        if call >= margin.look_at:
            margin.shrink(call, 1.0, call - since)
            since = call
        if before - late > margin.part:
            refused += 1
            margin.grow(call, 1.0, call - since)
            since = call
        parts.append(margin.part)
    assert refused <= 0.008 * 20_000
    assert sum(parts) / len(parts) <= 6 * mean


def test_what_started_before_it_grew_tells_nothing_of_it() -> None:
    assert Margin().since == -float("inf")
    margin = Margin(since=3.0)
    margin.grow(10.0, 1.0, calls=1)
    assert margin.since == 10.0


@pytest.mark.parametrize("rate", [0.1, 10.0])
def test_it_shrinks_with_the_calls_that_are_made_until_it_is_nothing(rate: float) -> None:
    margin = Margin()
    for now in range(20):
        margin.grow(now, rate, calls=1)
    looks, now = 0, 19.0
    while margin.part:
        assert margin.look_at > now
        before, now = now, margin.look_at
        margin.shrink(now, rate, round((now - before) * rate))
        looks += 1
    assert margin.look_at == float("inf")
    assert 1000 < (now - 19) * rate < 5000
    assert looks < 250


def test_time_in_which_no_call_is_made_does_not_make_it_smaller() -> None:
    margin = Margin()
    margin.grow(0.0, 1.0, calls=1)
    margin.shrink(1000.0, 1.0, calls=0)
    assert margin.part == 0.12

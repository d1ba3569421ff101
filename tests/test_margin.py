"""The margin between spaced starts: it grows with refusals, once for those under way together, and shrinks with calls."""

import random

import pytest

from pocketflow_throttled.margin import Margin


def test_it_is_nothing_before_a_refusal() -> None:
    margin = Margin()
    assert margin.part == 0
    assert margin.look_at == float("inf")


def test_it_grows_up_to_twice_the_time_and_goes_back_where_calls_are_refused_as_often_at_any_margin() -> None:
    margin = Margin()
    parts = []
    for now in range(20):
        margin.grow(now, 1.0, calls=10)
        parts.append(margin.part)
    most = parts.index(max(parts))
    assert parts[: most + 1] == sorted(parts[: most + 1])
    assert 0.05 < parts[0] < 0.2  # one may be bad luck
    assert parts[most] == pytest.approx(1.0)
    assert parts[-10:] == [0.0] * 10


def test_it_grows_by_the_more_the_sooner_refusals_come() -> None:
    grown = []
    for calls in (1, 3, 10, 30, 100, 1000):
        margin = Margin()
        margin.grow(0.0, 1.0, calls)
        grown.append(margin.part)
    assert grown == sorted(grown, reverse=True)
    assert grown[0] > 2 * grown[3] > 0
    assert grown[-1] == 0  # of as many, some may be refused


def test_one_refusal_that_comes_soon_by_chance_makes_it_grow_by_little() -> None:
    margin = Margin()
    margin.grow(0.0, 1.0, calls=1)
    margin.shrink(300.0, 1.0, calls=300)
    before = margin.part
    margin.grow(301.0, 1.0, calls=1)
    assert before < margin.part < 2.5 * before
    margin.grow(302.0, 1.0, calls=1)
    margin.grow(303.0, 1.0, calls=1)
    margin.grow(304.0, 1.0, calls=1)
    assert margin.part > 2.5 * before


def refusals_and_parts(calls: int, mean: float, anyway: float) -> tuple[int, list[float]]:
    """Make calls, late by exponential times of a mean that is a part of the time between starts; some are refused anyway."""
    chance = random.Random(5)
    margin, refused, parts, since, before = Margin(), 0, [], 0, 0.0
    for call in range(calls):
        late = chance.expovariate(1 / mean) if mean else 0.0
        if call >= margin.look_at:
            margin.shrink(call, 1.0, call - since)
            since = call
        if before - late > margin.part or chance.random() < anyway:
            refused += 1
            margin.grow(call, 1.0, call - since)
            since = call
        before = late
        parts.append(margin.part)
    return refused, parts


@pytest.mark.parametrize("mean", [0.02, 0.05, 0.15])
def test_some_calls_in_a_thousand_are_refused_and_the_margin_is_no_larger_than_it_must_be(mean: float) -> None:
    refused, parts = refusals_and_parts(20_000, mean, anyway=0.0)
    assert refused <= 0.006 * 20_000
    assert sum(parts) / len(parts) <= 6 * mean


@pytest.mark.parametrize("anyway", [0.01, 0.03, 0.1])
def test_refusals_that_come_as_often_at_any_margin_do_not_make_it_grow_for_long(anyway: float) -> None:
    refused, parts = refusals_and_parts(5_000, 0.0, anyway)
    assert refused >= 0.8 * anyway * 5_000
    assert max(parts) > 0  # at first they might have been late
    assert sum(parts) / len(parts) < 0.15
    assert sum(parts[2_500:]) / 2_500 < 0.07


def test_calls_that_are_late_keep_their_margin_where_others_are_refused_anyway() -> None:
    refused, _ = refusals_and_parts(10_000, 0.05, anyway=0.03)
    without = 0.5  # of calls that are late, as often before the one before them as after it
    assert refused < 0.1 * without * 10_000


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
    assert 500 < (now - 19) * rate < 5000
    assert looks < 250


def test_time_in_which_no_call_is_made_does_not_make_it_smaller() -> None:
    margin = Margin()
    margin.grow(0.0, 1.0, calls=1)
    margin.shrink(1000.0, 1.0, calls=0)
    assert margin.part > 0.1

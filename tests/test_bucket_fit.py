"""Buckets that nobody told of: what explains when calls were refused, and what is held of it."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import SimulatedAPI
from pocketflow_throttled.adaptivity import Adaptive
from pocketflow_throttled.blame import Blame
from pocketflow_throttled.bucket_fit import Bucket, bucket_that_explains
from pocketflow_throttled.closing import RefusedCall
from pocketflow_throttled.conclusions import refused_by_a_rate
from pocketflow_throttled.evidence import Evidence
from pocketflow_throttled.learned_pace import LearnedPace
from pocketflow_throttled.learned_rate import LearnedRate
from pocketflow_throttled.stretches import Stretches
from pocketflow_throttled.timing import Timing

from .test_adaptive import Adapting, seconds_for
from .test_unknown_limits import uneven


def used(rate: float, burst: float, chance: random.Random, calls: int, late: float = 0.0) -> tuple[list[float], list[float]]:
    """Return when calls started that a bucket admitted, and that it refused; clients go faster until it does, then more slowly.

    Each call is up to `late` seconds on its way.
    """
    left, filled, at, pace = burst, 0.0, 0.0, 3 * rate
    starts, refusals = [], []
    while len(starts) < calls:
        at += chance.uniform(0.5, 1.5) / pace
        arrived = max(filled, at + chance.uniform(0.0, late))
        left, filled = min(burst, left + rate * (arrived - filled)), arrived
        if left >= 1:
            left -= 1
            starts.append(at)
            pace *= 1.02
        else:
            refusals.append(at)
            pace = chance.uniform(0.6, 0.9) * rate
    return starts, refusals


def log(evidence: Evidence, starts: list[float], refusals: list[float], admitted: int = 1, refused: int = 1) -> None:
    """Log calls in their order, with so many under way as they were admitted, or refused."""
    for at, is_refused in sorted([(at, False) for at in starts] + [(at, True) for at in refusals]):
        if is_refused:
            evidence.log_refusal(at, at + 0.1, refused)
        else:
            evidence.started(at, admitted)


def probing(rate: LearnedRate) -> tuple[float, float]:
    """Let a rate find a bucket and try a faster pace; return the seconds of what it refills, and when the last call started."""
    starts, refusals = used(2.0, 6, random.Random(7), calls=300)
    log(rate.evidence, starts, refusals)
    assert rate.find_by_refusals(starts[-1])
    assert rate.is_bucket
    assert rate.held is not None
    known, now = rate.held.seconds, starts[-1]
    while not rate.held.is_beyond(now):
        now = rate.opens_at(now + 0.01)
        rate.held.started(now, 1)
    assert rate.held.seconds < known
    return known, now


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 20.0), st.integers(2, 40), st.integers(0, 2**32))
def test_a_bucket_is_found_by_when_it_refused(rate: float, burst: int, seed: int) -> None:
    starts, refusals = used(rate, burst, random.Random(seed), calls=500)
    bucket = bucket_that_explains(starts, refusals)
    assert bucket is not None or burst < 4  # what holds that few may be a pace as well
    if bucket is not None:
        assert bucket.rate == pytest.approx(rate, rel=0.06)
        assert bucket.burst == pytest.approx(burst, abs=2.0)


@pytest.mark.parametrize("seed", range(6))
def test_so_it_is_where_calls_are_not_all_as_long_on_their_way(seed: int) -> None:
    starts, refusals = used(5.0, 15, random.Random(seed), calls=500, late=0.2)
    bucket = bucket_that_explains(starts, refusals)
    assert bucket is not None
    assert bucket.rate == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_some_refusals_may_have_another_reason(seed: int) -> None:
    chance = random.Random(seed)
    starts, refusals = used(5.0, 10, chance, calls=500)
    others = [chance.choice(starts) for _ in range(len(refusals) // 5)]
    bucket = bucket_that_explains(starts, sorted(refusals + others))
    assert bucket is not None
    assert bucket.rate == pytest.approx(5.0, rel=0.05)


def test_what_refuses_at_random_is_no_bucket() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        starts = sorted(chance.uniform(0.0, 200.0) for _ in range(400))
        assert bucket_that_explains(starts, sorted(chance.uniform(0.0, 200.0) for _ in range(20))) is None


def test_three_times_do_not_tell_it() -> None:
    starts, refusals = used(2.0, 5, random.Random(1), calls=400)
    assert bucket_that_explains([start for start in starts if start < refusals[2]], refusals[:3]) is None
    assert bucket_that_explains([], [1.0]) is None
    assert bucket_that_explains([1.0] * 9, [1.0] * 4) is None
    assert bucket_that_explains([2.0, 1.5, 1.0], [2.0] * 4) is None


def test_rates_that_differ_and_explain_it_as_well_tell_none() -> None:
    """Seven start at once, and one with each call that it refills: at a rate of 1.2 a second, or a good part less or more."""
    starts = [*(0.05 * number for number in range(7)), 0.91, 1.76, 2.61, 3.47]
    assert bucket_that_explains(starts, [0.4, 0.99, 1.92, 2.8]) is None


def test_a_log_that_begins_late_is_read_from_a_refusal_on_if_it_is_known_how_much_the_bucket_holds() -> None:
    starts, refusals = used(8.0, 12, random.Random(5), calls=6000)
    assert bucket_that_explains(starts, refusals) is None
    bucket = bucket_that_explains(starts, refusals, Bucket(8.2, 12.0))
    assert bucket is not None
    assert bucket.rate == pytest.approx(8.0, rel=0.03)


def test_a_log_that_was_long_before_the_first_refusal_is_read_from_just_before_it() -> None:
    """It is used ever more, until it refuses."""
    starts, refusals = used(8.0, 12, random.Random(5), calls=300)
    calm = [number / 2.0 - 1000.0 for number in range(2000)]
    bucket = bucket_that_explains(calm + starts, refusals)
    assert bucket is not None
    assert bucket.rate == pytest.approx(8.0, rel=0.03)


def test_a_refusal_at_a_level_that_was_not_admitted_is_left_to_a_cap() -> None:
    starts, refusals = used(2.0, 6, random.Random(7), calls=300)

    def refused(level: int) -> list[float]:
        evidence = Evidence()
        log(evidence, starts, refusals, admitted=4, refused=level)
        return refused_by_a_rate(evidence)

    assert refused(4) == refusals
    assert refused(5) == []


def test_a_refusal_at_a_level_that_was_admitted_soon_after_is_not_put_down_to_a_cap() -> None:
    evidence = Evidence()
    for at in range(40):
        evidence.started(float(at), 4 if at < 20 else 6)
    for at, level in ((10.5, 5), (20.5, 5), (30.5, 7)):
        evidence.log_refusal(at, at + 0.1, level)
    assert refused_by_a_rate(evidence) == [20.5]  # not the one before, after which five were admitted only much later


@pytest.mark.parametrize(("level", "goes_on"), [(6, True), (5, False)])
def test_a_pace_that_is_tried_goes_on_where_a_probe_beyond_the_ceiling_is_refused(level: int, goes_on: bool) -> None:
    timing = Timing()
    timing.served(0.5)
    blame = Blame(Adaptive(), timing)
    known, now = probing(blame.rate)
    blame.ceiling.found(5, is_doubted=False)
    verdict = blame.explain(RefusedCall(now + 0.1, now, level, 1.0), limit=6, proven=5)
    assert verdict is not None
    assert verdict.reason == "probe refused"
    assert (blame.rate.held.seconds < known) == goes_on


def test_a_faster_pace_than_a_bucket_refills_ends_with_a_refusal_that_another_limit_may_explain() -> None:
    timing = Timing()
    timing.served(0.5)
    rate = LearnedRate(timing)
    known, now = probing(rate)
    rate.may_have_refused(now)
    assert rate.held.seconds == known


def test_a_bucket_that_more_is_admitted_than_it_holds_is_none() -> None:
    """An API that was hardly there at first may look like one that refills slowly: it is used again as soon as it is back."""
    starts, refusals = used(0.4, 4, random.Random(2), calls=200)
    evidence, timing = Evidence(), Timing()
    timing.served(0.5)
    pace = LearnedPace(evidence, timing, Stretches(evidence, timing))
    for at, is_refused in sorted([(at, False) for at in starts] + [(at, True) for at in refusals]):
        if is_refused:
            evidence.log_refusal(at, at + 0.1, 1)
            pace.find_bucket(at)
        else:
            evidence.started(at, 1)
    assert pace.is_refilled
    assert pace.seconds == pytest.approx(2.5, rel=0.2)
    back = now = starts[-1]
    while now < back + 600.0:
        now = max(now + 0.01, pace.opens_at(now))
        pace.started(now, 1)
    assert pace.seconds < 0.2


# --- what a node makes of it


@pytest.mark.parametrize(("rate", "burst", "share"), [(1.0, 5, 0.045), (6.0, 12, 0.02), (12.0, 30, 0.022)])
def test_a_bucket_is_used_to_the_full_and_refuses_little(rate: float, burst: int, share: float) -> None:
    items = 300 if rate < 2 else 900
    took, refused = [], 0
    for seed in range(4):
        limits = {"max_per_window": burst, "window_seconds": burst / rate, "algorithm": "token_bucket", "retry_after": False}
        api, node = uneven(seed, (0.5, 2.5), (0.0, 0.0), refusal_latency=0.05, **limits)
        took.append(seconds_for(node, items))
        refused += api.refused
    assert sum(took) / len(took) <= (items - burst) / rate / 0.94
    assert refused / (4 * items + refused) <= share


def test_a_cap_and_a_bucket_are_both_held() -> None:
    """Calls that wait out a pause start together, and are too many for the bucket: who then forgets it is refused for ever."""
    took, refused = [], 0
    for seed in range(4):
        chance = random.Random(seed)
        random.seed(seed)
        api = SimulatedAPI(
            max_concurrent=13,
            max_per_window=8,
            window_seconds=8 / 24.5,
            algorithm="token_bucket",
            retry_after=1.0,
            refusal_latency=0.05,
            latency=lambda _, chance=chance: chance.lognormvariate(math.log(0.57), 0.47),
        )
        took.append(seconds_for(Adapting(api.call, initial_concurrent=10, max_concurrent=100), 2400))
        refused += api.refused
    assert sum(took) / len(took) <= 2400 / (13 / 0.637) / 0.8
    assert refused <= 0.015 * 4 * 2400

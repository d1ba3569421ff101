"""Refusals for which no limit is the reason: they must not slow a batch down for ever."""

import asyncio
import random
from typing import Any

import pytest

from pocketflow_throttled import Adaptive, SimulatedAPI
from pocketflow_throttled.blame import Blame, Verdict
from pocketflow_throttled.chance import Chance
from pocketflow_throttled.closing import RefusedCall
from pocketflow_throttled.evidence import Evidence
from pocketflow_throttled.simulation import SimulatedRateLimitError
from pocketflow_throttled.timing import Timing

from .test_adaptive import Adapting, seconds_for


def fast_then_slow(slow: int, level: int = 2) -> tuple[Evidence, Chance]:
    """Twenty at once and two a second for a minute; then one in two seconds, `slow` of them."""
    evidence = Evidence()
    evidence.log_telling(0.0, 21)
    for start in range(120):
        evidence.started(start / 2, 20)
    for start in range(slow):
        evidence.started(100.0 + 2 * start, level)
    return evidence, Chance(evidence)


def test_refused_again_and_again_far_below_what_was_admitted_it_is_chance() -> None:
    _, chance = fast_then_slow(200)
    found = [chance.refused(110.0 + 40 * refusal, 2) for refusal in range(9)]
    assert found == [False] * 7 + [True, False]  # it is found once
    assert chance.is_known


@pytest.mark.parametrize(
    ("slow", "level", "apart", "why"),
    [
        (200, 11, 40.0, "as many at once were admitted, or half"),
        (200, 2, 6.0, "where so many are refused there is a reason"),
        (2000, 2, 450.0, "what is so rare costs little"),
    ],
)
def test_refused_where_there_may_be_a_reason_it_is_no_chance(slow: int, level: int, apart: float, why: str) -> None:
    _, chance = fast_then_slow(slow, level)
    assert not any(chance.refused(110.0 + apart * refusal, level) for refusal in range(9)), why


def test_calls_that_are_refused_together_are_many_refusals_by_chance_and_not_one() -> None:
    evidence, chance = fast_then_slow(200)
    chance.is_known = True
    for burst, together in enumerate([1] * 4 + [30] * 4):
        started = 600.0 + 20 * burst
        for call in range(10):
            evidence.started(started + call, 12)
        for _ in range(together):
            evidence.log_refusal(started + 10, started + 10.1, 12)
        evidence.log_telling(started + 10, 12)  # the first of them; the others tell no news
        if burst >= 3:
            assert chance.explains(started + 9.9) == (together == 1)


def test_of_refusals_by_chance_only_what_is_rare_is_explained() -> None:
    evidence, chance = fast_then_slow(200)
    for refusal in range(8):
        started = 110.0 + 40 * refusal
        evidence.log_telling(started, 2)
        assert not chance.explains(started)
        chance.refused(started, 2)
    assert chance.explains(390.0)
    for started in (391.0, 392.0, 393.0):
        evidence.log_telling(started, 2)
    assert not chance.explains(393.0)


def test_the_refusal_that_tells_of_chance_cuts_nothing_though_the_last_ones_came_close_together() -> None:
    timing = Timing()
    timing.served(1.0)
    blame = Blame(Adaptive(initial_concurrent=10, max_concurrent=100), timing)
    evidence, _ = fast_then_slow(200)
    blame.rate.evidence, blame._chance = evidence, Chance(evidence)
    verdicts = []
    for started in (110.0, 150.0, 190.0, 230.0, 480.0, 482.0, 484.0, 486.0):
        evidence.log_telling(started, 2)
        verdicts.append(blame._as_chance(RefusedCall(started + 0.1, started, 2), limit=10))
    assert verdicts == [None] * 7 + [Verdict(10, "no limit is the reason")]


def test_before_the_first_refusal_a_bucket_may_have_been_full() -> None:
    evidence, chance = Evidence(), None
    for start in range(120):
        evidence.started(start / 2, 20)
    evidence.log_telling(60.0, 20)
    for start in range(200):
        evidence.started(100.0 + 2 * start, 2)
    chance = Chance(evidence)
    assert not any(chance.refused(110.0 + 40 * refusal, 2) for refusal in range(9))


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("limits", [{}, {"max_concurrent": 40}])
def test_an_api_that_refuses_one_call_in_twenty_at_random_is_used_all_the_same(limits: dict[str, Any]) -> None:
    """Who slows down after each refusal, and is refused as often, comes to a call in some seconds, or none."""
    took = []
    for seed in range(2):
        chance = random.Random(seed)
        random.seed(seed)
        api = SimulatedAPI(
            **{"max_concurrent": None, **limits},
            latency=lambda _, chance=chance: chance.uniform(1.0, 4.0),
            network_delay=0.02,
            retry_after=False,
        )

        async def call(item: int, api: SimulatedAPI = api, chance: random.Random = chance) -> int:
            if chance.random() < 0.05:
                await asyncio.sleep(0.05)
                raise SimulatedRateLimitError("at random", None)
            return await api.call(item)

        took.append(seconds_for(Adapting(call, initial_concurrent=10, max_concurrent=100), 3000))

    assert sum(took) / len(took) <= 1000, took


def test_calls_that_are_refused_together_are_no_few_among_many() -> None:
    """Those under way are not known to be admitted: who takes them for that goes on as if nothing was refused."""
    timing = Timing()
    timing.refused(0.1)
    blame = Blame(Adaptive(), timing)
    evidence = blame.rate.evidence
    blame._chance.is_known = True
    for start in range(40):
        evidence.started(float(start), 30)
        if start % 10 == 9:
            evidence.log_telling(float(start), 30)
    assert blame.explain(RefusedCall(39.1, 39.0, 30), limit=50, proven=50) == Verdict(50, "no limit is the reason")
    for level in range(1, 51):
        evidence.started(60.0, level)
    for started in (59.7, 59.8, 59.9, 60.0):  # the first of each burst: the others say no more
        evidence.log_telling(started, 1)
    assert blame.explain(RefusedCall(60.1, 60.0, 1), limit=50, proven=50) is None

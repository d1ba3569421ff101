"""What is promised of a server that says that nothing is left and not when there will be."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from pocketflow_throttled import AdaptiveThrottledNode, RateLimitHit
from pocketflow_throttled.budget import Budget
from pocketflow_throttled.untold_wait import UntoldWait
from pocketflow_throttled.window import SlidingWindow

from .test_nodes import Batch, now, run


class AdaptiveBatch(Batch, AdaptiveThrottledNode):
    pass


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("others", [False, True])
def test_a_small_bucket_of_which_only_refusals_tell_is_waited_for_in_vain_but_once(adaptive: bool, others: bool) -> None:
    """They say that nothing is left of sixty a minute, and not when there will be; if others use it up, a minute is right."""
    random.seed(1)
    refused, window = [], 60.0 if others else 1.0
    served: list[float] = []

    async def call(item: int) -> int:
        await asyncio.sleep(0.1)
        if served and now() < served[-1] + window:
            refused.append(now())
            told = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
            error = RateLimitHit("requests")
            error.response = SimpleNamespace(status_code=429, headers=told)  # type: ignore[attr-defined]
            raise error
        served.append(now())
        await asyncio.sleep(0.1)
        return item

    make = AdaptiveBatch if adaptive else Batch
    run(make(call, max_concurrent=2, max_per_minute=60, rate_limit_timeout=600), range(6 if others else 200))
    if others:
        assert len(refused) <= 8 * len(served)  # twice as long each time
    else:
        assert served[-1] <= 60 + 4 * 200


def called(budget: Budget, *served: float, refused: float) -> None:
    """Book calls, the last of which is refused."""
    for time in served:
        budget.book(time, 100)
    budget.refused(refused, budget.book(refused, 100))


def refused_at_first() -> tuple[Budget, SlidingWindow, UntoldWait]:
    """Return what counts calls, of which the second was refused."""
    budget = Budget(requests=60, tokens=None, burst=None, seconds=60.0)
    window, wait = budget.requests, UntoldWait(budget, "requests")
    assert window is not None
    called(budget, 0.0, refused=0.5)
    assert wait.refused(window, 50, 0.6) is None
    return budget, window, wait


def test_a_wait_is_in_vain_if_a_window_has_passed_and_little_was_served_and_then_doubles_up_to_a_window() -> None:
    budget, window, wait = refused_at_first()
    called(budget, 20.0, refused=20.5)
    assert wait.refused(window, 50, 20.6) is None  # too soon to tell
    called(budget, 80.0, refused=80.5)
    first, last = wait.refused(window, 50, 80.6) or (0.0, 0.0)
    assert (first, last) == (2.0, 50.0)  # one was refused since the last that was served
    for refused, first in enumerate((4.0, 8.0, 16.0, 32.0, 60.0, 60.0), 1):
        called(budget, refused=80.5 + refused)
        assert wait.refused(window, 20, 80.6 + refused) == (first, max(first, 20.0))
    called(budget, *(90.0 + number / 10 for number in range(40)), refused=95.0)
    assert wait.refused(window, 20, 95.1) is None  # most of the limit was served


def test_what_was_served_last_must_have_started_since_the_refusal_before() -> None:
    budget, window, wait = refused_at_first()
    called(budget, refused=50.0)
    assert wait.refused(window, 50, 50.1) is None


def test_tokens_are_waited_for_as_many_as_a_call_costs() -> None:
    budget = Budget(requests=60, tokens=6000, burst=None, seconds=60.0)
    window, wait = budget.tokens, UntoldWait(budget, "tokens")
    assert window is not None
    called(budget, 0.0, refused=0.5)
    assert wait.refused(window, 5000, 0.6) is None
    called(budget, 61.0, refused=61.5)
    assert wait.refused(window, 5000, 61.6) == (2.0, 50.0)

"""What is promised of a server that says that nothing is left and not when there will be."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from pocketflow_throttled import AdaptiveThrottledNode, RateLimitHit

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

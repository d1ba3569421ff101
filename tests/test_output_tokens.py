"""Output tokens, which Anthropic limits apart: what a call will take of them is known only when it ends."""

import asyncio
import math
from typing import Any

import httpx2
import pytest

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.simulation import SimulatedRateLimitError

from .test_nodes import now

PREFIX, SENT = "anthropic-ratelimit-output-tokens-", {"date": "Thu, 26 Nov 2026 06:00:00 GMT"}


def told(remaining: int, seconds: int | None = 25) -> dict[str, str]:
    """Return headers of an answer that tells what is left of 8,000 a minute, and when all of it is."""
    headers = SENT | {f"{PREFIX}limit": "8000", f"{PREFIX}remaining": str(remaining)}
    return headers if seconds is None else headers | {f"{PREFIX}reset": f"2026-11-26T06:00:{seconds:02}Z"}


def of_requests(remaining: int) -> dict[str, str]:
    names = {"limit": "50", "remaining": str(remaining), "reset": "2026-11-26T06:00:40Z"}
    return {f"anthropic-ratelimit-requests-{name}": value for name, value in names.items()}


def paused_for(headers: dict[str, str]) -> float:
    async def main() -> float:
        limiter = RateLimiter(5)
        limiter.observe(headers)
        return limiter.paused_for

    return run_virtual(main())


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        (told(0), 25.0),
        (told(1000), 0.0),
        (told(0, None), 0.0),
        (told(0) | {"retry-after": "3"}, 3.0),
        (told(0) | of_requests(0), 40.0),
        (told(0) | of_requests(10), 25.0),
        (told(0, None) | {f"{PREFIX}reset": "300s"}, 300.0),  # what is written beyond the limit is a debt
    ],
)
def test_no_call_starts_until_the_reset_when_none_is_left(headers: dict[str, str], pause: float) -> None:
    assert paused_for(headers) == pytest.approx(pause, abs=1e-6)


def test_a_reset_by_a_clock_that_may_be_wrong_pauses_for_a_minute_at_most() -> None:
    undated = {name: value for name, value in told(0).items() if name not in SENT}
    assert paused_for(undated | {f"{PREFIX}reset": "2099-01-01T00:00:00Z"}) == pytest.approx(60.0)


def test_what_is_left_of_them_is_no_limit_of_what_calls_are_sent_with() -> None:
    limiter = RateLimiter(5)
    limiter.observe(told(3000))
    assert (limiter.max_tokens_per_window, limiter.max_per_window) == (None, None)


class Bucket:
    """8,000 output tokens a minute, counted as they are written; a call is refused when none is left."""

    def __init__(self) -> None:
        self.refused, self._left, self._since = 0, 8000.0, 0.0

    def answer(self, written: int = 0) -> httpx2.Response:
        self._left, self._since = min(8000, self._left + (now() - self._since) * 8000 / 60) - written, now()
        headers = told(max(0, round(self._left, -3)), None) | {f"{PREFIX}reset": f"{math.ceil((8000 - self._left) * 60 / 8000)}s"}
        return httpx2.Response(200, headers=headers, request=httpx2.Request("POST", "https://x"))

    def admit(self) -> None:
        self.answer()
        if self._left <= 0:
            self.refused += 1
            raise SimulatedRateLimitError("no output token is left", 1.0)


@pytest.mark.parametrize("node_class", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
def test_a_batch_that_writes_more_than_is_allowed_is_hardly_refused(node_class: type[ThrottledParallelBatchNode]) -> None:
    bucket = Bucket()

    class Writing(node_class):  # type: ignore[misc, valid-type]
        max_concurrent = 20

        async def prep_async(self, shared: Any) -> Any:
            return range(200)

        async def exec_async(self, item: int) -> int:
            bucket.admit()
            await asyncio.sleep(4.0 + item % 7 * 0.31)
            await self.limiter.observe_response(bucket.answer(written=400))
            return item

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["answers"] = exec_res_list

    shared: dict[str, Any] = {}
    run_virtual(Writing().run_async(shared))
    assert shared["answers"] == list(range(200))
    assert bucket.refused <= 2

"""Forecast: how long a batch will take under given limits and what holds it back, before a cent is spent.

It runs the real limiter in virtual time, so an hour takes a moment and nothing is estimated twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from .rate_limiter import RateLimiter
from .simulation import run_virtual
from .validation import check_count, check_seconds

_LIMITS = ("max_concurrent", "max_per_minute", "max_tokens_per_minute")
_NO_MATTER = 1.02  # lifting a limit that saves less than this changes nothing


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a batch will take.

    Attributes:
        seconds: from its start to the end of its last call.
        limited_by: the setting that holds it back most; None: none, each call just takes its time.
        seconds_without: what it would take if that one were lifted.
    """

    seconds: float
    limited_by: str | None
    seconds_without: float


def forecast(settings: dict[str, Any], *, items: int, latency: float, tokens: int = 0) -> Forecast:
    """Run a batch of equal calls under the settings of a node, and return what it takes.

    Args:
        settings: `max_concurrent`, `max_per_minute` and `max_tokens_per_minute`, as a preset has them.
        items: calls in the batch.
        latency: seconds that a call takes.
        tokens: tokens that a call costs.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and its value.

    Example:
        >>> forecast({"max_concurrent": 2, "max_per_minute": None}, items=10, latency=1.0)
        Forecast(seconds=5.0, limited_by='max_concurrent', seconds_without=1.0)
    """
    check_count("items", items)
    check_seconds("latency", latency, positive=False)
    check_count("tokens", tokens, least=0)
    limits = {name: settings.get(name) for name in _LIMITS}
    seconds = _seconds(limits, items, latency, tokens)
    best: str | None = None
    fastest = seconds
    for name, value in limits.items():
        if value is None:
            continue
        without = _seconds({**limits, name: items if name == "max_concurrent" else None}, items, latency, tokens)
        if without * _NO_MATTER < fastest:
            best, fastest = name, without
    return Forecast(seconds, best, fastest)


def _seconds(limits: dict[str, Any], items: int, latency: float, tokens: int) -> float:
    async def main() -> float:
        limiter = RateLimiter(
            limits["max_concurrent"], limits["max_per_minute"], max_tokens_per_window=limits["max_tokens_per_minute"]
        )
        loop = asyncio.get_running_loop()
        ended = 0.0

        def end() -> None:
            nonlocal ended
            limiter.release()
            ended = loop.time()

        for _ in range(items):
            await limiter.acquire(tokens=tokens)
            loop.call_later(latency, end)
        await asyncio.sleep(latency)
        return ended

    return round(run_virtual(main()), 3)

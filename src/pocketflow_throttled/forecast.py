"""Forecast: how long a batch will take under given limits and what holds it back, before a cent is spent.

Pure arithmetic. Calls are equal and start in order, so call number i starts as soon as the call before it has, the one that
used its slot has ended, and the ones that filled its windows have left them: the times at which `RateLimiter` grants them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .validation import check_count, check_optional_count, check_seconds

_LIMITS = ("max_concurrent", "max_per_minute", "max_tokens_per_minute")
_MINUTE = 60.0
_COUNTED = 1_000_000  # calls one by one; whatever comes after keeps the pace of the slowest limit
_NO_MATTER = 1.02  # lifting a limit that saves less than this changes nothing

_Gap = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a batch will take.

    Attributes:
        seconds: from its start to the end of its last call.
        limited_by: the setting that holds it back most; several, if only lifting all of these makes it faster; empty: none
            does, each call just takes its time.
        seconds_without: what it would take if those were lifted.
    """

    seconds: float
    limited_by: tuple[str, ...]
    seconds_without: float


def forecast(settings: dict[str, Any], *, items: int, latency: float, tokens: int = 0) -> Forecast:
    """Return what a batch of equal calls takes under the settings of a node.

    Args:
        settings: `max_concurrent`, `max_per_minute`, `max_tokens_per_minute` and `max_burst`, as a preset has them; None: no
            limit.
        items: calls in the batch.
        latency: seconds that a call takes.
        tokens: tokens that a call costs.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and its value.

    Example:
        >>> forecast({"max_concurrent": 2, "max_per_minute": None}, items=10, latency=1.0)
        Forecast(seconds=5.0, limited_by=('max_concurrent',), seconds_without=1.0)
    """
    check_count("items", items)
    check_seconds("latency", latency, positive=False)
    check_count("tokens", tokens, least=0)
    gaps = _gaps(settings, latency, tokens)
    seconds = _seconds(gaps, items, latency)
    for together in range(1, len(gaps) + 1):
        without, lifted = min(
            (_seconds({name: gap for name, gap in gaps.items() if name not in some}, items, latency), some)
            for some in combinations(gaps, together)
        )
        if without * _NO_MATTER < seconds:
            return Forecast(round(seconds, 3), lifted, round(without, 3))
    return Forecast(round(seconds, 3), (), round(seconds, 3))


def _gaps(settings: dict[str, Any], latency: float, tokens: int) -> dict[str, list[_Gap]]:
    """Return each limit as distances: so many calls further, a call starts so many seconds later at the earliest."""
    slots, starts, allowed = (check_optional_count(name, settings.get(name)) for name in _LIMITS)
    burst = check_optional_count("max_burst", settings.get("max_burst"))
    gaps: dict[str, list[_Gap]] = {}
    if slots is not None:
        gaps["max_concurrent"] = [(slots, latency)]
    if starts is not None:
        gaps["max_per_minute"] = [(starts, _MINUTE)] + ([] if burst is None else [(burst, _MINUTE * burst / starts)])
    if allowed is not None and tokens:
        gaps["max_tokens_per_minute"] = [(max(1, allowed // tokens), _MINUTE)]  # one larger than the window runs alone
    return gaps


def _seconds(limits: dict[str, list[_Gap]], items: int, latency: float) -> float:
    counted = min(items, _COUNTED)
    gaps = [gap for some in limits.values() for gap in some]
    # Each line holds the times from which the next calls may start, one for each call that has not been followed yet.
    lines = [(deque([0.0] * distance), later) for distance, later in gaps if distance < counted]
    start = 0.0
    for _ in range(counted):
        for line, _ in lines:
            start = max(start, line.popleft())
        for line, later in lines:
            line.append(start + later)
    pace = max((later / distance for distance, later in gaps), default=0.0)
    return start + (items - counted) * pace + latency

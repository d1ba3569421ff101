"""Refill: what a server counts of tokens whose limit comes back bit by bit, or all at once, and not as in a log of the calls.

It is never more than the log has. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .counting import Way
    from .token_window import Spend

Step = tuple[float, int]  # at a time, so many tokens more, or less


def in_bucket(spends: Iterable[Spend], way: Way, *, moments: tuple[float, float], rate: float) -> float:
    """Return what is used of a bucket that fills at `rate` a second, at that of two moments at which it is less.

    Args:
        spends: what was booked, the oldest first.
        way: how a server counts.
        moments: in seconds.
        rate: tokens a second.
    """
    return min(_in_bucket(spends, way, moment, rate) for moment in moments)


def _in_bucket(spends: Iterable[Spend], way: Way, moment: float, rate: float) -> float:
    used, at = 0.0, -math.inf
    for spend in spends:
        if spend.time > moment:
            break
        if not spend.is_refused:
            used = max(0.0, used - (spend.time - at) * rate) + _counted(spend, way)
            at = spend.time
    return max(0.0, used - (moment - at) * rate)


def steps_in_bucket(steps: Iterable[Step], sure: float, now: float, rate: float) -> float:
    """Return what is used at least of a bucket, by what was added until one moment and taken off until a later one."""
    used, at = 0.0, -math.inf
    for time, amount in steps:
        if amount < 0 or time <= sure:
            used = max(0.0, used - (time - at) * rate + amount) if at > -math.inf else max(0.0, amount)
            at = time
    return max(0.0, used - (now - at) * rate)


def in_fixed_window(spends: Iterable[Spend], began_at: float, until: float, way: Way) -> float:
    """Return what is used of a window that began at a time, by calls that started by another."""
    return sum(_counted(spend, way) for spend in spends if began_at <= spend.time <= until and not spend.is_refused)


def _counted(spend: Spend, way: Way) -> int:
    return spend.cost + spend.more()[way]

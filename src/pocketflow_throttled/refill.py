"""Refill: what a server counts of tokens whose limit comes back bit by bit, or all at once, and not as in a log of the calls.

It is never more than the log has. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .counting import Way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .token_window import Spend

Step = tuple[float, int]  # at a time, so many tokens more, or less


class Buckets:
    """What is used at least of a bucket that counts what calls may cost at most.

    It is kept up to date as calls start and end. So a look at it takes no look at every call, and what was taken more than a
    window ago still counts.

    Example:
        >>> from pocketflow_throttled.counting import Way
        >>> from pocketflow_throttled.token_window import Spend
        >>> buckets, spend = Buckets(), Spend(time=0.0, cost=100, estimated=300)
        >>> buckets.start(spend, limit=600, rate=10.0)
        >>> buckets.end(spend, cost=120)
        >>> buckets.used(Way.SETTLED, now=10.0, rate=10.0), buckets.used(Way.ESTIMATE, now=10.0, rate=10.0)
        (20.0, 200.0)
    """

    __slots__ = ("_at", "_kept", "_settled")

    def __init__(self) -> None:
        self._at = 0.0  # seconds
        self._kept = self._settled = 0.0  # used then: where estimates are kept, and where calls settle as they end

    def used(self, way: Way, now: float, rate: float) -> float:
        """Return what is used at a time of a bucket that fills at `rate` a second, if a server counts in one way."""
        return self._left_over(self._kept if way is Way.ESTIMATE else self._settled, now, rate)

    def _left_over(self, used: float, now: float, rate: float) -> float:
        return max(0.0, used - max(0.0, now - self._at) * rate)

    def start(self, spend: Spend, limit: int, rate: float) -> None:
        """Add what a call takes that starts: no more than there is room for, unless it is refused."""
        counted = spend.estimated or spend.cost
        self._kept = min(limit, self._left_over(self._kept, spend.time, rate) + counted)
        self._settled = min(limit, self._left_over(self._settled, spend.time, rate) + counted)
        self._at = spend.time

    def end(self, spend: Spend, cost: int) -> None:
        """Settle a call that ends, by what it cost."""
        more = cost - (spend.estimated or spend.cost)
        self._kept = max(0.0, self._kept + (max(0, more) if spend.estimated else more))
        self._settled = max(0.0, self._settled + more)

    def take_back(self, spend: Spend) -> None:
        """Take back a call that took nothing, or of which nobody knows any more."""
        counted = spend.estimated or spend.cost
        self._kept, self._settled = max(0.0, self._kept - counted), max(0.0, self._settled - counted)


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

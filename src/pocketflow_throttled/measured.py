"""Measured: what a server counts of calls for each token that was estimated, by what its answers say is used. Pure.

Some answers tell what was used as their call arrived, its own share included. By those of calls that started together, one call
after another was counted: from the least that they tell to the most, it is all of them but the first.

If answers told of the moment when calls end, they would tell of all that started together, and ever more of it. So the least must
be hardly anything, and some must tell of less than those before them. If others had taken a part meanwhile, the steps from one to
the next would not be alike.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .token_window import Spend

_TOGETHER = 1 / 60  # of the window: calls that start within it
_FEWEST = 5  # calls
_HARDLY = 0.2  # of the most that is told
_FALLS = 2  # times that an answer tells of less than the one before; once it may be as a window has passed
_FALLEN = 0.05  # of the most, at least
_LARGEST = 2.0  # times the average, at most, is the largest step
_ROUNDED, _ROUNDINGS = 1000, 15  # tokens, to which some round what they tell; so many of these, at least, are measured then
_ALIKE = 1.25  # times as much, or as little, is as much: so far, estimates that are wrong do little harm
_FARTHEST = 100.0  # times, by which estimates may be off


class Measured:
    """What a server counts of calls for each token that was estimated.

    Args:
        seconds: length of the window.

    Attributes:
        ratio: that, on average; None: it is not known, or about what was estimated, or what the calls cost.

    Example:
        >>> from pocketflow_throttled.token_window import Spend
        >>> measured, spends = Measured(60.0), [Spend(0.0, 500, estimated=500) for _ in range(6)]
        >>> for spend in spends:
        ...     measured.started(spend)
        >>> for used in (4500, 1500, 7500, 3000, 9000, 6000):
        ...     measured.told(used, started=0.0)
        >>> [measured.ended(spend, now=4.0, cost=700) for spend in spends][-1], measured.ratio
        (True, 3.0)
    """

    __slots__ = (
        "_before",
        "_calls",
        "_cost",
        "_estimated",
        "_seconds",
        "_since",
        "_told",
        "_under_way",
        "_until",
        "ratio",
    )

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.ratio: float | None = None
        self._before = 0.0  # what was measured before
        self._under_way: dict[Spend, int] = {}  # what was estimated of those that have not ended
        self._told: list[int] = []
        self._begin()

    def _begin(self) -> None:
        self._under_way.clear()
        self._told.clear()
        self._since, self._until = math.inf, -math.inf  # the first and the last start of calls that start together
        self._calls = self._estimated = self._cost = 0

    def of(self, estimated: int) -> int:
        """Return what a server counts of a call that is estimated at so much, as far as that is known."""
        return estimated if self.ratio is None or not estimated else max(1, round(self.ratio * estimated))

    def started(self, spend: Spend) -> None:
        """Take note of a call that starts."""
        if not self._under_way and spend.time > self._since + _TOGETHER * self._seconds:
            self._begin()
        self._since = min(self._since, spend.time)
        if spend.time <= self._since + _TOGETHER * self._seconds:
            self._until = spend.time
            self._under_way[spend] = spend.estimated
            self._calls += 1
            self._estimated += spend.estimated

    def told(self, used: int, started: float) -> None:
        """Take note of what an answer says is used, whose call started at a time. Minus infinity: before any had told."""
        if self._since <= started <= self._until or started == -math.inf:
            self._told.append(used)

    def ended(self, spend: Spend, now: float, cost: int, *, is_served: bool = True) -> bool:
        """Take note of the end of a call, or that it was not served; return whether the ratio is known since."""
        if spend not in self._under_way:
            return False
        estimated = self._under_way.pop(spend)
        if is_served:
            self._cost += cost
        else:
            self._calls -= 1
            self._estimated -= estimated
        if self._under_way or now <= self._since + _TOGETHER * self._seconds:
            return False
        was_known = self.ratio is not None
        if self._calls >= _FEWEST and len(self._told) == self._calls and self._estimated:
            self._measure()
        self._begin()
        return not was_known and self.ratio is not None

    def _measure(self) -> None:
        told = sorted(self._told)
        least, most, steps = told[0], told[-1], len(told) - 1
        falls = sum(before - after > _FALLEN * most for before, after in pairwise(self._told))
        largest = max(after - before for before, after in pairwise(told))
        if not 0 < least <= _HARDLY * most or falls < _FALLS or largest > _LARGEST * (most - least) / steps:
            return
        if all((used - least) % _ROUNDED == 0 for used in told) and most - least < _ROUNDINGS * _ROUNDED:
            return
        measured = (most - least) / steps * len(told) / self._estimated
        before, self._before = self._before, measured
        known = (self.ratio or 1.0, self._cost / self._estimated)
        is_news = measured <= _FARTHEST and not any(_are_alike(measured, each) for each in known)
        if is_news and (self.ratio is None or _are_alike(measured, before)):
            self.ratio = measured


def _are_alike(one: float, other: float) -> bool:
    return other / _ALIKE <= one <= other * _ALIKE

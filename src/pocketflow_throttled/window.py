"""Sliding windows: what was granted lately, and when more will fit.

Pure: `now` is an argument, in seconds of whatever clock the caller uses. No asyncio, no waiting.

A window log is exact where buckets are not: a bucket that holds a full minute admits twice the limit in its first minute,
a log of the grants admits `limit` in *any* `seconds`.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress


class SlidingWindow:
    """At most `limit` starts in any `seconds`.

    Args:
        limit: starts allowed in any one window.
        seconds: length of the window.

    Example:
        >>> window = SlidingWindow(limit=1, seconds=60.0)
        >>> window.add(now=0.0)
        >>> window.fits(now=59.9), window.opens_at(), window.fits(now=60.0)
        (False, 60.0, True)
    """

    __slots__ = ("limit", "seconds", "times")

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.times: deque[float] = deque()

    def fits(self, now: float) -> bool:
        """Return whether one more start is allowed at `now`; forgets what has left the window."""
        times = self.times
        if len(times) < self.limit:
            return True
        while times and times[0] + self.seconds <= now:
            times.popleft()
        return len(times) < self.limit

    def opens_at(self) -> float:
        """Return when the next start fits, if none does now."""
        return self.times[-self.limit] + self.seconds

    def add(self, now: float) -> None:
        """Stamp a start."""
        self.times.append(now)

    def insert(self, stamp: float, count: int) -> None:
        """Stamp `count` starts of others, at a time that may lie before the last stamp."""
        self.times = deque(sorted((*self.times, *(stamp for _ in range(count)))))

    def remove(self, stamp: float) -> None:
        """Take back the stamp of a start that was never sent."""
        with suppress(ValueError):  # it may have left the window already
            self.times.remove(stamp)

    def used(self, now: float) -> int:
        """Return how many starts are in the window at `now`. Reading forgets nothing."""
        used = len(self.times)
        for stamp in self.times:
            if stamp + self.seconds > now:
                break
            used -= 1
        return used


class Spend:
    """Tokens booked at a time; the cost may be corrected while it is in its window."""

    __slots__ = ("cost", "in_window", "time")

    def __init__(self, time: float, cost: int) -> None:
        self.time = time
        self.cost = cost
        self.in_window = True


class TokenWindow:
    """At most `limit` tokens in any `seconds`; one request larger than that runs alone.

    Spending more than was booked is debt: `used` then exceeds `limit`, and nothing fits until enough has expired.

    Args:
        limit: tokens allowed in any one window.
        seconds: length of the window.

    Example:
        >>> window = TokenWindow(limit=100, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=80)
        >>> window.fits(now=1.0, cost=30)
        False
        >>> window.correct(spend, cost=70)
        >>> window.fits(now=1.0, cost=30)
        True
    """

    __slots__ = ("_total", "limit", "seconds", "spends")

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.spends: deque[Spend] = deque()
        self._total = 0

    def fits(self, now: float, cost: int) -> bool:
        """Return whether `cost` more tokens are allowed at `now`; forgets what has left the window."""
        spends = self.spends
        while spends and spends[0].time + self.seconds <= now:
            spend = spends.popleft()
            spend.in_window = False
            self._total -= spend.cost
        return cost == 0 or self._total + min(cost, self.limit) <= self.limit

    def opens_at(self) -> float:
        """Return when the oldest spend leaves, the next moment at which anything changes by itself."""
        return self.spends[0].time + self.seconds

    def add(self, now: float, cost: int) -> Spend:
        """Book `cost` tokens and return the entry, to be corrected or removed."""
        spend = Spend(now, cost)
        self.spends.append(spend)
        self._total += cost
        return spend

    def insert(self, time: float, cost: int) -> Spend:
        """Book tokens at a time that may lie before the last entry, and return the entry."""
        spends = self.spends
        place = len(spends)
        while place and spends[place - 1].time > time:
            place -= 1
        spend = Spend(time, cost)
        spends.insert(place, spend)
        self._total += cost
        return spend

    def correct(self, spend: Spend, cost: int) -> None:
        """Set what a booked request really cost; without effect once it has left the window."""
        if spend.in_window:
            self._total += cost - spend.cost
            spend.cost = cost

    def clear(self) -> None:
        """Forget every spend."""
        for spend in self.spends:
            spend.in_window = False
        self.spends.clear()
        self._total = 0

    def used(self, now: float) -> int:
        """Return how many tokens are in the window at `now`. Reading forgets nothing."""
        used = self._total
        for spend in self.spends:
            if spend.time + self.seconds > now:
                break
            used -= spend.cost
        return used

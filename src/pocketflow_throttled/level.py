"""Level: what is in a small bucket, and how much of it others take, by what a server says is left.

Pure. A bucket that holds as much as comes back in a few seconds is full or empty long before a window tells. So it is simulated
from one answer to the next: what is missing then has been taken by others, and no more is started than they leave.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .gate import Hold
from .on_the_way import UNCOUNTED

if TYPE_CHECKING:
    from .window import SlidingWindow

_KEPT_SECONDS, _KEPT_CALLS = 10.0, 50  # for how long, and as of how many calls, it is remembered what others took
_KNOWN = 0.3  # of that time, from which on it is known
_CLEARLY = 0.06  # of what comes back, that others take: less may be calls that arrive in another order
_DEVIATIONS = 3  # of what others take at random, that are kept in the bucket
_MOST_KEPT = 0.5  # of what it holds, however much others take at random
_SOON = 1.5  # seconds, in which what is left beyond that is used
_SLOWEST = 0.1  # of what comes back, that is started however much others take
_SEVERAL = 2  # in a bucket: of fewer, others take any or none


class Level:
    """The level of a bucket. Answers may tell of the moment when their calls started, or of that when they were sent.

    Each has a track, by which levels are predicted; that which predicts the lower one counts.
    """

    __slots__ = ("_by_end", "_by_start")

    def __init__(self) -> None:
        self._by_start, self._by_end = _Track(), _Track()

    def refused(self, started: float) -> None:
        """Learn that a call was refused: it took nothing."""
        for track in (self._by_start, self._by_end):
            track.refused(started)

    def learn(self, now: float, started: float | None, left: int, window: SlidingWindow, *, rate: float, most: int) -> None:
        """Learn from an answer.

        Args:
            now: seconds, as all times are.
            started: when its call did, if that is known.
            left: what it says.
            window: of the starts.
            rate: how fast the bucket fills, each second.
            most: there ever is left.
        """
        self._by_end.learn(now - UNCOUNTED, left, window, rate, most)
        if started is not None:
            self._by_start.learn(started, left, window, rate, most + 1)  # its own is taken off

    def hold(self, now: float, window: SlidingWindow, *, rate: float, most: int, is_blamed: bool) -> Hold | None:
        """Return how to hold back starts from now on; None: it is not known yet what others take.

        Args:
            now: seconds.
            window: of the starts.
            rate: how fast the bucket fills, each second.
            most: there ever is left.
            is_blamed: whether others are to blame for refusals; else they take nothing.
        """
        tracks = [track for track in (self._by_start, self._by_end) if track.time > -math.inf]
        known = [others for track in tracks if (others := track.others(rate)) is not None]
        if not known:
            return None
        others = max(known)
        if not is_blamed or most < _SEVERAL or others < _CLEARLY * rate:
            others = 0.0
        free = max(_SLOWEST * rate, rate - others)
        left = min(track.left(now, others, free, window, most) for track in tracks)
        return Hold(left, free, 1 / (free + max(0.0, left - 1) / _SOON), most, is_shared=others > 0)


class _Track:
    """Levels that were told of certain moments, and what is known by them."""

    __slots__ = ("_seconds", "_taken", "level", "time")

    def __init__(self) -> None:
        self.time, self.level = -math.inf, 0.0
        self._taken = self._seconds = 0.0  # sums: what others took, and in which time

    def others(self, rate: float) -> float | None:
        """Return what others take in a second; None: that is not known yet."""
        return max(0.0, self._taken / self._seconds) if self._seconds > _KNOWN * _remembered(rate) else None

    def refused(self, started: float) -> None:
        """Correct what was taken, if a call was thought to have taken one which it did not."""
        if started <= self.time:
            self._taken += 1

    def left(self, now: float, others: float, free: float, window: SlidingWindow, most: int) -> float:
        """Return how many may be started now, others' share and what they may take at random aside."""
        age = now - self.time
        level = self.level + free * age - window.count_served_between(self.time, now)
        return min(most, max(0.0, level)) - min(_MOST_KEPT * most, _DEVIATIONS * math.sqrt(others * (age + UNCOUNTED)))

    def learn(self, time: float, left: int, window: SlidingWindow, rate: float, most: int) -> None:
        """Learn what was left at a time, unless that is old."""
        if time <= self.time:
            return
        before, self.time = self.time, time
        level, self.level = self.level, left
        if before == -math.inf:
            return
        at = before
        for start in window.served_between(before, time):
            level = min(most, level + rate * (start - at)) - 1
            at = start
        taken, seconds = min(most, level + rate * (time - at)) - left, time - before
        kept = math.exp(-seconds / _remembered(rate))
        self._taken = self._taken * kept + taken
        self._seconds = self._seconds * kept + seconds


def _remembered(rate: float) -> float:
    return max(_KEPT_SECONDS, _KEPT_CALLS / rate)

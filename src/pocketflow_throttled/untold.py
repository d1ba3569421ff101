"""Untold: what a server does not say of its limits, learned from what it says: how long windows are, and what moment it tells of.

Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .headers import Quota

SHORT = 10.0  # seconds: by which APIs look at a limit a minute
FULL_SECOND = 1.0  # a reset that is told to the second and is now may be almost as far away
ALIKE = 0.8  # what differs by less than that is the same, as told by a clock or a full second
_SHORTEST_WINDOW = 1e-3
_SMALL = 0.25  # of a limit
_SINGLE, _A_FEW = 1, 3  # left at most, after a call was served, as so many answers told: there never was room for several
# So many answers, between which so many times as much was used, tell how fast it comes back. A reset may be off by such a part.
_TOLD, _APART, _OFF = 5, 2, 0.02
_KEPT = 0.95  # of what is known, after each answer: the last twenty or so count
_TELLING = 5.0  # calls that one of the moments must be off, to tell them apart
_CLEARLY = 0.5  # as a part, how much less the right one is off
# Seconds that the end of a window may seem to move, as told to a full second and by calls on their way; and by which a call
# starts later than one that told it, whose telling the same proves that it does not move with what is used.
_SAME_END, _LATER = 1.2, 2.5
_ALWAYS = 1e-6  # seconds: who tells the same each time may tell it of any window
_MOVED = 5  # times that an end has moved: then it is none of a fixed window


class Span:
    """How long a window is of which the server tells no length.

    If the limit comes back bit by bit, `reset` is the part of the window that is used: so its length follows from any answer, and
    some that tell the same length by different parts give that away. If it comes back at once, `reset` counts down from it.
    Either way no reset is longer than the window, and none with little left makes it longer than `reset * limit / used`. Until
    more is known, the default will do.

    Some servers tell in `reset` when the next single call fits, or the next token. By what they say, that looks like a window
    which is much shorter: only that they refuse what would fit it gives them away.
    """

    __slots__ = (
        "_answers",
        "_fastest",
        "_least",
        "_least_used",
        "_limit",
        "_most",
        "_most_left",
        "_most_used",
        "_served",
        "_slowest",
        "is_of_one",
    )

    def __init__(self) -> None:
        self._forget(0)

    def _forget(self, limit: int) -> None:
        self._limit = limit
        self._least, self._most = 0.0, math.inf
        self._answers = 0  # that tell how fast it comes back, if it does so bit by bit ...
        self._fastest, self._slowest = 0.0, math.inf  # ... as bounds, in seconds for all of it
        self._least_used, self._most_used = math.inf, 0
        self.is_of_one = False  # whether resets tell of the next single call or token
        self._most_left: int | None = None  # that was told of this limit when a call was served, or was served at once
        self._served = 0  # answers that told how much is left

    def served(self, quota: Quota, at_once: int) -> None:
        """Learn from what is left after a call was served, `at_once` with so many others at least."""
        if quota.remaining is not None:
            if quota.limit is not None and quota.limit != self._limit:
                self._forget(quota.limit)
            self._most_left = max(self._most_left or 0, quota.remaining, at_once)
            self._served += 1

    @property
    def is_small(self) -> bool:
        """Whether there never is much of the limit left: so it is a bucket that holds less, and fills as fast."""
        return self._most_left is not None and self._most_left <= _SMALL * self._limit

    @property
    def is_single(self) -> bool:
        """Whether that is so little, by a few answers, that nothing is gained by calls which start together."""
        return self.is_small and self.most_left <= _SINGLE and self._served >= _A_FEW

    @property
    def most_left(self) -> int:
        """The most that ever was left after a call was served, or was served at once."""
        return self._most_left or 0

    def may_be_small(self, at_once: int | None, limit: int) -> bool:
        """Whether it is such a bucket, or may be one that holds as many as may start at once.

        That is so if there never was more left; where no served call has told, if they are few.
        """
        if at_once is None or at_once >= limit:
            return self.is_small
        return at_once <= _SMALL * limit if self._most_left is None else self.is_small or self._most_left <= at_once

    def seconds(self, quota: Quota, default: float) -> float:
        """Return the length in seconds, as far as the quotas told so far say it, and at most the default.

        What is as long but for a full second, the way of an answer or a fixed window that had begun before, is the default.
        """
        limit, remaining, reset = quota.limit, quota.remaining, quota.reset
        if limit is None:
            return default
        if limit != self._limit:
            self._forget(limit)
        if reset is not None and not quota.is_guess:
            self._least = max(self._least, reset)
            if remaining is not None and remaining <= limit / 4:
                self._most = min(self._most, (reset or FULL_SECOND) * limit / (limit - remaining))
            if remaining is not None and remaining < limit and not quota.is_date:
                self._learn_speed(reset, limit - remaining)
        if self.is_of_one:
            seconds = (self._least or FULL_SECOND) * limit
        else:
            seconds = max(self._least, self._slowest if self.comes_back_evenly else self._most)
        return default if seconds >= ALIKE * default else max(_SHORTEST_WINDOW, seconds)

    def _learn_speed(self, reset: float, used: int) -> None:
        off = FULL_SECOND if reset.is_integer() else _OFF * reset
        self._answers += 1
        self._fastest = max(self._fastest, (reset - off) * self._limit / used)
        self._slowest = min(self._slowest, (reset + off) * self._limit / used)
        self._least_used, self._most_used = min(self._least_used, used), max(self._most_used, used)

    @property
    def comes_back_evenly(self) -> bool:
        """Whether what is used is known to come back bit by bit, as in a bucket."""
        is_known = self._answers >= _TOLD and self._most_used >= _APART * self._least_used
        return is_known and self._fastest <= self._slowest <= self._fastest / ALIKE

    def tells_of_one(self, quota: Quota, rate: float) -> bool:
        """Whether the reset tells of the next single call, since what is back by then, at `rate` a second, is far from all."""
        filled = (quota.remaining or 0) + ((quota.reset or 0.0) + FULL_SECOND) * rate
        return self.is_of_one or (self._least <= SHORT and filled < ALIKE * (self._most_left or 0))

    @property
    def longest(self) -> float:
        """Return the longest reset that was told of this limit, in seconds."""
        return self._least


class Moment:
    """What answers tell of: the moment when their calls arrived, or that when they were sent.

    What others have used changes little from one answer to the next, and that is what is left when one's own count is taken off,
    if it is the count of the right moment. By that of the other one it jumps, since calls differ in the time they take.

    Attributes:
        is_start: whether they are known to tell of the start.
        is_end: whether they are known to tell of the end.

    Example:
        >>> moment = Moment()
        >>> for others_if_start, others_if_end in [(3, 0), (3, -9), (4, 2), (3, -7)]:
        ...     moment.learn(others_if_start, others_if_end)
        >>> moment.is_start, moment.is_end
        (True, False)
    """

    __slots__ = ("_by_end", "_by_start", "_off_by_end", "_off_by_start", "is_end", "is_start")

    def __init__(self) -> None:
        self.is_start = self.is_end = False
        self._by_start: int | None = None  # what others had used by the last answer
        self._by_end = 0
        self._off_by_start = self._off_by_end = 0.0

    def learn(self, by_start: int, by_end: int) -> None:
        """Learn from what others have used by an answer, if it tells of the start of its call, and if it tells of its end."""
        if self._by_start is not None:
            self._off_by_start = self._off_by_start * _KEPT + abs(by_start - self._by_start)
            self._off_by_end = self._off_by_end * _KEPT + abs(by_end - self._by_end)
            if max(self._off_by_start, self._off_by_end) > _TELLING:
                if self._off_by_start < _CLEARLY * self._off_by_end:
                    self.is_start, self.is_end = True, False
                elif self._off_by_end < _CLEARLY * self._off_by_start:
                    self.is_start, self.is_end = False, True
        self._by_start, self._by_end = by_start, by_end


class Boundary:
    """Where a fixed window ends: resets count down to a moment that does not move with what is used, as no other window's does.

    Example:
        >>> boundary = Boundary()
        >>> boundary.learn(started=0.0, answered=1.0, end=40.0, used=1, seconds=60.0)
        >>> boundary.learn(started=4.0, answered=5.0, end=40.0, used=2, seconds=60.0)
        >>> boundary.end
        40.0
    """

    __slots__ = ("_answered", "_end", "_is_fixed", "_moved", "_used", "_waits")

    def __init__(self) -> None:
        self._end = self._answered = -math.inf  # the earliest that was told of this window, and when first
        self._used = 0  # by then
        self._is_fixed = False
        self._moved = 0  # times, by no whole window
        self._waits = -math.inf, -math.inf  # seconds that were told last, from the start of the call and from the answer on

    def began_at(self, now: float, seconds: float) -> float | None:
        """Return when the window of `seconds` began, minus infinity if that is not known; None: it is known not to be fixed."""
        if self._is_fixed and now < self._end:
            return self._end - seconds
        return None if self._moved >= _MOVED else -math.inf

    @property
    def end(self) -> float | None:
        """When the window ends, in seconds; None: it is not known to be fixed."""
        return self._end if self._is_fixed else None

    def turned_at(self, now: float, seconds: float) -> float:
        """Return when a window of `seconds` ended last; minus infinity: it is not known to be fixed."""
        return self._end + math.floor((now - self._end) / seconds) * seconds if self._is_fixed else -math.inf

    def learn(self, started: float, answered: float, end: float, used: int, *, seconds: float, is_sure: bool = True) -> None:
        """Learn from an answer.

        Args:
            started: when its call did, in seconds.
            answered: when it is here.
            end: of the window, as it tells.
            used: of the limit.
            seconds: length of the window.
            is_sure: whether the end is no other if the answer tells of another moment.
        """
        if self._is_fixed:  # then other windows may have ended since
            self._end += round((end - self._end) / seconds) * seconds
        waits = end - started, end - answered
        is_always = any(abs(wait - before) <= _ALWAYS for wait, before in zip(waits, self._waits, strict=True))
        self._waits = waits
        if abs(end - self._end) > _SAME_END:
            if self._end > -math.inf and is_sure and not is_always:
                self._moved += abs(math.remainder(end - self._end, seconds)) > _SAME_END
            self._end, self._answered, self._used, self._is_fixed = end, answered, used, False
        else:
            self._end = min(self._end, end)
            self._is_fixed = self._is_fixed or (started >= self._answered + _LATER and used > self._used)

"""Span: how long the window is of a limit whose length no header names, and whether it is a small bucket. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .headers import Quota

SHORT = 10.0  # seconds: by which APIs look at a limit a minute
FULL_SECOND = 1.0  # a reset that is told to the second and is now may be almost as far away
ALIKE = 0.8  # what differs by less than that is the same, as told by a clock or a full second
_SHORTEST_WINDOW = 1e-3
_SMALL = 0.25  # of a limit: a bucket of which there never is more left
_LITTLE = (
    0.25  # of a limit: with no more left, `reset * limit / used` is hardly longer than the window, by whatever rule it resets
)
_SINGLE, _A_FEW = 1, 3  # left at most, after a call was served, as so many answers told: there never was room for several
# So many answers, between which so many times as much was used, tell how fast it comes back. A reset may be off by such a part.
_TOLD, _APART, _OFF = 5, 2, 0.02


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
            if remaining is not None and remaining <= _LITTLE * limit:
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

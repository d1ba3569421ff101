"""The bucket of tokens: a server may hold fewer than a limit a minute, and refill them evenly. Pure: times are in seconds."""

from __future__ import annotations

import math

from .once import Once

# Calls do not arrive as evenly as they start. So each refused call makes the bucket hold less, by _LESS of it. Each call that is
# served though the bucket then lacks more than _CLOSE of what it holds makes it hold more. That settles where one of _ONE_IN such
# calls is refused.
_LESS, _ONE_IN, _CLOSE = 0.15, 200, 0.8
# It holds at least what a refused call takes. Where it holds no more, calls wait longer instead: _LATE seconds at first, _LATER
# times as long with each refusal, _SOONER times as long with each such call that is served.
_LATE, _LATER, _SOONER = 0.05, 1.5, 0.996
_ROUNDING = 1e-6


class TokenBucket:
    """What a server has left of a bucket, if it has one.

    Args:
        holds: tokens, as far as is known.
        rate: tokens that it gets back in a second.

    Attributes:
        holds: as given, and as that is learned.
        late: seconds for which a call waits beyond the moment when it has room, as learned.
        opens_at: when what did not fit last will.

    Example:
        >>> bucket = TokenBucket(holds=150, rate=10.0)
        >>> bucket.take(now=0.0, cost=100)
        False
        >>> bucket.fits(now=1.0, cost=100), bucket.opens_at
        (False, 5.0)
    """

    __slots__ = ("_at", "_full_at", "_lacks", "_once", "holds", "late", "opens_at", "rate")

    def __init__(self, holds: float, rate: float) -> None:
        self.holds, self.rate = holds, rate
        self.late = 0.0
        self.opens_at = math.inf
        self._lacks, self._at = 0.0, -math.inf  # tokens, and at which time
        self._full_at = -math.inf  # the last time at which it was full
        self._once = Once()

    def lacks(self, now: float) -> float:
        """Return how many tokens it lacks; less than none, if it has been full for a while."""
        return max(-self.late * self.rate, self._lacks - max(0.0, now - self._at) * self.rate)

    def fits(self, now: float, cost: int) -> bool:
        """Return whether it has `cost` tokens at `now`; else `opens_at` tells when it will.

        A call that costs more than it holds starts when it is full.
        """
        over = self.lacks(now) + self.late * self.rate + min(0.0, cost - self.holds)
        if over <= _ROUNDING * self.holds:
            self.opens_at = math.inf
            return True
        self.opens_at = now + over / self.rate
        return False

    def take(self, now: float, cost: int) -> bool:
        """Take what a call costs, and return whether that is close to what it holds."""
        lacks = self.lacks(now)
        if lacks <= 0:
            self._full_at = now
        self._lacks, self._at = max(0.0, lacks) + cost, max(self._at, now)
        return self._lacks > _CLOSE * self.holds

    def change(self, time: float, more: int) -> None:
        """Take more, or less, for a call that started at a time. It makes no difference if it was full since then."""
        if time >= self._full_at:
            self._lacks += more

    def served(self) -> None:
        """Learn that a call was served that was close to what it holds."""
        self.holds *= 1 + _LESS / _ONE_IN
        self.late *= _SOONER

    def refused(self, started: float, cost: int, last_started: float) -> None:
        """Learn that a call was refused; once for all that started by `last_started`."""
        if self._once.is_new(started, last_started):
            less = (1 - _LESS) * self.holds
            if less < cost:
                self.late = max(_LATE, _LATER * self.late)
            self.holds = max(cost, less)

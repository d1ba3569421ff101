"""The part of a window of tokens: what a server allows in less time than a limit is given for.

Pure: times are in seconds. It may keep a window of that time, a slice, or a bucket that fills in it. Who waits for room in a
slice never empties the bucket. But where it has room for one call and a half, one call starts in it, and a third of the limit
is lost. So a call for which only the bucket has room is tried, one at a time, until it is known which of them the server has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .once import Once
from .token_bucket import TokenBucket
from .token_window import Spend, TokenWindow

if TYPE_CHECKING:
    from collections.abc import Iterable

# Tries are _GAP seconds apart, or _OF_SLICE of the slice if that is less, so that a refusal is back before the next. _PROVEN
# served with none refused prove a bucket. Since calls are some time on their way, only those count that a slice of _CLEARLY of
# the length would refuse too.
_GAP, _OF_SLICE, _PROVEN, _CLEARLY = 1.0, 0.5, 6, 0.8
# A refused try delays the next by _NEXT_TRY of a window, each further one by _LONGER times as much. The bucket is then taken to
# hold less by _LESS.
_NEXT_TRY, _LONGER, _LESS = 0.5, 3.0, 0.15
# It is no bucket if it seems to hold less than _LEAST of what it held when it was found, or makes calls wait for _LATEST seconds.
_LEAST, _LATEST = 0.5, 0.5
# The server counts estimates if it refuses _MISFITS calls with room, each after one was served, and the estimate of the last is
# more than _TIMES its cost. Each served call takes _FOR_SERVED off the count.
_MISFITS, _FOR_SERVED, _TIMES = 4, 1 / 8, 1.2


class Part:
    """What a server allows in less time.

    Args:
        limit: tokens in a slice.
        seconds: of a slice.
        window: seconds of the whole window.
        is_told: whether headers tell of it: then it is the slice.
        by_estimates: whether estimates are counted for good, as far as they are more than what calls cost.
        before: what was taken for it before.

    Attributes:
        slice: the window of that time.
        is_bucket: whether a server is known to keep a bucket instead.
        is_misfit: whether a server refuses what has room in it, again and again, as if it counted estimates.

    Example:
        >>> part = Part(limit=200, seconds=10.0, window=60.0)
        >>> part.add(Spend(time=0.0, cost=150))
        >>> part.fits(now=1.0, cost=150), part.opens_at(now=1.0)  # a bucket has room for it at 5.0, a slice at 10.0
        (False, 5.0)
        >>> part.fits(now=5.0, cost=150)  # as a try
        True
    """

    __slots__ = (
        "_bucket",
        "_found",
        "_misfits",
        "_once",
        "_served",
        "_try_after",
        "_try_at",
        "_was_served",
        "by_estimates",
        "is_bucket",
        "is_misfit",
        "slice",
    )

    def __init__(
        self,
        limit: int,
        seconds: float,
        window: float,
        *,
        is_told: bool = False,
        by_estimates: bool = False,
        before: Part | None = None,
    ) -> None:
        self.slice = TokenWindow(limit, seconds)
        self._bucket = None if is_told else TokenBucket(limit, limit / seconds)
        self._found = float(limit)  # what the bucket held then
        self.by_estimates = by_estimates
        self.is_bucket = self.is_misfit = False
        self._misfits: float = 0.0 if before is None else before._misfits
        if before is not None and before.by_estimates and not by_estimates:
            self._misfits = _MISFITS - 1  # one more will do
        self._was_served = False  # a call, since the last misfit
        self._served = 0  # tries, since one was refused
        self._try_at = -math.inf
        self._once = Once()  # refused tries
        self._try_after = _NEXT_TRY * window  # the next refused one

    def replay(self, spends: Iterable[Spend]) -> None:
        """Book what has started before. A bucket is taken to hold no more than was served of it at once."""
        most, bucket = 0.0, self._bucket
        for spend in spends:
            spend.of_part = self.slice.add(spend.time, self._counted(spend), self._varies(spend.variance))
            if spend.is_refused:
                self.slice.refuse(spend.of_part)
            elif bucket is not None:
                bucket.take(spend.time, spend.of_part.cost)
                most = max(most, bucket.lacks(spend.time))
        if bucket is not None and most:
            bucket.holds = self._found = min(bucket.holds, most)

    def _counted(self, spend: Spend) -> int:
        return spend.at_most if self.by_estimates else spend.cost

    def _varies(self, variance: int) -> int:
        return 0 if self.by_estimates else variance

    def fits(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`."""
        if self.by_estimates:
            cost = max(cost, estimated)
        bucket, variance = self._bucket, self._varies(variance)
        if bucket is None:
            return self.slice.fits(now, cost, variance)
        if self.is_bucket:
            return bucket.fits(now, cost)
        if self.slice.fits(now, cost, variance):
            return True
        if now < self._try_at:
            bucket.opens_at = self._try_at
            return False
        return bucket.fits(now, cost)

    def opens_at(self, now: float) -> float:
        """Return when what did not fit may do so, or the next moment at which anything changes by itself."""
        opens_at = self.slice.opens_at(now)
        return opens_at if self._bucket is None or self._bucket.opens_at <= now else min(opens_at, self._bucket.opens_at)

    def add(self, spend: Spend) -> None:
        """Book a call that starts."""
        now, cost, variance = spend.time, self._counted(spend), self._varies(spend.variance)
        part, bucket = self.slice, self._bucket
        is_try = bucket is not None and not self.is_bucket and not part.fits(now, cost, variance)
        spend.of_part = start = part.add(now, cost, variance)
        if bucket is not None:
            start.is_close = bucket.take(now, cost)
        if is_try:
            start.is_try = True
            start.is_close = part.served_since(now - _CLEARLY * part.seconds) > part.limit
            self._try_at = now + min(_GAP, _OF_SLICE * part.seconds)

    def insert(self, spend: Spend) -> None:
        """Book a call that has started at a time before the last one."""
        counted = self._counted(spend)
        spend.of_part = self.slice.insert(spend.time, counted)
        if self._bucket is not None:
            self._bucket.change(spend.time, counted)

    def correct(self, spend: Spend, cost: int, *, is_served: bool) -> None:
        """Set what a call really cost; it is still booked in the window at what that was thought to be."""
        bucket, start = self._bucket, spend.of_part
        if start is None:
            return
        before, counted = self._counted(spend), max(cost, spend.estimated) if self.by_estimates and cost else cost
        if bucket is not None and not start.is_refused:
            bucket.change(start.time, counted - before)
            if is_served:
                self._learn(start)
        self.slice.correct(start, counted)

    def _learn(self, start: Spend) -> None:
        assert self._bucket is not None
        self._was_served = True
        self._misfits = max(0.0, self._misfits - _FOR_SERVED)
        if start.is_close:
            if start.is_try:
                self._served += 1
                self.is_bucket = self.is_bucket or self._served >= _PROVEN
            if self.is_bucket:
                self._bucket.served()

    def refuse(self, spend: Spend, last_started: float) -> bool:
        """Learn that a server refused a call, and return whether a bucket may explain that.

        `last_started` is when the last call started by now.
        """
        bucket, start = self._bucket, spend.of_part
        if start is None:
            return False
        is_explained = start.is_try or self.is_bucket
        if bucket is not None and not start.is_refused:
            cost = self._counted(spend)
            bucket.change(start.time, -cost)
            if self.is_bucket:
                bucket.refused(start.time, cost, last_started)
                if bucket.holds < _LEAST * self._found or bucket.late >= _LATEST:
                    self._wait_for_try(start.time)
            elif start.is_try and self._once.is_new(start.time, last_started):
                bucket.holds = max(_LEAST * self._found, (1 - _LESS) * bucket.holds)
                self._wait_for_try(start.time)
            if not start.is_try and self._was_served:
                self._was_served = False
                self._misfits += 1
                self.is_misfit = self._misfits >= _MISFITS and spend.estimated > _TIMES * spend.cost and not self.by_estimates
        self.slice.refuse(start)
        return is_explained

    def drop(self, spend: Spend) -> None:
        """Give back what a call took that a server did not serve, for a reason that tells nothing of what it counts."""
        bucket, start = self._bucket, spend.of_part
        if start is not None and not start.is_refused:
            if bucket is not None:
                bucket.change(start.time, -self._counted(spend))
            self.slice.drop(start)

    def _wait_for_try(self, refused_at: float) -> None:
        self.is_bucket = False
        self._served = 0
        self._try_at = refused_at + self._try_after
        self._try_after *= _LONGER

"""The sliced window of tokens: a server may enforce a limit a minute in a shorter time, as its headers tell, or what it refuses.

Pure. Some enforce 300,000 a minute as 50,000 in ten seconds, or as 5,000 in one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from .counted_window import CountedWindow
from .token_window import Spend, TokenWindow

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = (2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60)  # of the window, which a slice may be: of a minute, whole seconds
# Whether it counts by a sliding window, a fixed one or as a bucket, what a server has served in a slice leaves no room for
# what it refuses. It must be so for such a share of what was refused; calls are so many seconds on their way, or less.
_MOST, _ON_THE_WAY = 0.75, 0.3
# What refused may have been a server that was down, or others: a slice that was found is doubted after such a part of the window,
# or so many seconds if that is longer, and after so many times as long each time that a try is refused.
_DOUBTED_AFTER, _AT_LEAST, _LONGER = 0.5, 30.0, 4


class SlicedWindow(CountedWindow):
    """At most `limit` tokens in any `seconds`, and in any slice of these as many as a server allows in it.

    Attributes:
        slice: the window of what is allowed in less time; None: nothing is known of it.

    Example:
        >>> window = SlicedWindow(limit=600, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=90)
        >>> window.set_slice(limit=100, seconds=10.0, now=1.0)
        >>> window.fits(now=1.0, cost=20), window.opens_at(now=1.0), window.fits(now=10.0, cost=20)
        (False, 10.0, True)
    """

    __slots__ = (
        "_differ",
        "_doubted_after",
        "_found_after",
        "_served",
        "_served_until",
        "_sliced_since",
        "_told",
        "_tried_between",
        "_tried_since",
        "_try_at",
        "slice",
    )

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self._differ = 0.0  # seconds, by which calls differ in the time they take
        self.unslice()

    def unslice(self) -> None:
        """Forget that a server allows less in a shorter time."""
        self.slice: TokenWindow | None = None
        self._sliced_since = math.inf
        self._told: tuple[int, float] | None = None  # the slice that headers tell
        self._found_after = -math.inf  # when the last call started that helps to find the slice, while it is not found
        self._doubted_after = math.inf  # seconds
        self._tried_between = math.inf, -math.inf  # seconds; what started then was refused for what was tried
        self._doubt(math.inf)

    def _doubt(self, since: float) -> None:
        """Try from then on what has room in the window and not in the slice that was found: as much again as fits into it."""
        self._try_at = since  # of the next try, and ...
        self._tried_since = math.inf  # ... of the first, ...
        self._served, self._served_until = 0, -math.inf  # ... what was served that started since then, and the last of it

    @property
    def told(self) -> TokenWindow:
        """The window of which headers tell: the slice, if they told of it."""
        return self if self.slice is None or (self.slice.limit, self.slice.seconds) != self._told else self.slice

    def set_slice(self, limit: int, seconds: float, now: float) -> None:
        """Set what a server says it allows in a shorter time."""
        if self._told != (limit, seconds):
            self._told = limit, seconds
            self._slice(limit, seconds, now)
            self._found_after = -math.inf
            self._doubt(math.inf)

    def find_slice(self, now: float) -> None:
        """Find the slice by which a server refuses what has room in the window.

        Until the calls that started before have told what they cost, or were refused as well, it may be the shortest of all.
        """
        slices, refused = list(self._slices()), [spend.time for spend in self.spends if spend.is_refused]
        if slices and refused and self._found_after == -math.inf and not self._is_known:
            self._slice(*slices[-1], now)
            self._found_after = refused[-1] + _ON_THE_WAY
            self._doubted_after = max(_AT_LEAST, _DOUBTED_AFTER * self.seconds)
            self._doubt(now + self._doubted_after)
            self._find()

    @property
    def _is_known(self) -> bool:
        return self.slice is not None and self._explains(self.slice.limit, self.slice.seconds)

    def _find(self) -> None:
        if any(spend.time <= self._found_after and spend.is_under_way and not spend.is_refused for spend in self.spends):
            return
        self._found_after = -math.inf
        longest = next((each for each in self._slices() if self._explains(*each)), None)
        if longest is not None:
            self._slice(*longest, self._sliced_since)

    def _slices(self) -> Iterator[tuple[int, float]]:
        """Yield the limits and seconds of what may be a slice, the longest first: none holds less than a call costs."""
        most = max((spend.cost for spend in self.spends), default=0)
        return ((self._limit // parts, self.seconds / parts) for parts in _PARTS if self._limit // parts >= most)

    def _explains(self, limit: int, seconds: float) -> bool:
        served = [spend for spend in self.spends if not spend.is_refused]
        refused = [spend for spend in self.spends if spend.is_refused]
        times = [spend.time for spend in served]
        sums = [0, *accumulate(spend.cost for spend in served)]
        explained = 0
        for spend in refused:
            since, until = spend.time - seconds - _ON_THE_WAY, spend.time + _ON_THE_WAY
            explained += sums[bisect_right(times, until)] - sums[bisect_right(times, since)] + spend.cost > limit
        return explained >= _MOST * len(refused)

    def _slice(self, limit: int, seconds: float, now: float) -> None:
        self.slice, self._sliced_since = TokenWindow(limit, seconds), now
        self.slice.stretch(self._differ)
        for spend in self.spends:
            spend.of_slice = self.slice.add(spend.time, spend.cost, spend.variance)
            if spend.is_refused:
                self.slice.refuse(spend.of_slice)

    # --- what is done in the window is done in its slice

    def stretch(self, spread: float, least: float = 0.0, *, cold: bool = False) -> None:
        """Count each start for longer, in its slice too."""
        super().stretch(spread, least, cold=cold)
        self._differ = spread
        if self.slice is not None:
            self.slice.stretch(spread)

    def fits(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`; forgets what has left the window."""
        if not super().fits(now, cost, variance, estimated):
            return False
        return self.slice is None or self.slice.fits(now, cost, variance) or now >= self._try_at

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        super().forget(now)
        if self.slice is not None:
            self.slice.forget(now)

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        opens_at = super().opens_at(now)
        if self.slice is None:
            return opens_at
        return min(opens_at, self.slice.opens_at(now), self._try_at if self._try_at > now else math.inf)

    def add(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        spend = super().add(now, cost, variance, estimated)
        if self.slice is not None:
            if now >= self._try_at and not self.slice.fits(now, cost, variance):
                if now > self._tried_since + self.seconds:
                    self._doubt(now)
                self._tried_since = min(self._tried_since, now)
                self._try_at = now + self.slice.seconds * cost / self.slice.limit
            else:
                spend.of_slice = self.slice.add(now, cost, variance)
        return spend

    def insert(self, time: float, cost: int) -> Spend:
        """Book tokens at a time that may lie before the last entry, and return the entry."""
        spend = super().insert(time, cost)
        if self.slice is not None:
            spend.of_slice = self.slice.insert(time, cost)
        return spend

    def correct(self, spend: Spend, cost: int, now: float | None = None) -> None:
        """Set what a booked request, which has ended, really cost; without effect once it has left the window."""
        if spend.in_window and self.slice is not None and spend.of_slice is not None:
            self.slice.correct(spend.of_slice, cost)
        super().correct(spend, cost, now)
        if spend.time <= self._found_after:
            self._find()
        if now is not None and spend.time >= self._tried_since:
            self._served_since_tried(spend.time, cost)

    def _served_since_tried(self, started: float, cost: int) -> None:
        """Forget a slice of which a server that keeps to it would not have served so much, whichever way it counts."""
        assert self.slice is not None
        self._served += cost
        self._served_until = max(self._served_until, started)
        took = self._served_until - self._tried_since + _ON_THE_WAY
        if self._served > (took / self.slice.seconds + 1) * self.slice.limit:
            self.unslice()

    def refuse(self, spend: Spend, *, is_explained: bool = False) -> bool:
        """Remember that a server refused a call, and return whether that tells how it counts: then it allows no less in less.

        A try of what does not fit into a slice tells of that, and from then on the slice is kept.
        """
        if self.slice is not None and spend.of_slice is not None and spend.in_window:
            self.slice.refuse(spend.of_slice)
        if self.slice is not None and spend.time >= self._tried_since:
            self._slice(self.slice.limit, self.slice.seconds, self._sliced_since)  # with what was tried
            self._doubted_after *= _LONGER
            self._tried_between = self._tried_since, self.spends[-1].time if self.spends else spend.time  # they may all have left
            self._doubt(spend.time + self._doubted_after)
        since, until = self._tried_between
        tells_way = super().refuse(spend, is_explained=is_explained or since <= spend.time <= until)
        if since <= spend.time <= until:
            return False
        if tells_way and until == -math.inf:
            self.unslice()
        elif spend.time <= self._found_after:
            self._find()
        return tells_way

    def used(self, now: float) -> int:
        """Return how many tokens are in the window at `now`, others' included. Reading forgets nothing."""
        return super().used(now) + (0 if self.slice is None else self.slice.others(now))

    def clear(self) -> None:
        """Forget every spend, what others have taken, and that a server allows less in a shorter time."""
        super().clear()
        self.unslice()

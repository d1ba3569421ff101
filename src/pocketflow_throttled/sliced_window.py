"""The sliced window of tokens: a server may enforce a limit a minute in a shorter time, as its headers tell, or what it refuses.

Pure. Some enforce 300,000 a minute as 50,000 in ten seconds, or as 5,000 in one.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import TYPE_CHECKING

from .counted_window import CountedWindow
from .on_the_way import IN_ANY_ORDER
from .part import Part
from .slices import explains, slices_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .token_window import Spend, TokenWindow

# A slice may have been found by mistake: the server was down, or others used the limit up. So after half a window, or 30 seconds
# if that is longer, a call is tried beyond it. Each refused try makes the next one four times as late.
_DOUBTED_AFTER, _AT_LEAST, _LONGER = 0.5, 30.0, 4
# In the same way, that a server counts estimates is believed for two windows; then costs are tried again. Each time it seems so
# again, that is believed for three times as long.
_BELIEVED, _BELIEVED_LONGER = 2.0, 3


class SlicedWindow(CountedWindow):
    """At most `limit` tokens in any `seconds`, and in any slice of these as many as a server allows in it.

    Attributes:
        part: what is allowed in less time; None: nothing is known of it.

    Example:
        >>> window = SlicedWindow(limit=600, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=90)
        >>> window.set_slice(limit=100, seconds=10.0, now=1.0)
        >>> window.fits(now=1.0, cost=20), window.opens_at(now=1.0), window.fits(now=10.0, cost=20)
        (False, 10.0, True)
    """

    __slots__ = (
        "_awaited",
        "_by_estimates",
        "_differ",
        "_doubted_after",
        "_estimates_for",
        "_estimates_until",
        "_found_after",
        "_served",
        "_served_until",
        "_sliced_since",
        "_told",
        "_tried_between",
        "_tried_since",
        "_try_at",
        "part",
    )

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self._differ = 0.0  # seconds, by which calls differ in the time they take
        self.unslice()

    def unslice(self) -> None:
        """Forget that a server allows less in a shorter time."""
        self.part: Part | None = None
        self._by_estimates = False  # whether it counts estimates, as it seems, ...
        self._estimates_until = math.inf  # ... until when that is believed, and for how many seconds the next time
        self._estimates_for = _BELIEVED * self.seconds
        self._sliced_since = math.inf
        self._told: tuple[int, float] | None = None  # the slice that headers tell
        self._found_after = -math.inf  # when the last call started that helps to find the slice, while it is not found ...
        self._awaited: list[Spend] = []  # ... and some of those whose end does
        self._doubted_after = math.inf  # seconds
        self._tried_between = math.inf, -math.inf  # seconds; what started then was refused for what was tried
        self._doubt(math.inf)

    def _doubt(self, since: float) -> None:
        """Try from then on what has room in the window and not in the slice that was found: as much again as fits into it."""
        self._try_at = since  # of the next try, and ...
        self._tried_since = math.inf  # ... of the first, ...
        self._served, self._served_until = 0, -math.inf  # ... what was served that started since then, and the last of it

    @property
    def slice(self) -> TokenWindow | None:
        """The window of what is allowed in less time; None: nothing is known of it."""
        return None if self.part is None else self.part.slice

    @property
    def told(self) -> TokenWindow:
        """The window of which headers tell: the slice, if they told of it."""
        part = self.slice
        return self if part is None or (part.limit, part.seconds) != self._told else part

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
        if self._found_after > -math.inf or (self.part is not None and self.part.is_bucket):
            return
        slices, refused = list(self._slices()), [spend.time for spend in self.spends if spend.is_refused and not spend.is_dropped]
        if slices and refused and not self._is_known:
            self._slice(*slices[-1], now)
            self._found_after = refused[-1] + IN_ANY_ORDER
            self._doubted_after = max(_AT_LEAST, _DOUBTED_AFTER * self.seconds)
            self._doubt(now + self._doubted_after)
            self._find()

    @property
    def _is_known(self) -> bool:
        part = self.slice
        return part is not None and self._explains(part.limit, part.seconds)

    def _find(self) -> None:
        awaited, after = self._awaited, self._found_after
        while awaited and not awaited[-1].is_awaited:
            awaited.pop()
        if not awaited:  # of those that are on their way, some may have started since
            awaited += [spend for spend in self.spends if spend.time <= after and spend.is_awaited]
        if awaited:
            return
        self._found_after = -math.inf
        self._find_longest()

    def _find_longest(self) -> None:
        longest = next((each for each in self._slices() if self._explains(*each)), None)
        if longest is not None:
            self._slice(*longest, self._sliced_since)

    def _find_by_estimates(self, now: float) -> None:
        self._by_estimates = True
        self._estimates_until = now + self._estimates_for
        self._estimates_for *= _BELIEVED_LONGER
        self._find_longest()
        if self.part is not None and not self.part.by_estimates and (slices := list(self._slices())):
            self._slice(*slices[-1], self._sliced_since)

    def _count_costs(self) -> None:
        """Believe no longer that a server counts estimates."""
        self._by_estimates, self._estimates_until = False, math.inf
        if self.part is not None and self.part.by_estimates:
            self._slice(self.part.slice.limit, self.part.slice.seconds, self._sliced_since)

    def _counted(self, spend: Spend) -> int:
        return spend.at_most if self._by_estimates else spend.cost

    def _slices(self) -> Iterator[tuple[int, float]]:
        return slices_of(self._limit, self.seconds, max(map(self._counted, self.spends), default=1) or 1)

    def _explains(self, limit: int, seconds: float) -> bool:
        return explains(limit, seconds, self.spends, self._counted)

    def _slice(self, limit: int, seconds: float, now: float) -> None:
        part, is_told = self.part, self._told == (limit, seconds)
        self._sliced_since = now
        is_same = part is not None and (part.slice.limit, part.slice.seconds) == (limit, seconds)
        if part is None or is_told or not (is_same and part.is_bucket and part.by_estimates is self._by_estimates):
            self.part = Part(limit, seconds, self.seconds, is_told=is_told, by_estimates=self._by_estimates, before=part)
            self.part.slice.stretch(self._differ)
            self.part.replay(self.spends)

    def stretch(self, spread: float, least: float = 0.0, *, cold: bool = False) -> None:
        """Count each start for longer, in its slice too."""
        super().stretch(spread, least, cold=cold)
        self._differ = spread
        if self.part is not None:
            self.part.slice.stretch(spread)

    def fits(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`; forgets what has left the window."""
        if not super().fits(now, cost, variance, estimated):
            return False
        if self.part is None or now >= self._try_at:
            return True
        return self.part.fits(now, cost, variance, self._measured.of(estimated))

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        if self.part is not None:
            for spend in takewhile(lambda spend: spend.time + self.span <= now, self.spends):
                spend.of_part = None  # what it took of a bucket is not given back as it leaves the window
            self.part.slice.forget(now)
        super().forget(now)

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        opens_at = super().opens_at(now)
        if self.part is None:
            return opens_at
        return min(opens_at, self.part.opens_at(now), self._try_at if self._try_at > now else math.inf)

    def add(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        if now >= self._estimates_until:
            self._count_costs()
        spend = super().add(now, cost, variance, estimated)
        if self.part is not None:
            if now >= self._try_at and not self.part.fits(now, cost, variance, spend.estimated):
                if now > self._tried_since + self.seconds:
                    self._doubt(now)
                self._tried_since = min(self._tried_since, now)
                self._try_at = now + self.part.slice.seconds * cost / self.part.slice.limit
            else:
                self.part.add(spend)
        return spend

    def insert(self, time: float, cost: int) -> Spend:
        """Book tokens at a time that may lie before the last entry, and return the entry."""
        spend = super().insert(time, cost)
        if self.part is not None:
            self.part.insert(spend)
        return spend

    def correct(self, spend: Spend, cost: int, now: float | None = None) -> None:
        """Set what a booked request, which has ended, really cost; without effect once it has left the window."""
        if spend.in_window and self.part is not None:
            self.part.correct(spend, cost, is_served=now is not None)
        super().correct(spend, cost, now)
        if spend.time <= self._found_after:
            self._find()
        if now is not None and spend.time >= self._tried_since:
            self._served_since_tried(spend)

    def _served_since_tried(self, spend: Spend) -> None:
        """Forget a slice of which a server that keeps to it would not have served so much, or that it counts estimates."""
        assert self.part is not None
        self._served += self._counted(spend)
        self._served_until = max(self._served_until, spend.time)
        took = self._served_until - self._tried_since + IN_ANY_ORDER
        if self._served > (took / self.part.slice.seconds + 1) * self.part.slice.limit:
            if self._by_estimates:
                self._count_costs()
                self._doubt(spend.time + self._doubted_after)
            else:
                self.unslice()

    def refuse(self, spend: Spend, *, is_explained: bool = False) -> bool:
        """Remember that a server refused a call, and return whether that tells how it counts: then there is no slice.

        If the call was a try of what does not fit into the slice, its refusal tells of the slice, which is kept from then on.
        """
        if self.part is not None and spend.in_window:
            is_explained = self.part.refuse(spend, self.spends[-1].time) or is_explained
        beyond = self.slice if spend.time >= self._tried_since else None
        if beyond is not None:
            self._doubted_after *= _LONGER
            self._tried_between = self._tried_since, self.spends[-1].time if self.spends else spend.time  # they may all have left
            self._doubt(spend.time + self._doubted_after)
        since, until = self._tried_between
        tells_way = super().refuse(spend, is_explained=is_explained or since <= spend.time <= until)
        if beyond is not None:
            self._slice(beyond.limit, beyond.seconds, self._sliced_since)  # with what was tried
        if since <= spend.time <= until:
            return False
        if tells_way and until == -math.inf:
            self.unslice()
        elif spend.time <= self._found_after:
            self._find()
        elif self.part is not None and self.part.is_misfit and not self._by_estimates:
            self._find_by_estimates(spend.time)
        return tells_way

    def drop(self, spend: Spend) -> None:
        """Remember that a server did not serve a call, for a reason that tells nothing of what it counts."""
        if self.part is not None and spend.in_window:
            self.part.drop(spend)
        super().drop(spend)

    def used(self, now: float) -> int:
        """Return how many tokens are in the window at `now`, others' included. Reading forgets nothing."""
        return super().used(now) + (0 if self.part is None else self.part.slice.others(now))

    def clear(self) -> None:
        """Forget every spend, what others have taken, and that a server allows less in a shorter time."""
        super().clear()
        self.unslice()

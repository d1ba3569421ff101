"""Counting: whether a server counts more tokens of calls than these cost, as far as it can be found out. Pure.

Most count what calls cost, as far as one can tell. Some count what calls may cost at most, input and `max_tokens`, until they
end, and then what they cost; others never give back what is too much. Who starts all that fits by what calls cost finds out by
many refusals at once. So what would not fit at one of those is tried, a call at a time and then faster and faster, until it is
refused or known to be served.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of the window: until the next try, by when a refusal is back. Each try halves it, but not if one was refused before.
_FIRST_GAP, _LEAST_GAP = 1 / 150, 1 / 1200
_SERVED = 16  # tries that were not refused, after which a server is known not to count so ...
_MOST_SERVED, _PER_REFUSAL = 32, 8  # ... for as many as one refusal outweighs: so many, of so many at most
_TOGETHER = 0.3  # seconds: calls that start so close to each other arrive in any order, and the last of them are refused
_MOST_OF = 0.5  # what was tried in a moment: with so much of it refused, each refusal counts, and else one
_BESIDE = 1  # refusals of a moment beyond those of what was tried in it, at most
_NEXT_TRY, _MUCH_LATER = 1.0, 8.0  # windows until what was refused is tried again, and when it was refused again
_CLEARLY = 0.05  # of the limit: what is left tells how is counted, if the ways differ by more


class Way(IntEnum):
    """What a server counts of a call, what asks for the least caution first."""

    COST = 0  # what it costs
    SETTLED = 1  # what it was estimated at, and as it ends, what it cost more or less, then
    SETTLED_BACK = 2  # what it was estimated at, and as it ends, what it cost, as if that had been counted before
    ESTIMATE = 3  # what it was estimated at, or what it cost if that is more


Counts = tuple[int, ...]  # what is counted, by each way
NOTHING: Counts = (0,) * len(Way)


class _Doubt:
    """Whether a server counts in one way, which would refuse some calls that are tried."""

    __slots__ = ("at_once", "barred_until", "is_known", "next_at", "refusals", "refused_at", "served", "tried_at", "tries")

    def __init__(self) -> None:
        self.is_known = False  # that it does
        self.served = 0  # tries, less what refusals outweigh
        self.refusals, self.refused_at = 0, -math.inf  # of tries, those at once as one
        self.tries = 0  # since one was refused
        self.tried_at = -math.inf  # when one was tried the last time, ...
        self.at_once = 0  # ... and how many since the first of that moment
        self.next_at = -math.inf  # when the next may be tried ...
        self.barred_until = -math.inf  # ... unless answers tell better than that would

    @property
    def is_over(self) -> bool:
        """Whether it is known not to."""
        return self.served >= _SERVED

    @property
    def opens_at(self) -> float:
        """When a call may be tried."""
        return max(self.next_at, self.barred_until)

    def started(self, now: float, window: float, *, is_clear: bool) -> None:
        """Learn that one is tried, and whether it is clear that it would be refused if the server counted so."""
        self.at_once = self.at_once + 1 if now <= self.tried_at + _TOGETHER else 1
        self.tried_at = now
        self.tries += 1
        if not self.is_over:
            faster = 1.0 if self.refusals else 2 ** min((self.tries + self.served) / 2, _SERVED)
            self.next_at = now + max(_LEAST_GAP, _FIRST_GAP / faster) * window
        if is_clear:
            self.served = min(_MOST_SERVED, self.served + 1)
            self.is_known = self.is_known and not self.is_over

    def blame(self, stamp: float, window: float) -> None:
        """Take a refusal of a call that started at a time for a proof."""
        if stamp >= self.refused_at + _NEXT_TRY * window:
            self.refusals, self.refused_at = self.refusals + 1, stamp
        windows = _NEXT_TRY if self.refusals == 1 else _MUCH_LATER
        self.next_at = max(self.next_at, stamp + windows * window)
        self.is_known = True

    def take_back(self) -> None:
        """Take the last refusal for none."""
        self.refusals -= 1
        self.is_known = self.refusals > 0
        self.next_at = self.refused_at = -math.inf


class Counting:
    """The way in which a server counts.

    Args:
        seconds: length of the window.

    Example:
        >>> counting, beyond = Counting(seconds=60.0), [Way.ESTIMATE]
        >>> counting.may_start(0.0, beyond)  # though it would not fit if estimates were counted for good
        True
        >>> counting.started(0.0, beyond, beyond)
        >>> counting.may_start(0.1, beyond)  # it may still be refused
        False
        >>> counting.refused(0.0)
        True
        >>> counting.way.name, counting.may_start(1.0, beyond), counting.may_start(1.0, [])
        ('ESTIMATE', False, True)
    """

    __slots__ = ("_blamed", "_doubts", "_is_told", "_refused", "_refused_at", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_told = False
        self._blamed: _Doubt | None = None  # for the last refusal
        self._refused_at, self._refused = -math.inf, 0  # the last moment of refusals, and how many
        self._doubts = {way: _Doubt() for way in Way if way}

    @property
    def way(self) -> Way:
        """The way, as far as it is known."""
        return max((way for way, doubt in self._doubts.items() if doubt.is_known), default=Way.COST)

    def may_start(self, now: float, beyond: Iterable[Way]) -> bool:
        """Whether a call may start that would not fit if the server counted in one of these ways."""
        doubts = self._doubts
        return all(doubts[way].is_over or now >= doubts[way].opens_at for way in beyond)

    def opens_at(self, now: float) -> float:
        """Return when something may be tried again that may not be now."""
        return min((doubt.opens_at for doubt in self._doubts.values() if doubt.opens_at > now), default=math.inf)

    def started(self, now: float, beyond: Iterable[Way], clearly: Iterable[Way]) -> None:
        """Learn that a call starts which would not fit, and for which ways that is clear whatever arrives when."""
        for way in beyond:
            self._doubts[way].started(now, self._seconds, is_clear=way in clearly)

    def refused(self, stamp: float) -> bool:
        """Learn that a call was refused that started at a time, and return whether that tells how is counted."""
        tried = [doubt for doubt in self._doubts.values() if abs(stamp - doubt.tried_at) <= _TOGETHER]
        if not tried:
            return False
        for doubt in tried:
            doubt.served, doubt.tries = max(0, doubt.served - 1), 0
        is_news = abs(stamp - self._refused_at) > _TOGETHER
        self._refused_at, self._refused = stamp, 1 if is_news else self._refused + 1
        likely = [doubt for doubt in tried if self._refused <= doubt.at_once + _BESIDE]
        if self._blamed is not None and not is_news and self._blamed not in likely:
            self.explain()  # by what would refuse them however is counted
        if not likely:
            return False
        blamed = next((doubt for doubt in likely if not doubt.is_over), likely[0])
        if is_news or self._refused >= _MOST_OF * blamed.at_once:
            blamed.served = max(0, blamed.served - _PER_REFUSAL)
        if blamed.is_over:
            return False
        blamed.blame(stamp, self._seconds)
        self._blamed = blamed
        return True

    def explain(self) -> None:
        """Take back what the last refusal told: what calls cost explains it."""
        if self._blamed is not None:
            self._blamed.take_back()
            self._blamed = None

    def told(self, now: float, used: int, *, by_start: Counts, by_end: Counts, limit: int, unsure: int) -> None:
        """Learn from what is used by an answer, others' share included.

        Args:
            now: seconds.
            used: of the limit.
            by_start: what was counted as its call started ...
            by_end: ... and what is counted now: nobody knows which of the two an answer tells of.
            limit: of the window.
            unsure: what of it may not have arrived when its call did.
        """
        clearly = _CLEARLY * limit
        more_than_cost = max(by_start[Way.COST], by_end[Way.COST]) + clearly
        for way, doubt in self._doubts.items():
            counted = min(by_start[way], by_end[way]) - unsure
            if doubt.is_over or counted <= more_than_cost:
                continue
            if used < counted - clearly:
                doubt.is_known, doubt.barred_until = doubt.refusals > 0, -math.inf
            elif used >= more_than_cost:
                doubt.is_known, doubt.barred_until = True, now + self._seconds

    def wait_for_more(self, until: float) -> None:
        """Try nothing before an answer has told of a moment that is known, or until then."""
        if not self._is_told:
            self._is_told = True
            for doubt in self._doubts.values():
                doubt.barred_until = until

"""Counting: what a server counts of the tokens of a call, as far as it can be found out. Pure.

Most count what a call costs, as far as one can tell. Some count its estimate, input and `max_tokens`, until it ends, then what
it cost; others count the estimate for good. Who starts all that fits by what calls cost finds out by many refusals at once. So
a call that would not fit in one of these ways is a try: the next one follows after a gap, which becomes shorter and shorter,
until one is refused or the way is ruled out.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING

from .on_the_way import IN_ANY_ORDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# The gap from a try to the next, as a part of the window: long enough for a refusal to be back. It shrinks from _FIRST_GAP to
# _LEAST_GAP, by half with every two tries; once one was refused, it is _GAP_ONCE_REFUSED.
_FIRST_GAP, _LEAST_GAP, _GAP_ONCE_REFUSED = 1 / 50, 1 / 1200, 1 / 150
_LEAST_PART = 1 / 2  # of the time in which what a call takes comes back, if that is less: or gaps would be a limit of their own
# A way is ruled out once _RULED_OUT tries were served. A refusal outweighs _PER_REFUSAL of them, and at most _MOST_SERVED are
# remembered, so that a few refusals are enough to doubt it again.
_RULED_OUT, _PER_REFUSAL, _MOST_SERVED = 16, 8, 32
# Calls that start IN_ANY_ORDER are tries of one moment, and the last of them to arrive are refused.
_MOST_OF = 0.5  # of the tries of a moment: from there on each refusal outweighs served ones, before that only the first
_BESIDE = 1  # refusals of a moment beyond its tries: with more, something else is the reason
_AGAINST = 2  # moments at which calls are refused that had room in a way, and it is blamed no more: something else is the reason
# For how many windows a refused try delays the next: one after the first, eight after the second, then twice as many after each,
# up to a thousand. Else, where few calls fit in a window, the tries alone would be one in a hundred of them.
_NEXT_TRY, _MUCH_LATER, _LATEST = 1.0, 8.0, 1000.0
_MOST_DOUBLED = 10  # times, by which the latest is long reached: a larger power may be more than a float holds
_NEXT_LOOK = 1 / 100  # windows from a look at every call to the next
ENDED = 2  # calls that may have ended at the server whose answers are not here yet
CLEARLY = 0.05  # of the limit: by what differs less, an answer tells no way from another


class Way(IntEnum):
    """What a server counts of a call; the later, the more caution it takes."""

    COST = 0  # what it costs
    SETTLED = 1  # its estimate as it starts and, as it ends, the difference to what it cost: each leaves the window by itself
    SETTLED_BACK = 2  # its estimate until it ends, then what it cost, both as of its start
    ESTIMATE = 3  # its estimate for good, or what it cost if that is more


Counts = tuple[int, ...]  # what is counted, by each way
NOTHING: Counts = (0,) * len(Way)


class _Doubt:
    """Whether a server counts in one way, by the tries that this way would refuse."""

    __slots__ = (
        "at_once",
        "barred_until",
        "denied_until",
        "is_known",
        "look_at",
        "next_at",
        "refusals",
        "refused_at",
        "served",
        "tried_at",
        "tries",
    )

    def __init__(self) -> None:
        self.denied_until = -math.inf  # by answers
        self.is_known = False  # that it does
        self.served = 0.0  # tries, until they are refused, by how much they tell, less what refusals outweigh
        self.tries = 0  # since the last refusal
        self.refusals, self.refused_at = 0, -math.inf  # windows with refusals that were put down to it, and the last such refusal
        self.tried_at, self.at_once = -math.inf, 0  # the last try, and how many since the first of its moment
        self.next_at = -math.inf  # of the next try, by the gap and by refusals ...
        self.barred_until = -math.inf  # ... and by answers
        self.look_at = -math.inf  # at whether what a bucket would count rules it out: that takes a look at each call

    @property
    def is_ruled_out(self) -> bool:
        """Whether the server is known not to."""
        return self.served >= _RULED_OUT

    @property
    def opens_at(self) -> float:
        """When a call may be tried."""
        return max(self.next_at, self.barred_until)

    def started(self, now: float, window: float, share: float, tells: float) -> None:
        """Learn of a try, which takes a share of the limit, and how much it tells against this way if it is served."""
        self.at_once = self.at_once + 1 if now <= self.tried_at + IN_ANY_ORDER else 1
        self.tried_at = now
        self.tries += 1
        if not self.is_ruled_out:
            least = min(_LEAST_GAP, _LEAST_PART * share)
            gap = _GAP_ONCE_REFUSED if self.refusals else max(least, _FIRST_GAP * 0.5 ** ((self.tries + self.served) / 2))
            self.next_at = now + gap * window
        if tells:
            self.served = min(_MOST_SERVED, self.served + tells)
            self.is_known = self.is_known and not self.is_ruled_out

    def blame(self, stamp: float, window: float) -> None:
        """Put the refusal of a call that started at a time down to it."""
        if stamp >= self.refused_at + _NEXT_TRY * window:
            self.refusals, self.refused_at = self.refusals + 1, stamp
        windows = _NEXT_TRY if self.refusals == 1 else min(_LATEST, _MUCH_LATER * 2.0 ** min(self.refusals - 2, _MOST_DOUBLED))
        self.next_at = max(self.next_at, stamp + windows * window)
        self.is_known = True

    def deny(self, until: float) -> None:
        """Rule it out by answers, and put no refusal down to it until then."""
        self.denied_until = until
        self.acquit()
        self.served, self.barred_until = _MOST_SERVED, -math.inf

    def acquit(self) -> None:
        """Put all its refusals down to something else: the next one will tell."""
        self.served, self.is_known = max(self.served, _RULED_OUT), False
        self.refusals, self.refused_at = 0, -math.inf
        self.next_at = -math.inf

    def take_back(self) -> None:
        """Put the last refusal down to something else."""
        self.refusals = max(0, self.refusals - 1)
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
        >>> counting.started(0.0, beyond, {Way.ESTIMATE: 1.0})
        >>> counting.may_start(0.1, beyond)  # it may still be refused
        False
        >>> counting.refused(0.0)
        True
        >>> counting.way.name, counting.may_start(1.0, beyond), counting.may_start(1.0, [])
        ('ESTIMATE', False, True)
    """

    __slots__ = ("_against", "_against_at", "_blamed", "_doubts", "_is_told", "_refused", "_refused_at", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_told = False
        self._blamed: _Doubt | None = None  # to which the last refusal was put down
        self._against, self._against_at = 0, -math.inf  # moments of refusals that no try explains, and the last of them
        self._refused_at, self._refused = -math.inf, 0  # the last refusal, and how many since the first of its moment
        self._doubts = {way: _Doubt() for way in Way if way}

    @property
    def way(self) -> Way:
        """The way, as far as it is known."""
        return max((way for way, doubt in self._doubts.items() if doubt.is_known), default=Way.COST)

    def is_ruled_out(self, way: Way) -> bool:
        """Whether the server is known not to count in a way."""
        return self._doubts[way].is_ruled_out

    def may_start(self, now: float, beyond: Iterable[Way]) -> bool:
        """Whether a call may start that would not fit if the server counted in one of these ways."""
        doubts = self._doubts
        return all(doubts[way].is_ruled_out or now >= doubts[way].opens_at for way in beyond)

    def opens_at(self, now: float) -> float:
        """Return when the next try may start that may not now."""
        return min((doubt.opens_at for doubt in self._doubts.values() if doubt.opens_at > now), default=math.inf)

    def started(self, now: float, beyond: Iterable[Way], tells: Mapping[Way, float], share: float = 1.0) -> None:
        """Learn of a call that starts.

        Args:
            now: seconds.
            beyond: the ways in which it would not fit.
            tells: those of them in which it would not whatever arrives when, and how much that tells if it is served, up to 1.
            share: of the limit, that it takes.
        """
        for way in beyond:
            self._doubts[way].started(now, self._seconds, share, tells.get(way, 0.0))

    def refused(self, stamp: float, *, is_told: bool = False) -> bool:
        """Learn that a call was refused that started at a time, and return whether that tells how is counted.

        Any try of the same moment may be to blame, but for no more refusals than there were tries. Where answers tell what is
        left (`is_told`), these speak for a way that is blamed in vain, and no refusal does.
        """
        tried = [
            doubt
            for doubt in self._doubts.values()
            if abs(stamp - doubt.tried_at) <= IN_ANY_ORDER and stamp >= doubt.denied_until
        ]
        if not tried:
            if abs(stamp - self._refused_at) > IN_ANY_ORDER:
                self._contradict(stamp, is_told=is_told)
            return False
        is_first = abs(stamp - self._refused_at) > IN_ANY_ORDER
        for doubt in tried:
            doubt.served, doubt.tries = max(0, doubt.served - is_first), 0
        self._refused_at, self._refused = stamp, 1 if is_first else self._refused + 1
        likely = [doubt for doubt in tried if self._refused <= doubt.at_once + _BESIDE]
        if not is_first and self._blamed not in likely:
            self.take_back_blame()
        if not likely:
            self._contradict(stamp, is_told=is_told)
            return False
        blamed = next((doubt for doubt in likely if not doubt.is_ruled_out), likely[0])
        if is_first or self._refused >= _MOST_OF * blamed.at_once:
            blamed.served = max(0, blamed.served - _PER_REFUSAL)
        if blamed.is_ruled_out:
            return False
        blamed.blame(stamp, self._seconds)
        self._blamed = blamed
        return not self._acquits()

    def _contradict(self, stamp: float, *, is_told: bool) -> None:
        """Learn that a call was refused for which there was room, however is counted."""
        if not is_told and abs(stamp - self._against_at) > IN_ANY_ORDER:
            self._against, self._against_at = self._against + 1, stamp
            self._acquits()

    def _acquits(self) -> bool:
        """Blame a way no more if calls that had room in it were refused as often as those that had none."""
        if self._blamed is None or self._against < max(_AGAINST, self._blamed.refusals):
            return False
        self._blamed.acquit()
        self._blamed, self._against = None, 0
        return True

    def take_back_blame(self) -> None:
        """Take back what the last refusal told of how is counted: something else explains it."""
        if self._blamed is not None:
            self._blamed.take_back()
            self._blamed = None

    def told(
        self,
        now: float,
        used: int,
        *,
        by_start: Counts,
        by_end: Counts,
        cost: int,
        limit: int,
        unsure: Callable[[], int],
        least: Callable[[Way], float] | None = None,
    ) -> None:
        """Learn from what is used by an answer, others' share included.

        Args:
            now: seconds.
            used: of the limit.
            by_start: what was counted as its call started. Nobody knows whether the answer tells of then or of now.
            by_end: what is counted now.
            cost: of what had started as its call did, as it is known by now.
            limit: of the window.
            unsure: tells what of it may not have arrived when its call did, which takes a look at each call.
            least: tells what a bucket would count, which is less than what is counted here; None: it is none.
        """
        clearly = CLEARLY * limit
        more_than_cost = max(by_start[Way.COST], by_end[Way.COST]) + clearly
        more_than_known = max(cost, by_end[Way.COST]) + clearly
        for way, doubt in self._doubts.items():
            counted = min(by_start[way], by_end[way])
            if doubt.is_ruled_out or counted <= more_than_known or now < doubt.denied_until:
                continue
            counted -= unsure()
            if counted <= more_than_known:
                continue
            if used < counted - clearly:
                if doubt.is_known and least is not None:
                    if now >= doubt.look_at and used >= least(way) - unsure() - clearly:
                        doubt.look_at = now + _NEXT_LOOK * self._seconds
                    if now < doubt.look_at:
                        continue
                doubt.is_known, doubt.barred_until = doubt.refusals > 0, -math.inf
            elif used >= more_than_cost < counted:
                doubt.is_known, doubt.barred_until = True, now + self._seconds

    def deny(self, way: Way, until: float) -> None:
        """Rule a way out by answers, and put no refusal down to it until then."""
        self._doubts[way].deny(until)

    def wait_for_more(self, until: float) -> None:
        """Try nothing before an answer has told of a moment that is known, or until then."""
        if not self._is_told:
            self._is_told = True
            for doubt in self._doubts.values():
                doubt.barred_until = until

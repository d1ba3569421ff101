"""Counting: whether a server counts more tokens of calls than these cost, as far as what it refuses gives it away. Pure.

Most count what calls cost, as far as one can tell. Some count what calls may cost at most, input and `max_tokens`, until they
end, and then what they cost; others never give back what is too much.
"""

from __future__ import annotations

import math
from enum import IntEnum

# If a server counts so, it refuses all calls that would not fit but for what estimates are off, and hardly any others. If it
# counts less, it serves most of these; and one that allows less in a shorter time refuses others before. So many refusals tell,
# if they are such a share of those calls, and such a share of all refusals.
_SOME, _OF_CALLS, _OF_REFUSALS = 2, 0.5, 0.75
# Those of one moment do not tell that it never gives back what is too much: where a shorter window than the limit's is used up,
# all that start are refused. So it takes others, so many seconds later.
_APART = 5.0
_TOGETHER = 0.3  # seconds: calls that start so close to each other arrive in any order, and the last of them are refused


class Way(IntEnum):
    """What a server counts of a call; each counts no less than the one before."""

    COST = 0  # what it costs
    ESTIMATE_AT_FIRST = 1  # until it ends, what it was estimated at, if that is more
    ESTIMATE = 2  # ... also then


class Counting:
    """The way in which a server counts.

    Attributes:
        way: as far as it is known.

    Example:
        >>> counting = Counting()
        >>> for _ in range(9):  # served, though they would not fit if estimates were counted for good
        ...     counting.started(1.0, Way.ESTIMATE)
        >>> for _ in range(2):  # refused, as they would not fit if estimates were counted until calls end
        ...     counting.started(2.0, Way.ESTIMATE_AT_FIRST)
        >>> counting.refused(2.0), counting.refused(2.0)
        (False, True)
        >>> counting.way.name
        'ESTIMATE_AT_FIRST'
    """

    __slots__ = ("_explained", "_first", "_last", "_refused", "_started", "way")

    def __init__(self) -> None:
        self.way = Way.COST
        self._refused = 0
        # By each way, what counts most first, as what it refuses so would the others: calls that would not fit, when the last of
        # them started, how many were refused that started with one of them, and when the first of these did.
        self._started = {Way.ESTIMATE: 0, Way.ESTIMATE_AT_FIRST: 0}
        self._last = dict.fromkeys(self._started, -math.inf)
        self._explained = self._started.copy()
        self._first = dict.fromkeys(self._started, math.inf)

    def started(self, now: float, least: Way) -> None:
        """Learn that a call starts which would not fit if the server counted in this way, or in one that counts more."""
        for way in self._started:
            if least <= way:
                self._started[way] += 1
                self._last[way] = now

    def refused(self, stamp: float) -> bool:
        """Learn that a call was refused that started at a time, and return whether that tells how is counted."""
        self._refused += 1
        for way, last in self._last.items():
            if abs(stamp - last) <= _TOGETHER:
                self._explained[way] += 1
                self._first[way] = min(self._first[way], stamp)
        for way, explained in self._explained.items():
            is_likely = explained >= max(_SOME, _OF_CALLS * self._started[way], _OF_REFUSALS * self._refused)
            if way > self.way and is_likely and (way is not Way.ESTIMATE or stamp >= self._first[way] + _APART):
                self.way = way
                return True
        return False

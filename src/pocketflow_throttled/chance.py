"""Chance: refusals for which no limit is the reason. Pure: times are arguments, in seconds.

Some APIs refuse now and then whatever a client does, as where others' load is the reason. Who slows down after each ends up with
next to no calls, and is refused as often. So that is what tells: refused again and again with far fewer calls, at once and in a
time, than were admitted before. From then on what is refused no more often than that changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from .evidence import LAST, SUSTAINED

if TYPE_CHECKING:
    from .evidence import Evidence

_TELLING = 8  # refusals
_RARE, _RAREST = 8, 50  # starts for each of them: where more is refused, there is a reason; what is rarer costs little
_FAR = 2  # times as many were admitted
_SEVERAL = 10  # starts, for some seconds, that tell what is admitted
_MORE = 2  # times as many calls as were refused: else that is no chance


class Chance:
    """What is known of refusals for which no limit is the reason.

    Args:
        evidence: the starts there were, and the refusals.

    Attributes:
        is_known: whether the API refuses calls like that.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._without_reason: deque[float] = deque(maxlen=_TELLING)
        self.is_known = False

    def refused(self, started: float, level: int) -> bool:
        """Take note of the refusal of a call, with so many under way; return whether it is the first to tell of chance."""
        if self.is_known or not self._is_far_below(started, level):
            return False
        self._without_reason.append(started)
        starts = self._evidence.between(self._without_reason[0], started)
        self.is_known = len(self._without_reason) == _TELLING and _RARE * _TELLING <= starts <= _RAREST * _TELLING
        return self.is_known

    def explains(self, until: float) -> bool:
        """Return whether the last refusal is one of those, given what was admitted up to a time."""
        return self.is_known and self._is_rare(until)

    def _is_far_below(self, started: float, level: int) -> bool:
        """Return whether far more than as a call started were admitted before, at once and in a time.

        What was admitted before the first refusal does not count: a bucket may have been full.
        """
        evidence = self._evidence
        most = evidence.most(SUSTAINED, evidence.first_telling)
        if most < max(_SEVERAL, _FAR * evidence.between(started - SUSTAINED, started)):
            return False
        since = bisect_left(evidence.starts, evidence.first_telling)
        return max(islice(evidence.levels, since, None)) >= _FAR * level

    def _is_rare(self, until: float) -> bool:
        """Return whether enough calls started for each of the last refusals, and for all that were refused with these."""
        evidence = self._evidence
        if len(evidence.telling) < LAST:
            return False
        since = evidence.telling[0][0]
        refused = sum(call.started >= since for call in evidence.refused_calls)
        return evidence.between(since, until) >= max(_RARE * (LAST - 1), _MORE * refused)

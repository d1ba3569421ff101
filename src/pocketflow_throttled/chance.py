"""Chance: refusals for which no limit is the reason. Pure: times are arguments, in seconds.

Some APIs refuse now and then whatever a client does, as where others' load is the reason. Who slows down after each ends up with
next to no calls, and is refused as often. So that is what tells: refused again and again with far fewer calls, at once and in a
time, than were admitted before. From then on what is refused no more often than that changes nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evidence import Evidence

_TELLING = 8  # refusals
_RARE, _RAREST = 8, 50  # starts for each of them: where more is refused, there is a reason; what is rarer costs little
_FAR = 2  # times as many were admitted


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
        if self.is_known or not self._evidence.is_far_below(started, level, _FAR):
            return False
        self._without_reason.append(started)
        starts = self._evidence.between(self._without_reason[0], started)
        self.is_known = len(self._without_reason) == _TELLING and _RARE * _TELLING <= starts <= _RAREST * _TELLING
        return self.is_known

    def explains(self, until: float) -> bool:
        """Return whether the last refusal is one of those, given what was admitted up to a time."""
        return self.is_known and self._evidence.is_rare(until, _RARE)

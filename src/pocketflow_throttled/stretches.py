"""Stretches: from one refusal to the next, a client uses all that is allowed; so what was admitted in between tells a pace.

Pure: times are arguments, in seconds. Whether a pace is held, and how it is tried, is for LearnedPace to say.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .evidence import SUSTAINED

if TYPE_CHECKING:
    from .evidence import Evidence
    from .timing import Timing

_REMEMBERED = 8  # stretches
_ENOUGH = 10  # starts to measure a pace by: a single one more or less must not make it
_SLOWER_BY_FEW, _MOST_BY_FEW = 1.1, 1.5  # times, by which fewer starts slow down a pace, at the least and at the most
SHORT = 2.0  # seconds: no API that was down for a moment is slow for long, and few starts tell what one allows that was
_OF_LATE = 300.0  # seconds


class Told(NamedTuple):
    """A pace that stretches tell: the seconds between its starts, and whether too few starts tell it to be sure."""

    seconds: float
    is_guess: bool


class Stretches:
    """The stretches between refusals, whether a pace is held meanwhile or not.

    Args:
        evidence: the starts there were.
        timing: how long calls take.

    Attributes:
        fastest: seconds between starts, as they were admitted of late; infinity: not known.
    """

    def __init__(self, evidence: Evidence, timing: Timing) -> None:
        self._evidence, self._timing = evidence, timing
        self._ends: deque[float] = deque(maxlen=_REMEMBERED)
        self._first_end = math.inf
        self._idle_until = -math.inf
        self.fastest = math.inf

    def ended(self, at: float) -> None:
        """Take note of a refusal, or of the end of the pause after it."""
        self._ends.append(at)
        self._first_end = min(self._first_end, at)

    def was_idle(self, until: float) -> None:
        """Take note that nobody called for a while: only what is admitted from now on tells what is allowed."""
        self._ends.clear()
        self._idle_until = until

    def look_back(self) -> None:
        """Find out how fast calls were admitted for some seconds since the first refusal: before, a bucket may have been full."""
        starts = self._evidence.starts
        if starts:
            since = max(starts[-1] - _OF_LATE, self._first_end)
            self.fastest = SUSTAINED / max(1, self._evidence.most(SUSTAINED, since))

    def can_be_measured(self, until: float) -> bool:
        """Return whether the stretch that a refusal ended is long enough to tell a pace."""
        if not self._ends:
            return False
        last = self._ends[-1]
        return until - last > 2 * (self._timing.latency or 0.0) and self._evidence.between(last, until) >= _ENOUGH

    def measured(self, until: float) -> float | None:
        """Return the seconds between starts in as many of the last stretches as tell a pace; None: all have too few starts."""
        since = next((end for end in reversed(self._ends) if self._evidence.between(end, until) >= _ENOUGH), None)
        return None if since is None else self._measured(since, until)

    def slowed(self, until: float, known: float) -> float:
        """Return the seconds between starts, instead of the known ones that were refused, where too few starts tell a pace.

        What was sent before those may still count.
        """
        since = self._ends[0] if self._ends else until
        return max(_SLOWER_BY_FEW * known, min(self._mean(since, until, until), _MOST_BY_FEW * known))

    def told(self, until: float, reopened: float) -> Told | None:
        """Return the pace that they tell, or the time before the first one; None: too few starts do, and it was down for long.

        Args:
            until: when a refusal ended the last of them.
            reopened: when the first call was admitted again.
        """
        measured = self.measured(until)
        if measured is not None:
            return Told(measured, is_guess=False)
        starts, between = self._evidence.starts, self._evidence.between
        if self._ends and between(self._ends[0], until) >= 1:
            return Told(self._mean(self._ends[0], until, reopened), is_guess=True)  # each came as soon as it could
        since = max(starts[0], self._idle_until) if starts else until
        if between(since, until) >= _ENOUGH:
            return Told(self._measured(since, until), is_guess=False)
        return Told(self._mean(since, until, reopened), is_guess=True) if reopened - until <= SHORT else None

    def _mean(self, since: float, until: float, reopened: float) -> float:
        """Return the seconds between starts up to a refusal, and from the last of them to when calls were admitted again."""
        return (reopened - since) / (self._evidence.between(since, until) + 1)

    def _measured(self, since: float, until: float) -> float:
        """Return the seconds between starts from one time to another.

        What was admitted on the whole may be less than is allowed, what was admitted last was more: it is between the two.
        """
        starts, between = self._evidence.starts, self._evidence.between
        overall = (between(since, until) + 1) / (until - since)
        span = max(2 * (self._timing.latency or 1.0), until - starts[-_ENOUGH] if len(starts) >= _ENOUGH else until - since)
        recent = (between(until - span, until) + 1) / span if span < until - since else overall
        mean: float = (overall * recent) ** 0.5
        return 1 / mean

"""SlowStart: after a pause of which it is not known if it was long enough, one call, then two, four and so on.

Pure: times are arguments, in seconds. One call that is served may have taken a last free place. So twice as many follow each time
that none was refused in the time that a refusal takes (TCP begins like that: RFC 5681, section 3.1). If it was too soon, that
costs a few refused calls, and not as many as could be under way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .timing import Timing

_MOST, _PART = 32, 4  # calls that go at once, or a part of all: if that is not refused, no more is awaited


class SlowStart:
    """How many calls may start, from the first one after a pause on.

    Args:
        timing: how long refusals take.

    Attributes:
        since: when the last call started of those that are awaited; minus infinity: none is.

    Example:
        >>> from pocketflow_throttled.timing import Timing
        >>> timing = Timing()
        >>> timing.refused(0.1)
        >>> start = SlowStart(timing)
        >>> start.begin(5.0, count=100)
        >>> round(start.opens_at, 2)
        5.16
    """

    __slots__ = ("_enough", "_more", "_size", "_timing", "since")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._enough = 1
        self.since, self._size, self._more = -math.inf, 1, 0

    def begin(self, now: float, count: int) -> None:
        """Take note of the first call, of so many that may follow each other."""
        self._enough = min(_MOST, count // _PART)
        self.since, self._size, self._more = now, 1, 0

    @property
    def is_over(self) -> bool:
        """Whether enough calls were not refused."""
        return self._size >= self._enough

    @property
    def opens_at(self) -> float:
        """When the next call may start."""
        return self.since + self._timing.unrefused_after

    def started(self, now: float) -> None:
        """Take note of one more call."""
        if self.is_over:
            return
        if not self._more:
            self._size *= 2
            self._more = self._size
        self._more -= 1
        if not self._more:
            self.since = now

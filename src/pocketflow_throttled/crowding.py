"""Crowding: refusals that come each time as many had just started as a part of a window allows.

Pure: times are arguments, in seconds. Who enforces 300 a minute as 50 in ten seconds refuses few calls, but the next one again
after every 50. A refusal that has another reason comes at some time at which fewer had started.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .window import SlidingWindow

_PARTS = (6, 60)  # of a window: ten seconds and one, of a minute
_NEARLY = 0.9  # of what a part allows: calls that arrive late leave some of it
_TIMES, _APART = 5, 1 / 8  # so many, and that part of a window from one to the next: what is refused together is one
_LATELY = 3  # windows, in which they came


class Crowding:
    """When calls of a window were refused that was crowded just then.

    Example:
        >>> from pocketflow_throttled.window import SlidingWindow
        >>> window, crowding = SlidingWindow(limit=300, seconds=60.0), Crowding()
        >>> for start in (0.0, 10.0, 20.0, 30.0, 40.0):
        ...     for call in range(50):
        ...         window.add(start)
        ...     crowding.refused(start + 1.0, window)
        >>> crowding.is_regular(now=41.0, seconds=60.0)
        True
    """

    __slots__ = ("_refused",)

    def __init__(self) -> None:
        self._refused = {part: deque[float](maxlen=_TIMES) for part in _PARTS}

    def refused(self, stamp: float, window: SlidingWindow) -> None:
        """Take note that the call was refused which started at `stamp`."""
        for part, refused in self._refused.items():
            crowd = window.count_served_between(stamp - window.seconds / part, stamp)
            if crowd < max(2, _NEARLY * window.limit / part):
                refused.clear()
            elif not refused or stamp > refused[-1] + _APART * window.seconds:
                refused.append(stamp)

    def is_regular(self, now: float, seconds: float) -> bool:
        """Return whether so many were refused of late, in a window of so many seconds, and all of them when it was crowded."""
        return any(len(refused) == _TIMES and refused[0] > now - _LATELY * seconds for refused in self._refused.values())

    def clear(self) -> None:
        """Forget all refusals."""
        for refused in self._refused.values():
            refused.clear()

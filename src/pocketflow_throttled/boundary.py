"""Boundary: where a server's window ends, if it is a fixed one, as resets tell. Pure: times are in seconds."""

from __future__ import annotations

import math

# Two ends this close are the same one: resets are told to a full second, and calls take time to arrive.
_SAME_END = 1.2
# Only a call that started so much later, and is told the same end, proves that the end does not move with what is used.
_LATER = 2.5
_ALWAYS = 1e-6  # seconds: who tells the same each time may tell it of any window
_MOVED = 5  # times that an end has moved: then it is none of a fixed window


class Boundary:
    """Where a fixed window ends: resets count down to a moment that does not move with what is used, as no other window's does.

    Example:
        >>> boundary = Boundary()
        >>> boundary.learn(started=0.0, answered=1.0, end=40.0, used=1, seconds=60.0)
        >>> boundary.learn(started=4.0, answered=5.0, end=40.0, used=2, seconds=60.0)
        >>> boundary.end
        40.0
    """

    __slots__ = ("_answered", "_end", "_is_fixed", "_moved", "_used", "_waits")

    def __init__(self) -> None:
        self._end = self._answered = -math.inf  # the earliest that was told of this window, and when first
        self._used = 0  # by then
        self._is_fixed = False
        self._moved = 0  # times, by no whole window
        self._waits = -math.inf, -math.inf  # seconds that were told last, from the start of the call and from the answer on

    def began_at(self, now: float, seconds: float) -> float | None:
        """Return when the window of `seconds` began, minus infinity if that is not known; None: it is known not to be fixed."""
        if self._is_fixed and now < self._end:
            return self._end - seconds
        return None if self._moved >= _MOVED else -math.inf

    @property
    def end(self) -> float | None:
        """When the window ends, in seconds; None: it is not known to be fixed."""
        return self._end if self._is_fixed else None

    def turned_at(self, now: float, seconds: float) -> float:
        """Return when a window of `seconds` ended last; minus infinity: it is not known to be fixed."""
        return self._end + math.floor((now - self._end) / seconds) * seconds if self._is_fixed else -math.inf

    def learn(self, started: float, answered: float, end: float, used: int, *, seconds: float, is_sure: bool = True) -> None:
        """Learn from an answer.

        Args:
            started: when its call did, in seconds.
            answered: when it is here.
            end: of the window, as it tells.
            used: of the limit.
            seconds: length of the window.
            is_sure: whether the end is no other if the answer tells of another moment.
        """
        if self._is_fixed:  # then other windows may have ended since
            self._end += round((end - self._end) / seconds) * seconds
        waits = end - started, end - answered
        is_always = any(abs(wait - before) <= _ALWAYS for wait, before in zip(waits, self._waits, strict=True))
        self._waits = waits
        if abs(end - self._end) > _SAME_END:
            if self._end > -math.inf and is_sure and not is_always:
                self._moved += abs(math.remainder(end - self._end, seconds)) > _SAME_END
            self._end, self._answered, self._used, self._is_fixed = end, answered, used, False
        else:
            self._end = min(self._end, end)
            self._is_fixed = self._is_fixed or (started >= self._answered + _LATER and used > self._used)

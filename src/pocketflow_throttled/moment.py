"""Moment: of which moment answers tell, that when their calls arrived or that when they were sent. Pure."""

from __future__ import annotations

_KEPT = 0.95  # of what is known, after each answer: the last twenty or so count
_TELLING = 5.0  # calls that one of the moments must be off, to tell them apart
_CLEARLY = 0.5  # as a part, how much less the right one is off


class Moment:
    """What answers tell of: the moment when their calls arrived, or that when they were sent.

    What others have used is what the server has counted, less one's own count at the right moment. It changes little from one
    answer to the next. With one's own count at the other moment it jumps, since calls differ in the time they take.

    Attributes:
        is_start: whether they are known to tell of the start.
        is_end: whether they are known to tell of the end.

    Example:
        >>> moment = Moment()
        >>> for others_if_start, others_if_end in [(3, 0), (3, -9), (4, 2), (3, -7)]:
        ...     moment.learn(others_if_start, others_if_end)
        >>> moment.is_start, moment.is_end
        (True, False)
    """

    __slots__ = ("_by_end", "_by_start", "_off_by_end", "_off_by_start", "is_end", "is_start")

    def __init__(self) -> None:
        self.is_start = self.is_end = False
        self._by_start: int | None = None  # what others had used by the last answer
        self._by_end = 0
        self._off_by_start = self._off_by_end = 0.0

    def learn(self, by_start: int, by_end: int) -> None:
        """Learn from what others have used by an answer, if it tells of the start of its call, and if it tells of its end."""
        if self._by_start is not None:
            self._off_by_start = self._off_by_start * _KEPT + abs(by_start - self._by_start)
            self._off_by_end = self._off_by_end * _KEPT + abs(by_end - self._by_end)
            if max(self._off_by_start, self._off_by_end) > _TELLING:
                if self._off_by_start < _CLEARLY * self._off_by_end:
                    self.is_start, self.is_end = True, False
                elif self._off_by_end < _CLEARLY * self._off_by_start:
                    self.is_start, self.is_end = False, True
        self._by_start, self._by_end = by_start, by_end

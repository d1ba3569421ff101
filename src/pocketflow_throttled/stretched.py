"""Stretched: windows that are as much longer as calls differ in the time they take, and what keeps their starts further apart.

A server counts what arrives, not what is sent. Pure: `now` is an argument, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING

from .margin import Margin

if TYPE_CHECKING:
    from .sliced_window import SlicedWindow
    from .window import SlidingWindow

_COLD_FOR = 2  # windows from the first answer on: by then the calls that opened connections have left any window
_SOME = 5  # calls whose seconds tell by how much they differ
# Calls whose seconds differ by less take the same time. Else every third of a batch of instant calls would set a record.
_ALIKE = 1e-4


class Stretched:
    """The windows of one limiter, each of which may be absent, and their lengths.

    Args:
        seconds: what a window is long that is told no other length.
    """

    __slots__ = (
        "_bursts",
        "_cold_until",
        "_fastest",
        "_is_cold",
        "_margin",
        "_slowest",
        "_to_time",
        "requests",
        "seconds",
        "tokens",
        "usual_least",
        "usual_most",
    )

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.requests: SlidingWindow | None = None
        self.tokens: SlicedWindow | None = None
        self._bursts: SlidingWindow | None = None
        self._margin = Margin()
        self._fastest, self._slowest = math.inf, 0.0  # seconds that calls took
        self.usual_least, self.usual_most = math.inf, 0.0  # those that teach nothing new
        self._to_time: int | None = None  # calls, until their times are known; None: nobody tells them
        self._is_cold = True  # until the first calls have left the window
        self._cold_until = math.inf

    def expect_times(self) -> None:
        """Take the times of calls to differ by as much as may be, where starts are spaced, until some calls have told theirs."""
        if self._to_time is None:
            self._to_time = _SOME
            self._stretch_all()

    def timed(self, now: float, seconds: float) -> None:
        """Learn by how much calls differ in the seconds they take, and so perhaps in those they take to arrive.

        A call that took no less than `usual_least` and no more than `usual_most` need not be told of.
        """
        if self._is_cold and self._cold_until == math.inf:
            self._cold_until = now + _COLD_FOR * self.seconds
        self._fastest, self._slowest = min(self._fastest, seconds), max(self._slowest, seconds)
        if self._to_time:
            self._to_time -= 1
        if not self._to_time:
            self.usual_least, self.usual_most = self._fastest - _ALIKE, self._slowest + _ALIKE
        self._stretch_all()

    def _resize(self, window: SlidingWindow | SlicedWindow, limit: int, seconds: float | None) -> None:
        window.limit = limit
        window.seconds = self.seconds if seconds is None else seconds
        self._stretch(window)

    def _stretch(self, window: SlidingWindow | SlicedWindow) -> None:
        is_cold = self._is_cold and window.seconds >= self.seconds  # a shorter one is soon past its first calls
        spread, least = max(0.0, self._slowest - self._fastest), 0.0
        if window is self._bursts:
            least = self._margin.part * window.seconds
            if self._to_time:
                spread = math.inf
        window.stretch(spread, least, cold=is_cold)

    def _stretch_all(self) -> None:
        for window in (self.requests, self._bursts, self.tokens):
            if window is not None:
                self._stretch(window)

    def _grow_warm(self) -> None:
        self._is_cold, self._cold_until = False, math.inf
        self._stretch_all()

    def _look_at_margin(self, now: float) -> None:
        requests = self.requests
        rate = 1.0 if requests is None else requests.limit / requests.seconds
        self._margin.shrink(now, rate, self._calls_since(self._margin.looked_at))
        self._stretch_all()

    def starts_between(self, after: float, until: float) -> int:
        """Return how many calls started after a moment and until another, of late."""
        times = deque[float]() if self.requests is None else self.requests.times
        return bisect_right(times, until) - bisect_right(times, after)

    def _calls_since(self, time: float) -> int:
        if self.requests is not None:
            return sum(1 for _ in takewhile(lambda stamp: stamp > time, reversed(self.requests.times)))
        spends = () if self.tokens is None else self.tokens.spends
        return sum(1 for _ in takewhile(lambda spend: spend.time > time, reversed(spends)))

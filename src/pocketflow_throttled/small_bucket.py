"""Small buckets: how starts are held back for one, as far as a server tells of it.

One that holds a single call, or two, takes them one by one: then starts are spaced. Of a larger one no more is started than is
left, nor than others leave. Pure: it knows neither clock nor queue.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .answers import UNMARKED
from .level import Level

if TYPE_CHECKING:
    from .answers import Answer
    from .budget import Budget
    from .gate import Hold
    from .headers import Quota
    from .span import Span
    from .window import SlidingWindow

_OFTEN_REFUSED = 0.05  # of the calls: then it is others that empty a bucket
_BLAMED_FOR, _BLAMED = 5, 5  # refusals at least, for which others are blamed; windows for which they are


class SmallBucket:
    """The bucket that a server may keep for the requests of a budget.

    Args:
        budget: whose windows they are.
        span: what is known of how much there ever is left of them.
    """

    __slots__ = ("_blamed_until", "_budget", "_level", "_rate", "_span")

    def __init__(self, budget: Budget, span: Span) -> None:
        self._budget = budget
        self._span = span
        self._level = Level()
        self._rate = 0.0  # at which calls are started one by one, if they are
        self._blamed_until = -math.inf  # others, for refusals that own calls do not explain

    def follow(self, quota: Quota, left: int, answer: Answer) -> bool:
        """Hold starts back by what is left, and return whether it is known what others take of it."""
        budget, span, now = self._budget, self._span, answer.now
        window, hold = budget.requests, None
        if budget.is_single and not span.is_small:
            budget.forget_pace()
        if window is not None and span.is_small:
            # It fills as fast as the server's limit says, which may be more than the user's, or told of a shorter time.
            rate = max(quota.limit or 0, window.limit) / window.seconds
            if budget.is_single and rate != self._rate:  # the server's limit has changed, and so may have what it keeps
                budget.forget_pace()
            if self._takes_single_calls(window, now):
                self._rate = rate
                budget.space_singly(rate, now)
            hold = self._hold(left, answer, window, rate)
        is_spaced = budget.at_once is not None  # then it is not emptied, but by others
        budget.hold(None if hold is not None and is_spaced and not hold.is_shared else hold, now)
        if window is None or (hold is None and not budget.is_single):
            return False
        window.take_away(0, now, now)
        return True

    def _hold(self, left: int, answer: Answer, window: SlidingWindow, rate: float) -> Hold | None:
        budget, level, call, now = self._budget, self._level, answer.call, answer.now
        started = now if call is None else None if call is UNMARKED else call.time
        if answer.is_refused and started is not None:
            level.refused(started)
            if self.is_refused_often(now, _BLAMED_FOR):
                self._blamed_until = now + _BLAMED * budget.seconds
        most = max(self._span.most_left, budget.at_once or 0)
        level.learn(now, started, left, window, rate=rate, most=most)
        return level.hold(now, window, rate=rate, most=most, is_blamed=now < self._blamed_until)

    def is_refused_often(self, now: float, least: int = 1) -> bool:
        """Return whether so many calls are refused that others must be to blame."""
        budget = self._budget
        since = max(now - budget.seconds, budget.spaced_since)  # before, it may have been a burst
        return budget.refused_since(since) >= max(least, _OFTEN_REFUSED * budget.starts_between(since, now))

    def _takes_single_calls(self, window: SlidingWindow, now: float) -> bool:
        """Whether calls are best started one by one from now on: the server refuses some that are not, though it has room."""
        budget = self._budget
        if not self._span.is_single or budget.is_single or (budget.at_once or 1) > 1:
            return False
        is_whole = window.seconds >= budget.seconds  # a shorter one may be that of resets which tell of the next single call
        return is_whole and budget.has_room("requests", now) and budget.refused_since(now - window.seconds) > 0

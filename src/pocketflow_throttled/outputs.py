"""Outputs: what calls write, where an API limits that apart, as Anthropic does. Pure: `now` is an argument, in seconds.

What a call writes is known only as it ends, and an API admits calls as long as anything is left. So when nothing is, those under
way will still write what nobody has, and whatever starts before that is paid off is refused. Here those under way are expected to
write what others did, and what they will leave nothing for does not start.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .span import Span

if TYPE_CHECKING:
    from .headers import Quota

_SCARCE = 0.25  # of the limit: who never has less left is not held back by what may be written
_KEPT = 0.97  # of what is known, after each call: the last thirty or so count
_NEWEST = 0.1  # how much the last call counts of how long calls take
# Of what was known, after each call that does not tell: if too much is expected of them, nothing is refused, and nothing else
# would tell.
_LESS = 0.998
_MOST_OWED = 9  # limits, in as many windows: who tells of more is not believed
_ROUNDING = 1e-9  # of a second


class Outputs:
    """The output tokens that calls may still write.

    No call is held back before an API told that little is left of them, and calls what they write: by their `usage`, or, where
    answers tell neither that nor what they leave, by what had been written when one was refused.

    Attributes:
        limit: tokens in a window; 0: none was told.
        is_scarce: whether little was left once.

    Example:
        >>> from pocketflow_throttled.headers import Quota
        >>> outputs = Outputs()
        >>> outputs.told(Quota("tokens", limit=6000, remaining=1500), now=0.0, default=60.0)
        >>> outputs.ended(now=4.0, started=3.0, tokens=1000)
        >>> outputs.opens_at(now=4.0, active=1), outputs.opens_at(now=4.0, active=5)
        (5.0, 63.0)
    """

    __slots__ = (
        "_answered_at",
        "_at",
        "_began",
        "_calls",
        "_lately",
        "_left",
        "_seconds",
        "_span",
        "_told",
        "_told_at",
        "_took",
        "_untold",
        "_window",
        "_written",
        "is_scarce",
        "limit",
    )

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that is known."""
        self.is_scarce = False
        self.limit, self._seconds, self._span = 0, math.inf, Span()
        self._left, self._at = 0.0, 0.0  # what is left, and when
        self._told, self._told_at = 0.0, 0.0  # the same, as it was told last
        self._answered_at = -math.inf  # when the answer to a call that was served told it last
        self._began = 0.0  # when the first call started, if it was not
        self._untold = 0  # calls served since then that did not tell what they wrote
        self._calls = self._written = 0.0  # sums: calls that tell, and what they wrote
        self._took = 0.0  # seconds that a call takes
        self._window = _Log()  # what was written in the last window ...
        self._lately = _Log()  # ... and what of that is still in it when a call ends that starts now

    @property
    def each(self) -> float:
        """What a call writes on average; 0: that is not known."""
        return max(0.0, self._written / self._calls) if self._calls else 0.0

    def served(self, now: float, calls: int, seconds: float) -> None:
        """Take note of calls that were served in the last `seconds`, before a limit was told: what they wrote, nobody knows."""
        self._untold, self._began = calls, now - seconds

    def told(self, quota: Quota, now: float, default: float, *, is_refused: bool = False) -> None:
        """Learn what an API tells of the limit and of what is left.

        Args:
            quota: what is told.
            now: seconds.
            default: length of the window in seconds, unless resets tell that it is shorter.
            is_refused: whether it is told as a call is refused, and not in an answer, which is told as every other.
        """
        limit = quota.limit
        if limit is None:
            return
        if not self.limit:
            self._told, self._told_at = float(limit), self._began
        if not is_refused:
            self._answered_at = now
        is_answered = self._answered_at > -math.inf
        self.limit = limit
        self._seconds = self._span.seconds(quota, default) if is_answered else default  # refusals tell of few moments
        left = float(limit if quota.remaining is None else min(quota.remaining, limit))
        if quota.remaining == 0:  # more may be written than there is: how much is owed, only the reset tells
            left = max(min(0.0, limit - quota.until_reset * self._rate), -_MOST_OWED * float(limit))
        self.is_scarce = self.is_scarce or left <= _SCARCE * limit
        if self._untold and not is_answered and left <= _SCARCE * limit:
            self._learn(self._untold, self._told - left + self._rate * (now - self._told_at))
        if left > 0:
            for log in (self._window, self._lately):
                log.keep(limit - left)
        self._untold = 0
        self._left = self._told = left
        self._at = self._told_at = now

    def ended(self, now: float, started: float, tokens: int | None) -> None:
        """Take note of a call that was served, and of what it wrote; None: it does not tell."""
        took = max(0.0, now - started)
        self._took += (took - self._took) * (_NEWEST if self._took else 1.0)
        if tokens is None:
            self._untold += 1
            self._written *= _LESS
        else:
            self._learn(1, min(tokens, self.limit))
        wrote = min(self.each if tokens is None else tokens, self.limit)
        self._window.add(now, wrote)
        self._lately.add(now, wrote)
        if self._answered_at < now - took / 2:  # else the answer told what is left without it
            self._left, self._at = self._left_at(now) - wrote, now

    def opens_at(self, now: float, active: int) -> float:
        """Return when one more call may start beside those that are under way: by `now`, at once; endless, once some end."""
        each, limit = self.each, self.limit
        if not self.is_scarce or not each:
            return now
        under_way = active * each
        if under_way >= limit:
            return math.inf
        opens_at = now
        missing = min(each, limit) - self._left_at(now)
        if missing > _ROUNDING * self._rate:
            opens_at += missing / self._rate
        if self._window.within(self._seconds, now) >= limit:
            opens_at = max(opens_at, self._window.oldest + self._seconds)
        seconds = max(0.0, self._seconds - self._took)
        if self._lately.within(seconds, now) + under_way >= limit:
            opens_at = max(opens_at, self._lately.oldest + seconds)
        return opens_at

    @property
    def _rate(self) -> float:
        return self.limit / self._seconds

    def _left_at(self, now: float) -> float:
        return min(self._left + self._rate * max(0.0, now - self._at), float(self.limit))

    def _learn(self, calls: int, written: float) -> None:
        kept = _KEPT**calls
        self._calls = self._calls * kept + calls
        self._written = self._written * kept + written


class _Log:
    """What was written, and when."""

    __slots__ = ("_total", "_written")

    def __init__(self) -> None:
        self._written: deque[tuple[float, float]] = deque()
        self._total = 0.0

    @property
    def oldest(self) -> float:
        """When the first of it was written."""
        return self._written[0][0]

    def add(self, now: float, tokens: float) -> None:
        """Add what is written `now`."""
        self._written.append((now, tokens))
        self._total += tokens

    def within(self, seconds: float, now: float) -> float:
        """Return what was written in the last `seconds`, and forget the rest."""
        written = self._written
        while written and written[0][0] + seconds <= now:
            self._total -= written.popleft()[1]
        return self._total if written else 0.0

    def keep(self, tokens: float) -> None:
        """Forget the oldest of it, so that hardly more is left than so much."""
        written = self._written
        while written and self._total - written[0][1] >= tokens:
            self._total -= written.popleft()[1]

"""Outputs: what calls write, where an API refuses them for that, as Anthropic does. Pure: `now` is an argument, in seconds.

What a call writes is known only as it ends, and an API admits calls as long as any output token is left. So when none is, those
under way write on, and whatever starts before that debt is paid off is refused. Hence, once a call was refused for it, others
start only as those under way leave room, if they write what calls write on average.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .span import Span

if TYPE_CHECKING:
    from .headers import Quota

_SECONDS = 60.0  # in which all of them come back, bit by bit, at most: docs.anthropic.com/en/api/rate-limits, "token bucket"
_KEPT = 0.97  # of the sums, with each call that is added: so its weight is halved by 23 later ones
_NEWEST = 0.1  # the weight of the last call in how long calls take
# Calls that tell nothing are thought to write this part of what was thought before: while too much is expected of them, none is
# refused, and only a refusal tells.
_LESS = 0.998
_MOST_OWED = 9  # times the limit: a debt that is told counts as no more
_ROUNDING = 1e-9  # of a second


class Outputs:
    """The output tokens that calls may still write.

    No call is held back before one was refused because none was left, and before it is known what calls write: by the `usage` of
    results, or, where these tell none and answers do not tell what is left, by how much had been written when one was refused.
    Then a call is held back for a window at most since the last one started or ended, or until the reset that was told.

    Attributes:
        limit: tokens in a window; 0: none was told.
        is_enforced: whether a call was refused because none was left.

    Example:
        >>> from pocketflow_throttled.headers import Quota
        >>> outputs = Outputs()
        >>> outputs.told(Quota("tokens", limit=6000, remaining=0, reset=60.0), now=0.0, default=60.0, is_refused=True)
        >>> outputs.ended(now=4.0, started=3.0, tokens=1000)
        >>> outputs.opens_at(now=16.0, active=1), outputs.opens_at(now=30.0, active=1)
        (20.0, 30.0)
    """

    __slots__ = (
        "_answered_at",
        "_average",
        "_batch_began",
        "_last_change",
        "_left",
        "_left_at",
        "_left_told",
        "_overlap",
        "_seconds",
        "_silent",
        "_span",
        "_told_at",
        "_took",
        "_whole_at",
        "_window",
        "is_enforced",
        "limit",
    )

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that is known."""
        self.limit, self.is_enforced = 0, False
        self._seconds, self._span = _SECONDS, Span()
        self._left, self._left_at = 0.0, 0.0  # what is left, as of a time
        self._left_told, self._told_at = 0.0, 0.0  # what was left when that was told last, and when it was
        self._answered_at = -math.inf  # when an answer told it last, and no refusal
        self._whole_at = -math.inf  # when all is back, as it was told last
        self._last_change = -math.inf  # when a call started or ended last
        self._batch_began = 0.0  # when the calls began that were served before a limit was told
        self._silent = 0  # calls since it was told what is left, or since the batch began, that did not tell what they wrote
        self._average = _Average()
        self._took = 0.0  # seconds that a call takes
        self._window = _Log()  # what was written in the last window ...
        self._overlap = _Log()  # ... and what of it will still count when a call ends that starts now

    @property
    def each(self) -> float:
        """What a call writes on average; 0: that is not known."""
        return self._average.value

    def served(self, now: float, calls: int, seconds: float) -> None:
        """Take note of calls that were served in the last `seconds`, before a limit was told: what they wrote, nobody knows."""
        self._silent, self._batch_began = calls, now - seconds

    def told(self, quota: Quota, now: float, default: float, *, is_refused: bool = False) -> None:
        """Learn what an API tells of the limit and of what is left.

        Args:
            quota: what is told.
            now: seconds.
            default: length of the window in seconds, unless resets tell that it is shorter; a minute at most.
            is_refused: whether a refusal tells it, or else the answer to a call.
        """
        if quota.limit is None:
            return
        limit = float(quota.limit)
        if not self.limit:  # all was there when the batch began
            self._left_told, self._told_at = limit, self._batch_began
        self.limit = quota.limit
        self._seconds = min(self._seconds, default)
        left = min(limit, quota.limit if quota.remaining is None else quota.remaining)
        if left > 0:
            self._seconds = self._span.seconds(quota, min(default, _SECONDS))  # where none is left, resets tell of a debt as well
            self._window.keep(limit - left)
            self._overlap.keep(limit - left)
        else:  # there may be less than none: how much is owed, only the reset tells
            left = max(min(0.0, limit - quota.until_reset * self._rate), -_MOST_OWED * limit)
            self._whole_at = now + min(quota.until_reset, (_MOST_OWED + 1) * self._seconds)
            self.is_enforced = self.is_enforced or is_refused
            if self._silent and is_refused and self._answered_at == -math.inf:
                self._average.add(self._silent, self._left_told + self._rate * (now - self._told_at) - left)
        self._silent = 0
        self._left = self._left_told = left
        self._left_at = self._told_at = now
        if not is_refused:
            self._answered_at = now

    def started(self, now: float) -> None:
        """Take note of a call that starts."""
        self._last_change = now

    def ended(self, now: float, started: float, tokens: int | None) -> None:
        """Take note of a call that was served, and of what it wrote; None: it does not tell."""
        took = max(0.0, now - started)
        self._took += (took - self._took) * (_NEWEST if self._took else 1.0)
        self._last_change = now
        if tokens is None:
            self._silent += 1
            self._average.shrink()
        else:
            self._average.add(1, min(tokens, self.limit))
        wrote = min(self.each if tokens is None else tokens, self.limit)
        self._window.add(now, wrote, self._seconds)
        self._overlap.add(now, wrote, self._seconds)
        # An answer that came near the end of the call is its own, and tells what is left without what it wrote. One that came
        # earlier is another's, or that of a stream, which tells it as it begins.
        if self._answered_at < now - took / 2:
            self._left, self._left_at = self._left_by(now) - wrote, now

    def opens_at(self, now: float, active: int) -> float:
        """Return when one more call may start beside those under way, as far as is known now: by `now`, at once."""
        each, limit, seconds = self.each, self.limit, self._seconds
        if not self.is_enforced or not each:
            return now
        latest = max(self._last_change + seconds, self._whole_at)
        under_way = active * each * min(1.0, seconds / self._took if self._took else 1.0)  # of it, what ends within a window
        opens_at = now
        if under_way >= limit:
            opens_at = latest  # unless one ends before
        missing = min(each, limit) - self._left_by(now)
        if missing > _ROUNDING * self._rate:
            opens_at = max(opens_at, now + missing / self._rate)
        if self._window.within(seconds, now) >= limit:
            opens_at = max(opens_at, self._window.oldest + seconds)
        overlap = max(0.0, seconds - self._took)
        written = self._overlap.within(overlap, now)
        if written and written + under_way >= limit:
            opens_at = max(opens_at, self._overlap.oldest + overlap)
        return max(now, min(opens_at, latest))

    @property
    def _rate(self) -> float:
        return self.limit / self._seconds

    def _left_by(self, now: float) -> float:
        return min(self._left + self._rate * max(0.0, now - self._left_at), float(self.limit))


class _Average:
    """What calls write on average, the last ones more than those before."""

    __slots__ = ("_calls", "_tokens")

    def __init__(self) -> None:
        self._calls = self._tokens = 0.0  # sums in which older calls count less

    @property
    def value(self) -> float:
        """The average; 0: it is not known."""
        return max(0.0, self._tokens / self._calls) if self._calls else 0.0

    def add(self, calls: int, tokens: float) -> None:
        """Add calls, and what they wrote in all."""
        kept = _KEPT**calls
        self._calls = self._calls * kept + calls
        self._tokens = self._tokens * kept + tokens

    def shrink(self) -> None:
        """Make it a bit less, for a call that does not tell."""
        self._tokens *= _LESS


class _Log:
    """What was written, and when."""

    __slots__ = ("_entries", "_total")

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float]] = deque()
        self._total = 0.0

    @property
    def oldest(self) -> float:
        """When the first of it was written."""
        return self._entries[0][0]

    def add(self, now: float, tokens: float, seconds: float) -> None:
        """Add what is written `now`, and forget what was written more than `seconds` ago."""
        self.within(seconds, now)
        self._entries.append((now, tokens))
        self._total += tokens

    def within(self, seconds: float, now: float) -> float:
        """Return what was written in the last `seconds`, and forget the rest."""
        entries = self._entries
        while entries and entries[0][0] + seconds <= now:
            self._total -= entries.popleft()[1]
        return self._total if entries else 0.0

    def keep(self, tokens: float) -> None:
        """Forget the oldest of it, as long as what stays is no less than so much."""
        entries = self._entries
        while entries and self._total - entries[0][1] >= tokens:
            self._total -= entries.popleft()[1]

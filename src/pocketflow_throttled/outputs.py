"""Outputs: what calls write, for an API that limits it apart, as Anthropic does. Pure: `now` is an argument, in seconds.

What a call writes is known only as it ends, and an API admits calls as long as any output token is left. When none is, those
under way go on writing, which makes a debt, and whatever starts before that is paid off is refused. Hence, once a call was
refused for it, others start only when there is room for them beside those under way, each taken to write the average.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .span import Span

if TYPE_CHECKING:
    from .headers import Quota

_SECONDS = 60.0  # the longest that a whole limit takes to come back: docs.anthropic.com/en/api/rate-limits, "token bucket"
_KEPT = 0.97  # the part of the average's sums that stays as a call is added: 23 later calls halve the weight of one
_NEWEST = 0.1  # the weight of the last call in how long calls take
_MOST_OWED = 9  # times the limit: a debt that is told counts as no more
_LITTLE = 0.25  # of the limit
_EARLY = 0.25  # of the time that calls take: answers that come sooner are those of streams
_ROUNDING = 1e-9  # of a second


class Outputs:
    """The output tokens that calls may still write.

    No call is held back before one was refused because none was left, nor while results do not tell, by their `usage`, what calls
    write. One is held back no longer than a window after the last one started or ended, or until the reset that was told.

    Attributes:
        limit: tokens in a window; 0: none was told.
        is_enforced: whether a call was refused because none was left; to be set by who knows that.

    Example:
        >>> from pocketflow_throttled.headers import Quota
        >>> outputs = Outputs()
        >>> outputs.told(Quota("tokens", limit=6000, remaining=0, reset=60.0), now=0.0, default=60.0, is_answer=False)
        >>> outputs.is_enforced = True
        >>> outputs.ended(now=4.0, started=3.0, tokens=1000)
        >>> outputs.opens_at(now=16.0, active=1), outputs.opens_at(now=30.0, active=1)
        (20.0, 30.0)
    """

    __slots__ = (
        "_answered_at",
        "_calls",
        "_last_change",
        "_last_start",
        "_left",
        "_left_at",
        "_overlap",
        "_seconds",
        "_span",
        "_takes",
        "_whole_at",
        "_window",
        "_written",
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
        self._answered_at = -math.inf  # when an answer told it last, and no refusal
        self._whole_at = -math.inf  # when the limit is whole again, as it was told last
        self._last_start = -math.inf  # of a call
        self._last_change = -math.inf  # when a call started or ended last
        self._calls = self._written = 0.0  # sums, in which older calls count less: how many, and what they wrote
        self._takes = 0.0  # seconds that a call takes
        self._window = _Log()  # what was written in the last window ...
        self._overlap = _Log()  # ... and what of it will still count when a call ends that starts now

    @property
    def each(self) -> float:
        """What a call writes on average; 0: that is not known."""
        return self._written / self._calls if self._calls else 0.0

    def is_early(self, seconds: float) -> bool:
        """Return whether an answer that comes so long after its call's start is that of a stream, which it tells as it begins."""
        return self.each > 0 and seconds < _EARLY * self._takes

    def told(self, quota: Quota, now: float, default: float, *, is_answer: bool, since: float = math.inf) -> None:
        """Learn what an API tells of the limit and of what is left.

        Args:
            quota: what is told.
            now: seconds.
            default: length of the window in seconds, unless resets tell that it is shorter; a minute at most.
            is_answer: whether the answer to a call tells it, and no error.
            since: of which moment it may tell: when that call started; later than `now`: nobody knows.
        """
        if quota.limit is None:
            return
        limit = float(quota.limit)
        self.limit, self._seconds = quota.limit, min(self._seconds, default)
        left = min(limit, quota.limit if quota.remaining is None else quota.remaining)
        if left > 0:
            self._seconds = self._span.seconds(quota, min(default, _SECONDS))  # where none is left, resets tell of a debt as well
        else:  # there may be less than none: how much is owed, only the reset tells
            left = max(min(0.0, limit - quota.until_reset * self._rate), -_MOST_OWED * limit)
            self._whole_at = now + min(quota.until_reset, (_MOST_OWED + 1) * self._seconds)
        is_some_left, since = left > 0, max(since, now - self._takes)
        if since < now:  # then what was written since is not told; if it was, as much came back meanwhile where all of it is used
            left = min(limit, left + self._rate * (now - since)) - self._window.since(since)
        if is_some_left:
            self._window.forget_beyond(limit - left)
            self._overlap.forget_beyond(limit - left)
        self._left, self._left_at = left, now
        if is_answer and since >= now:
            self._answered_at = now

    def started(self, now: float) -> None:
        """Take note of a call that starts."""
        self._last_change = self._last_start = now

    def ended(self, now: float, started: float, tokens: int | None) -> None:
        """Take note of a call that was served, and of what it wrote; None: it does not tell, and nobody knows what is left."""
        took = max(0.0, now - started)
        self._takes += (took - self._takes) * (_NEWEST if self._takes else 1.0)
        self._last_change = now
        if tokens is None:
            self._calls = self._written = 0.0
            return
        wrote = min(tokens, self.limit)
        self._calls = self._calls * _KEPT + 1
        self._written = self._written * _KEPT + wrote
        self._window.add(now, wrote, self._seconds)
        self._overlap.add(now, wrote, self._seconds)
        # An answer that came near the end of the call is its own, and tells what is left without what it wrote. One that came
        # earlier is another's, or that of a stream, which tells it as it begins.
        if self._answered_at < now - took / 2:
            self._left, self._left_at = self._left_by(now) - wrote, now

    def opens_at(self, now: float, active: int) -> float:
        """Return when one more call may start beside those under way, as far as is known; `now` or earlier means at once."""
        each, limit, seconds, takes = self.each, self.limit, self._seconds, self._takes
        if not self.is_enforced or not each:
            return now
        latest = max(self._last_change + seconds, self._whole_at)
        under_way = active * each * min(1.0, seconds / takes if takes else 1.0)  # of it, what ends within a window
        opens_at = now
        if under_way >= limit:
            opens_at = latest  # unless a call ends earlier
        left = self._left_by(now)
        if left < _LITTLE * limit:  # no closer than they are paid off, as what is left is not told exactly
            opens_at = max(opens_at, self._last_start + min(each, limit) / self._rate)
        missing = min(each, limit) - left
        if missing > _ROUNDING * self._rate:
            opens_at = max(opens_at, now + missing / self._rate)
        if self._window.within(seconds, now) >= limit:
            opens_at = max(opens_at, self._window.oldest + seconds)
        overlap = max(0.0, seconds - takes)
        written = self._overlap.within(overlap, now)
        if written and written + under_way >= limit:
            opens_at = max(opens_at, self._overlap.oldest + overlap)
        return max(now, min(opens_at, latest))

    @property
    def _rate(self) -> float:
        return self.limit / self._seconds

    def _left_by(self, now: float) -> float:
        return min(self._left + self._rate * max(0.0, now - self._left_at), float(self.limit))


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

    def since(self, time: float) -> float:
        """Return what was written after a time."""
        total = 0.0
        for when, tokens in reversed(self._entries):
            if when <= time:
                break
            total += tokens
        return total

    def within(self, seconds: float, now: float) -> float:
        """Return what was written in the last `seconds`, and forget the rest."""
        entries = self._entries
        while entries and entries[0][0] + seconds <= now:
            self._total -= entries.popleft()[1]
        return self._total if entries else 0.0

    def forget_beyond(self, tokens: float) -> None:
        """Forget the oldest of it, as long as what stays is no less than so much."""
        entries = self._entries
        while entries and self._total - entries[0][1] >= tokens:
            self._total -= entries.popleft()[1]

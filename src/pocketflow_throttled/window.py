"""Sliding windows: what was granted lately, and when more will fit; here what all have, and that of starts.

Pure: `now` is an argument, in seconds of whatever clock the caller uses. No asyncio, no waiting.

A window log is exact where buckets are not: a bucket that holds a full minute admits twice the limit in its first minute,
a log of the grants admits `limit` in *any* `seconds`.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from contextlib import suppress

from .growth import Growth
from .on_the_way import IN_ANY_ORDER

# A server counts what arrives, not what is sent, and a request may take longer to arrive than the one a window after it. So a
# window is stretched by what calls differ in time, within bounds: it costs a thirtieth at most, but for the first calls of a
# client, which open connections.
_MOST_STRETCH, _MOST_STRETCH_COLD = (0.6, 0.03), (1.0, 0.25)  # in seconds, and as a part of the window
_NEARLY = 0.8  # of a limit: by the rest of it, others' share and one's own may be off
_ROUNDING = 1e-9  # of a step, by which its moment may seem not to have come
_STEPS = 50  # in which the share of others comes back: a waiter is woken for each, not for every token


class Window:
    """What both windows have: a limit, of which others may have taken a share for a while, and a length.

    Attributes:
        seconds: its length.
        span: how long a start counts: its length, stretched.
        allowed: how many are allowed now: the limit without the share of others.
    """

    __slots__ = ("_back_from", "_back_until", "_began_at", "_growth", "_limit", "_taken", "allowed", "seconds", "span")

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = self.allowed = limit
        self.seconds = self.span = seconds
        self._taken = 0
        self._back_from = self._back_until = self._began_at = -math.inf
        self._growth = Growth()

    @property
    def limit(self) -> int:
        """How many are allowed in any one window."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._limit = value
        self.allowed = max(0, value - self._taken)

    def stretch(self, spread: float, least: float = 0.0, *, cold: bool = False) -> None:
        """Count each start for as much longer as calls differ in the seconds they take, within bounds, wider ones if `cold`.

        And by `least` seconds at least.
        """
        seconds, part = _MOST_STRETCH_COLD if cold else _MOST_STRETCH
        self.span = self.seconds + max(least, min(spread, seconds, part * self.seconds))

    def take_away(
        self, count: int, back_from: float, back_until: float, told_at: float | None = None, *, began_at: float = -math.inf
    ) -> None:
        """Count `count` of others, in place of what was counted of them before.

        They come back evenly between two moments, or all at once if these are one. They are expected to take as much later on, if
        it is known which moment a server told of as it served a call. They share a window with all of one's own that are counted
        here, unless the server's is a fixed one that began at a later moment.
        """
        self._taken, self._back_from, self._back_until, self._began_at = count, back_from, back_until, began_at
        self.allowed = max(0, self._limit - count)
        if told_at is not None:
            self._growth.learn(count, told_at, limit=self._limit, seconds=self.seconds)
        elif not count:
            self._growth = Growth()
        if self._growth.rate:
            self.allowed = 0  # until it is looked at: that depends on the time

    def forget_others(self) -> None:
        """Count nothing of others any more."""
        self.take_away(0, -math.inf, -math.inf)

    def is_filled(self, own: int) -> bool:
        """Whether what others usually have and `own` may be all of the limit."""
        return self._growth.rate > 0 and own + self._growth.rate * self.seconds >= _NEARLY * self._limit

    def others(self, now: float) -> int:
        """Return how much others have taken that is not back at `now`."""
        if now >= self._back_until:
            return 0
        if now < self._back_from:
            return self._taken
        step = max(1, self._taken // _STEPS)
        part = (now - self._back_from) / (self._back_until - self._back_from)
        return max(0, self._taken - step * (1 + math.floor(part * self._taken / step + _ROUNDING)))

    def _others_back_at(self, now: float) -> float:
        """Return when more of the share of others comes back, after `now`."""
        if now < self._back_from:
            return self._back_from
        step = max(1, self._taken // _STEPS)
        steps = (self._taken - self.others(now)) / step
        back_at = self._back_from + steps * step / self._taken * (self._back_until - self._back_from)
        return min(self._back_until, max(back_at, math.nextafter(now, math.inf)))  # later, whatever rounding makes of it

    @property
    def _each(self) -> float:
        """How much others take at a time, as far as that is known."""
        return 1.0

    @property
    def _tells(self) -> int:
        """How much is allowed whatever others may have taken since they were told of, so that an answer tells it."""
        return 1

    def _counted_by(self, time: float) -> int:  # noqa: ARG002  (for those that can tell)
        """Return how much of one's own that is counted started by a time."""
        return 0

    def _give_back(self, now: float) -> None:
        if self._taken or self._growth.rate:
            others = self.others(now)
            self.allowed = max(0, self._limit - others)
            if self._began_at > -math.inf:
                before = self._counted_by(self._began_at if now < self._back_until else self._back_until)
                self.allowed = min(self._limit, self.allowed + before)
            if self._growth.rate and self.allowed:
                more = self._growth.by(now, told=self._taken, back_until=self._back_until, seconds=self.seconds, each=self._each)
                self.allowed = max(min(self.allowed, self._tells), self.allowed - more)
            if not others:
                self._taken = 0


class SlidingWindow(Window):
    """At most `limit` starts in any `seconds`.

    Args:
        limit: starts allowed in any one window.
        seconds: length of the window.

    Example:
        >>> window = SlidingWindow(limit=1, seconds=60.0)
        >>> window.add(now=0.0)
        >>> window.fits(now=59.9), window.opens_at(now=59.9), window.fits(now=60.0)
        (False, 60.0, True)
    """

    __slots__ = ("_refused", "times")

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.times: deque[float] = deque()
        self._refused: deque[float] = deque()  # when calls started that a server refused

    def fits(self, now: float) -> bool:
        """Return whether one more start is allowed at `now`; forgets what has left the window."""
        if len(self.times) < self.allowed:
            return True
        self.forget(now)
        return len(self.times) < self.allowed

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        times = self.times
        while times and times[0] + self.span <= now:
            times.popleft()
        if self._refused:
            self.unserved(now)
        self._give_back(now)

    def _counted_by(self, time: float) -> int:
        return bisect_right(self.times, time)

    def opens_at(self, now: float) -> float:
        """Return when the next start may fit, if none does now."""
        own = self.times[-self.allowed] + self.span if 0 < self.allowed <= len(self.times) else math.inf
        return min(own, self._others_back_at(now)) if self._taken else own

    def add(self, now: float) -> None:
        """Stamp a start."""
        self.times.append(now)

    def remove(self, stamp: float) -> None:
        """Take back the stamp of a start that was never sent."""
        with suppress(ValueError):  # it may have left the window already
            self.times.remove(stamp)

    def refuse(self, stamp: float) -> None:
        """Remember that a server refused the call of a stamp: it counts here for what it was, but not at most servers."""
        self.unserved(stamp)
        insort(self._refused, stamp)

    def unserved(self, now: float) -> int:
        """Return how many of the window at `now` were refused; forgets what has left it."""
        refused = self._refused
        while refused and refused[0] + self.span <= now:
            refused.popleft()
        return len(refused)

    def served_between(self, after: float, until: float) -> list[float]:
        """Return the starts after a moment and until another, of late, without those that a server refused."""
        times, refused = self.times, self._refused
        served = [times[index] for index in range(bisect_right(times, after), bisect_right(times, until))]
        for index in range(bisect_right(refused, after), bisect_right(refused, until)):
            with suppress(ValueError):  # it may have left the window already
                served.remove(refused[index])
        return served

    def count_served_between(self, after: float, until: float) -> int:
        """Return how many starts `served_between` would, without a look at each: it is asked at every answer."""
        times, refused = self.times, self._refused
        count = bisect_right(times, until) - bisect_right(times, after)
        return max(0, count - bisect_right(refused, until) + bisect_right(refused, after))

    def used(self, now: float) -> int:
        """Return how many starts are in the window at `now`, others' included. Reading forgets nothing."""
        return self.own(now) + self.others(now)

    def served(self, now: float) -> int:
        """Return how many starts are in a server's window at `now` that it did not refuse, without those of others."""
        left = now - min(self.span, self.seconds + IN_ANY_ORDER)
        times, refused = self.times, self._refused
        return max(0, len(times) - bisect_right(times, left) - len(refused) + bisect_right(refused, left))

    def own(self, now: float) -> int:
        """Return how many starts are in the window at `now` without those of others."""
        used = len(self.times)
        for stamp in self.times:
            if stamp + self.span > now:
                break
            used -= 1
        return used

    def clear(self) -> None:
        """Forget every start, and what others have taken."""
        self.times.clear()
        self._refused.clear()
        self.forget_others()

"""Spaced: starts that are kept apart, as the user, a server's headers or its refusals ask for it.

Some enforce a limit a minute as so many a second, or as fewer in less. Spaced starts are as many in the window.
Pure: `now` is an argument, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING

from .gate import Gate
from .margin import Margin
from .stretched import Stretched
from .window import SlidingWindow

if TYPE_CHECKING:
    from .gate import Hold

_TINY = 3  # calls at a time: of so few, those that arrive late may be all
_CLOSEST = 0.02  # seconds between starts that refusals space, at least: closer together, timers decide when they come
_SAME_PACE = 0.01  # as a part, how far off the same pace may be


class Spaced(Stretched):
    """The windows of one limiter, and what keeps their starts apart.

    Args:
        burst: at most so many starts in any `burst / requests` share of the window; None: as they come.
        seconds: length of the window in seconds.

    Attributes:
        is_single: whether no calls start together, as a server tells that it never has more than one or two left.
        spaced_since: when starts were spaced anew, as calls were refused, in seconds.
    """

    __slots__ = ("_at_a_time", "_gate", "_pace", "burst", "is_single", "spaced_since")

    def __init__(self, burst: int | None, seconds: float) -> None:
        super().__init__(seconds)
        self.burst = burst
        self.is_single = False
        self.spaced_since = -math.inf
        self._pace: tuple[int, float] | None = None  # starts in so many seconds, where no burst is set
        self._at_a_time: int | None = None  # fewer than the bursts that were set, since calls were refused
        self._gate: Gate | None = None  # holds starts back, so that they take no more of a small bucket than it has

    def set_burst(self, burst: int | None) -> None:
        """Set the starts allowed in any `burst / requests` share of the window."""
        self.burst = burst
        if self.requests is None or (burst is None and self._pace is None):
            self._bursts = None
            return
        limit, seconds = self._pace or (0, 0.0)
        if burst is not None:  # what the user asked for is what counts, or fewer at a time, as often
            limit = min(burst, self._at_a_time or burst)
            seconds = self.requests.seconds * limit / self.requests.limit
        bursts = self._bursts or SlidingWindow(limit, 0.0)
        if seconds > bursts.seconds:  # what has left the shorter share may be in the longer one
            times = self.requests.times
            older = takewhile(lambda stamp: not times or stamp < times[0], bursts.times)
            bursts.times = deque([*older, *times])
        self._bursts = bursts
        self._resize(bursts, limit, seconds)

    @property
    def at_once(self) -> int | None:
        """How many may start at once, where starts are spaced, as the user or the server asked for it; None: they are not."""
        return None if self._bursts is None else self._bursts.limit

    def set_pace(self, limit: int, seconds: float, now: float) -> None:
        """Set the starts that a server allows in `seconds`, a shorter time than the window, where no burst is set."""
        if self._pace is not None:
            each, share = self._pace
            if each <= limit and each * seconds <= (1 + _SAME_PACE) * limit * share:
                return  # they are spaced by more already, since calls were refused
        self._margin = Margin(now)
        self._pace = limit, seconds
        self.set_burst(self.burst)

    def hold(self, hold: Hold | None, now: float) -> None:
        """Hold starts back from now on, for a window at most, by what a small bucket has; None: not any more."""
        if hold is None:
            self._gate = None
        elif self._gate is not None:
            self._gate.set(hold, now, now + self.seconds)
        else:
            self._gate = Gate(hold, now, now + self.seconds)
            self._margin = Margin(now)  # no margin makes up for what others take
            self._stretch_all()

    def space_singly(self, rate: float, now: float) -> None:
        """Let no calls start together, but `rate` a second, as a server that refused some never has more than one or two left."""
        self.is_single = True
        if self._bursts is None:
            each = math.ceil(_CLOSEST * rate)
            self._space_by(each, each / rate, now)

    def _space_more(self, now: float) -> None:
        """Space the starts, or more than before, as a server refused a call that kept to what is known."""
        requests, bursts = self.requests, self._bursts
        assert requests is not None
        apart = requests.seconds / requests.limit
        if bursts is not None:
            apart = max(apart, bursts.seconds / bursts.limit)
        each = math.ceil(_CLOSEST / apart)
        if self.burst is None and (bursts is None or each < bursts.limit or each * apart > (1 + _SAME_PACE) * bursts.seconds):
            self._space_by(each, each * apart, now)
        elif self.burst is not None and bursts is not None and each < bursts.limit <= _TINY:
            self._at_a_time = each
            self.spaced_since = now
            self._margin.since = now
            ends = bursts.times[-1] + bursts.span if bursts.times else now
            self.set_burst(self.burst)
            bursts.take_away(each, ends, ends)  # nothing until those of the last burst are none any more
        else:
            self._margin.grow(now, 1 / apart, self._calls_since(self._margin.looked_at))
            self._stretch_all()

    def _space_by(self, each: int, seconds: float, now: float) -> None:
        self._margin = Margin(now)
        self._pace = each, seconds
        self.spaced_since = now
        self.set_burst(None)

    def is_filled_by_others(self, now: float) -> bool:
        """Whether a window may be full as others use it too: then a server that refuses does not ask for spaced starts."""
        windows = (window for window in (self.requests, self.tokens) if window is not None)
        return any(window.is_filled(window.own(now) - window.unserved(now)) for window in windows)

    def disregard_until(self, now: float) -> None:
        """Take no refusal of a call that started by now for a reason to space the starts: it was sent by another limit."""
        self._margin.since = max(self._margin.since, now)

    def forget_pace(self) -> None:
        """Forget how starts were spaced without a burst that was set."""
        self._margin, self._pace, self._at_a_time, self._gate = Margin(), None, None, None
        self.is_single = False
        self.set_burst(self.burst)

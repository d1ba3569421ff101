"""ClockWindow: so many starts in each period of an API's own clock, when it tells neither its length nor when one begins.

Pure: times are arguments, in seconds. As many calls as fit into a period start as they come, then none until the next one may
have begun: one call tries that first. Its length and its beginning are known to lie between two times each, and every such try,
refused or not, narrows both down.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .probing import Held

if TYPE_CHECKING:
    from .clock_fit import Fit
    from .evidence import Evidence
    from .timing import Timing

_KNOWN = 0.02  # of its length: a beginning is known well enough when the error is smaller
# To try late loses calls, and to try often costs refusals, each of them worth _WORTH calls. If the period may begin anywhere in T
# seconds, the sum is least when tries are sqrt(T * the seconds that so many calls take) apart, but at most _LONGEST_STEP of T.
_WORTH, _LONGEST_STEP = 5, 0.8
_BEGINNINGS = 8  # remembered, from which the length is known
_IN_VAIN = 3  # tries, after it must have begun
_RAREST = 16  # periods from one probe of how many fit to the next
_PART = 16  # of the starts known, the largest step
_USED_UP = 0.97  # of the starts known: a refusal after so many tells no more than that they were all
_MOST_ADMITTED = 2  # times as many as were thought to fit


class ClockWindow(Held):
    """A window by the clock that explained why calls were refused, and that is held from then on.

    Args:
        evidence: the starts there were.
        timing: how long calls and refusals take.
        fit: what explained the refusals.
        opened: when the first call started in the period that began last.

    Attributes:
        count: starts allowed in a period.
        seconds: length of a period, as far as it is known.
    """

    is_well_known = True

    def __init__(self, evidence: Evidence, timing: Timing, fit: Fit, opened: float) -> None:
        self._evidence, self._timing = evidence, timing
        self._found = self._known = fit.count
        self.count = fit.count + 1  # at once: if the API was only down now and then, there is no window, and more is admitted
        self._set_length(*fit.length)
        self._begun = fit.begun
        self._since = opened  # the starts from then on are those of the present period
        self._index = 0
        self._beginnings: deque[tuple[int, float, float]] = deque([(0, *fit.begun)], maxlen=_BEGINNINGS)
        self._tries_at: float | None = None  # when a call started that tries whether the next period has begun ...
        self._not_before = -math.inf  # ... and when the last such call did that was refused
        self._in_vain = 0
        self._step, self._rarity, self._periods = 1, 1, 0
        self._beyond_since: float | None = None
        self._is_refused = False

    def _set_length(self, least: float, most: float) -> None:
        self._length, self.seconds = (least, most), (least + most) / 2

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        self._go_on(now)
        if self._tries_at is not None:
            return max(now, self._tries_at + self._timing.unrefused_after)
        used = self._used(now)
        more = self._more_at(used)
        if used < self._known or (used < self.count and self._beyond_since is not None):
            return now
        if used < self.count:
            return max(now, self._evidence.starts[-1] + self._timing.apart(self._known, self.seconds))
        low, high = max(self._begun[0] + self._length[0], self._not_before), self._begun[1] + self._length[1]
        if high - low <= _KNOWN * self.seconds:
            return max(now, min(high, more))
        step = math.sqrt((high - low) * _WORTH * self.seconds / self.count)
        return max(now, min(low + min(step, _LONGEST_STEP * (high - low)), more))

    def _more_at(self, used: int) -> float:
        """Return when more than were tried may start in this period, as those were not refused: there may be no window."""
        if self._beyond_since is None or self._is_refused or used < self.count:
            return math.inf
        return self._evidence.starts[-1] + self._timing.unrefused_after

    def started(self, now: float, level: int) -> None:
        """Stamp a start: one more in this period, or the one that tries whether the next has begun."""
        self._go_on(now)
        used = self._used(now)
        more = self._more_at(used)
        self._evidence.started(now, level)
        if used >= self.count:
            if now < more:
                self._tries_at = now
                return
            self._accept()
            self.count += self._step
        if used >= self._known and self._beyond_since is None:
            self._beyond_since = now

    def _used(self, now: float) -> int:
        return self._evidence.count_from(self._since, now)

    def _go_on(self, now: float) -> None:
        """Go on to the present period, if another has begun by now."""
        at = self._tries_at
        if at is None:
            periods = math.floor((now - self._begun[1]) / self._length[1])
            if periods > (self._used(now) >= self.count):  # where all are used, a try comes first
                self._next(periods, self._begun[0] + periods * self._length[0], self._begun[1] + periods * self._length[1])
        elif not self._evidence.count_from(at, at):  # it was refused, or never sent
            self._tries_at = None
        elif now >= at + self._timing.unrefused_after:
            self._tries_at = None
            periods = max(1, round((at - sum(self._begun) / 2) / self.seconds))
            after = max(self._begun[0] + periods * self._length[0], self._not_before)
            self._next(periods, min(after, at), min(self._begun[1] + periods * self._length[1], at))
            self._since = at
            self._narrow()

    def _next(self, periods: int, after: float, by: float) -> None:
        self._index += periods
        self._begun = (min(after, by), by)
        self._since = self._begun[0]
        self._in_vain = 0
        self._periods += periods
        if self._beyond_since is not None and not self._is_refused:
            self._accept()
        self._beyond_since, self._is_refused = None, False
        self.count = self._known + (self._step if self._periods >= self._rarity else 0)

    def _accept(self) -> None:
        """Take what was not refused for good, and try twice as many more."""
        self._known = self.count
        self._step, self._rarity = min(2 * self._step, max(1, self._known // _PART)), 1

    def _narrow(self) -> None:
        """Learn more of the length from when this period began."""
        after, by = self._begun
        low, high = self._length
        for index, since, until in self._beginnings:
            low = max(low, (after - until) / (self._index - index))
            high = min(high, (by - since) / (self._index - index))
        if low > high:  # calls are not all as long on their way, so what is known may be blurred by a bit
            low = high = self.seconds
        self._set_length(low, high)
        self._beginnings.append((self._index, after, by))

    def correct_length(self, started: float) -> bool:
        """Correct the length if a refusal only tells that the next period has not begun; return whether it does."""
        if started != self._tries_at:
            return False
        self._tries_at, self._not_before = None, started
        if started >= self._begun[1] + self._length[1]:
            self._in_vain += 1
            self._set_length(self._length[0], (started - self._begun[1]) * (1 + _KNOWN))
            self._beginnings.clear()
            self._beginnings.append((self._index, *self._begun))
        return self._in_vain <= _IN_VAIN

    def is_beyond(self, started: float) -> bool:
        """Return whether a call only started because more may be allowed than is known."""
        return self._beyond_since is not None and started >= self._beyond_since

    def is_probed_by(self, started: float) -> bool:
        """Return whether a call only started because more may fit into a period than is known."""
        return self.is_beyond(started)

    def explains(self, started: float) -> bool:
        """Return whether a refusal only tells that no more fit than is known, or a few less."""
        return self.is_beyond(started) or self._used(self._evidence.arrived_by(started)) >= _USED_UP * self._known

    def correct(self, started: float, _wait: float = 0.0) -> None:
        """Go back to as many as fit."""
        self._known = max(1, min(self._known, self._used(self._evidence.arrived_by(started))))
        self.count, self._step = self._known, 1
        self._rarity, self._periods = min(2 * self._rarity, _RAREST), 0
        self._is_refused = True

    @property
    def is_disproved(self) -> bool:
        """Whether more was admitted in a period than could be: what refuses is another limit."""
        return self._known > _MOST_ADMITTED * self._found

"""Closing: the time from a refusal to the next call that is admitted, and how long to wait in it.

Pure: times are arguments, in seconds. An API may say how long to wait. Many say a second or two whatever they limit, so a short
wait is no word on what is limited, and asked for again and again, none on when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .timing import Timing

_SHORT = 2.0  # seconds
_SHARE = 0.5  # of the time for which an API is closed, at least, it was open before, unless that is a limit's doing


class RefusedCall(NamedTuple):
    """A call that was refused.

    Attributes:
        now: when.
        started: when it started.
        level: how many were under way then, itself included.
        hint: seconds for which the API asked to wait; 0: it did not say.
        is_apart: whether it started no sooner after the call before than calls do that start evenly.
        is_of_limits: whether a limit may be the reason; else the API has too much to do, for whoever calls.
    """

    now: float
    started: float
    level: int
    hint: float = 0.0
    is_apart: bool = False
    is_of_limits: bool = True

    @property
    def is_long(self) -> bool:
        """Whether the API asks for longer than many do whatever they limit."""
        return self.hint > _SHORT

    def tells_window(self, latency: float | None) -> bool:
        """Return whether the API asks for so long a wait that a window must pass, and no slot become free."""
        return self.is_long and self.hint > 2 * (latency or 0.0)


class Before(NamedTuple):
    """What was believed before a refusal, for the case that the limit of calls at once was not to blame.

    `proven` are the calls at once that were admitted since the refusal before: what was before that may hold no more.
    """

    target: int
    proven: int
    ceiling: int | None
    probe_after: int


_NOTHING = Before(0, 0, None, 0)


@dataclass(slots=True)
class Closing:
    """The time from a refusal to the next call that was admitted.

    Attributes:
        opened: when the first call was admitted after the closing before, or at all.
        since: when the first refused call started.
        last: when the last one did.
        tries: how many were refused, each after the one before.
        hinted_until: up to when the API said it would refuse, as far as that is believed.
        is_rate: whether no limit of calls at once explains it: one was refused with no other under way, or the API named a time.
        is_asked: whether the API asked for a long wait.
        level: how many were under way when the last refused call started, itself included.
        is_of_limits: whether a limit may be the reason of the last one.
        before: what was believed.
    """

    opened: float
    since: float
    last: float = 0.0
    tries: int = 0
    hinted_until: float = 0.0
    is_rate: bool = False
    level: int = 0
    is_asked: bool = False
    is_of_limits: bool = False
    before: Before = _NOTHING

    def refused(self, refusal: RefusedCall) -> None:
        """Take note of one more refusal."""
        self.tries += 1
        self.is_of_limits = refusal.is_of_limits
        self.last, self.level = refusal.started, refusal.level
        if refusal.is_long or (refusal.hint and self.tries == 1):  # a short one is taken at its word once
            self.hinted_until = self.last + refusal.hint

    @property
    def asked_for(self) -> float:
        """Seconds for which it asked to wait after the last refusal, as far as that is believed."""
        return self.hinted_until - self.last

    @property
    def cycle(self) -> float:
        """Seconds from when it opened to the end of the wait that it asked for."""
        return self.hinted_until - self.opened

    @property
    def shut_until(self) -> float:
        """Until when it surely was closed: a second or two that it asked for once are no word on that."""
        is_said = self.hinted_until > self.last + _SHORT
        return self.hinted_until if is_said else self.last

    def was_open_for_long(self, until: float) -> bool:
        """Return whether it was not closed before for so long that it seems to be closed again and again, as by a limit."""
        was_open = self.since - self.opened
        return was_open > _SHORT and was_open >= _SHARE * (until - self.since)

    def wait(self, refusal: RefusedCall, timing: Timing, least: float, at_most: float) -> float:
        """Return the seconds to the next try: not less than `least`, nor more than `at_most` unless the API asks for it."""
        hint = refusal.hint
        if refusal.is_long:
            return hint
        opened = self.opened if self.is_of_limits else -math.inf  # else no window ends
        gap = min(timing.gap(refusal.now, opened, self.since, self.tries, least), at_most)
        return max(hint, min(gap, hint * (self.tries - 1))) if hint else gap

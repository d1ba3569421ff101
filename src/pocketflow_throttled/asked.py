"""Asked: what it tells that an API asks for a long wait. Pure: times are arguments, in seconds.

Most name the time until a window has passed. Some name a constant, whatever they limit, also where only too many calls are under
way, and who takes that for a window is slow for long. So where either may be meant, fewer calls at once are tried, as that costs
least: a window is used up again by as many calls, in as long a time; a limit of calls at once never is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .window_fit import window_that_explains

if TYPE_CHECKING:
    from .closing import Before, Closing, RefusedCall
    from .evidence import Evidence
    from .timing import Timing
    from .window_fit import WindowFit

_ALIKE = 1.25  # times as many calls, or as few, are as many
_ROUNDED, _BLUR = 1.0, 0.05  # seconds, or a part of it, by which the time differs from a first start to the end of a wait
_FAR = 0.6  # of the calls at once that it was refused beyond: refused with fewer, it is no matter of that
_NEWS = 2  # times as long a wait as where too many are under way may have another reason
_SURELY = 4  # times as long a wait has, whatever calls take


class _Cycle(NamedTuple):
    """What was admitted between two waits."""

    starts: int
    seconds: float
    length: float  # seconds from the first start to the end of the wait
    since: float  # when the next cycle began
    before: Before  # what was believed
    window: WindowFit | None  # that would explain it


class Asked:
    """What is thought of an API that asks for long waits.

    Args:
        timing: how long calls take.

    Attributes:
        seconds: for which it asks where too many calls are under way.
        times: how often that was thought to be what it meant.
    """

    __slots__ = ("_cycle", "_timing", "seconds", "times")

    def __init__(self, timing: Timing) -> None:
        self.seconds = 0.0
        self.times = 0
        self._timing = timing
        self._cycle: _Cycle | None = None

    def is_news(self, refusal: RefusedCall) -> bool:
        """Return whether a wait is too long to be asked for where only too many calls are under way."""
        return refusal.hint > _NEWS * self.seconds and self.tells_window(refusal)

    def tells_window(self, refusal: RefusedCall) -> bool:
        """Return whether a wait is so long that a window must pass, by what calls take or by what was asked for before."""
        return refusal.tells_window(self._timing.latency) or (refusal.is_long and 0 < _SURELY * self.seconds < refusal.hint)

    def heard(self, closing: Closing) -> None:
        """Take note of a wait that was asked for as too many calls were under way."""
        self.seconds = max(0.0, closing.asked_for)

    def try_fewer(self, closing: Closing, evidence: Evidence, reopened: float) -> bool:
        """Blame calls at once for a long wait until more is known, if they may be meant; return whether they are."""
        cycle, before = self._cycle, closing.before
        if closing.tries > 1 or closing.level == 1 or closing.level <= _FAR * (before.ceiling or before.proven):
            return False
        if cycle is not None:
            if self._is_like(cycle, closing, evidence):
                return False
        elif self.times or closing.level <= before.proven:
            return False
        self.times += 1
        self.seconds = closing.asked_for
        window = window_that_explains(evidence, closing, reopened)
        if window is None:
            starts, seconds = evidence.between(closing.opened - 1e-9, closing.since), reopened - closing.opened
        else:
            starts, seconds = window.count, window.seconds
        self._cycle = _Cycle(starts, seconds, closing.cycle, reopened, before, window)
        return True

    @property
    def window(self) -> WindowFit | None:
        """The window that would explain the last wait, while calls at once are blamed for it."""
        return None if self._cycle is None else self._cycle.window

    def settle(self, closing: Closing) -> Before:
        """Blame calls at once no more; return what was believed before they were blamed, for this closing or the one before."""
        cycle, self._cycle = self._cycle, None
        return closing.before if cycle is None else cycle.before

    @staticmethod
    def _is_like(cycle: _Cycle, closing: Closing, evidence: Evidence) -> bool:
        """Whether the cycle that ends is like the one before it."""
        length = closing.cycle
        if abs(length - cycle.length) > max(_ROUNDED, _BLUR * length):
            return False
        used = evidence.most(cycle.seconds, cycle.since)
        return cycle.starts <= _ALIKE * used and used <= _ALIKE * cycle.starts

"""Ceiling: calls at once beyond which an API refused, and how it is probed. Pure: times are arguments, in seconds.

It is a belief with an age: a burst may have been refused and not a level, and the API's limit may rise. So one small probe at a
time goes beyond it, at first soon, then more and more rarely. What was not refused there lifts it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .closing import Before
    from .timing import Timing

# Successes between two probes, at most: to watch for a rising cap may cost one refused call in so many. But no more than are
# served in _MISSED_FOR seconds, lest a raised cap be missed for long, and never so few that probes cost more than one in _FEWEST.
_RAREST_PROBE, _MISSED_FOR, _FEWEST = 160, 20.0, 80
# Where the API asks to wait, a refused probe costs the calls of a pause. To probe often costs pauses, to probe rarely misses a
# raised cap: the sum is least every _RARELY * sqrt(calls that a pause costs * calls a second). Or every _CHEAP times those calls,
# if that is more.
_RARELY, _CHEAP = 40, 20
_DEARER = 4  # times as rare at the most, after one refusal
_WORTH = 5  # successes, at least, for each call that a refused probe costs
_DOUBTED = 3  # successes before a new ceiling is tried for the first time
_CONFIRMED, _CONFIRMED_IF_BLURRED = 5, 12  # starts beyond a ceiling, none refused, that lift it
_NEWS = 8  # an eighth: if it rose by more since a probe was refused, it is probed as soon as at first
_DISPROVED = 2  # times lifted: what refuses is no cap
_NEAR = 0.8  # of a ceiling: while one call probes, another may arrive before it and leave it, or itself, no room
_BLUR = 16  # a sixteenth of it, by which the network blurs it
_SMALL = 6  # a sixth of it: a step no larger may have gone well by chance


class Ceiling:
    """The calls at once that were refused beyond.

    Args:
        timing: how long calls and refusals take.
        rare: successes before it is probed, where nothing makes it doubtful.

    Attributes:
        level: calls at once; None: none is known.
        target: calls at once to return to without probing.
        step: calls at once by which the next probe goes beyond it.
        probe_after: successes before it.
        is_met: whether a call was refused there that had not started too soon after another; until then a rate may be the reason.
    """

    def __init__(self, timing: Timing, rare: int = 1) -> None:
        self._timing = timing
        self.rare = rare
        self.level: int | None = None
        self.is_met = False
        self.target = 0
        self.step = 1
        self._before = 0  # its level before it was lifted for the last time; the same as its level, if that is sure
        self._was_refused_at = 0  # its level, as it was found, or after a probe was refused
        self.probe_after = 0
        self._lifts = 0.0
        self._beyond = 0
        self._beyond_since: float | None = None

    def found(self, level: int, *, is_doubted: bool, cost: float = 1.0) -> None:
        """Take a level for the ceiling, beyond which a call was just refused, at a cost of so many calls."""
        self.level = self.target = self._before = self._was_refused_at = level
        self.step = 1
        self.is_met = False
        self.probe_after = max(_DOUBTED, int(cost)) if is_doubted else self._rarer(0, cost)

    def drop(self) -> None:
        """Believe in none."""
        self.level = None

    def go_back_to(self, before: Before) -> None:
        """Believe what was believed before a refusal that had another reason, but probe it twice as soon."""
        self.level, self.target, self.probe_after = before.ceiling, before.target, max(_DOUBTED, before.probe_after // 2)
        self.stands()

    def stay_clear(self, limit: int) -> None:
        """Lower it a bit, but not below `limit`: it was refused below, so the network blurs it."""
        if self.level is not None:
            self.level = self.target = self._before = max(limit, self.level - max(1, self.level // _BLUR))

    @property
    def is_disproved(self) -> bool:
        """Whether it was lifted so often that what refuses is no cap."""
        return self._lifts >= _DISPROVED

    def keeps_apart(self, level: int) -> bool:
        """Return whether a call that would be the `level`-th under way must start apart from the last one.

        A rate refuses what comes too soon after others, at any level: a probe right after another start would tell nothing.
        """
        return self.level is not None and level > self.level and not self.is_met and self._beyond < _CONFIRMED

    def forget_probe(self) -> None:
        """Begin to count anew, with another limit."""
        self._beyond = 0
        self._beyond_since = None

    def started(self, now: float, level: int) -> None:
        """Count a start beyond it before which others were not refused for as long as a refusal takes."""
        assert self.level is not None
        if level <= self.level:
            return
        if self._beyond_since is None:
            self._beyond_since = now
        elif now > self._beyond_since + self._timing.surely_refused_in:
            self._beyond += 1

    def is_to_be_lifted(self, limit: int) -> bool:
        """Return whether enough calls beyond it were admitted, with this limit."""
        confirmed = _CONFIRMED_IF_BLURRED if self._timing.is_blurred else _CONFIRMED
        return self._beyond >= confirmed and self.level is not None and limit > self.level

    def lift(self, limit: int) -> None:
        """Raise it to a limit that went well: the next step is twice as large, and at once."""
        self._before = self.level or limit
        self.level = self.target = limit
        self.step *= 2
        self._lifts += 1

    def is_to_be_probed(self, limit: int, successes: int) -> bool:
        """Return whether so many successes, with this limit, allow a probe."""
        return successes >= self.probe_after and self.level is not None and limit <= self.level

    def is_probed_by(self, level: int, limit: int) -> bool:
        """Return whether a call that was the `level`-th under way was refused for a probe."""
        return self.level is not None and (level > self.level or (limit > self.level and level > _NEAR * self.level))

    @property
    def _is_in_doubt(self) -> bool:
        """Whether the last step was so small that it may have gone well by chance."""
        return self.level is not None and 0 < self.level - self._before <= self._before // _SMALL

    def went_too_far(self, level: int) -> bool:
        """Return whether a call that was the `level`-th under way was refused for the last step, which went well by chance."""
        return self._is_in_doubt and level > self._before

    def stands(self) -> None:
        """Take it for sure: it went well for as long as it takes to probe it again."""
        self._before = self.level or 0

    def probe_refused(self, level: int) -> None:
        """Take note that a probe was refused, of the `level`-th call under way.

        A last step that is in doubt is taken back. One that is large went well up to that call.
        """
        self.step = 1
        if self.level is not None:
            if level - 1 - self.level > self.level // _SMALL:
                self._before = self.level = self.target = level - 1
            elif level <= self.level and self._is_in_doubt:
                self.level = self.target = max(self._before, level - 1)
        self._lifts = max(0.0, self._lifts - 0.5)

    def probe_more_rarely(self, cost: float) -> None:
        """Wait longer before the next probe: a refused one costs as much as `cost` calls.

        A bit more than before may have gone well by chance, and is no reason to probe it soon.
        """
        level = self.level or 0
        risen, self._was_refused_at = level - self._was_refused_at, level
        times = 0 if risen > max(1, level // _NEWS) else 1 if risen > 0 else 2 * min(cost, _DEARER)
        self.probe_after = self._rarer(int(times * self.probe_after), cost)

    def _rarer(self, after: int, cost: float) -> int:
        level = self.level or 1
        a_second = level / (self._timing.latency or 1.0)
        rarest = max(_FEWEST, min(_MISSED_FOR * a_second, _RAREST_PROBE))
        if cost > 1:
            rarest = max(rarest, _RARELY * math.sqrt(cost * a_second), _CHEAP * cost)
        return int(min(max(after, self.rare, int(_WORTH * cost)), rarest))

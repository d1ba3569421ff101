"""Ceiling: calls at once beyond which an API refused, and how it is probed. Pure: times are arguments, in seconds.

It is a belief with an age: a burst may have been refused and not a level, and the API's limit may rise. So one small probe at a
time goes beyond it, at first soon, then more and more rarely. What was not refused there lifts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .timing import Timing

# Successes between two probes: what watching for a rising cap may cost is a refused call in so many. Where so many take longer
# than it should be missed for, they are fewer.
_RAREST_PROBE, _MISSED_FOR, _FEWEST = 160, 20.0, 80
_DEAREST, _DEARER = 20, 4  # times as rare at the most, in all and at one refusal, where that costs more than its call
_WORTH = 5  # successes, at least, for each call that a refused probe costs
_DOUBTED = 3  # successes before a new ceiling is tried for the first time
_CONFIRMED = 5  # starts beyond a ceiling, none refused, that lift it
_DISPROVED = 2  # times lifted: what refuses is no cap
_NEAR = 0.8  # of a ceiling: while one call probes, another may arrive before it and leave it, or itself, no room
_BLUR = 16  # a part of it by which the network blurs it


@dataclass(slots=True)
class Ceiling:
    """The calls at once that were refused beyond.

    Args:
        timing: how long calls and refusals take.

    Attributes:
        rare: successes before it is probed, where nothing makes it doubtful.
        level: calls at once; None: none is known.
        target: calls at once to return to without probing.
        step: calls at once by which the next probe goes beyond it.
    """

    timing: Timing
    rare: int = 1
    level: int | None = None
    target: int = 0
    step: int = 1
    _probe_after: int = 0
    _lifts: float = 0.0
    _beyond: int = 0
    _beyond_since: float | None = None

    def found(self, level: int, *, is_doubted: bool, cost: float = 1.0) -> None:
        """Take a level for the ceiling, beyond which a call was just refused, at a cost of so many calls."""
        self.level = self.target = level
        self.step = 1
        self._probe_after = max(_DOUBTED, int(cost)) if is_doubted else self._rarer(0, cost)

    def stay_clear(self, limit: int) -> None:
        """Lower it a bit, but not below `limit`: it was refused below, so the network blurs it."""
        if self.level is not None:
            self.level = self.target = max(limit, self.level - max(1, self.level // _BLUR))

    @property
    def is_disproved(self) -> bool:
        """Whether it was lifted so often that what refuses is no cap."""
        return self._lifts >= _DISPROVED

    # --- the probe

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
        elif now > self._beyond_since + self.timing.surely_refused_in:
            self._beyond += 1

    def is_to_be_lifted(self, limit: int) -> bool:
        """Return whether enough calls beyond it were admitted, with this limit."""
        return self._beyond >= _CONFIRMED and self.level is not None and limit > self.level

    def lift(self, limit: int) -> None:
        """Raise it to a limit that went well: the next step is twice as large, and at once."""
        self.level = self.target = limit
        self.step *= 2
        self._lifts += 1

    def is_to_be_probed(self, limit: int, successes: int) -> bool:
        """Return whether so many successes, with this limit, allow a probe."""
        return successes >= self._probe_after and self.level is not None and limit <= self.level

    def is_probed_by(self, level: int, limit: int) -> bool:
        """Return whether a call that was the `level`-th under way was refused for a probe."""
        return self.level is not None and (level > self.level or (limit > self.level and level > _NEAR * self.level))

    def probe_refused(self) -> None:
        """Take note of a refused probe."""
        self.step = 1
        self._lifts = max(0.0, self._lifts - 0.5)

    def probe_more_rarely(self, cost: float) -> None:
        """Wait longer before the next probe: a refused one costs as much as `cost` calls."""
        self._probe_after = self._rarer(int(2 * min(cost, _DEARER) * self._probe_after), cost)

    def _rarer(self, after: int, cost: float) -> int:
        missed = _MISSED_FOR * (self.level or 1) / (self.timing.latency or 1.0)
        rarest = int(max(_FEWEST, min(missed, _RAREST_PROBE)) * max(1.0, min(cost, _DEAREST)))
        return min(max(after, self.rare, int(_WORTH * cost)), rarest)

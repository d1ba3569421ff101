"""Held: a limit of starts in a time that is believed. Probing: one beyond which more is tried, by its log of starts.

Pure: times are arguments, in seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evidence import Evidence
    from .timing import Timing

# Seconds, and a part of the time since the last start: a start that comes no later than that after it was due was held back.
_AT_ONCE, _SOON = 1e-4, 0.1
_ROUNDING = 1e-9  # seconds, by which sums of times may be wrong
_AFTER = 1e-3  # seconds, by which what is known in some time is known for sure


class Held(ABC):
    """What LearnedRate holds: a window or a pace, that says when calls may start and what it makes of refusals.

    Attributes:
        count: starts allowed ...
        seconds: ... in that time.
        is_window: whether it is a window, and no pace.
    """

    count: int
    seconds: float
    is_window = True

    @abstractmethod
    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""

    @abstractmethod
    def started(self, now: float, level: int) -> None:
        """Take note of a start, the `level`-th call under way."""

    @abstractmethod
    def is_beyond(self, started: float) -> bool:
        """Return whether a call only started because more may be allowed than is known."""

    @abstractmethod
    def explains(self, started: float) -> bool:
        """Return whether the refusal of a call only tells by how much this is wrong."""

    @abstractmethod
    def correct(self, started: float, wait: float = 0.0) -> None:
        """Correct it by the refusal of a call, for which the API asked to wait so many seconds."""

    @property
    def gap(self) -> float:
        """Seconds after a refusal in which no call can be admitted."""
        return 0.0

    @property
    def is_disproved(self) -> bool:
        """Whether more was admitted than it can explain, so that what refuses is another limit."""
        return False

    @property
    def is_well_known(self) -> bool:
        """Whether a probe beyond it is taken back also if another limit may have refused it."""
        return False

    def succeeded(self, _started: float) -> bool:
        """Take note that a call was served; return whether that proves that there is no such limit."""
        return False

    def correct_length(self, _started: float) -> bool:
        """Correct the length if a refusal tells no more than that; return whether it does."""
        return False

    def is_probed_by(self, _started: float) -> bool:
        """Return whether a call only started because more may fit into a window."""
        return False


class Probing(Held):
    """At most `count` starts in any `seconds`, some of them perhaps a probe beyond what is known to be admitted.

    Args:
        evidence: the starts there were.
        timing: how long calls and refusals take.
        count: starts.
        seconds: in which they are allowed.
        counts_refused: whether the API counts calls that it refuses as well.
    """

    def __init__(
        self, evidence: Evidence, timing: Timing, count: int = 1, seconds: float = 0.0, *, counts_refused: bool = False
    ) -> None:
        self._evidence = evidence
        self._timing = timing
        self._log = evidence.sent if counts_refused else evidence.starts
        self.count = count
        self.seconds = seconds
        self._good = (count, seconds)  # known to be admitted
        self._due: float | None = None
        self._step = 0.0
        self._after = 0  # starts held back, before the next step
        self._held_back = 0
        self._beyond = 0  # starts that only a probe allowed
        self._beyond_since: float | None = None

    @property
    def is_probing(self) -> bool:
        """Whether more is allowed than is known to be admitted."""
        return (self.count, self.seconds) != self._good

    def _opens_at(self, now: float) -> float:
        log = self._log
        return max(now, log[-self.count] + self.seconds) if len(log) >= self.count else now

    def _allows(self, count: int, seconds: float, now: float) -> bool:
        """Return whether `count` in any `seconds` allow a start at `now`, after those before it."""
        before = bisect_right(self._log, now)
        return before < count or self._log[before - count] + seconds <= now + _ROUNDING

    def _was_held_back(self, now: float) -> bool:
        """Whether a start `now` comes as soon as it was allowed."""
        due, self._due = self._due, None
        log = self._log
        return due is not None and bool(log) and now - due <= _SOON * (now - log[-1]) + _AT_ONCE

    @property
    def _known_at(self) -> float:
        """When the first start beyond what is known would have been refused."""
        assert self._beyond_since is not None
        return self._beyond_since + self._timing.surely_refused_in + _AFTER

    def is_beyond(self, started: float) -> bool:
        """Whether a refused call is one that only a probe allowed."""
        count, seconds = self._good
        itself = self._log is self._evidence.sent
        return self.is_probing and (self._beyond > 0 or not self._allows(count + itself, seconds, started))

    def _end_step(self) -> None:
        self._held_back = self._beyond = 0
        self._beyond_since = None

"""Probing: a limit of starts in a time that is believed, and what is tried beyond it. Pure: times are arguments, in seconds."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evidence import Evidence
    from .timing import Timing

_AT_ONCE = 1e-4  # seconds: a start that comes so soon after it was due was held back


class Probing:
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
        return before < count or self._log[before - count] + seconds <= now + 1e-9

    def _was_held_back(self, now: float) -> bool:
        """Whether a start `now` comes as soon as it was allowed."""
        due, self._due = self._due, None
        log = self._log
        return due is not None and bool(log) and now - due <= 0.1 * (now - log[-1]) + _AT_ONCE

    @property
    def _known_at(self) -> float:
        """When the first start beyond what is known would have been refused."""
        assert self._beyond_since is not None
        return self._beyond_since + self._timing.surely_refused_in + 1e-3

    def is_beyond(self, started: float) -> bool:
        """Whether a refused call is one that only a probe allowed."""
        count, seconds = self._good
        itself = self._log is self._evidence.sent
        return self.is_probing and (self._beyond > 0 or not self._allows(count + itself, seconds, started))

    def _end_step(self) -> None:
        self._held_back = self._beyond = 0
        self._beyond_since = None

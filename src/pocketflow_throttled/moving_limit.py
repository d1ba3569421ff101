"""MovingLimit: calls at once, within their bounds, and the changes that made them what they are.

Pure: times are arguments, in seconds. Why it moves is for AdaptiveRule to say.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .adaptivity import Change

if TYPE_CHECKING:
    from .adaptivity import Adaptive

_HISTORY = 1000


class MovingLimit:
    """A limit that moves from `min_concurrent` to `max_concurrent`.

    Args:
        settings: its bounds, and what it starts with.

    Attributes:
        limit: calls at once.
        history: the last 1,000 changes.
    """

    def __init__(self, settings: Adaptive) -> None:
        self.settings = settings
        self.history: deque[Change] = deque(maxlen=_HISTORY)
        self.limit = settings.initial

    @property
    def reason(self) -> str:
        """Why the limit is what it is."""
        return self.history[-1].reason if self.history else "initial"

    def set_limit(self, now: float, limit: int) -> None:
        """Set calls at once by hand. Raises ValueError beyond min..max."""
        least, most = self.settings.min_concurrent, self.settings.max_concurrent
        if not least <= limit <= most:
            raise ValueError(f"max_concurrent must be within {least}..{most}, the bounds of the adaptive rule, got {limit}")
        self._change(now, limit, "set")

    def _start_again(self) -> None:
        self.limit = self.settings.initial
        self.history.clear()

    def _change(self, now: float, new: int, reason: str) -> None:
        new = max(self.settings.min_concurrent, min(self.settings.max_concurrent, new))
        if new != self.limit:
            self.history.append(Change(now, self.limit, new, reason))
            self.limit = new

    def _limit_at(self, started: float) -> int:
        """Return the limit that let a call start: what others raised since was no part of what was refused."""
        limit = self.limit
        for change in reversed(self.history):
            if change.time <= started:
                break
            limit = change.old
        return min(limit, self.limit)

"""Gate: what holds starts back, so that they take no more of a small bucket than others leave. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple


class Hold(NamedTuple):
    """How starts are held back.

    Attributes:
        left: how many may start now; less than one: not yet.
        rate: how many more may start each second.
        apart: seconds between starts, at least.
        most: how many may start at once, after a while without any.
    """

    left: float
    rate: float
    apart: float
    most: float


class Gate:
    """Lets starts through at the rate of a hold, of which there is none at first.

    Attributes:
        next_at: seconds, when the next may start.

    Example:
        >>> gate = Gate()
        >>> gate.set(Hold(left=2.0, rate=1.0, apart=0.1, most=5.0), now=0.0, until=60.0)
        >>> for now in (0.0, 0.1):
        ...     gate.started(now)
        >>> gate.next_at
        1.0
    """

    __slots__ = ("_hold", "_room_at", "_until", "next_at")

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Hold back nothing any more."""
        self._hold: Hold | None = None
        self.next_at = self._room_at = self._until = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether it holds back nothing."""
        return self._hold is None

    def set(self, hold: Hold, now: float, until: float) -> None:
        """Hold back starts from now on, and until then, unless it is set anew."""
        self._hold, self._until = hold, until
        self._room_at = now + (1 - hold.left) / hold.rate
        self.next_at = max(self._room_at, min(self.next_at, now + hold.apart))

    def started(self, now: float) -> None:
        """Take note of a start."""
        hold = self._hold
        if hold is None:
            return
        if now >= self._until:
            self.open()
            return
        self._room_at = max(self._room_at, now - (hold.most - 1) / hold.rate) + 1 / hold.rate
        self.next_at = max(self._room_at, now + hold.apart)

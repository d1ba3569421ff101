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
        is_shared: whether others take some of them.
    """

    left: float
    rate: float
    apart: float
    most: float
    is_shared: bool = True


class Gate:
    """Lets starts through at the rate of a hold.

    Args:
        hold: how starts are held back.
        now: from when on; in seconds, as all times are.
        until: until when, unless it is set anew.

    Attributes:
        next_at: when the next may start.

    Example:
        >>> gate = Gate(Hold(left=2.0, rate=1.0, apart=0.1, most=5.0), now=0.0, until=60.0)
        >>> gate.started(now=0.0), gate.next_at
        (True, 0.1)
        >>> gate.started(now=0.1), gate.next_at
        (True, 1.0)
    """

    __slots__ = ("_hold", "_room_at", "_until", "next_at")

    def __init__(self, hold: Hold, now: float, until: float) -> None:
        self.next_at = -math.inf
        self.set(hold, now, until)

    def set(self, hold: Hold, now: float, until: float) -> None:
        """Hold starts back in another way from now on; the last one still counts."""
        self._hold, self._until = hold, until
        self._room_at = now + (1 - hold.left) / hold.rate
        self.next_at = max(self._room_at, min(self.next_at, now + hold.apart))

    def started(self, now: float) -> bool:
        """Take note of a start, and return whether any more are held back."""
        hold = self._hold
        self._room_at = max(self._room_at, now - (hold.most - 1) / hold.rate) + 1 / hold.rate
        self.next_at = max(self._room_at, now + hold.apart)
        return now < self._until

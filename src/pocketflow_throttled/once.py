"""Once: calls that start before one is refused do not know of it, so what is learned of their refusals is learned once. Pure."""

from __future__ import annotations

import math


class Once:
    """Which refusals tell something new.

    Attributes:
        until: seconds; refusals of calls that started by then tell nothing more. Minus infinity: there was none yet.

    Example:
        >>> once = Once()
        >>> once.is_new(started=7.0, last_started=8.0), once.is_new(started=8.0, last_started=8.5)
        (True, False)
    """

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = -math.inf

    def is_new(self, started: float, last_started: float) -> bool:
        """Return whether the refusal of a call tells something new; then none does of those that started by `last_started`."""
        if started <= self.until:
            return False
        self.until = last_started
        return True

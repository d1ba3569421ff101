"""Unbooked: calls that had started before there was a limit of tokens, and were not counted. Pure.

A server counts them, and nobody knows yet what they cost: each is booked at what those have cost, on average, that have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sliced_window import SlicedWindow
    from .token_window import Spend


class Unbooked:
    """Calls that are under way as a limit of tokens is first told.

    Args:
        window: the tokens that are counted from now on.
        calls: how many are under way.
        now: seconds.

    Example:
        >>> from pocketflow_throttled.sliced_window import SlicedWindow
        >>> window = SlicedWindow(limit=600, seconds=60.0)
        >>> unbooked = Unbooked(window, calls=3, now=5.0)
        >>> spend = unbooked.ended(stamp=1.0, tokens=70)
        >>> window.used(now=6.0)
        210
    """

    __slots__ = ("_ended", "_spends", "_tokens", "_window")

    def __init__(self, window: SlicedWindow, calls: int, now: float) -> None:
        self._window = window
        self._spends = [window.add(now, 0) for _ in range(calls)]
        self._ended = self._tokens = 0  # of those that were served

    def includes(self, stamp: float) -> bool:
        """Return whether a call that started at `stamp` surely is one of them."""
        return bool(self._spends) and stamp < self._spends[-1].time

    def ended(self, stamp: float, tokens: int | None) -> Spend | None:
        """Count a call that has ended, if it may be one of them, and return its entry.

        Args:
            stamp: when it started, in seconds.
            tokens: what it cost; None: it was refused.
        """
        if not self._spends or stamp > self._spends[-1].time:
            return None
        spend = self._spends.pop()
        self._window.correct(spend, tokens or 0)
        if tokens is not None:
            self._ended, self._tokens = self._ended + 1, self._tokens + tokens
            for other in self._spends:
                self._window.correct(other, self._tokens // self._ended)
        return spend

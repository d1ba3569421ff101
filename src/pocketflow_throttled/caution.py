"""Caution: how much more than they are thought to cost is kept for the calls under way. Pure.

Nobody knows yet what they cost. Together they are off by as much as their variances tell: single calls that cost more are made up
for by others that cost less. How many standard deviations to keep is a bet. A server that counts back from each call refuses who
bets too low; a bucket, or a window by the clock, has room for more than its limit in most windows, and never refuses. So few are
kept at first, fewer the more calls are served for which there was hardly any room, and more again when one is refused.
"""

from __future__ import annotations

import math

from .once import Once

_AT_FIRST, _MOST = 1.5, 2.5  # standard deviations
_MORE = 0.7  # of them, for a refusal, ...
_LESS, _LESS_AT_FIRST = 0.0035, 0.01  # ... and less for a call that was served: five in a thousand may be refused
_FRACTIONS = 256  # of a squared deviation: variances are whole numbers, which may be larger than any float


class Caution:
    """Standard deviations that are kept.

    Args:
        deviations: at first.

    Example:
        >>> caution = Caution()
        >>> caution.kept(variance=10_000)
        150
        >>> caution.refused(started=7.0, last_started=8.0)
        >>> caution.kept(variance=10_000)
        219
    """

    __slots__ = ("_deviations", "_once", "_times")

    def __init__(self, deviations: float = _AT_FIRST) -> None:
        self._once = Once()
        self._set(deviations)

    def _set(self, deviations: float) -> None:
        self._deviations = deviations
        self._times = int(_FRACTIONS * deviations**2)

    def kept(self, variance: int) -> int:
        """Return the tokens that are kept for costs of such a variance."""
        return math.isqrt(self._times * variance // _FRACTIONS)

    @staticmethod
    def most(variance: int) -> int:
        """Return the tokens by which costs of such a variance are hardly ever off."""
        return math.isqrt(int(_MOST**2 * _FRACTIONS) * variance // _FRACTIONS)

    def served(self) -> None:
        """Keep a bit less, as a call was served for which there was hardly any room."""
        if self._deviations:
            less = _LESS if self._once.until > -math.inf else _LESS_AT_FIRST
            self._set(max(0.0, self._deviations - less))

    def refused(self, started: float, last_started: float) -> None:
        """Keep more, as a call was refused; once for all that started by `last_started`."""
        if self._once.is_new(started, last_started):
            self._set(min(_MOST, self._deviations + _MORE))

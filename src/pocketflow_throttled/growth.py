"""Growth: how much others may have taken of a limit since a server last told, by what they took before. Pure.

While a limit is used up no answers come, and others go on. Who then starts all that fits by the last answer is refused.
"""

from __future__ import annotations

import math

from .validation import MOST

_CLEARLY = 0.05  # of a limit, that others take: less may be calls that arrive in another order
_AT_FIRST = 5.0  # seconds of answers, the largest of which tells what others had taken before
_LONG_ENOUGH = 10.0  # seconds, to tell how fast they take more
_DEVIATIONS = 3  # of what others take at random, that are kept for them


class Growth:
    """How fast others take from a window, and how much that may be by now.

    Others that always took as much lose as much as they take, as theirs leaves the window: so what they have is as much as they
    take in a window. Others that have just begun take more than they lose: what they had at first leaves within a window.

    Attributes:
        rate: what they take each second; 0.0: hardly anything, or it is not known.

    Example:
        >>> growth = Growth()
        >>> growth.learn(150, 0.0, limit=300, seconds=60.0)
        >>> growth.rate, growth.by(now=0.0, told=150, back_until=60.0, seconds=60.0)
        (2.5, 0)
        >>> growth.by(now=10.0, told=150, back_until=60.0, seconds=60.0)
        15
    """

    __slots__ = ("_first", "_since", "_told_at", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self._first, self._since, self._told_at = 0, math.inf, -math.inf

    def learn(self, count: int, told_at: float, *, limit: int, seconds: float) -> None:
        """Learn that others had `count` of a limit at a moment, in a window of `seconds`."""
        count = min(count, MOST)
        self._since, self._told_at = min(self._since, told_at), told_at
        known_for = told_at - self._since
        if known_for < _AT_FIRST:
            self._first = max(self._first, count)
        taken = count - self._first * max(0.0, 1 - known_for / seconds)
        rate = max(count / seconds, taken / min(seconds, max(known_for, _LONG_ENOUGH)))
        self.rate = rate if rate * seconds >= _CLEARLY * limit else 0.0

    def by(self, now: float, *, told: int, back_until: float, seconds: float, each: float = 1.0) -> int:
        """Return how much more than was told they may have at `now`, what they take at random included.

        Args:
            now: seconds.
            told: what they had when the server last told, ...
            back_until: ... and when that will be back.
            seconds: length of the window.
            each: how much others take at a time.
        """
        age = max(0.0, now - self._told_at)
        if now < back_until:
            grown = min(self.rate * age, max(0.0, self.rate * seconds - told))
        else:
            grown = self.rate * min(now - back_until, seconds)
        return int(grown + _DEVIATIONS * math.sqrt(self.rate * min(age, seconds) * each))

"""Margin: how much further apart than a limit asks starts are kept, since calls do not arrive as evenly as they start. Pure.

Of a minute's window that is a second, and nobody notices; of a tenth of a second it is what decides. Nobody tells how much the
time on the way differs, but a server that refuses calls which kept to its limit does. So the margin grows with each such refusal,
by the more the sooner it comes, and shrinks with each call, to where some in a thousand are refused.
"""

from __future__ import annotations

import math

# If calls are late by random times, one in n of those that are a margin apart is refused where the margin is ln(n / 2) times what
# they are late on average: the difference of two exponential times is a Laplace's. So a refusal after n calls tells that, and six
# times as much lets one in a thousand be refused.
_TIMES = 6.0
_LEAST_GROWTH, _MOST_GROWTH, _MOST = 1.1, 4.0, 1.0  # the last as a part of the time between starts, as all parts are
_FIRST = 0.03  # what calls are apart more, without a margin
_SHRINKING = 0.002  # of it, with each call
_NEXT_LOOK = 20  # calls from now, by when it has shrunk by what matters
_LEAST = 0.005  # less than that is none


class Margin:
    """A part of the time between starts, by which that is longer.

    Attributes:
        part: how much longer it is now.
        since: seconds; calls that started by then were spaced by less, so they tell nothing of it.
        looked_at: seconds; it has shrunk by the calls until then.
        look_at: seconds, when it may have shrunk by what matters.

    Example:
        >>> margin = Margin(since=9.0)
        >>> margin.grow(now=10.0, rate=1.0, calls=1)
        >>> margin.part, margin.since
        (0.12, 10.0)
    """

    __slots__ = ("_before", "_calls", "look_at", "looked_at", "part", "since")

    def __init__(self, since: float = -math.inf) -> None:
        self.part = 0.0
        self.since = since
        self.looked_at = since
        self.look_at = math.inf
        self._calls = self._before = 0  # since it grew last, and before that since it had grown before

    def grow(self, now: float, rate: float, calls: int) -> None:
        """Grow, as a call was refused.

        Args:
            now: seconds.
            rate: calls a second that the limit allows.
            calls: that were made since it was looked at.
        """
        self.shrink(now, rate, calls)
        calls_each = (self._before + self._calls) / 2 if self._before else self._calls  # one may come soon by chance, hardly two
        self._before, self._calls = self._calls, 0
        times = math.log(max(1.0, calls_each / 2))
        growth = _MOST_GROWTH if times * _MOST_GROWTH <= _TIMES else max(_LEAST_GROWTH, _TIMES / times)
        self.part = min(_MOST, growth * max(_FIRST, self.part))
        self.since = now
        self.look_at = now + _NEXT_LOOK / rate

    def shrink(self, now: float, rate: float, calls: int) -> None:
        """Shrink by as much as the calls ask for that were made since it was looked at."""
        self._calls += calls
        self.part *= math.exp(-_SHRINKING * calls)
        if self.part < _LEAST:
            self.part = 0.0
        self.looked_at = now
        self.look_at = now + _NEXT_LOOK / rate if self.part else math.inf

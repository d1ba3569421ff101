"""Margin: how much further apart than a limit asks starts are kept, since calls do not arrive as evenly as they start. Pure.

Of a minute's window that is a second, and nobody notices; of a tenth of a second it is what decides. Nobody tells how much the
time on the way differs, but a server that refuses calls which kept to its limit does: after how many calls, at which margin.
Refusals that come as often at any margin are sent by something else, and no margin is worth its time against these.
"""

from __future__ import annotations

import math
from itertools import product

# If calls are late by random times, one in n of those that are a margin apart is refused where the margin is ln(n / 2) times what
# they are late on average: the difference of two exponential times is a Laplace's. So five times as much lets some in a thousand
# be refused.
_TIMES = 5.0
# A cause is a pair: what calls are late on average, as a part of the time between starts, as all parts here are; and what share
# of them is refused at any margin. Each value is less likely at first than the one before, by _LATER or _OFTENER as logarithms: a
# little for late calls, so that one refusal does not halve the pace; much for the share, so that a larger margin is tried before
# it is thought vain.
_LATE = tuple(0.2 / 2 ** (step / 2) for step in reversed(range(12)))
_ANYWAY = (0.0005, 0.003, 0.01, 0.03, 0.1)
_LATER, _OFTENER = 0.1, 3.0
_CAUSES = tuple(
    (late, anyway, -_LATER * step - _OFTENER * rank)
    for (step, late), (rank, anyway) in product(enumerate(_LATE), enumerate(_ANYWAY))
)
_FIRST = 0.03  # what calls are apart more, without a margin
_KEPT = 1 - 1 / 2000  # of what is known, with each call
_NEXT_LOOK = 20  # calls from now, by when it may have shrunk by what matters


class Margin:
    """A part of the time between starts, by which that is longer.

    Attributes:
        part: how much longer it is now.
        since: seconds; calls that started by then were spaced by less, so they tell nothing of it.
        looked_at: seconds; the calls until then are counted.
        look_at: seconds, when it may have shrunk by what matters.

    Example:
        >>> margin = Margin(since=9.0)
        >>> margin.grow(now=10.0, rate=1.0, calls=3)
        >>> round(margin.part, 2), margin.since
        (0.18, 10.0)
    """

    __slots__ = ("_likely", "look_at", "looked_at", "part", "since")

    def __init__(self, since: float = -math.inf) -> None:
        self.part = 0.0
        self.since = since
        self.looked_at = since
        self.look_at = math.inf
        self._likely = [likely for _, _, likely in _CAUSES]  # each of them, as a logarithm, up to a constant

    def grow(self, now: float, rate: float, calls: int) -> None:
        """Grow, as a call was refused, unless that comes as often at any margin.

        Args:
            now: seconds.
            rate: calls a second that the limit allows.
            calls: that were made since it was looked at.
        """
        self.since = now
        self._set(self._find_out(calls, refused=1), now, rate)

    def shrink(self, now: float, rate: float, calls: int) -> None:
        """Shrink by as much as the calls ask for that were made since it was looked at."""
        self._set(min(self.part, self._find_out(calls, refused=0)), now, rate)

    def _set(self, part: float, now: float, rate: float) -> None:
        self.part, self.looked_at = part, now
        self.look_at = now + _NEXT_LOOK / rate if part else math.inf

    def _find_out(self, calls: int, refused: int) -> float:
        """Weigh the causes by how often calls were refused, and return the margin that the likeliest asks for."""
        apart, kept = max(_FIRST, self.part), _KEPT**calls
        for index, (late, anyway, at_first) in enumerate(_CAUSES):
            share = anyway + math.exp(-apart / late) / 2
            known = kept * (self._likely[index] - at_first)
            self._likely[index] = at_first + known + refused * math.log(share) - calls * share
        late, _, _ = _CAUSES[max(range(len(_CAUSES)), key=self._likely.__getitem__)]
        return _TIMES * late if _TIMES * late > _FIRST else 0.0

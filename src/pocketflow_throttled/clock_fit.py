"""Which window by an API's own clock, that nobody told, explains when it refused.

Pure: times are arguments, in seconds. Each time that calls are admitted again, a period began between the last call that was
refused and the first that was admitted, and none began while it refused. And in no period were more admitted than in those in
which it refused. Two such times leave few lengths that are possible, and each one more leaves fewer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .window_fit import USUAL_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHORTEST, _LONGEST = USUAL_WINDOWS[-1], 3600.0  # seconds: what is counted in less is a pace
_A_WHILE = 1.0  # seconds: refused for less, it was one of many calls on their way
_FEWEST = 5  # starts that fit: fewer are a pace, too
_MISFIT = 1.02  # times as many as the least that was refused, as calls are not all as long on their way
_AS_GOOD = 0.01  # of that: no worse a fit
_PERIODS = 4  # from one time that it opened to the next, at the most
_LENGTHS, _BEGINNINGS = 24, 8  # that are tried


class Shut(NamedTuple):
    """A time in which an API refused.

    Attributes:
        since: when the last call started that was admitted before.
        last: when the last one started that was refused.
        opened: when the first one did that was admitted.
    """

    since: float
    last: float
    opened: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A window by the clock that would explain it.

    Attributes:
        count: starts that fit into a period.
        length: of a period, at the least and at the most.
        begun: when the last one began, at the earliest and at the latest.
    """

    count: int
    length: tuple[float, float]
    begun: tuple[float, float]


def shuts_between(starts: Sequence[float], shut_at: Sequence[float]) -> list[Shut]:
    """Return the times of a while or more in which an API refused, from the starts that it admitted and when it admitted none."""
    last: dict[int, float] = {}  # of those times before the start with that index
    for time in shut_at:
        at = bisect_left(starts, time)
        last[at] = max(time, last.get(at, time))
    shuts = [Shut(starts[at - 1], last[at], starts[at]) for at in sorted(last) if 0 < at < len(starts)]
    return [shut for shut in shuts if shut.opened - shut.since > _A_WHILE]


def clock_that_explains(starts: Sequence[float], shuts: Sequence[Shut]) -> Fit | None:
    """Return the window by the clock that explains best when an API refused, or None if none does.

    Args:
        starts: of the calls that were admitted, in their order.
        shuts: the times in which it refused, two or more.

    Example:
        >>> starts = [float(start) for start in (*range(10), *range(22, 32))]  # ten fit, from 0 and from 20 on
        >>> fit = clock_that_explains(starts, [Shut(9.0, 19.0, 22.0), Shut(31.0, 39.0, 42.0)])
        >>> fit.count, fit.length[0] < 20 < fit.length[1]
        (10, True)
    """
    first, last = shuts[0], shuts[-1]
    shortest, times = max(_SHORTEST, *(shut.last - shut.since for shut in shuts)), len(shuts) - 1
    for periods in range(times, _PERIODS * times + 1):  # the longest first: what is admitted in a part of one is known less often
        longest = min((last.opened - first.last) / periods, _LONGEST)
        lengths = _Span(max((last.last - first.opened) / periods, shortest), longest)
        found = list(_candidates(starts, shuts, lengths))
        if found:
            best = min(found)
            good = [each for each in found if each.misfit <= best.misfit + _AS_GOOD]
            length = lengths.around([each.length for each in good], _LENGTHS)
            begun = _Span(last.last, last.opened).around([each.begun for each in good], _BEGINNINGS)
            return Fit(best.most, length, begun)
    return None


class _Candidate(NamedTuple):
    misfit: float
    most: int
    length: float
    begun: float


class _Span(NamedTuple):
    """What lies between two numbers, if the second is the larger one."""

    low: float
    high: float

    def parts(self, number: int) -> list[float]:
        """Return the middles of so many parts."""
        return (
            [self.low + (self.high - self.low) * (part + 0.5) / number for part in range(number)] if self.low < self.high else []
        )

    def around(self, middles: list[float], number: int) -> tuple[float, float]:
        """Return what some of its parts cover, of which these are the middles."""
        half = (self.high - self.low) / number / 2
        return min(middles) - half, max(middles) + half


def _candidates(starts: Sequence[float], shuts: Sequence[Shut], lengths: _Span) -> Iterator[_Candidate]:
    last = shuts[-1]
    for length in lengths.parts(_LENGTHS):
        for begun in _Span(last.last, last.opened).parts(_BEGINNINGS):
            if all(_is_possible(shut, length, begun) for shut in shuts):
                least, most = _admitted(starts, shuts, length, begun)
                if least >= _FEWEST and most <= max(_MISFIT * least, least + 1):
                    yield _Candidate(most / least, most, length, begun)


def _is_possible(shut: Shut, length: float, begun: float) -> bool:
    """Return whether a period began before it opened, and none while it was shut."""
    refused = math.floor((shut.last - begun) / length)
    return math.floor((shut.since - begun) / length) == refused < math.floor((shut.opened - begun) / length)


def _admitted(starts: Sequence[float], shuts: Sequence[Shut], length: float, begun: float) -> tuple[int, int]:
    """Return the fewest starts in a period in which it refused, and the most in any from the one before these on."""

    def period(at: float) -> int:
        return math.floor((at - begun) / length)

    before = period(shuts[0].since) - 1  # what was admitted long before tells nothing more
    ends = [bisect_left(starts, begun + each * length) for each in range(before, period(starts[-1]) + 2)]
    counts = [after - since for since, after in pairwise(ends)]
    return min(counts[period(shut.since) - before] for shut in shuts), max(counts)

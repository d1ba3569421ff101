"""What the last refusals say of the limit that is behind them: too many calls at once, or too many in a second, or neither.

Pure functions of a log, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from .evidence import LAST, SECOND

if TYPE_CHECKING:
    from .evidence import Evidence

_TOLD_BY, _TOP = 20, 0.15  # starts that can tell a cap, and the part of them, on average, as high as one that was refused
_ALONE = 20  # starts admitted since the refusal before, at the level of one that is alone then
_RECENT = 1000  # starts that tell what is counted by the second
_DENIED = 5  # starts, at the level of a refusal or beyond, that were admitted: what refused is no cap


def told_cap(evidence: Evidence) -> int | None:
    """Return the calls at once beyond which calls are refused, if the last refusals tell; None: they do not.

    Where too many at once are refused, they are among the highest that there were since; where too many in a time are, they
    may be any. Not all are the highest: a call may end before the server knows of the next, or the other way round.
    """
    refused = [level for _, level in evidence.telling]
    if len(refused) < LAST:
        return None
    since = evidence.telling[0][0]
    levels = list(islice(evidence.levels, bisect_right(evidence.starts, since), None))
    as_high = sum(sum(level >= at for level in levels) for at in refused) / len(refused)
    is_cap = len(levels) >= _TOLD_BY and as_high <= _TOP * len(levels)
    return min(refused) - 1 if is_cap and min(refused) > 1 else None


def starts_a_second(evidence: Evidence) -> int | None:
    """Return how many starts there were in the second before each of the last refusals, and never more; None: it is not so.

    Nor if the levels tell a cap: where all calls take equally long, that admits as many in any second, too.
    """
    starts = evidence.starts
    since = starts[-min(_RECENT, len(starts))] if starts else math.inf
    refused = [(at, level) for at, level in evidence.telling if at >= since]
    if len(refused) < 2 or refused[-1][0] - refused[0][0] <= 2 * SECOND:
        return None
    if _admitted(evidence, since, min(level for _, level in refused)) <= _DENIED:
        return None
    count = min(evidence.between(at - SECOND, at) for at, _ in refused)
    # One more, as not all are as long on their way. What started after the last refusal may be refused yet.
    is_full = evidence.most(SECOND, since, until=refused[-1][0]) <= count + 1
    return count if count > 1 and is_full else None


def is_alone(evidence: Evidence, level: int, until: float = math.inf) -> bool:
    """Return whether the last refusal, with so many under way, tells nothing: others were admitted there, up to `until`."""
    telling = evidence.telling
    return len(telling) > 1 and _admitted(evidence, telling[-2][0], level, until) >= _ALONE


def _admitted(evidence: Evidence, since: float, level: int, until: float = math.inf) -> int:
    """Return how many calls were admitted, of those that started after `since`, up to `until`, at that level or beyond."""
    first, end = bisect_right(evidence.starts, since), bisect_right(evidence.starts, until)
    return sum(at >= level for at in islice(evidence.levels, first, max(first, end)))


def refused_by_a_rate(evidence: Evidence) -> list[float]:
    """Return when calls started that no cap refused, in that order.

    No cap did where, between the refusal before and the one after, enough calls with as many under way were admitted.
    """
    starts, levels = list(evidence.starts), list(evidence.levels)
    calls = [(call, bisect_right(starts, call.started)) for call in sorted(evidence.refused_calls)]
    ends = sorted({0, len(starts), *(at for _, at in calls)})
    refusals: list[float] = []
    for call, at in calls:
        nth = bisect_left(ends, at)
        since, until = ends[max(0, nth - 1)], ends[min(nth + 1, len(ends) - 1)]
        as_high = sum(level >= call.level for level in levels[since:until])
        if as_high > _TOP * (until - since):
            refusals.append(call.started)
    return refusals

"""Which bucket, that nobody told, explains when an API refused: how fast it refills, and how many calls it holds.

Pure: times are arguments, in seconds. A bucket can be read as a meter: a call that is admitted adds one to a level, which sinks
steadily, but not below nothing. It was never higher than what the bucket holds, and whenever a call was refused, one more would
have been too many. A rate that is too slow makes the level too high elsewhere, one that is too fast makes it too low where calls
were refused. So a few refusals leave few rates that are possible.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from .conclusions import refused_by_a_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .evidence import Evidence

_FEWEST = 4  # times that it was empty
_MOST = 1000  # starts that are looked through
# Times what was admitted on the whole, which is more while a bucket empties, and less while it is not used to the full.
_SLOWEST, _FASTEST = 0.15, 6.0
_ALIKE = 1.5  # times as fast, or as slow, is a rate that is found again
_COARSE, _FINER = 1.06, (1.028, 1.014, 1.007, 1.0035)  # times, from one rate that is tried to the next
_FINE = 1.02  # times, from one to the next that may fit as well
_MISFIT = 0.04  # of what it holds: by so much is the level too low, on average, where calls are not all as long on their way
_HOPELESS = 0.2  # of it: no less if some of the times are left out
_AS_GOOD = 0.02  # of that: no worse a fit
_CLEAR = 1.12  # times as fast as the slowest rate that fits is the fastest, at the most
_MOST_TIMES = 0.75  # of the times that it refused: the others may have another reason
_SOME_MORE = 25  # of all starts, such a part must be new to look again in vain, which takes time
_NEWS = 10  # starts since one was found, without which it is no news that the same is found again


class Bucket(NamedTuple):
    """A bucket that explains what was admitted and what was refused.

    Attributes:
        rate: calls a second.
        burst: calls that it holds.
    """

    rate: float
    burst: float


class _Fit(NamedTuple):
    misfit: float
    rate: float
    burst: float


class _Log(NamedTuple):
    """What was admitted, and when it refused.

    Attributes:
        starts: of the calls that were admitted, in their order.
        refused: after so many of them, when it last refused.
        level: before the first of them.
        rates: the slowest and the fastest that are tried.
    """

    starts: Sequence[float]
    refused: dict[int, float]
    level: float
    rates: tuple[float, float]

    def fit(self, rate: float, times: float) -> _Fit:
        """Return how well a bucket that refills at such a rate explains it, or that part of the times that it refused."""
        level, before = self.level, self.starts[0]
        levels: list[float] = []
        for start in self.starts:
            level -= rate * (start - before)
            level = level + 1 if level > 0 else 1.0
            levels.append(level)
            before = start
        burst = max(self.level, *levels)
        refused = [levels[number - 1] - rate * (at - self.starts[number - 1]) for number, at in self.refused.items()]
        refused.sort(reverse=True)
        explained = refused[: max(_FEWEST, round(times * len(refused)))]
        # At a level of nothing, it was full: it did not refuse.
        misfit = sum(max(0.0, burst - 1 - level) if level > 0 else burst for level in explained) / len(explained) / burst
        return _Fit(misfit, rate, burst)

    def best(self, times: float) -> _Fit:
        """Return the bucket that fits best."""
        slowest, fastest = self.rates
        rates = [slowest]
        while rates[-1] < fastest:
            rates.append(_COARSE * rates[-1])
        best = min(self.fit(rate, times) for rate in rates)
        for factor in _FINER:
            best = min(best, self.fit(best.rate / factor, times), self.fit(best.rate * factor, times))
        return best

    def explained(self) -> Bucket | None:
        """Return the bucket that explains it; None: none does, or several that differ."""
        for times in (1.0, _MOST_TIMES):
            best = self.best(times)
            if best.misfit > _HOPELESS:
                return None
            if best.misfit <= _MISFIT:
                slowest, fastest = (self._last_as_good(best, times, factor) for factor in (1 / _FINE, _FINE))
                return Bucket(best.rate, best.burst) if fastest <= _CLEAR * slowest else None
        return None

    def _last_as_good(self, best: _Fit, times: float, factor: float) -> float:
        """Return the last rate that fits as well, by steps of a factor from the best one, or one that is far off."""
        rate = best.rate
        while 1 / _CLEAR < rate / best.rate < _CLEAR and self.fit(rate * factor, times).misfit <= best.misfit + _AS_GOOD:
            rate *= factor
        return rate


def bucket_that_explains(starts: Sequence[float], refusals: Sequence[float], known: Bucket | None = None) -> Bucket | None:
    """Return the bucket that explains when an API refused; None: none does, or several that differ.

    Args:
        starts: of the calls that were admitted, in their order.
        refusals: when a call started that was refused, in that order.
        known: what explained it before, for a log that begins too late to tell.

    Example:
        >>> starts = [0.0, 0.1, 0.2, 0.3, *(0.5 * number for number in range(1, 20))]  # four, and then two a second
        >>> bucket = bucket_that_explains(starts, refusals=[0.4, 3.2, 6.3, 9.7])
        >>> round(bucket.rate, 1), round(bucket.burst)
        (2.0, 4)
    """
    log = _log(starts, refusals, known)
    return None if log is None or len(log.refused) < _FEWEST else log.explained()


def _log(starts: Sequence[float], refusals: Sequence[float], known: Bucket | None) -> _Log | None:
    """Return what is looked through: all, or since a refusal, if it is known how much a bucket holds, or since shortly before."""
    level = 0.0
    if len(starts) > _MOST and known is not None:
        refusals = [refusal for refusal in refusals if refusal > starts[-_MOST]]
        starts, level = starts[bisect_right(starts, refusals[0]) :] if refusals else [], known.burst
    elif len(starts) > _MOST and refusals:
        starts = starts[max(0, bisect_right(starts, refusals[0]) - _MOST // 2) :]  # it was hardly used before the first one
    if not starts or starts[0] >= starts[-1] or len(starts) > _MOST:  # clocks of several loops may differ
        return None
    refused = {bisect_right(starts, at): at for at in refusals if at >= starts[0]}
    if known is None:
        overall = len(starts) / (max([starts[-1], *refusals[-1:]]) - starts[0])
        return _Log(starts, refused, level, (_SLOWEST * overall, _FASTEST * overall))
    return _Log(starts, refused, level, (known.rate / _ALIKE, known.rate * _ALIKE))


class BucketSearch:
    """The bucket that explains the refusals, as far as it was found.

    Args:
        evidence: the starts there were, and the refusals.

    Attributes:
        found: the last one; None: none was, or it was forgotten.
        is_news: whether much was admitted between the last two times that one was found.
    """

    __slots__ = ("_evidence", "_found_at", "_in_vain_at", "found", "is_news")

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._found_at = self._in_vain_at = -math.inf
        self.found: Bucket | None = None
        self.is_news = True

    def look(self, now: float) -> Bucket | None:
        """Return the bucket that explains the refusals up to now; None: none does, or it is too soon to look again."""
        evidence = self._evidence
        if evidence.between(self._in_vain_at, now) < len(evidence.starts) // _SOME_MORE:
            return None
        bucket = bucket_that_explains(list(evidence.starts), refused_by_a_rate(evidence), self.found)
        if bucket is None:
            self._in_vain_at = now
            return None
        self.is_news = evidence.between(self._found_at, now) >= _NEWS
        self.found, self._found_at = bucket, now
        return bucket

    def forget(self) -> None:
        """Look for any bucket from now on, and not first for the one that was found."""
        self.found = None

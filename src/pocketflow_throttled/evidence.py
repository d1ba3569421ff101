"""Evidence: when calls were admitted and when refused.

Pure: times are arguments, in seconds. It believes nothing; what to make of it is for LearnedRate to say.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOLD_BY, _TOP = 20, 0.15  # starts that can tell a cap, and the part of them, on average, as high as one that was refused
SECOND = 1.0  # many an API counts by it
_ALONE = 20  # starts admitted since the refusal before, at the level of one that is alone then
_LAST, _RECENT = 4, 1000  # refusals, and starts, that tell what is counted by the second
_MORE = 2  # times as many calls as were refused: else that is no chance
_ROUNDED = 1.0  # seconds, by which a wait may be longer than it must
_DENIED = 5  # starts, at the level of a refusal or beyond, that were admitted: what refused is no cap
_LOGGED, _REFUSED = 10_000, 200  # starts, and refused calls
SUSTAINED, _SEVERAL = 10.0, 10  # seconds, and starts in them that tell what is admitted
_MOST_TAKE = 0.9  # of the refusals take no longer than what tells by how much calls differ on their way: one may have hung


class _Refused(NamedTuple):
    """A call that was refused: from when to when it was under way, the how many-th, and the seconds that it was asked to wait."""

    started: float
    ended: float
    level: int
    wait: float


def between(log: Sequence[float], since: float, until: float) -> int:
    """Return how many of the starts in a log there were after `since`, up to `until`."""
    return max(0, bisect_right(log, until) - bisect_right(log, since))


class Evidence:
    """The starts that were admitted, as far as anybody knows, and the last refusals.

    Example:
        >>> evidence = Evidence()
        >>> for start in (0.0, 1.0, 2.0):
        ...     evidence.started(start)
        >>> evidence.between(0.0, 2.0), evidence.most(seconds=2.0)
        (2, 2)
    """

    def __init__(self) -> None:
        self.starts: deque[float] = deque(maxlen=_LOGGED)
        self.sent: deque[float] = deque(maxlen=_LOGGED)
        self._levels: deque[int] = deque(maxlen=_LOGGED)
        self.refusals: deque[float] = deque(maxlen=12)
        self._refused_calls: deque[_Refused] = deque(maxlen=_REFUSED)
        self._refused_levels: deque[tuple[float, int]] = deque(maxlen=_LAST)
        self._first_refused = math.inf
        self._told: deque[float] = deque(maxlen=_LAST)

    def started(self, now: float, level: int = 1) -> None:
        """Log a start, the `level`-th call under way; it counts as admitted unless it is taken back."""
        self.starts.append(now)
        self.sent.append(now)
        self._levels.append(level)

    def unsent(self, stamp: float) -> None:
        """Take back the start of a call that was never sent."""
        self.forget(stamp)
        at = bisect_left(self.sent, stamp)
        if at < len(self.sent) and self.sent[at] == stamp:
            del self.sent[at]

    def forget(self, stamp: float) -> None:
        """Take back the start of a call that was refused, and what it made of the levels of those after it."""
        at = bisect_left(self.starts, stamp)
        if at < len(self.starts) and self.starts[at] == stamp:
            del self.starts[at], self._levels[at]
            for later in range(at, len(self._levels)):
                self._levels[later] -= 1
        calls = self._refused_calls
        for index in reversed(range(len(calls))):
            if calls[index].ended <= stamp:
                break
            if calls[index].started > stamp and calls[index].level > 1:
                calls[index] = calls[index]._replace(level=calls[index].level - 1)
        for index, (started, level) in enumerate(self._refused_levels):
            if started > stamp and level > 1:
                self._refused_levels[index] = (started, level - 1)

    def ended(self, started: float, now: float, level: int, wait: float = 0.0) -> None:
        """Log when a refused call ended: until then it was under way, but took no place at the server."""
        self._refused_calls.append(_Refused(started, now, level, wait))

    def told(self, until: float) -> None:
        """Log until when an API said that it would refuse calls, in whole seconds or more exactly."""
        self._told.append(until - _ROUNDED)

    @property
    def refused_starts(self) -> list[float]:
        """When calls started, of late, that it refused."""
        return sorted(call.started for call in self._refused_calls)

    @property
    def shut_at(self) -> list[float]:
        """When it refused of late: as calls started that it refused, or as it told."""
        return [*self.refused_starts, *self._told]

    def served_level(self, started: float, level: int) -> int:
        """Return how many of those under way as a call started, itself included, the server has not refused by now."""
        refused = self._refused_calls
        if not refused or started >= refused[-1].ended:
            return level
        return max(1, level - sum(call.started < started < call.ended for call in refused))

    def refused_level(self, started: float, level: int) -> int:
        """Return the same of a refused call, by what is known of those before it now; `level` if it is not logged any more."""
        return next((call.level for call in reversed(self._refused_calls) if call.started == started), level)

    @property
    def spread(self) -> float:
        """Seconds by which calls differ on their way, as refusals tell."""
        took = sorted(call.ended - call.started for call in self._refused_calls)
        return took[int(_MOST_TAKE * len(took))] - took[0] if took else 0.0

    def arrived_by(self, started: float) -> float:
        """Return when a refused call had arrived at the latest, if its answer was on its way for no less than another's."""
        calls = self._refused_calls
        took = next((call.ended - started for call in reversed(calls) if call.started == started), None)
        if took is None:
            return started
        fastest = min(call.ended - call.started for call in calls)
        return started + min(took - fastest, self.spread)

    def refused_by_a_rate(self) -> list[tuple[float, float]]:
        """Return when calls started that no cap refused, in that order, and the seconds that each was asked to wait.

        Others were admitted where as many were under way or more, after the refusal before or until the one after.
        """
        starts, levels = list(self.starts), list(self._levels)
        calls = [(call, bisect_right(starts, call.started)) for call in sorted(self._refused_calls)]
        ends = sorted({0, len(starts), *(at for _, at in calls)})
        refusals: list[tuple[float, float]] = []
        for call, at in calls:
            nth = bisect_left(ends, at)
            since, until = ends[max(0, nth - 1)], ends[min(nth + 1, len(ends) - 1)]
            as_high = sum(level >= call.level for level in levels[since:until])
            if as_high > _TOP * (until - since):
                refusals.append((call.started, call.wait))
        return refusals

    def refused(self, started: float) -> None:
        """Log a refusal that any window must explain."""
        self.refusals.append(started)

    def forgive(self, since: float) -> None:
        """Take back the refusals since then that a window must explain: they had another reason."""
        while self.refusals and self.refusals[-1] >= since:
            self.refusals.pop()

    def refused_at(self, started: float, level: int) -> None:
        """Log how many were under way, itself included, when a call started that was refused."""
        self._first_refused = min(self._first_refused, started)
        self._refused_levels.append((started, level))

    def cap(self) -> int | None:
        """Return the calls at once beyond which calls are refused, if the last refusals tell; None: it is not so.

        Where too many at once are refused, they are among the highest that there were since; where too many in a time are, they
        may be any. Not all are the highest: a call may end before the server knows of the next, or the other way round.
        """
        refused = [level for _, level in self._refused_levels]
        if len(refused) < _LAST:
            return None
        since = self._refused_levels[0][0]
        levels = list(islice(self._levels, bisect_right(self.starts, since), None))
        as_high = sum(sum(level >= at for level in levels) for at in refused) / len(refused)
        is_cap = len(levels) >= _TOLD_BY and as_high <= _TOP * len(levels)
        return min(refused) - 1 if is_cap and min(refused) > 1 else None

    def is_alone(self, level: int, until: float = math.inf) -> bool:
        """Return whether the last refusal, with so many under way, tells nothing: others were admitted there, up to `until`."""
        return len(self._refused_levels) > 1 and self._admitted(self._refused_levels[-2][0], level, until) >= _ALONE

    def is_far_below(self, started: float, level: int, factor: int) -> bool:
        """Return whether so many times as many as when a call started were admitted before, at once and in a time.

        What was admitted before the first refusal does not count: a bucket may have been full.
        """
        most, lately = self.most(SUSTAINED, self._first_refused), self.between(started - SUSTAINED, started)
        if most < max(_SEVERAL, factor * lately):
            return False
        return max(islice(self._levels, bisect_left(self.starts, self._first_refused), None)) >= factor * level

    def is_rare(self, started: float, starts: int) -> bool:
        """Return whether so many calls, or more, started for each of the last refusals, and more than were refused with these."""
        if len(self._refused_levels) < _LAST:
            return False
        since = self._refused_levels[0][0]
        calls = sum(call.started >= since for call in self._refused_calls)
        return self.between(since, started) >= max(starts * (_LAST - 1), _MORE * calls)

    def _admitted(self, since: float, level: int, until: float = math.inf) -> int:
        """Return how many calls were admitted, of those that started after `since`, up to `until`, at that level or beyond."""
        first, end = bisect_right(self.starts, since), bisect_right(self.starts, until)
        return sum(at >= level for at in islice(self._levels, first, max(first, end)))

    def a_second(self) -> int | None:
        """Return how many starts a second there were before each of the last refusals, and never more; None: it is not so.

        Nor if the levels tell a cap: where all calls take equally long, that admits as many in any second, too.
        """
        since = self.starts[-min(_RECENT, len(self.starts))] if self.starts else math.inf
        refused = [(at, level) for at, level in self._refused_levels if at >= since]
        if len(refused) < 2 or refused[-1][0] - refused[0][0] <= 2 * SECOND:
            return None
        if self._admitted(since, min(level for _, level in refused)) <= _DENIED:
            return None
        count = min(self.between(at - SECOND, at) for at, _ in refused)
        # One more, as not all are as long on their way. What started after the last refusal may be refused yet.
        is_full = self.most(SECOND, since, until=refused[-1][0]) <= count + 1
        return count if count > 1 and is_full else None

    def pause_before(self, started: float) -> float:
        """Return the seconds since the last start that was admitted."""
        before = bisect_left(self.starts, started)
        return started - self.starts[before - 1] if before else math.inf

    def between(self, since: float, until: float) -> int:
        """Return how many starts there were after `since`, up to `until`."""
        return between(self.starts, since, until)

    def most(
        self,
        seconds: float,
        since: float = -math.inf,
        until: float = math.inf,
        *,
        enough: float = math.inf,
        counts_refused: bool = False,
    ) -> int:
        """Return the most starts in any `seconds`, of those from `since` on and before `until`; or more than `enough`.

        Of refused calls, if these count, too, those do whose refusal had come before the last one of those starts.
        """
        starts = list(self.starts)[bisect_left(self.starts, since) : bisect_left(self.starts, until)]
        refused = self.refused_starts if counts_refused else []
        ended = sorted(call.ended for call in self._refused_calls)
        most = first = 0
        for index, start in enumerate(starts):
            while first < index and starts[first] <= start - seconds:
                first += 1
            count = index - first + 1
            if refused:
                count += max(0, bisect_right(ended, start) - bisect_right(refused, start - seconds))
            if count > most:
                most = count
                if most > enough:
                    break
        return most

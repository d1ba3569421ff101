"""Evidence: the log of what is known: when calls were admitted, and when they were refused.

Pure: times are arguments, in seconds. What to make of it is for others to say, as `conclusions` and the fits do.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND = 1.0  # many an API counts by it
SUSTAINED = 10.0  # seconds: what is admitted for so long is no burst
LAST = 4  # refusals that tell something new, and times that an API told, that are remembered
_LOGGED, _REFUSED, _TO_EXPLAIN = 10_000, 200, 12  # starts, refused calls, and refusals that a window must explain
_ROUNDED = 1.0  # seconds, by which a wait may be longer than it must
_MOST_TAKE = 0.9  # of the refusals take no longer than what tells by how much calls differ on their way: one may have hung


class _LoggedRefusal(NamedTuple):
    """A call that was refused: from when to when it was under way, and the how many-th."""

    started: float
    ended: float
    level: int


def between(log: Sequence[float], since: float, until: float) -> int:
    """Return how many of the starts in a log there were after `since`, up to `until`."""
    return max(0, bisect_right(log, until) - bisect_right(log, since))


class Evidence:
    """The starts that were admitted, as far as anybody knows, and the last refusals.

    Attributes:
        starts: of calls that were not refused, in their order.
        levels: how many were under way at each of these, itself included; refused calls do not count.
        sent: all starts, also of calls that were refused.
        refused_calls: those that were refused of late.
        telling: when the last refused calls started that told something new, and how many were under way then.
        first_telling: when the first of those started; infinity: there was none.
        to_explain: when refused calls started that a window must explain.

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
        self.levels: deque[int] = deque(maxlen=_LOGGED)
        self.refused_calls: deque[_LoggedRefusal] = deque(maxlen=_REFUSED)
        self.telling: deque[tuple[float, int]] = deque(maxlen=LAST)
        self.first_telling = math.inf
        self.to_explain: deque[float] = deque(maxlen=_TO_EXPLAIN)
        self._told: deque[float] = deque(maxlen=LAST)

    def started(self, now: float, level: int = 1) -> None:
        """Log a start, the `level`-th call under way; it counts as admitted unless it is taken back."""
        self.starts.append(now)
        self.sent.append(now)
        self.levels.append(level)

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
            del self.starts[at], self.levels[at]
            for later in range(at, len(self.levels)):
                self.levels[later] -= 1
        calls = self.refused_calls
        for index in reversed(range(len(calls))):
            if calls[index].ended <= stamp:
                break
            if calls[index].started > stamp and calls[index].level > 1:
                calls[index] = calls[index]._replace(level=calls[index].level - 1)
        for index, (started, level) in enumerate(self.telling):
            if started > stamp and level > 1:
                self.telling[index] = (started, level - 1)

    def log_refusal(self, started: float, now: float, level: int) -> int:
        """Log that a call was refused; return how many were under way at the server as it started, itself included.

        Args:
            started: when it did.
            now: when it was refused: until then it was under way, but took no place at the server.
            level: how many were under way as it started, as its client counts.
        """
        level = self.served_level(started, level)
        self.forget(started)
        self.refused_calls.append(_LoggedRefusal(started, now, level))
        return level

    def log_telling(self, started: float, level: int) -> None:
        """Log a refusal that tells something new: before the call started, the refusals before it had been answered by a cut."""
        self.first_telling = min(self.first_telling, started)
        self.telling.append((started, level))

    def log_to_explain(self, started: float) -> None:
        """Log a refusal that a window must explain."""
        self.to_explain.append(started)

    def forgive(self, since: float) -> None:
        """Take back the refusals since then that a window must explain: they had another reason."""
        while self.to_explain and self.to_explain[-1] >= since:
            self.to_explain.pop()

    def told(self, until: float) -> None:
        """Log until when an API said that it would refuse calls, in whole seconds or more exactly."""
        self._told.append(until - _ROUNDED)

    @property
    def refused_starts(self) -> list[float]:
        """When calls started, of late, that it refused."""
        return sorted(call.started for call in self.refused_calls)

    @property
    def shut_at(self) -> list[float]:
        """When it refused of late: as calls started that it refused, or as it told."""
        return [*self.refused_starts, *self._told]

    def served_level(self, started: float, level: int) -> int:
        """Return how many of those under way as a call started, itself included, the server has not refused by now."""
        refused = self.refused_calls
        if not refused or started >= refused[-1].ended:
            return level
        return max(1, level - sum(call.started < started < call.ended for call in refused))

    def refused_level(self, started: float, level: int) -> int:
        """Return how many were under way at the server as a refused call started; `level` if it is not logged any more.

        That may be fewer than was thought as it was refused: others that were under way may have been refused since.
        """
        return next((call.level for call in reversed(self.refused_calls) if call.started == started), level)

    @property
    def spread(self) -> float:
        """Seconds by which calls differ on their way, as refusals tell."""
        took = sorted(call.ended - call.started for call in self.refused_calls)
        return took[int(_MOST_TAKE * len(took))] - took[0] if took else 0.0

    def arrived_by(self, started: float) -> float:
        """Return when a refused call had arrived at the latest, if its answer was on its way for no less than another's."""
        calls = self.refused_calls
        took = next((call.ended - started for call in reversed(calls) if call.started == started), None)
        if took is None:
            return started
        fastest = min(call.ended - call.started for call in calls)
        return started + min(took - fastest, self.spread)

    def pause_before(self, started: float) -> float:
        """Return the seconds since the last start that was admitted."""
        before = bisect_left(self.starts, started)
        return started - self.starts[before - 1] if before else math.inf

    def between(self, since: float, until: float) -> int:
        """Return how many starts there were after `since`, up to `until`."""
        return between(self.starts, since, until)

    def count_from(self, since: float, until: float) -> int:
        """Return how many starts there were from `since` on, that moment included, up to `until`."""
        return max(0, bisect_right(self.starts, until) - bisect_left(self.starts, since))

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
        ended = sorted(call.ended for call in self.refused_calls)
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

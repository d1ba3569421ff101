"""The sliding window of tokens, whose requests differ in what they cost, and tell it when they have ended. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from .counting import CLEARLY, Counting, Way
from .refill import in_bucket, in_fixed_window
from .window import Window

if TYPE_CHECKING:
    from .counting import Counts

# Calls under way cost what nobody knows yet. Together they are off by as much as their variances tell, and hardly ever by more
# than so many standard deviations: single calls that cost more are made up for by others that cost less.
_DEVIATIONS = 2
_MORE = (Way.SETTLED, Way.SETTLED_BACK, Way.ESTIMATE)
_ARRIVES = 0.1  # seconds until a call arrives, or so: what leaves the server's window by then is not in its way
# Calls that started before anything was told tell of no known moment. Until the next ones do, nothing is tried: for so many times
# as long as the first call took, or for such a part of the window.
_AS_LONG, _WAITED = 4.0, 0.25
_IN_ANY_ORDER = 0.3  # seconds: of calls that start so close to each other, any arrives first
_ENDED = 2  # calls that may have ended at the server whose answers are not here yet


class Spend:
    """Tokens booked at a time; the cost may be corrected while it is in its window. Until then it may be off by its variance."""

    __slots__ = ("cost", "estimated", "in_window", "is_refused", "is_under_way", "of_slice", "time", "variance")

    def __init__(self, time: float, cost: int, variance: int = 0, estimated: int = 0) -> None:
        self.time = time
        self.cost = cost
        self.variance = variance
        self.estimated = estimated  # before the estimate was corrected by what others cost
        self.in_window = self.is_under_way = True
        self.is_refused = False
        self.of_slice: Spend | None = None  # the same in a shorter window

    def more(self, way: Way) -> int:
        """Return what a server that counts estimates counts of it beyond what it costs, or is thought to; less, if negative.

        Of one that settles as calls end, what it counts until then.
        """
        if not self.estimated or self.is_refused or (way is Way.SETTLED_BACK and not self.is_under_way):
            return 0
        more = self.estimated - self.cost
        return max(0, more) if way is Way.ESTIMATE and not self.is_under_way else more


class _Unexplained(NamedTuple):
    """A refusal by a server that had room, as far as was known then.

    Attributes:
        room: what would have fitted beside what was known.
        untold: calls under way then that have not told yet what they cost.
        under_way: all of these.
        refused: the call.
    """

    room: int
    untold: set[Spend]
    under_way: list[Spend]
    refused: Spend


class TokenWindow(Window):
    """At most `limit` tokens in any `seconds`; one request larger than that runs alone.

    Spending more than was booked is debt: `used` then exceeds `limit`, and nothing fits until enough has expired.

    Args:
        limit: tokens allowed in any one window.
        seconds: length of the window.

    Example:
        >>> window = TokenWindow(limit=100, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=80)
        >>> window.fits(now=1.0, cost=30)
        False
        >>> window.correct(spend, cost=70)
        >>> window.fits(now=1.0, cost=30)
        True
    """

    __slots__ = ("_left_at", "_more", "_settled", "_total", "_unexplained", "_unserved", "_variance", "counting", "spends")

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.counting = Counting(seconds)
        self._more = [0] * len(Way)  # what is counted beyond the total, by the way in which it is
        self._unexplained: _Unexplained | None = None
        self._settled: deque[tuple[float, int]] = deque()  # when calls ended, and what they cost more than was estimated
        self.spends: deque[Spend] = deque()
        self._left_at = -math.inf  # when the last spend left the window
        self._total = 0
        self._unserved = 0  # what calls cost that a server refused
        self._variance = 0  # of all costs that are estimates

    def counts(self, now: float) -> Counts:
        """Return what a server counts by each way, others' share aside; forgets what has left the window."""
        self.forget(now)
        served = max(0, self._total - self._unserved)
        return served, *(max(0, served + max(0, self._more[way])) for way in _MORE)

    @property
    def _each(self) -> float:
        return self._total / len(self.spends) if self.spends else 1.0  # as much as its own calls

    @property
    def _tells(self) -> int:
        return 0 if self.spends else self._limit  # any call, when none is left to tell

    def fits(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`; forgets what has left the window."""
        self.forget(now)
        if cost == 0:
            return True
        most = cost
        if self._variance or variance:
            most += math.isqrt(_DEVIATIONS**2 * (self._variance + variance))
        if self._total + min(most, self._limit) > self.allowed:
            return False
        return not estimated or self.counting.may_start(now, self._beyond(self.allowed - self._total, max(cost, estimated)))

    def _beyond(self, room: int, cost: int) -> list[Way]:
        """Return the ways of counting by which a call of such a cost does not fit."""
        if max(self._more) + cost <= room:
            return []
        return [way for way in _MORE if min(max(0, self._more[way]) + cost, self._limit) > room]

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        spends = self.spends
        while spends and spends[0].time + self.span <= now:
            spend = spends.popleft()
            self.take_back(spend)
            spend.in_window = False
            self._left_at = now
        settled = self._settled
        while settled and settled[0][0] + self.span <= now:
            self._more[Way.SETTLED] -= settled.popleft()[1]
        self._give_back(now)

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        own = self.spends[0].time + self.span if self.spends else math.inf
        own = min(own, self.counting.opens_at(now))
        if self._settled and self._more[Way.SETTLED] > 0:
            own = min(own, self._settled[0][0] + self.span)  # what calls cost more has come later, and leaves later
        return min(own, self._others_back_at(now)) if self._taken else own

    def add(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        spend = Spend(now, cost, variance, estimated)
        self.spends.append(spend)
        self._total += cost
        self._variance += variance
        if estimated:
            self._learn_start(now, spend)
        self._count_more(spend, 1)
        return spend

    def _count_more(self, spend: Spend, sign: int) -> None:
        if spend.estimated:
            for way in _MORE:
                self._more[way] += sign * spend.more(way)

    def _learn_start(self, now: float, spend: Spend) -> None:
        room, cost = self.allowed - self._total + spend.cost + self._unserved, max(spend.cost, spend.estimated)
        beyond = self._beyond(room, cost)
        if beyond:
            leaving = list(takewhile(lambda each: each.time + self.seconds <= now + _ARRIVES, self.spends))
            room += sum(each.cost + max(0, each.more(Way.ESTIMATE)) for each in leaving if not each.is_refused)
            room += _ENDED * max(0, spend.estimated - spend.cost)
            self.counting.started(now, beyond, self._beyond(room, cost))

    def compare(
        self,
        now: float,
        used: int,
        started: float,
        by_start: Counts,
        *,
        is_bucket: bool = False,
        began_at: float = -math.inf,
    ) -> None:
        """Learn from what is used by an answer what a server counts.

        Args:
            now: seconds.
            used: of the limit, others' share included.
            started: when its call did, and ...
            by_start: ... what was counted then, if that is known.
            is_bucket: whether the server's limit is known to come back bit by bit.
            began_at: when its window began, if it is known to be a fixed one.
        """
        if not self._more[Way.SETTLED] and not self._more[Way.ESTIMATE]:
            return
        if started > -math.inf:
            first = bisect_left(self.spends, started - _IN_ANY_ORDER, key=_time_of)
            lately = takewhile(lambda spend: spend.time <= started, islice(self.spends, first, None))
            unsure = sum(max(spend.cost, spend.estimated) for spend in lately)
            by_end, cost = self.counts(now), by_start[Way.COST]
            if cost > by_end[Way.COST] + CLEARLY * self._limit and self._left_at < started:
                cost = math.ceil(in_fixed_window(self.spends, -math.inf, started, Way.COST))
            least = None
            if is_bucket:
                least = partial(in_bucket, self.spends, moments=(started, now), rate=self._limit / self.seconds)
            elif began_at > -math.inf:
                least = partial(in_fixed_window, self.spends, began_at + _IN_ANY_ORDER, started)
            self.counting.told(
                now, used, by_start=by_start, by_end=by_end, cost=cost, limit=self._limit, unsure=unsure, least=least
            )
        elif self.spends:
            took = now - self.spends[0].time  # or less
            self.counting.wait_for_more(now + min(_AS_LONG * took, _WAITED * self.seconds))

    def insert(self, time: float, cost: int) -> Spend:
        """Book tokens at a time that may lie before the last entry, and return the entry."""
        spends = self.spends
        place = len(spends)
        while place and spends[place - 1].time > time:
            place -= 1
        spend = Spend(time, cost)
        spends.insert(place, spend)
        self._total += cost
        return spend

    def correct(self, spend: Spend, cost: int, now: float | None = None) -> None:
        """Set what a booked request, which has ended, really cost; without effect once it has left the window.

        `now` tells that it was served and has just ended.
        """
        if spend.in_window:
            self._count_more(spend, -1)
            if now is not None and spend.estimated and spend.is_under_way:
                self._settled.append((now, cost - spend.estimated))
                self._more[Way.SETTLED] += cost - spend.estimated
            self._total += cost - spend.cost
            if spend.is_refused:
                self._unserved += cost - spend.cost
            self._variance -= spend.variance
            spend.cost, spend.variance, spend.is_under_way = cost, 0, False
            self._count_more(spend, 1)
        if self._unexplained is not None:
            self._explain(spend, self._unexplained)

    def _explain(self, spend: Spend, refusal: _Unexplained) -> None:
        """Take another look at a refusal, once all have told what they cost that were under way then."""
        refusal.untold.discard(spend)
        if not refusal.untold:
            self._unexplained = None
            if sum(each.cost for each in refusal.under_way) + refusal.refused.cost > refusal.room:
                self.counting.explain()

    def take_back(self, spend: Spend) -> None:
        """Take back a request that was never sent, or leaves the window."""
        if spend.in_window:
            self._count_more(spend, -1)
            spend.estimated = 0
            self.correct(spend, 0)

    def refuse(self, spend: Spend) -> bool:
        """Remember that a server refused a call, which counts here for what it was, but not at most servers.

        Return whether that tells how the server counts.
        """
        if not spend.in_window or spend.is_refused:
            return False
        self._count_more(spend, -1)
        spend.is_refused = True
        self._unserved += spend.cost
        if not spend.estimated or not self.counting.refused(spend.time):
            return False
        if self._unexplained is None:
            open_ = {each for each in self.spends if each.is_under_way and not each.is_refused}
            known = self._total - self._unserved - sum(each.cost for each in open_)
            self._unexplained = _Unexplained(self.allowed - known, open_, list(open_), spend)
        self.take_away(0, -math.inf, -math.inf)  # what seemed to be of others
        return True

    def unserved(self, now: float) -> int:
        """Return what of the window at `now` was refused; forgets what has left it."""
        self.forget(now)
        return self._unserved

    def clear(self) -> None:
        """Forget every spend, and what others have taken."""
        for spend in self.spends:
            spend.in_window = False
        self.spends.clear()
        self._settled.clear()
        self._unexplained = None
        self._total = self._unserved = self._variance = 0
        self._more, self.counting = [0] * len(Way), Counting(self.seconds)
        self.take_away(0, -math.inf, -math.inf)

    def used(self, now: float) -> int:
        """Return how many tokens are in the window at `now`, others' included. Reading forgets nothing."""
        return self.own(now) + self.others(now)

    def own(self, now: float) -> int:
        """Return how many tokens are in the window at `now` without those of others."""
        used = self._total
        for spend in self.spends:
            if spend.time + self.span > now:
                break
            used -= spend.cost
        return used


def _time_of(spend: Spend) -> float:
    return spend.time

"""The counted window of tokens: a server may count more of a call than it costs, and what it tells and refuses says how. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from functools import cache, partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from .caution import Caution
from .counting import CLEARLY, ENDED, Counting, Way
from .denial import Answered, Denials
from .measured import Measured
from .on_the_way import ARRIVES_SOON, IN_ANY_ORDER
from .refill import Buckets, in_bucket, in_fixed_window
from .token_window import Spend, TokenWindow
from .unexplained import Unexplained

if TYPE_CHECKING:
    from .counting import Counts

_MORE = (Way.SETTLED, Way.SETTLED_BACK, Way.ESTIMATE)
# Calls that started before anything was told tell of no known moment. Until the next ones do, nothing is tried: for _AS_LONG
# times as long as the first call took, or for _WAITED of the window if that is less.
_AS_LONG, _WAITED = 4.0, 0.25
_DENIED_FOR = 2.0  # windows for which a way of counting is ruled out by answers: from then on, refusals may tell of it again
# How much it tells if a call is served that a bucket may have room for, and no window. Servers that refuse in one way, and have a
# bucket, serve some such calls, but not many in a row.
_MAYBE_OF_A_BUCKET = 1 / 2
_NEARLY = 0.9  # of the limit: if less is in the window, whatever calls under way cost, a refusal has another reason


class CountedWindow(TokenWindow):
    """A window of tokens in which a call starts only if it fits in every way that a server may count, or tries one of them.

    Attributes:
        counting: what is known of the way.

    Example:
        >>> window = CountedWindow(limit=1000, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=100, estimated=700)
        >>> window.counts(now=0.0)
        (100, 700, 700, 700)
        >>> window.correct(spend, cost=150, now=9.0)
        >>> window.counts(now=9.0)
        (150, 150, 150, 700)
    """

    __slots__ = ("_buckets", "_denials", "_is_told", "_measured", "_more", "_settled", "_unexplained", "counting")

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self._begin_to_count()

    def _begin_to_count(self) -> None:
        self.counting = Counting(self.seconds)
        self._caution = Caution()
        self._more = [0] * len(Way)  # what is counted beyond the total, by the way in which it is
        self._is_told = False  # by a server, what is left
        self._buckets = Buckets()
        self._denials = Denials(self.seconds)
        self._measured = Measured(self.seconds)
        self._settled: deque[tuple[float, int]] = deque()  # when calls ended, and what they cost more than was estimated
        self._unexplained: Unexplained | None = None

    @property
    def way(self) -> Way:
        """How a server counts, as far as it is known."""
        return self.counting.way

    def counts(self, now: float) -> Counts:
        """Return what a server counts by each way, others' share aside; forgets what has left the window."""
        served = super().counts(now)[Way.COST]
        return served, *(max(0, served + max(0, self._more[way])) for way in _MORE)

    def fits(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`; forgets what has left the window."""
        if not super().fits(now, cost, variance):
            return False
        estimated = self._measured.of(estimated)
        return not estimated or self.counting.may_start(now, self._beyond(self.allowed - self._total, max(cost, estimated)))

    def _beyond(self, room: int, cost: int) -> list[Way]:
        """Return the ways of counting by which a call of such a cost does not fit."""
        if max(self._more) + cost <= room:
            return []
        return [way for way in _MORE if min(max(0, self._more[way]) + cost, self._limit) > room]

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        super().forget(now)
        settled = self._settled
        while settled and settled[0][0] + self.span <= now:
            self._more[Way.SETTLED] -= settled.popleft()[1]

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        opens_at = min(super().opens_at(now), self.counting.opens_at(now))
        if self._settled and self._more[Way.SETTLED] > 0:  # what calls cost more has come later, and leaves later
            opens_at = min(opens_at, self._settled[0][0] + self.span)
        return opens_at

    def add(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        spend = self._book(Spend(now, cost, variance, estimated))
        if estimated:
            self._measured.started(spend)
            spend.estimated = self._measured.of(estimated)
        spend.is_close = self._is_nearly_full
        if estimated:
            self._learn_start(now, spend)
            self._count_more(spend, 1)
        self._buckets.start(spend, self._limit, self._limit / self.seconds)
        return spend

    @property
    def _is_nearly_full(self) -> bool:
        """Whether what calls under way cost decides if there is room."""
        return self._total - self._unserved + self._caution.most(self._variance) >= _NEARLY * self._limit

    def _count_more(self, spend: Spend, sign: int) -> None:
        if spend.estimated:
            more = spend.more()
            for way in _MORE:
                self._more[way] += sign * more[way]

    def _learn_start(self, now: float, spend: Spend) -> None:
        room, cost = self.allowed - self._total + spend.cost + self._unserved, max(spend.cost, spend.estimated)
        beyond = self._beyond(room, cost)
        if beyond:
            leaving = list(takewhile(lambda each: each.time + self.seconds <= now + ARRIVES_SOON, self.spends))
            room += sum(each.cost + max(0, each.more()[Way.ESTIMATE]) for each in leaving if not each.is_refused)
            room += ENDED * max(0, spend.estimated - spend.cost)
            tells = {way: self._tells_of(now, spend, way) for way in self._beyond(room, cost)}
            self.counting.started(now, beyond, tells, spend.cost / self._limit)

    def _tells_of(self, now: float, spend: Spend, way: Way) -> float:
        """Return how much it tells of a way of counting if a call is served that no window has room for.

        A bucket may have some. Of such a call nothing follows where answers rule out as well.
        """
        if self.counting.is_ruled_out(way) or not self._fits_bucket(now, spend, way):
            return 1.0
        return 0.0 if self._is_told else _MAYBE_OF_A_BUCKET

    def _fits_bucket(self, now: float, spend: Spend, way: Way) -> bool:
        """Whether a call that starts would fit a bucket that counts in one way."""
        used = self._buckets.used(way, now + ARRIVES_SOON, self._limit / self.seconds)
        return used + spend.estimated <= self._limit

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
            started: when its call did; minus infinity: nobody knows.
            by_start: what was counted then, if that is known.
            is_bucket: whether the server's limit is known to come back bit by bit.
            began_at: when its window began, if it is known to be a fixed one.
        """
        self._is_told = True
        self._measured.told(used, started)
        if not self._more[Way.SETTLED] and not self._more[Way.ESTIMATE]:
            return
        if started > -math.inf:
            by_end, cost = self.counts(now), by_start[Way.COST]
            if cost > by_end[Way.COST] + CLEARLY * self._limit and self._left_at < started:
                cost = math.ceil(in_fixed_window(self.spends, -math.inf, started, Way.COST))
            least = None
            if is_bucket:
                least = partial(in_bucket, self.spends, moments=(started, now), rate=self._limit / self.seconds)
            elif began_at > -math.inf:
                least = partial(in_fixed_window, self.spends, began_at + IN_ANY_ORDER, started)
            unsure = cache(partial(self._started_lately, started))
            self.counting.told(
                now, used, by_start=by_start, by_end=by_end, cost=cost, limit=self._limit, unsure=unsure, least=least
            )
        elif self.spends:
            took = now - self.spends[0].time  # or less
            self.counting.wait_for_more(now + min(_AS_LONG * took, _WAITED * self.seconds))

    def _started_lately(self, until: float) -> int:
        """Return what is counted at most of calls that started so shortly before a time that they may arrive in any order."""
        first = bisect_left(self.spends, until - IN_ANY_ORDER, key=_time_of)
        lately = takewhile(lambda spend: spend.time <= until, islice(self.spends, first, None))
        return sum(max(spend.cost, spend.estimated) for spend in lately)

    def deny(self, now: float, used: int, started: float, *, limit: int, began_at: tuple[float | None, float | None]) -> None:
        """Learn from what is used by an answer in which ways the server cannot count.

        Args:
            now: seconds.
            used: of the limit, others' share included.
            started: when its call did.
            limit: as it tells.
            began_at: when the server's window began, if it is a fixed one: first if answers tell of their calls' starts, then if
                of their ends. Minus infinity: nobody knows; None: it is no fixed window.
        """
        if not self._more[Way.SETTLED] and not self._more[Way.ESTIMATE]:
            return
        if started == -math.inf:
            return
        told = Answered(now, started, used, limit, max(limit, self._limit) / self.seconds, began_at)
        for way in self._denials.learn(told, self.spends, self._settled):
            self.counting.deny(way, now + _DENIED_FOR * self.seconds)

    def correct(self, spend: Spend, cost: int, now: float | None = None) -> None:
        """Set what a booked request, which has ended, really cost; without effect once it has left the window.

        `now` tells that it was served and has just ended.
        """
        if now is not None and spend.is_close and spend.variance:
            self._caution.served()
        if now is not None:
            estimated = spend.estimated
            if self._measured.ended(spend, now, cost):
                self._count_as_measured()
                cost = min(cost, spend.estimated) if cost == estimated else cost
        if spend.in_window:
            self._count_more(spend, -1)
            if now is not None and spend.estimated and spend.is_under_way:
                self._settled.append((now, cost - spend.estimated))
                self._more[Way.SETTLED] += cost - spend.estimated
            if spend.is_awaited:
                self._buckets.end(spend, cost)
            super().correct(spend, cost)
            self._count_more(spend, 1)
        if self._unexplained is not None and self._unexplained.is_told_by(spend):
            if self._unexplained.is_explained:
                self.counting.take_back_blame()
            self._unexplained = None

    def measured(self, estimated: int) -> int | None:
        """Return what the server counts of a call that is estimated at too much, by its answers, if that is known.

        More than estimated may be what it counts until the call ends: then that is no cost, and for the way of counting to say.
        """
        counted = self._measured.of(estimated)
        return counted if counted < estimated else None

    def _count_as_measured(self) -> None:
        """Count all by what the server counts of it, now that this is known, and learn anew in which way it counts."""
        self.counting, self._denials, self._buckets = Counting(self.seconds), Denials(self.seconds), Buckets()
        self._settled.clear()
        self._more = [0] * len(Way)
        for spend in self.spends:
            is_a_guess = spend.cost == spend.estimated and not spend.is_under_way
            measured = self.measured(spend.estimated)
            spend.estimated = self._measured.of(spend.estimated)
            if is_a_guess and measured is not None:
                super().correct(spend, measured)
            self._count_more(spend, 1)
            if spend.is_awaited:
                self._buckets.start(spend, self._limit, self._limit / self.seconds)
            elif spend.estimated and not spend.is_refused:
                self._settled.append((spend.time, spend.cost - spend.estimated))
                self._more[Way.SETTLED] += spend.cost - spend.estimated

    def take_back(self, spend: Spend) -> None:
        """Take back a request that was never sent, or leaves the window."""
        if spend.in_window:
            self._measured.ended(spend, -math.inf, 0, is_served=False)
            self._count_more(spend, -1)
            if spend.is_awaited:
                self._buckets.take_back(spend)
            spend.estimated, spend.is_under_way = 0, False
            super().take_back(spend)

    def refuse(self, spend: Spend, *, is_explained: bool = False) -> bool:
        """Remember that a server refused a call, and return whether that tells how it counts, unless something explains it."""
        if not spend.in_window or spend.is_refused:
            return False
        if self._is_nearly_full:
            self._caution.refused(spend.time, self.spends[-1].time)
        self._measured.ended(spend, -math.inf, 0, is_served=False)
        self._count_more(spend, -1)
        if spend.is_under_way:
            self._buckets.take_back(spend)
        super().refuse(spend)
        if is_explained or not spend.estimated or not self.counting.refused(spend.time, is_told=self._is_told):
            return False
        if self._unexplained is None:
            under_way = [each for each in self.spends if each.is_under_way and not each.is_refused]
            known = self._total - self._unserved - sum(each.cost for each in under_way)
            self._unexplained = Unexplained(self._limit - known, set(under_way), under_way, spend)
        self.forget_others()  # what seemed to be of others, and explains no refusal either
        return True

    def drop(self, spend: Spend) -> None:
        """Remember that a server did not serve a call, for a reason that tells nothing of what it counts."""
        if spend.in_window and not spend.is_refused:
            self._measured.ended(spend, -math.inf, 0, is_served=False)
            self._count_more(spend, -1)
            if spend.is_under_way:
                self._buckets.take_back(spend)
            super().drop(spend)

    def clear(self) -> None:
        """Forget every spend, what others have taken, and how is counted."""
        super().clear()
        self._begin_to_count()


def _time_of(spend: Spend) -> float:
    return spend.time

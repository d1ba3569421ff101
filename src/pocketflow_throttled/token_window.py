"""The sliding window of tokens, whose requests differ in what they cost, and tell it when they have ended. Pure."""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile

from .counting import Counting, Way
from .window import Window

# Calls under way cost what nobody knows yet. Together they are off by as much as their variances tell, and hardly ever by more
# than so many standard deviations: single calls that cost more are made up for by others that cost less.
_DEVIATIONS = 2
_MORE = (Way.ESTIMATE_AT_FIRST, Way.ESTIMATE)
# Of the window: with no more served, a refusal tells nothing of how tokens are counted, as less may be allowed in a shorter time.
_FULL = 0.7
_ARRIVES = 0.1  # seconds until a call arrives, or so: what leaves the server's window by then is not in its way


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
        """Return what a server that counts estimates counts of it beyond what it costs, or is thought to; less, if negative."""
        if not self.estimated or self.is_refused or (way is Way.ESTIMATE_AT_FIRST and not self.is_under_way):
            return 0
        more = self.estimated - self.cost
        return more if self.is_under_way else max(0, more)


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

    __slots__ = ("_more", "_total", "_unserved", "_variance", "counting", "spends")

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.counting = Counting()
        self._more = [0] * len(Way)  # what is counted beyond the total, by the way in which it is
        self.spends: deque[Spend] = deque()
        self._total = 0
        self._unserved = 0  # what calls cost that a server refused
        self._variance = 0  # of all costs that are estimates

    @property
    def more(self) -> int:
        """What a server counts beyond the total."""
        return max(0, self._more[self.counting.way])

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
        if self.counting.way:
            cost = self.more + max(cost, estimated)
        if self._variance or variance:
            cost += math.isqrt(_DEVIATIONS**2 * (self._variance + variance))
        return self._total + min(cost, self._limit) <= self.allowed

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        spends = self.spends
        while spends and spends[0].time + self.span <= now:
            spend = spends.popleft()
            self.take_back(spend)
            spend.in_window = False
        self._give_back(now)

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        own = self.spends[0].time + self.span if self.spends else math.inf
        return min(own, self._others_back_at(now)) if self._taken else own

    def add(self, now: float, cost: int, variance: int = 0, estimated: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        spend = Spend(now, cost, variance, estimated)
        self.spends.append(spend)
        self._total += cost
        self._variance += variance
        self._count_more(spend, 1)
        misfit = self._misfit(now)
        if misfit is not None:
            self.counting.started(now, misfit)
        return spend

    def _count_more(self, spend: Spend, sign: int) -> None:
        if spend.estimated:
            for way in _MORE:
                self._more[way] += sign * spend.more(way)

    def _misfit(self, now: float) -> Way | None:
        """Return the way of counting the least by which what was booked does not fit at a server, or None if it does by each."""
        over = self._total - self._unserved - self._limit
        if over > 0 or over + self._more[Way.ESTIMATE] <= 0:
            return None
        leaving = list(takewhile(lambda each: each.time + self.seconds <= now + _ARRIVES, self.spends))
        over -= sum(each.cost for each in leaving if not each.is_refused)
        for way in _MORE:
            if over + self._more[way] > sum(each.more(way) for each in leaving):
                return way
        return None

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

    def correct(self, spend: Spend, cost: int) -> None:
        """Set what a booked request, which has ended, really cost; without effect once it has left the window."""
        if spend.in_window:
            self._count_more(spend, -1)
            self._total += cost - spend.cost
            if spend.is_refused:
                self._unserved += cost - spend.cost
            self._variance -= spend.variance
            spend.cost, spend.variance, spend.is_under_way = cost, 0, False
            self._count_more(spend, 1)

    def take_back(self, spend: Spend) -> None:
        """Take back a request that was never sent, or leaves the window."""
        if spend.in_window:
            self._count_more(spend, -1)
            spend.estimated = 0
            self.correct(spend, 0)

    def refuse(self, spend: Spend) -> None:
        """Remember that a server refused a call: it counts here for what it was, but not at most servers."""
        if spend.in_window and not spend.is_refused:
            self._count_more(spend, -1)
            spend.is_refused = True
            self._unserved += spend.cost

    @property
    def is_full(self) -> bool:
        """Whether a server that refuses hardly does so for less time than the window's."""
        return self._total - self._unserved + self.more > _FULL * self._limit

    def doubt(self, spend: Spend) -> bool:
        """Learn from a call that was refused how a server counts, and return whether that is known since then."""
        if not (spend.estimated and self.counting.refused(spend.time)):
            return False
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
        self._total = self._unserved = self._variance = 0
        self._more, self.counting = [0] * len(Way), Counting()
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

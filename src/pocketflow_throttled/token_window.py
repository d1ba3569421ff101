"""The sliding window of tokens, whose requests differ in what they cost, and tell it when they have ended. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .caution import Caution
from .counting import NOTHING, Way
from .window import Window

if TYPE_CHECKING:
    from .counting import Counts

_DEVIATIONS = 2.0  # that are kept for what calls under way cost, where nothing else is learned of it


class Spend:
    """Tokens booked at a time; the cost may be corrected while it is in its window. Until then it may be off by its variance."""

    __slots__ = (
        "cost",
        "estimated",
        "in_window",
        "is_close",
        "is_dropped",
        "is_refused",
        "is_try",
        "is_under_way",
        "of_part",
        "time",
        "variance",
    )

    def __init__(self, time: float, cost: int, variance: int = 0, estimated: int = 0) -> None:
        self.time = time
        self.cost = cost
        self.variance = variance
        self.estimated = estimated  # before the estimate was corrected by what others cost
        self.in_window = self.is_under_way = True
        self.is_refused = self.is_dropped = False  # dropped: refused for a reason that is none of the limit
        self.is_close = self.is_try = False  # close: there was hardly any room for it; try: maybe none at all
        self.of_part: Spend | None = None  # the same in a part of the window

    @property
    def is_awaited(self) -> bool:
        """Whether it is not known yet what it costs, or that it was refused."""
        return self.in_window and self.is_under_way and not self.is_refused

    @property
    def at_most(self) -> int:
        """What a server counts of it that counts its estimate for good, or what it cost if that is more."""
        return max(self.cost, self.estimated)

    def more(self) -> Counts:
        """Return what a server counts of it beyond what it costs, or is thought to, by each way; less, if negative.

        Of one that settles as calls end, what it counts until then.
        """
        if not self.estimated or self.is_refused:
            return NOTHING
        more = self.estimated - self.cost
        return (0, more, more, max(0, more)) if self.is_under_way else (0, more, 0, max(0, more))


class TokenWindow(Window):
    """At most `limit` tokens in any `seconds`; one request larger than that runs alone.

    Spending more than was booked is debt: `used` then exceeds `limit`, and nothing fits until enough has expired.

    Args:
        limit: tokens allowed in any one window.
        seconds: length of the window.

    Attributes:
        spends: what is booked, the oldest first.

    Example:
        >>> window = TokenWindow(limit=100, seconds=60.0)
        >>> spend = window.add(now=0.0, cost=80)
        >>> window.fits(now=1.0, cost=30)
        False
        >>> window.correct(spend, cost=70)
        >>> window.fits(now=1.0, cost=30)
        True
    """

    __slots__ = ("_caution", "_left_at", "_total", "_unserved", "_variance", "spends")

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.spends: deque[Spend] = deque()
        self._caution = Caution(_DEVIATIONS)
        self._left_at = -math.inf  # when the last spend left the window
        self._total = 0
        self._unserved = 0  # what calls cost that a server refused
        self._variance = 0  # of all costs that are estimates

    @property
    def way(self) -> Way:
        """How a server counts, as far as it is known: here, what calls cost."""
        return Way.COST

    def counts(self, now: float) -> Counts:
        """Return what a server counts by each way, others' share aside; forgets what has left the window."""
        self.forget(now)
        return (max(0, self._total - self._unserved),) * len(Way)

    @property
    def _each(self) -> float:
        return self._total / len(self.spends) if self.spends else 1.0  # as much as its own calls

    @property
    def _tells(self) -> int:
        return 0 if self.spends else self._limit  # any call, when none is left to tell

    def fits(self, now: float, cost: int, variance: int = 0) -> bool:
        """Return whether `cost` more tokens, give or take, are allowed at `now`; forgets what has left the window."""
        self.forget(now)
        if cost == 0:
            return True
        most = cost
        if self._variance or variance:
            most += self._caution.kept(self._variance + variance)
        return self._total + min(most, self._limit) <= self.allowed

    def forget(self, now: float) -> None:
        """Forget what has left the window, and the share of others that has come back."""
        spends = self.spends
        while spends and spends[0].time + self.span <= now:
            spend = spends.popleft()
            self.take_back(spend)
            spend.in_window = False
            self._left_at = now
        self._give_back(now)

    def opens_at(self, now: float) -> float:
        """Return when the oldest spend leaves, or others' share: the next moment at which anything changes by itself."""
        own = self.spends[0].time + self.span if self.spends else math.inf
        return min(own, self._others_back_at(now)) if self._taken else own

    def add(self, now: float, cost: int, variance: int = 0) -> Spend:
        """Book `cost` tokens, give or take, and return the entry, to be corrected."""
        return self._book(Spend(now, cost, variance))

    def _book(self, spend: Spend) -> Spend:
        self.spends.append(spend)
        self._total += spend.cost
        self._variance += spend.variance
        return spend

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
            self._total += cost - spend.cost
            if spend.is_refused:
                self._unserved += cost - spend.cost
            self._variance -= spend.variance
            spend.cost, spend.variance, spend.is_under_way = cost, 0, False

    def take_back(self, spend: Spend) -> None:
        """Take back a request that was never sent, or leaves the window."""
        self.correct(spend, 0)

    def refuse(self, spend: Spend) -> bool:
        """Remember that a server refused a call, which counts here for what it was, but not at most servers.

        Return whether that tells how the server counts: of what calls cost alone, it does not.
        """
        self._mark_refused(spend)
        return False

    def drop(self, spend: Spend) -> None:
        """Remember that a server did not serve a call, for a reason that tells nothing of what it counts."""
        if spend.in_window and not spend.is_refused:
            spend.is_dropped = True
            self._mark_refused(spend)

    def _mark_refused(self, spend: Spend) -> None:
        if spend.in_window and not spend.is_refused:
            spend.is_refused = True
            self._unserved += spend.cost

    def unserved(self, now: float) -> int:
        """Return what of the window at `now` was refused; forgets what has left it."""
        self.forget(now)
        return self._unserved

    def served_since(self, time: float) -> int:
        """Return what calls cost that started after a time and are not known to be refused."""
        return sum(spend.cost for spend in self.spends if spend.time > time and not spend.is_refused)

    def clear(self) -> None:
        """Forget every spend, and what others have taken."""
        for spend in self.spends:
            spend.in_window = False
        self.spends.clear()
        self._total = self._unserved = self._variance = 0
        self.forget_others()

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

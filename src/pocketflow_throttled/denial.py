"""Denial: which ways of counting a server's answers rule out, whoever else uses the key and whatever its window. Pure.

Others only ever add to what is used. So if a server has counted less than a way of counting would make of one's own calls alone,
it does not count in that way. If it refuses a call all the same, others took the room.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .counting import CLEARLY, ENDED, Way
from .on_the_way import IN_ANY_ORDER
from .refill import steps_in_bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .refill import Step
    from .token_window import Spend

_ENOUGH = 3  # answers deny a way; one may be wrong
_LASTS = 2.0  # windows in which they come
_HELD_AGAINST = 1 / 4  # of the window, for which answers are held against an earlier one
_NEXT_LOOK, _RAREST_LOOK = 1 / 300, 1 / 4  # windows from a look at every call to the next, ...
_LOOKED_AT = 20_000  # ... and for so many calls, one
_ANSWERS = 1000  # of late, that are remembered
_ROUNDED = 1000  # tokens, to which some round what they say is left
_SAME_TURN = 0.02  # of the window: by which two moments of a turn may seem apart, as told to a full second


class Told(NamedTuple):
    """What an answer tells of a moment that is known but for a part of a second.

    Attributes:
        sure: what was added until then had surely been counted by that moment.
        latest: what was taken off until then may have been taken off by that moment.
        earliest: what was added before a window that ends then may have left it.
        used: of the limit.
    """

    sure: float
    latest: float
    earliest: float
    used: int


def _since(steps: Sequence[Step], told: Told, between: tuple[float, float]) -> int:
    """Return what was counted at least since a moment between two: what surely was added, less what may have been taken off."""
    first, last = between
    return sum(amount for time, amount in steps if (last < time <= told.sure if amount > 0 else first < time <= told.latest))


class Denial:
    """Whether answers deny one way of counting, if they tell of one moment of their calls.

    Args:
        seconds: length of the window.

    Example:
        >>> denial, steps = Denial(seconds=60.0), [(float(second), 100) for second in range(130)]
        >>> for now in range(1, 130):  # a server that counts a third of it
        ...     denial.learn(Told(now, now, now, 33 * min(60, now)), steps, steps, clearly=50, rate=50.0)
        >>> denial.holds(130.0)
        True
    """

    __slots__ = ("_denied", "_denied_at", "_is_fixed_out", "_reference", "_same", "_seconds", "_turn")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._same = seconds, _SAME_TURN * seconds
        self._denied, self._denied_at = 0, -math.inf
        self._reference: Told | None = None  # an answer against which later ones are held
        self._turn: tuple[float, float] | None = None  # between two moments, if the window is fixed and is counted so
        self._is_fixed_out = False

    def holds(self, now: float) -> bool:
        """Whether enough of them do, of late."""
        return self._denied >= _ENOUGH and now < self._denied_at + _LASTS * self._seconds

    def learn(
        self,
        told: Told,
        levels: Sequence[Step],
        rises: Sequence[Step],
        *,
        clearly: float,
        rate: float,
        began_at: float | None = -math.inf,
    ) -> None:
        """Learn from an answer.

        Args:
            told: by it.
            levels: what is counted of each call by now, in the order of their starts.
            rises: what was added as calls started, and taken off as they ended, in the order of time.
            clearly: tokens; what differs by less, may do so by chance.
            rate: tokens a second, by which a bucket fills.
            began_at: when the server's window began, if it is a fixed one. Minus infinity: nobody knows; None: it is none.
        """
        self._find_turn(told, rises, clearly)
        self._is_fixed_out = self._is_fixed_out or began_at is None
        most = told.used + clearly
        if began_at is not None and began_at > -math.inf:
            is_denied = began_at <= told.earliest and most < _since(rises, told, (began_at, began_at + self._same))
        else:
            began = told.earliest - self._seconds, told.latest - self._seconds
            is_denied = (
                self._is_fixed_out
                and most < _since(levels, told, began)
                and most < steps_in_bucket(levels, told.sure, told.latest, rate)
            )
        if is_denied:
            is_late = told.latest >= self._denied_at + _LASTS * self._seconds
            self._denied, self._denied_at = 1 if is_late else self._denied + 1, told.latest

    def _find_turn(self, told: Told, rises: Sequence[Step], clearly: float) -> None:
        """Find when a fixed window has turned, if it is one. It cannot be, if it did at two times."""
        reference = self._reference
        if reference is None or reference.latest < told.latest - _HELD_AGAINST * self._seconds:
            self._reference = told
            return
        if told.sure <= reference.latest:
            return
        counted = reference.used + _since(rises, told, (reference.earliest, reference.latest))
        if told.used + clearly < counted:
            self._reference = told
            self._turned(reference.earliest, told.latest)

    def _turned(self, since: float, until: float) -> None:
        """Learn that a fixed window has turned between two moments, as it does each time a window has passed."""
        first, last = self._turn or (since, until)
        least = math.ceil((since - last - self._same) / self._seconds)  # windows from that turn to this one
        most = math.floor((until - first + self._same) / self._seconds)
        if least > most:
            self._is_fixed_out = True
        elif least == most:
            first, last = first + most * self._seconds, last + most * self._seconds
            since, until = (first, last) if since > last or until < first else (max(since, first), min(until, last))
        self._turn = since, until


class Answered(NamedTuple):
    """What an answer tells of tokens, and what is known of it.

    Attributes:
        now: when it is here, in seconds.
        started: when its call did.
        used: of the limit, others' share included.
        limit: as it tells.
        rate: tokens a second, by which a bucket fills.
        began_at: when the server's window began, if it is a fixed one: first if answers tell of their calls' starts, then if of
            their ends. Minus infinity: nobody knows; None: it is no fixed window.
    """

    now: float
    started: float
    used: int
    limit: int
    rate: float
    began_at: tuple[float | None, float | None]


class Denials:
    """Which ways of counting answers deny: those that they deny if they tell of their calls' starts, and if of their ends.

    Args:
        seconds: length of the window.
    """

    __slots__ = ("_answers", "_denials", "_look_at", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._look_at = -math.inf
        self._answers: deque[tuple[float, int]] = deque(maxlen=_ANSWERS)  # when their calls started, and what was used
        self._denials = {way: (Denial(seconds), Denial(seconds)) for way in Way if way}

    def learn(self, told: Answered, spends: Iterable[Spend], settled: Iterable[Step]) -> list[Way]:
        """Learn from an answer, and return the ways that are denied by now.

        Args:
            told: by it.
            spends: what is booked, the oldest first.
            settled: when calls ended, and what they cost more than was estimated.
        """
        self._answers.append((told.started, told.used))
        if told.used >= told.limit or told.now < self._look_at:  # where nothing is left, it may be even more
            return []
        moments = self._by_start(told.started), Told(told.now - IN_ANY_ORDER, told.now, told.now - IN_ANY_ORDER, told.used)
        served = [spend for spend in spends if not spend.is_refused]
        self._look_at = told.now + min(max(_NEXT_LOOK, len(served) / _LOOKED_AT), _RAREST_LOOK) * self._seconds
        # Those that had started by the moment and have ended were all counted by the last of the answers of then.
        by_then = [spend for spend in served if spend.time <= moments[0].earliest or not spend.is_under_way]
        clearly = max(CLEARLY * told.limit, _ROUNDED if told.used % _ROUNDED == told.limit % _ROUNDED else 0)
        denied = []
        for way, denials in self._denials.items():
            unsure = clearly + ENDED * max((spend.more()[way] for spend in served if spend.is_under_way), default=0)
            for denial, moment, counted, began_at in zip(denials, moments, (by_then, served), told.began_at, strict=True):
                levels, rises = _steps(way, counted, settled)
                denial.learn(moment, levels, rises, clearly=unsure, rate=told.rate, began_at=began_at)
            if all(denial.holds(told.now) for denial in denials):
                denied.append(way)
        return denied

    def _by_start(self, started: float) -> Told:
        earliest = started - 2 * IN_ANY_ORDER
        used = max(used for time, used in self._answers if earliest <= time <= started)
        return Told(started, started + IN_ANY_ORDER, earliest, used)


def _steps(way: Way, spends: list[Spend], settled: Iterable[Step]) -> tuple[list[Step], list[Step]]:
    """Return what a server counts of calls at least: of each by now, and as each starts and ends."""
    if way is Way.ESTIMATE:  # of a call that fails nobody knows whether it counts
        steps = [(spend.time, spend.at_most) for spend in spends if not spend.is_under_way]
        return steps, steps
    rises = sorted([*((spend.time, spend.estimated or spend.cost) for spend in spends), *settled])
    return rises if way is Way.SETTLED else [(spend.time, spend.cost + spend.more()[way]) for spend in spends], rises

"""Correction: by how much estimates of what calls cost are wrong, learned from what they have cost. Pure."""

from __future__ import annotations

import math
from threading import RLock

_DOUBT = 3.0  # an estimate may be wrong by such a factor, which only the first answer tells
# Once more than _SOME were answered, an estimate below this part of the least one of late is new ground: no answer has told of
# such a call. It is raised by _DOUBT again, but not above what calls cost on average.
_UNHEARD, _SOME = 0.6, 10
# How much more the factor is believed than the line: this part of the squared average estimate after one answer, and less and
# less as more have told.
_DOUBTED = 0.25
_FREE = 0.5  # calls beyond the two that a line goes through anyway, at least: so the first few are thought to be further off
_FLATTEST = 0.3  # of what the factor alone tells: no call costs less by what others cost
_WIDEST = 1e6  # how far a single call may be off, as the square of so many times what it costs: after many that were free
_KEPT = 0.97  # of what is known, after each answer: the last thirty or so count
# After one answer, other estimates may be wrong by other amounts: if that call was cheap, all that seems to fit by it would start
# at once and be refused. So others are raised by _UNSURE times its error. After each answer, _STILL_UNSURE of that stays, until
# it is less than _SURE of all that was used.
_UNSURE, _STILL_UNSURE, _SURE = 2.0, 0.6, 0.01
# Calls may cost more and more, and then the line lags behind: they cost more than it told as they started. That ratio is taken
# over the last twenty calls or so, once there are more than _A_FEW. It counts as far as it is beyond _NO_MATTER and _ERRORS
# standard errors, up to a factor of _BEHIND. Where calls cost less and less, what is kept for them is given back as they end. And
# where they became cheaper once, the line has followed while calls that started before still end: less would send too many.
_BEHIND_KEPT, _A_FEW, _NO_MATTER, _ERRORS, _BEHIND = 0.95, 14, 0.02, 2.0, 2.0


class Estimate(int):
    """What a call is thought to cost. As answers come in while it waits, it can be told anew.

    Attributes:
        correction: from which it can be told anew.
        estimated: what it was before the correction.
        variance: how far single calls are off, as the mean of squares, rounded: what is whole adds up without a rest.
        by_line: what it would be by the line alone; 0: that is not known.
        restarts: how often all had been learned anew.
    """

    correction: Correction
    estimated: int
    variance: int
    by_line: int
    restarts: int

    def again(self) -> Estimate:
        """Return it as it is known by now."""
        return self.correction.apply(self.estimated)


class Correction:
    """By how much estimates are wrong, learned from what calls have cost, as a straight line through these.

    Until the first answer, estimates are raised threefold, as they may be too small by as much: rather too little is sent until
    then than too much. So is one that is far less than all before it. When two calls in a row cost more than three times what was
    known, all is learned anew. When calls cost more and more, what is told is moved ahead of the line by as much as it lagged.

    Example:
        >>> correction = Correction()
        >>> correction.apply(100)
        300
        >>> correction.learn(100, 50)
        >>> correction.apply(100)
        110
        >>> for _ in range(10):
        ...     correction.learn(100, 50)
        >>> correction.apply(100)
        50
    """

    __slots__ = (
        "_ahead",
        "_calls",
        "_ended",
        "_estimated",
        "_is_wrong",
        "_largest",
        "_least",
        "_lock",
        "_product",
        "_restarts",
        "_slope",
        "_spread",
        "_square",
        "_told",
        "_told_used",
        "_unsure",
        "_used",
        "_used_square",
    )

    def __init__(self) -> None:
        self._lock = RLock()  # a node may run in several threads; re-entrant, as garbage collection can run anything within it
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        self._calls = self._estimated = self._used = 0.0  # sums, as all that follows
        self._square = self._product = self._used_square = 0.0  # of estimates, of both, and of what was used, each squared
        self._slope = self._spread = 0.0  # of the line; how far off it single calls are, as a part, squared
        self._unsure = 0.0
        self._ended = self._told = self._told_used = 0.0  # sums over calls that were told by the line
        self._ahead = 1.0  # the factor by which calls are told to cost more than by the line
        self._largest, self._least = 0, math.inf  # estimates there were; the least of late
        self._is_wrong = False  # whether the last call cost more by the factor than was known

    def learn(self, estimated: int, used: int, told: Estimate | None = None) -> None:
        """Learn what a call has cost, beside what was estimated, and what it was told to cost as it started.

        An estimate of nothing tells nothing of others.
        """
        if not estimated:
            return
        with self._lock:
            self._learn(estimated, used)
            if told is not None and told.by_line and told.restarts == self._restarts:
                self._look_ahead(told.by_line, used)

    def _learn(self, estimated: int, used: int) -> None:
        told = self._on_average(estimated) if self._estimated else math.inf
        is_wrong = used > _DOUBT * told
        if is_wrong and self._is_wrong:
            self._restarts += 1
            self._start()
            is_wrong = False
        self._is_wrong = is_wrong
        if not self._estimated:
            self._unsure = _UNSURE * min(used, abs(used - estimated))
        self._unsure *= _STILL_UNSURE
        self._largest = max(self._largest, estimated)
        if not is_wrong:
            self._least = min(estimated, self._least / _KEPT)
        self._calls = self._calls * _KEPT + 1
        self._estimated = self._estimated * _KEPT + estimated
        self._used = self._used * _KEPT + used
        self._square = self._square * _KEPT + estimated * estimated
        self._product = self._product * _KEPT + estimated * used
        self._used_square = self._used_square * _KEPT + used * used
        self._draw()
        if self._unsure < _SURE * self._used:
            self._unsure = 0.0

    def apply(self, estimated: int) -> Estimate:
        """Return what a call that is estimated at so much will cost on average, or rather more while few have told."""
        with self._lock:
            cost, variance, by_line = self._tell(estimated) if self._estimated else (math.ceil(_DOUBT * estimated), 0, 0)
            told = Estimate(cost)
            told.correction, told.estimated, told.variance, told.by_line = self, estimated, variance, by_line
            told.restarts = self._restarts
        return told

    def _tell(self, estimated: int) -> tuple[int, int, int]:
        told, by_line = self._on_average(estimated), 0
        if estimated < _UNHEARD * self._least and self._calls > _SOME:
            told = max(told, min(_DOUBT * estimated, self._used / self._calls))
        elif not self._unsure:
            by_line, told = round(told), told * self._ahead
        cost = round(told + self._unsure * estimated / self._estimated) or int(told > 0)
        return cost, round(self._spread * told * told), by_line

    def _look_ahead(self, told: int, used: int) -> None:
        self._ended = self._ended * _BEHIND_KEPT + 1
        self._told = self._told * _BEHIND_KEPT + told
        self._told_used = self._told_used * _BEHIND_KEPT + used
        if self._ended > _A_FEW:
            error = _NO_MATTER + _ERRORS * math.sqrt(self._spread / self._ended)
            self._ahead = min(_BEHIND, max(1.0, self._told_used / self._told - error))

    def _draw(self) -> None:
        """Draw the line, and find out how far off it calls are.

        The less calls are off it, the less the factor weighs against its slope: where all are on a line, a few calls tell it.
        """
        calls, factor = self._calls, self._used / self._estimated
        mean, level = self._estimated / calls, self._used / calls * self._used
        square, product = self._square - mean * self._estimated, self._product - mean * self._used
        differ = max(0.0, self._used_square - level)
        off = max(0.0, differ - product / square * product) if square > 0 else differ
        doubt = mean * mean * (_DOUBTED / calls**2 + (off / level if level else 0.0))
        slope = (product + doubt * factor) / (square + doubt)
        off = max(0.0, differ - slope * (2 * product - slope * square))
        told_square = level + slope * slope * square
        self._slope = slope
        self._spread = min(_WIDEST, off / told_square * calls / max(calls - 2, _FREE)) if told_square else 0.0

    def _on_average(self, estimated: int) -> float:
        """Return what calls cost that are estimated at so much, by the straight line through what was learned.

        It goes through the origin until calls that differ tell otherwise: estimates may be wrong by a factor, but also by what is
        added to each of them, as `max_output_tokens` is, or at random, and then the largest are the most too large.
        """
        if not estimated:
            return 0.0
        mean, factor, slope = self._estimated / self._calls, self._used / self._estimated, self._slope
        known = min(estimated, self._largest)
        told = factor * mean + slope * (known - mean) + factor * (estimated - known)  # a line tells nothing of what is beyond it
        return max(told, _FLATTEST * factor * estimated)

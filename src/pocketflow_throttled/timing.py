"""Timing: how long calls and refusals take, and so how closely calls may follow each other where nothing is known.

Pure: times are arguments, in seconds.
"""

from __future__ import annotations

import math
import random

from .evidence import SECOND
from .window_fit import USUAL_WINDOWS

# Before any refusal was seen, nobody knows how long one takes: guesses, in seconds and in latencies.
_FIRST_SPACING, _SPACING_OF_LATENCY = 0.05, 1 / 200
_FIRST_GAP, _GAP_OF_LATENCY = 0.01, 0.05  # before the first try after a refusal without a hint
_GAP_GROWTH = 3.0
_GAP_OF_CYCLE = 0.35  # a closed window is tried again after this share of the time since it opened, so few tries find the end
_LONGEST_GAP, _SOON = 60.0, 2.0
_BLUR = 0.05  # of a latency: calls that differ by more on their way blur how many are under way at the server
_SURELY = 1.5  # times as long as a refusal takes: a call that was not refused by then was admitted
_JITTER = 0.1
_OLD, _NEW = 0.9, 0.1  # parts of the average of what was known, and of the last call
# After so much of its length a window has passed for sure. It is waited for if its end is no further off than so many gaps.
_PASSED, _WORTH_WAITING = 1.005, 1.5
_REFILL = 8.0  # times as fast as calls end, are slots filled once a limit is known
_TICK = 1e-3  # what is closer together than that is not worth a timer


class Timing:
    """The seconds that a call takes, on average, and a refusal, at the most of late; None before the first.

    Example:
        >>> timing = Timing()
        >>> timing.served(2.0), timing.refused(0.1)
        (None, None)
        >>> timing.latency, timing.spacing
        (2.0, 0.1)
    """

    __slots__ = ("_fastest", "latency", "refusal")

    def __init__(self) -> None:
        self.latency: float | None = None
        self.refusal: float | None = None
        self._fastest = math.inf  # refusal

    def served(self, seconds: float) -> None:
        """Take note of a call that was served after so long; less than nothing, as clocks of two loops may tell, is nothing."""
        latency = self.latency
        if latency is None or seconds < 0:
            self.latency = max(0.0, seconds) if latency is None else _OLD * latency
        else:
            self.latency = latency + _NEW * (seconds - latency)

    def refused(self, seconds: float) -> None:
        """Take note of a call that was refused after so long."""
        seconds = max(0.0, seconds)
        if seconds > 0:  # clocks of two loops may tell anything
            self._fastest = min(self._fastest, seconds)
        self.refusal = seconds if self.refusal is None else max(seconds, _OLD * self.refusal + _NEW * seconds)

    @property
    def spacing(self) -> float:
        """Seconds from a start beyond proven ground to the next: a refusal is back before it."""
        if self.refusal is not None:
            return max(self.refusal, _TICK)
        return _FIRST_SPACING if self.latency is None else min(_FIRST_SPACING, self.latency * _SPACING_OF_LATENCY)

    def beyond(self, starts: int, limit: int) -> float:
        """Return the seconds to the next start after so many beyond proven ground: ever fewer, and no more than evenly apart."""
        if self.latency is None:
            return self.spacing
        closer = self.spacing / (1 + starts)
        return min(closer, self.between(limit)) if self.latency > 0 else closer

    @property
    def is_blurred(self) -> bool:
        """Whether calls differ so much on their way that a server has fewer or more at once than a client thinks."""
        return self.refusal is not None and self.refusal - self._fastest > _BLUR * (self.latency or 0.0)

    @property
    def surely_refused_in(self) -> float:
        """Seconds after which a call that would be refused has been, as far as any was."""
        return _SURELY * (self.refusal or 0.0)

    @property
    def unrefused_after(self) -> float:
        """Seconds after which a call that was not refused was admitted."""
        return self.surely_refused_in + _FIRST_GAP

    def cost(self, pause: float, limit: int) -> float:
        """Return how many calls a refusal costs: itself, and those of the slots that are idle in a pause that is asked for."""
        latency = max(self.latency or 1.0, _TICK)
        idle = pause * pause / (2 * latency) if pause < latency else pause - latency / 2  # each goes on for half a call
        return 1 + idle * limit / latency

    def refill(self, limit: int) -> float:
        """Return the seconds from a start to the next where a limit is known.

        Not all at once: who arrives when is up to the network, and a burst is refused at any level.
        """
        seconds = 0.0 if self.latency is None else self.latency / (_REFILL * limit)
        return seconds if seconds > _TICK else 0.0

    def between(self, level: int) -> float:
        """Return the seconds between two starts, if so many calls are under way and start evenly."""
        return (self.latency or 0.0) / level

    def apart(self, count: int, seconds: float) -> float:
        """Return the seconds from the last of `count` starts in a window to one more, so that it is no burst."""
        return min(seconds / (count + 1), self.latency or 0.0)

    @property
    def first_gap(self) -> float:
        """Seconds from a refusal without a hint to the first try: a full one, as many count by it, before anything was served."""
        return SECOND if self.latency is None else max(_FIRST_GAP, _GAP_OF_LATENCY * self.latency)

    def gap(self, now: float, opened: float, since: float, tries: int, least: float) -> float:
        """Return the seconds from a refusal without a hint to the next try: soon, then growing, and where windows usually end.

        Args:
            now: when the refusal came.
            opened: when the first call was admitted after the refusals before; minus infinity: no window is the reason.
            since: when the first call started of those that were refused in a row.
            tries: how many were refused in a row, this one included.
            least: seconds, if the first gap is shorter.
        """
        gap = max(self.first_gap, least)
        if tries == 1:
            return gap
        gap = max(gap, self.surely_refused_in)
        grown = gap * _GAP_GROWTH ** min(tries - 1, 50)
        # As long again as it has refused by now: an API that was down is used again before that time has doubled.
        gap = min(grown, max(gap, _GAP_OF_CYCLE * (now - opened)), max(gap, _SOON, now - since), max(gap, _LONGEST_GAP))
        gap *= random.uniform(1 - _JITTER, 1 + _JITTER)
        if tries == 2:
            return gap
        ends = (opened + _PASSED * seconds for seconds in reversed(USUAL_WINDOWS))
        return next((end - now for end in ends if now < end < now + _WORTH_WAITING * gap), gap)

"""LearnedWindow: so many starts in any so many seconds, from when an API was closed and when it was open. Held exactly.

Pure: times are arguments, in seconds. Whether the API counts back from each call or by its own clock, a window is known by a
cycle: a first start, all that fit, a pause until the window has passed. Its length lies between the last call that was refused
and the first that was admitted, and the first call of a cycle narrows that down. How many fit is probed upwards, at once and then
rarely. An outage may look like a window. So where one may have, the first probe that was refused, perhaps by another limit, is
repeated in the middle of the next pause: if that call is served, there is no window.
"""

from __future__ import annotations

import math
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from .evidence import between
from .probing import Probing
from .slow_start import SlowStart
from .window_fit import USUAL_WINDOWS

if TYPE_CHECKING:
    from .evidence import Evidence
    from .timing import Timing
    from .window_fit import WindowFit

# The server's window opens by its own clock, and calls do not all take the same time to reach it.
_CLOCK_MARGIN, _LARGEST_MARGIN = 1.005, 0.1
_FEWEST_STARTS = 30  # held back before a probe
_RARER = 4  # times as many after a refused probe
_PART = 10  # of the starts known, the largest step
_FEW = 2  # starts, or the largest step: a probe that is refused so little beyond what was found may have met another limit
_DOUBT = 0.04  # of its length: it is known well enough when the error is smaller
# Where a window is doubted, the first probe is repeated when _AGAIN_AFTER of a pause is over that is _AGAIN_IN of its length.
_AGAIN_AFTER, _AGAIN_IN = 0.15, 0.2
_NOT_BEFORE = 1.2  # seconds: not in the same second, as it may be that which is counted
_PAUSE = 0.05  # of its length: a longer time without a start ends a cycle
_MOST_ADMITTED = 2  # times what it allows, in its length: one that is counted by the clock admits as much around its end
_FIRMLY = 0.97  # of its length: more starts than it allows, in so much of it, surely are too many


class LearnedWindow(Probing):
    """A window that explained why calls were refused, and that is held from then on.

    Args:
        evidence: the starts there were.
        timing: how long calls and refusals take.
        window: what explained the refusals.
    """

    def __init__(self, evidence: Evidence, timing: Timing, window: WindowFit) -> None:
        self._is_usual = window.seconds in USUAL_WINDOWS
        seconds = window.seconds
        if self._is_usual:
            seconds += max((_CLOCK_MARGIN - 1) * seconds, min(evidence.spread, _LARGEST_MARGIN * seconds))
        super().__init__(evidence, timing, window.count, seconds, counts_refused=window.counts_refused)
        self._base = window.count  # before any probe
        self._is_sure = window.is_sure  # that these were all in one window
        self._too_short = self.seconds if window.too_short == window.seconds else window.too_short
        self._shorter: float | None = None  # a length to try ...
        self._tried_since = math.inf  # ... since a call started that only it allows
        self._step, self._after = 1, 1
        self._is_first_step = True  # since it was refused beyond what is known: one call goes there first
        self._is_doubted = window.is_doubted
        self._is_again: bool | None = None  # whether a first probe that was refused is made again; None: none was
        self._has_passed = False  # whether calls were served that started as soon as it was thought to have passed
        self._slow_start = SlowStart(timing)
        self._probe()  # at once: if the API was down for so long, there is no window, and more is admitted before it has passed

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        at = self._opens_at(now)
        if not self._has_passed:
            at = max(at, self._slow_start.opens_at)
        if self._is_again:
            at = max(at, self._again_at())
        if self._is_first_step and self._beyond_since is not None and not self._allows(*self._good, max(at, now)):
            at = max(at, self._known_at)
        if at <= now:
            return now
        if self._beyond_since is not None and not self._is_again and self._known_at < at:
            soon = max(now, self._known_at)
            if not self._allows(self._good[0], self._surely_shorter, soon):
                return soon  # one beyond was admitted, so the next may be too
        is_in_doubt = (
            not self._is_again and self._tried_since == math.inf and self.seconds - self._too_short > _DOUBT * self.seconds
        )
        if is_in_doubt and at - now > _PAUSE * self.seconds and self._is_used_up():
            self._shorter = (self._too_short + self.seconds) / 2
            at = max(now, at - self.seconds + self._shorter)
        self._due = at
        return at

    def _again_at(self) -> float:
        """Return when the first probe is made again, unless more fits soon."""
        starts, (count, seconds) = self._log, self._good
        opens = starts[-count] + seconds if len(starts) >= count else -math.inf
        pause = opens - starts[-1] if starts else 0.0
        return opens if pause < _AGAIN_IN * seconds else min(opens, starts[-1] + max(_AGAIN_AFTER * pause, _NOT_BEFORE))

    def _is_used_up(self) -> bool:
        """Whether the next start is the first of a cycle: the longest pause of late came right before all that fit."""
        starts = self._log
        if len(starts) <= self.count:  # where it is fewer, only a probe is waited for
            return len(starts) == self.count
        recent = list(islice(starts, len(starts) - self.count, None))
        return recent[0] - starts[-self.count - 1] > max((after - start for start, after in pairwise(recent)), default=0.0)

    def started(self, now: float, level: int) -> None:
        """Stamp a start, and probe upwards when enough of them were held back."""
        is_held_back = self._was_held_back(now)
        paused = now - max(self._log[-1], self._slow_start.opens_at) if is_held_back else 0.0
        if not self._has_passed and paused > _PAUSE * self.seconds:
            self._slow_start.begin(now, self.count)
        else:
            self._slow_start.started(now)
        # Calls that follow each other as in the cycle before, only a bit sooner, are no evidence that more fit.
        is_beyond = self.is_probing and not self._allows(self._good[0], self._surely_shorter, now)
        self._evidence.started(now, level)
        if self._shorter is not None:
            self._tried_since = min(self._tried_since, now)
        if is_beyond:
            self._beyond += 1
            if self._beyond_since is None:
                self._beyond_since = now
            elif now >= self._known_at and not self._is_again:
                self._accept(now)
        elif is_held_back:
            self._held_back += 1
            if self._held_back >= self._after:
                self._probe()

    @property
    def _surely_shorter(self) -> float:
        return min(_FIRMLY * self.seconds, self._too_short)

    def succeeded(self, started: float) -> bool:
        """Take note that a call was served: a shorter length that it tried is the right one, or there is no such window."""
        if started == self._slow_start.since:
            self._has_passed = self._slow_start.is_over
        if self._shorter is not None and started >= self._tried_since:
            self._is_usual = False
            self.seconds = self._shorter
            self._good = (self._good[0], self.seconds)
            self._shorter, self._tried_since = None, math.inf
            self._has_passed = False  # one call more may have fit: the next one tells if all do
        return bool(self._is_again) and started == self._beyond_since

    def correct_length(self, started: float) -> bool:
        """Correct the length if a refusal only tells that the window is longer; return whether it does."""
        if self._shorter is None or started < self._tried_since:
            return False
        # A usual length is doubted once, any other until it is known well enough.
        self._too_short = self.seconds if self._is_usual else self._shorter
        self._shorter, self._tried_since = None, math.inf
        return True

    def is_probed_by(self, started: float) -> bool:
        """Return whether a call only started because a few more may fit."""
        return self.is_beyond(started) and self._good[0] <= self._base + max(_FEW, self._base // _PART)

    def explains(self, started: float) -> bool:
        """Return whether a refusal is no more than the end of a probe."""
        # Where it grew without being sure, it was another window than was thought.
        return self.is_beyond(started) and (self._is_sure or self._good[0] <= self._base)

    @property
    def is_disproved(self) -> bool:
        """Whether more was admitted in its length than in two windows that meet: what refuses is another limit."""
        return self._good[0] > _MOST_ADMITTED * self._base

    def _probe(self) -> None:
        if self.is_probing and self._beyond:  # neither refused nor beyond doubt
            self._step = min(2 * self._step, max(1, self._good[0] // _PART))
        self.count = max(self.count, self._good[0] + int(self._step))
        self._end_step()

    def _accept(self, now: float) -> None:
        """Take what was not refused in the time that a refusal takes for good, and try a step twice as large."""
        self._is_first_step = False
        taken = self._known_at - (self._beyond_since or 0.0)
        known = between(self._log, now - self.seconds, now - taken)
        self.count = min(self.count, max(self._good[0], known))
        self._good = (self.count, self.seconds)
        self._step = min(2 * self._step, max(1, self.count // _PART))
        self._probe()
        self._beyond, self._beyond_since = 1, now  # the call that starts now is beyond that

    def correct(self, _started: float, _wait: float = 0.0) -> None:
        """Go back to what explained everything.

        What was admitted beyond it may belong to the next window: one that is counted by the clock admits twice as much
        around its end.
        """
        self._after = _RARER * max(_FEWEST_STARTS, self._base, self._after)
        self._is_sure = True
        self.count, self._step, self._is_first_step = self._base, 1, True
        self._good = (self.count, self.seconds)
        is_made = self._beyond_since is not None
        self._end_step()
        self._is_again = self._is_doubted if self._is_again is None else self._is_again and not is_made
        if self._is_again:
            self._probe()

"""LearnedRate: a limit of starts in a time that nobody told, found out from what was admitted and what was refused.

Pure: `now` is an argument, in seconds. An API may count in windows (600 in any minute) or refill a bucket (10 a second), so
there are two ways to know a rate:

* a window: a number of starts and a time that explain every refusal and every admission there was. Held exactly.
* a pace: one start in so many seconds, from what was admitted between two refusals. Held smoothly.

Either is a belief, and low at first, since it was learned while the limit of calls at once still grew. So it is probed upwards:
a step that was not refused is good and the next one twice as large; one that is refused costs that call, and ends the probe.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from .evidence import USUAL_WINDOWS, Closing, Evidence, Window

if TYPE_CHECKING:
    from .timing import Timing

# The server's window opens by its own clock, and calls do not all take the same time to reach it.
_CLOCK_MARGIN = 1.005
_PACE_STEP, _LARGEST_PACE_STEP = 0.1, 0.15
_PACE_STARTS = 12  # held back by a pace before the next step
_MOST_CERTAIN = 3  # times that a pace was found again: each halves the steps, and doubles the starts before them
_SHORTEST_WINDOW = 1.0  # seconds that an API counts in: so long may go well what is too fast
_LONGEST_PATIENCE = 5.0
CERT, COST = 5, 4
_SAME = 0.85  # paces that differ by less than that are the same
_WINDOW_STARTS = 30
_FIRMLY = 0.97  # of a window's length, within which more than it allows is more than it allows
_RARER = 4  # times as many after a refused probe of a window
_DOUBT = 0.04  # of a window's length, up to which it need not be known
_ENOUGH = 10  # starts to measure a pace by: a single one more or less must not make it
_SMOOTHED = 4  # latencies over which throughput is averaged
_ROOM = 1.15  # over that average: bursts are held back, the throughput is not
_AT_FIRST = 0.8  # of what was admitted last, before any other refusal: it was too much
_SLOWER = 1.03  # a pace that was refused after many starts
_SLOWER_BY_FEW, _MOST_BY_FEW = 1.1, 1.5  # and after few
_IN_USE = 0.85  # share of a pace that is used when it, and nothing else, holds the starts back
_MOST_ABSORBED = 2  # refusals in a row that only correct a rate; after more of them, all is closed


class LearnedRate:
    """At most `count` starts in any `seconds`, once that is known; until then `count` is None.

    Args:
        timing: how long calls and refusals take, kept up to date by the rule.

    Attributes:
        count: starts allowed in any one window; 1 for a pace; None: no limit is known.
        seconds: length of the window, or between two starts.
        starts: when the last calls started that were not refused, the oldest first.
        is_unexplained: whether no rate was found that explains the last refusals.
        is_smoothing: whether the pace only holds bursts back, and is no limit of the API's.

    Example:
        >>> from pocketflow_throttled.timing import Timing
        >>> rate = LearnedRate(Timing())
        >>> for start in range(10):
        ...     rate.started(float(start))
        >>> rate.refused(started=9.5)
        >>> rate.explain(Closing(opened=0.0, since=9.5, last=50.0, tries=9, is_rate=True), now=60.0)
        True
        >>> rate.count, round(rate.opens_at(now=60.0), 1)
        (10, 60.3)
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.count: int | None = None
        self.seconds = 0.0
        self.is_unexplained = self.is_smoothing = False
        self._evidence = Evidence()
        self.starts = self._evidence.starts
        self.levels = self._evidence.levels
        self.refused_at = self._evidence.refused_at
        self.cap = self._evidence.cap
        self._is_window = False
        self._ends: deque[float] = deque(maxlen=8)  # of the stretches in which all that was allowed was used
        self._unexplained = 0
        self._absorbed = 0
        self._absorbed_at = 0.0
        self._found_before = 0.0
        self._times_found = 0
        self._patience = _SHORTEST_WINDOW
        self._fast_since: float | None = None
        self._times_returned = 0
        self._is_returned = False  # to a pace that was admitted before
        self._saves = False  # whether it is a bucket that was emptied
        self._due: float | None = None
        # What is known to be admitted, and the probe beyond it.
        self._good = (0, 0.0)
        self._base = 0  # starts of a window, before any probe
        self._is_sure = True  # whether these were all in one window
        self._beyond_since: float | None = None
        self._beyond = 0
        self._held_back = 0
        self._after = 0
        self._step = 0.0
        # A window's length that is in doubt.
        self._too_short = 0.0
        self._is_usual = False
        self._trying: float | None = None
        self._tried: float | None = None
        self._longer: float | None = None

    # --- what happened

    def started(self, now: float, level: int = 1) -> None:
        """Stamp a start, and probe upwards when the rate has held enough of them back."""
        starts, due = self.starts, self._due
        self.levels.append(level)
        if self.count is None:
            starts.append(now)
            return
        is_held_back = due is not None and bool(starts) and now - due <= 0.1 * (now - starts[-1]) + 1e-4
        self._due = None
        count, seconds = self._good
        # Calls that follow each other as in the window before, only a bit sooner, are no evidence that more fit into one.
        is_beyond = self._is_probing and not self._evidence.allows(count, self._surely_shorter if self._is_window else seconds, now)
        starts.append(now)
        if self._trying is not None and self._tried is None:
            self._tried = now
        if is_beyond:
            if self._beyond_since is None:
                self._beyond_since = now
            self._beyond += self._is_window or is_held_back
            known_at = self._beyond_since + self._unrefused_after
            if now >= known_at if self._is_window else self._beyond >= _PACE_STARTS and now > known_at + self._patience:
                self._accept(now)
        elif is_held_back and (self._is_window or not self._is_probing):
            self._held_back += 1
            if self._held_back >= self._after:
                self._is_returned = False
                if self._fast_since is None:
                    self._fast_since = now
                self._probe()

    def forget(self, stamp: float) -> None:
        """Take back the stamp of a call that was refused or never sent."""
        self._evidence.forget(stamp)

    def succeeded(self, started: float) -> None:
        """Take note that a call was served: a shorter window that it tried is the right one."""
        if self._absorbed and started > self._absorbed_at:
            self._absorbed = 0
        if self._tried is not None and self._trying is not None and started >= self._tried:
            self._longer = self.seconds
            self.seconds = self._trying
            self._is_usual = False
            self._good = (self._good[0], self.seconds)
            self._trying = self._tried = None

    def absorbs(self, started: float, cost: float = 1.0) -> bool:
        """Return whether a refusal only corrects this rate, which is done then; else it is news."""
        if self._tried is not None and self._trying is not None and started >= self._tried:
            # A usual length is doubted once, any other until it is known well enough.
            self._too_short = self.seconds if self._is_usual else self._trying
            self._trying = self._tried = None
            return True
        if self._is_window and self._longer is not None and self._is_first_of_cycle(started):
            # Once it was shorter by luck: it had begun earlier than was thought.
            self.seconds = self._too_short = self._longer
            self._good = (self._good[0], self.seconds)
            self._longer = None
            return True
        is_beyond = self._is_probing and (self._beyond > 0 or not self._evidence.allows(*self._good, started))
        if self.count is None or self._absorbed >= _MOST_ABSORBED or not (is_beyond or self._is_in_use(started)):
            return False
        if self._is_window and not self._is_sure and self._good[0] > self._base:
            return False  # it was another window than was thought
        self._absorbed += 1
        self._absorbed_at = started
        if self._is_window:
            self._end_window_probe()
        elif self._is_probing and not self._saves:
            self._return_to_good(cost)
        else:
            self._saves = self._saves or self._is_returned
            self._wait_longer(started)
            self.seconds = self._good[1]
            self._find_pace(started)
            self._ends.append(started)
        return True

    def refused(self, started: float) -> None:
        """Take note of a refusal that any rate must explain."""
        self._evidence.refused(started)
        self._absorbed = 0

    @property
    def _surely_shorter(self) -> float:
        return min(_FIRMLY * self.seconds, self._too_short)

    # --- what it allows

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        starts = self.starts
        if self.count is None or len(starts) < self.count:
            return now
        first = starts[-self.count]
        at = first + self.seconds
        if at <= now:
            return now
        if self._is_window and self._beyond_since is not None:  # admitted beyond, so the next may be too
            known_at = self._beyond_since + self._unrefused_after
            if known_at < at:
                return max(now, known_at)
        is_in_doubt = self._is_window and self._tried is None and self.seconds - self._too_short > _DOUBT * self.seconds
        if is_in_doubt and at - now > 0.05 * self.seconds and self._begins_cycle(first):
            # The first call of a cycle tries the middle of what is in doubt.
            self._trying = (self._too_short + self.seconds) / 2
            at = max(now, first + self._trying)
        self._due = at
        return at

    def _is_first_of_cycle(self, started: float) -> bool:
        at = bisect_right(self.starts, started)
        return at == len(self.starts) and started - self.starts[-1] > 0.05 * self.seconds

    def _cycle_before(self, now: float) -> float:
        """Return when the last window began: with the start before which none was for the longest."""
        assert self.count is not None
        at = bisect_right(self.starts, now)
        recent = list(islice(self.starts, max(0, at - self.count - 1), at))
        pause, start = max(((b - a, b) for a, b in pairwise(recent)), default=(0.0, -math.inf))
        return start if pause > 0.05 * self.seconds else -math.inf

    def _begins_cycle(self, first: float) -> bool:
        assert self.count is not None
        starts = self.starts
        if len(starts) == self.count:
            return True
        recent = list(islice(starts, len(starts) - self.count, None))
        return first - starts[-self.count - 1] > max((b - a for a, b in pairwise(recent)), default=0.0)

    @property
    def gap(self) -> float:
        """Seconds in which no more than half a start is allowed: to try sooner after a refusal is in vain."""
        return 0.0 if self.count is None or self._is_window else 0.5 * self.seconds

    # --- what is learned when calls are admitted again

    def explain(self, closing: Closing, now: float) -> bool:
        """Return whether a rate, learned here, explains a time of refusals that ended `now`."""
        self.is_unexplained = False
        if self._is_window and closing.since - closing.opened > self.seconds:
            closing.opened = max(closing.opened, self._cycle_before(closing.since))
        if self._is_window and self._evidence.between(closing.opened, closing.since) >= self._base - 1:
            closing.is_rate = True  # all that was thought to fit into it was used
        window = self._evidence.window(closing, now)
        is_rate = window is not None or closing.is_rate
        if window is not None:
            self._hold_window(window)
        elif closing.is_rate or self._is_in_use(closing.since) or self._was_full(closing.since):
            self._wait_longer(closing.since)
            self._find_pace(closing.since, now)
        else:
            self._unexplained += 1
            self.is_unexplained = True
            if self._is_probing and self._is_window:
                self._end_window_probe()
            if self._unexplained >= 2:
                self.smooth(closing.since)
        self._ends.append(now if self._is_window and is_rate else closing.since)
        return is_rate

    def _hold_window(self, window: Window) -> None:
        self._is_usual = window.seconds in USUAL_WINDOWS
        self._longer = None
        self._hold(window.count, window.seconds * (_CLOCK_MARGIN if self._is_usual else 1), is_window=True)
        self._too_short = self.seconds if window.too_short == window.seconds else window.too_short
        self._base, self._is_sure = window.count, window.is_sure
        self._step, self._after = 1, max(_WINDOW_STARTS, window.count) if window.is_sure else 1

    def _find_pace(self, until: float, reopened: float | None = None) -> None:
        """Hold what was admitted since a refusal before, up to one `until` which all that was allowed was used."""
        starts, between = self.starts, self._evidence.between
        since = next((end for end in reversed(self._ends) if between(end, until) >= _ENOUGH), None)
        if since is None and self.count is not None:
            self._slow_down(until)
            return
        if since is None and self._ends and reopened is not None and between(self._ends[0], until) >= 1:
            self._hold_pace((reopened - self._ends[0]) / (between(self._ends[0], until) + 1))  # each came as soon as it could
            return
        is_first = since is None
        if since is None:
            since = starts[0] if starts else until
            if between(since, until) < _ENOUGH:
                return
        if until <= since:
            return
        overall = (between(since, until) + 1) / (until - since)
        span = max(2 * (self._timing.latency or 1.0), until - starts[-_ENOUGH] if len(starts) >= _ENOUGH else until - since)
        recent = (between(until - span, until) + 1) / span if span < until - since else overall
        # What was admitted on the whole may be less than is allowed, what was admitted last was more: between the two.
        seconds = 1 / (_AT_FIRST * recent if is_first else (overall * recent) ** 0.5)
        if self.count is not None and not self._is_window:
            seconds = max(seconds, _SLOWER * self.seconds)
            if self._saves and self._ends:  # a bucket that was empty then is empty again
                last = self._ends[-1]
                seconds = max(seconds, min((until - last) / (between(last, until) + 1), _MOST_BY_FEW * seconds))
        was_found = _SAME * self._found_before < seconds < self._found_before / _SAME
        self._times_found = min(self._times_found + 1, _MOST_CERTAIN) if was_found else 0
        self._found_before = seconds
        self._hold_pace(seconds, 2**self._times_found)

    def _wait_longer(self, refused: float) -> None:
        """What went well for so long, and then was refused, is to be tried for as long before it is believed."""
        if self._fast_since is not None:
            self._patience = min(max(self._patience, refused - self._fast_since), _LONGEST_PATIENCE)
            self._fast_since = None

    def _return_to_good(self, cost: float) -> None:
        """Hold what was admitted before a probe. Refused there too, it was admitted from what a bucket had saved up."""
        self._times_returned += 1
        self._hold_pace(_SLOWER * self._good[1], 2**min(self._times_returned, _MOST_CERTAIN))
        self._after = int(_PACE_STARTS * 2 ** min(self._times_returned, CERT) * min(cost, COST))
        self._is_returned = True

    def _slow_down(self, until: float) -> None:
        """Correct a pace by a few starts: they are too few to measure one, and what was sent before them may still count."""
        assert self.count is not None
        known = self.seconds / self.count
        since = self._ends[0] if self._ends else until
        measured = (until - since) / (self._evidence.between(since, until) + 1)
        self._hold_pace(max(_SLOWER_BY_FEW * known, min(measured, _MOST_BY_FEW * known)))

    def _hold_pace(self, seconds: float, certainty: int = 1) -> None:
        self._hold(1, seconds, is_window=False)
        self._step, self._after = _PACE_STEP / certainty, _PACE_STARTS * certainty

    def _hold(self, count: int, seconds: float, *, is_window: bool) -> None:
        self.count, self.seconds, self._is_window = count, seconds, is_window
        self._good = (count, seconds)
        self.is_smoothing = False
        self._trying = self._tried = None
        self._is_returned = False
        self._end_step()

    # --- a pace that is no limit: it holds back bursts, which a window of a second takes for too much, and nothing else

    def smooth(self, until: float) -> None:
        """Hold back what comes faster than of late."""
        starts = self.starts
        latency = self._timing.latency
        if not latency or (self.count is not None and not self.is_smoothing) or len(starts) < 2:
            return
        span = min(_SMOOTHED * latency, until - starts[0])
        average = self._evidence.between(until - span, until) / span if span > 0 else 0.0
        if average > 0 and (self.count is None or self.seconds < 1 / (_ROOM * average)):
            self._hold_pace(1 / (_ROOM * average))
            self.is_smoothing = True

    def widen(self, factor: float) -> None:
        """Let the pace that only smooths grow with the calls at once."""
        if self.is_smoothing:
            self._hold_pace(self.seconds / factor)
            self.is_smoothing = True

    @property
    def is_pace(self) -> bool:
        return self.count is not None and not self._is_window and not self.is_smoothing

    def drop(self) -> None:
        self.count = None
        self.is_smoothing = False
        self._unexplained = 0

    def roughen(self) -> None:
        """Smooth no more: it was refused without a burst too."""
        if self.is_smoothing:
            self.count = None
            self.is_smoothing = False

    # --- upward probes

    @property
    def _is_probing(self) -> bool:
        return self.count is not None and (self.count, self.seconds) != self._good

    @property
    def _unrefused_after(self) -> float:
        return 1.5 * (self._timing.refusal or 0.0) + 1e-3

    def _probe(self) -> None:
        assert self.count is not None
        if not self._is_window:
            self._good = (self.count, self.seconds)
            self.seconds /= 1 + self._step
        elif self._is_probing:  # neither refused nor beyond doubt
            self._step = min(2 * self._step, max(1, self._good[0] // 10))
            self.count = max(self.count, self._good[0] + int(self._step))
        else:
            self.count += max(1, int(self._step))
        self._end_step()

    def _accept(self, now: float) -> None:
        """Take a step that was not refused in the time a refusal takes for good, and try one twice as large."""
        assert self.count is not None
        if self._is_window:
            known = self._evidence.between(now - self.seconds, now - self._unrefused_after)
            self.count = min(self.count, max(self._good[0], known))
            self._good = (self.count, self.seconds)
            self._step = min(2 * self._step, max(1, self.count // 10))
        else:
            self._step = min(2 * self._step, _LARGEST_PACE_STEP)
        self._probe()

    def _end_window_probe(self) -> None:
        # What was admitted beyond the window may belong to the one after: one that is counted by the clock admits twice as much
        # around its end. So back to what explained everything.
        has_grown = self._good[0] > 1.1 * self._base
        self._after = _WINDOW_STARTS if has_grown else _RARER * max(_WINDOW_STARTS, self._base, self._after)
        self._is_sure = True
        self.count, self._step = self._base, 1
        self._good = (self.count, self.seconds)
        self._end_step()

    def _end_step(self) -> None:
        self._held_back = self._beyond = 0
        self._beyond_since = None

    # --- what was used

    def _is_in_use(self, now: float) -> bool:
        if self.count is None or self._is_window:
            return False
        span = max(2 * (self._timing.latency or 0.0), 10 * self.seconds)
        return self._evidence.between(now - span, now) >= _IN_USE * span / self.seconds

    def _was_full(self, until: float) -> bool:
        """Whether the stretch that a refusal ended is long enough to measure what is allowed."""
        if not self._ends or self._unexplained < 2:
            return False
        return (
            until - self._ends[-1] > 2 * (self._timing.latency or 0.0)
            and self._evidence.between(self._ends[-1], until) >= _ENOUGH
        )

"""LearnedRate: a limit of starts in a time that nobody told, found out from what was admitted and what was refused.

Pure: `now` is an argument, in seconds. An API may count in windows (600 in any minute) or refill a bucket (10 a second), so
there are two ways to know a rate:

* a window: a number of starts and a time that explain every refusal and every admission there was. Held exactly.
* a pace: one start in so many seconds, from what was admitted between two refusals. Held smoothly.

Either is probed upwards, for limits rise too and an estimate may be low; a probe that is refused costs that call.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

# Providers count by the second, the minute and a few lengths between: tried before any odd length.
USUAL_WINDOWS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0)
# The server's window opens by its own clock, and calls do not all take the same time to reach it.
_CLOCK_MARGIN = 1.005
# How far the most that was admitted may exceed the least that was refused, and a window still explain both: the network blurs
# a window of seconds more than one of a minute.
_EXACT, _NEARLY, _BLURRED = 1.0, 1.02, 1.2
_SHORT_WINDOW = 5.0
_STEP = 0.1  # the first upward probe of a pace; halved each time the same pace is found again
_PACE_STARTS = 15  # held back by a pace before it is probed; doubled likewise
_WINDOW_STEP = 0.05
_WINDOW_STARTS = 30
_IN_USE = 0.85  # share of a pace that is used when it, and nothing else, holds the starts back
_SMOOTHED = 4  # latencies over which throughput is averaged
_ROOM = 1.15  # over that average: bursts are held back, the throughput is not


@dataclass(slots=True)
class Closing:
    """The time from a refusal to the next call that was admitted.

    Attributes:
        since: when the first refused call started.
        last: when the last one did.
        tries: how many were refused, each after the one before.
        hinted_until: up to when the API said it would refuse.
        is_rate: whether no limit of calls at once explains it: one was refused with no other under way, or the API named a time.
    """

    since: float
    last: float = 0.0
    tries: int = 0
    hinted_until: float = 0.0
    is_rate: bool = False


class LearnedRate:
    """At most `count` starts in any `seconds`, once that is known; until then `count` is None.

    Attributes:
        count: starts allowed in any one window; 1 for a pace; None: no limit is known.
        seconds: length of the window, or between two starts.
        starts: when the last 2,000 calls started that were not refused.
        latency: seconds that a call takes, kept up to date by the rule.
        is_unexplained: whether no rate was found that explains the last refusals.
    """

    def __init__(self) -> None:
        self.count: int | None = None
        self.seconds = 0.0
        self.latency = 0.0
        self.is_unexplained = False
        self._is_window = False
        self.starts: deque[float] = deque(maxlen=2000)  # of calls that were not refused
        self._refusals: deque[float] = deque(maxlen=12)
        self._ends: deque[float] = deque(maxlen=8)  # of the stretches in which all that was allowed was used
        self._unexplained = 0
        self._due: float | None = None
        self._held_back = False
        self._held_back_starts = 0
        self._changed = 0.0
        # upward probes, of a pace ...
        self._good_seconds = 0.0
        self._step = _STEP
        self._after = _PACE_STARTS
        self._found_before = 0.0
        self._times_found = 0
        # ... of a window's count, and of its length
        self._good_count: int | None = None
        self._too_short = 0.0
        self._trying: float | None = None
        self._tried: float | None = None

    # --- what happened

    def started(self, now: float) -> None:
        """Stamp a start, and probe upwards when the rate has held enough of them back."""
        if self._due is not None and self.starts:
            waited = self._due - self.starts[-1]
            self._held_back = now - self._due <= 0.1 * waited + 1e-4  # a later one was held back by something else
            self._held_back_starts += self._held_back
            self._due = None
        self.starts.append(now)
        if self._trying is not None and self._tried is None:
            self._tried = now
        if self.count is not None:
            if self._is_window:
                self._probe_count()
            else:
                self._probe_pace(now)

    def forget(self, stamp: float) -> None:
        """Take back the stamp of a call that was refused or never sent."""
        with suppress(ValueError):
            self.starts.remove(stamp)

    def succeeded(self, started: float) -> None:
        """Take note that a call was served: a shorter window that it tried is the right one."""
        if self._tried is not None and self._trying is not None and started >= self._tried:
            self.seconds = self._trying
            self._trying = self._tried = None

    def ends_probe(self, started: float) -> bool:
        """Return whether a refusal only ends a probe of this rate; it is taken back then."""
        if self._tried is not None and self._trying is not None and started >= self._tried:
            self._too_short = self._trying
            self._trying = self._tried = None
            return True
        if self._good_count is None:
            return False
        self.count, self._good_count = self._good_count, None
        self._after = 4 * max(_WINDOW_STARTS, self.count, self._after)
        self._step = _WINDOW_STEP
        self._held_back_starts = 0
        return True

    def refused(self, started: float) -> None:
        """Take note of a refusal that any rate must explain."""
        self._refusals.append(started)

    # --- what it allows

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        if self.count is None or len(self.starts) < self.count:
            return now
        first = self.starts[-self.count]
        at = first + self.seconds
        if at <= now:
            self._held_back = False
            return now
        doubt = self.seconds - self._too_short
        if self._is_window and self._tried is None and doubt > 0.04 * self.seconds and at - now > 0.05 * self.seconds:
            self._trying = (self._too_short + self.seconds) / 2  # the first call of a cycle tries the middle of what is in doubt
            at = max(now, first + self._trying)
        self._due = at
        return at

    @property
    def is_probing(self) -> bool:
        """Whether a start has tried a shorter window."""
        return self._tried is not None

    @property
    def gap(self) -> float:
        """Seconds in which no more than half a start is allowed: to try sooner after a refusal is in vain."""
        return 0.0 if self.count is None or self._is_window else 0.5 * self.seconds

    # --- what is learned when calls are admitted again

    def explain(self, closing: Closing, cycle: float, now: float) -> bool:
        """Return whether a rate, learned here, explains a time of refusals that ended `now`.

        Args:
            closing: what was refused.
            cycle: when calls were admitted for the first time after the closing before, or at all.
            now: when the first call was admitted again, in seconds.
        """
        is_rate = True
        self.is_unexplained = False
        if self._find_window(closing, cycle, now):
            pass
        elif not closing.is_rate and not self._is_window and self._is_in_use(closing.since):
            self._slow_down(now)
        elif closing.is_rate or self._was_full(closing.since):
            self._find_pace(closing.since)
            is_rate = closing.is_rate
        else:
            self._unexplained += 1
            self.is_unexplained = True
            self._smooth(closing.since)
            is_rate = False
        self._ends.append(now if self._is_window and is_rate else closing.since)
        return is_rate

    def _find_window(self, closing: Closing, cycle: float, now: float) -> bool:
        shut = max(closing.last, closing.hinted_until)
        if closing.is_rate and shut > closing.since and shut - closing.since >= 0.1 * (closing.since - cycle):
            # Long closed: the length lies between the last refusal and the first admission, counted from the cycle's first call.
            # What was still refused long after the last start needs a window longer than that.
            newest = max((start for start in self.starts if start <= closing.since), default=0.0)
            longest = now - cycle
            refusals = [refusal for refusal in self._refusals if refusal >= closing.since]
            usual = [length for length in USUAL_WINDOWS if shut - newest < length <= longest * 1.001]
            found = self._best_window([*usual, longest], refusals, _NEARLY)
            if found is not None:
                is_exact = found[0] != longest or closing.hinted_until >= closing.last
                self._hold_window(*found, too_short=None if is_exact else closing.last - cycle)
                return True
        usual = [length for length in USUAL_WINDOWS if length <= (now - self.starts[0]) * 1.001] if self.starts else []
        found = self._best_window(usual, self._refusals, _EXACT) if len(self._refusals) >= 2 else None
        if found is None and len(self._refusals) >= 4:
            found = self._best_window([length for length in usual if length <= _SHORT_WINDOW], self._refusals, _BLURRED)
        if found is not None:
            self._hold_window(*found, too_short=None)
        return found is not None

    def _best_window(self, lengths: list[float], refusals: deque[float] | list[float], blur: float) -> tuple[float, int] | None:
        starts = list(self.starts)
        best: tuple[float, float, int] | None = None
        for seconds in lengths:
            least = min(bisect_right(starts, refusal) - bisect_right(starts, refusal - seconds) for refusal in refusals)
            misfit = _most(starts, seconds) / least if least else math.inf
            if misfit <= blur and (best is None or misfit < best[0]):
                best = (misfit, seconds, least)
        return None if best is None else best[1:]

    def _hold_window(self, seconds: float, count: int, *, too_short: float | None) -> None:
        self._hold(count, seconds if too_short is not None else _CLOCK_MARGIN * seconds, is_window=True)
        self._too_short = seconds if too_short is None else too_short
        self._step, self._after = _WINDOW_STEP, 0

    def _find_pace(self, until: float) -> None:
        if self.count is not None and not self._is_window and self._held_back and self._good_seconds > self.seconds:
            self.seconds = self._good_seconds  # an upward probe that failed
            self._changed = until
            self._step = max(0.02, self._step / 8)
            self._after = min(2 * self._after, 100)
            self._held_back_starts = 0
            return
        # Long enough to count ten, or a single start more or less makes the pace.
        since = next(
            (end for end in reversed(self._ends) if self._between(end, until) >= 10), self._ends[0] if self._ends else None
        )
        is_first = since is None
        if since is None:
            since = self.starts[0] if self.starts else until
        if until <= since:
            return
        rate = overall = (self._between(since, until) + 1) / (until - since)
        span = max(2 * (self.latency or 1.0), until - self.starts[-10] if len(self.starts) >= 10 else until - since)
        recent = (self._between(until - span, until) + 1) / span if span < until - since else overall
        # What was admitted on the whole may be less than is allowed, what was admitted last was more: between the two.
        rate = 0.8 * recent if is_first else (overall * recent) ** 0.5
        slower = 1.02 * self.seconds if self.count is not None and not self._is_window and self._held_back else 0.0
        self._hold_pace(max(1 / rate, slower))

    def _slow_down(self, now: float) -> None:
        self.seconds = self._good_seconds if self._good_seconds > self.seconds else 1.05 * self.seconds
        self._hold_pace(self.seconds)
        self._changed = now

    def _smooth(self, until: float) -> None:
        """Hold bursts back, which a window of a second takes for too much, and nothing else."""
        if self._unexplained < 2 or not self.latency or self._is_window:
            return
        span = _SMOOTHED * self.latency
        average = self._between(until - span, until) / span
        if average > 0 and (self.count is None or self.seconds < 1 / (_ROOM * average)):
            self._hold(1, 1 / (_ROOM * average), is_window=False)
            self._step, self._after = _STEP, _PACE_STARTS

    def _hold_pace(self, seconds: float) -> None:
        self._hold(1, seconds, is_window=False)
        was_found = 0.85 * self._found_before < seconds < 1.18 * self._found_before
        self._times_found = min(self._times_found + 1, 3) if was_found else 0
        self._found_before = seconds
        self._step = _STEP / 2**self._times_found
        self._after = _PACE_STARTS * 2**self._times_found

    def _hold(self, count: int, seconds: float, *, is_window: bool) -> None:
        self.count, self.seconds, self._is_window = count, seconds, is_window
        self._good_seconds = seconds
        self._good_count = self._trying = self._tried = None
        self._held_back_starts = 0
        self._changed = self.starts[-1] if self.starts else 0.0

    # --- upward probes

    def _probe_pace(self, now: float) -> None:
        if self._held_back_starts < self._after or now < self._changed + 2 * self.latency:
            return
        self._held_back_starts = 0
        if self._is_in_use(now):
            self._changed = now
            self._good_seconds = self.seconds
            self.seconds /= 1 + self._step
            self._step = min(2 * self._step, 1.0)

    def _probe_count(self) -> None:
        assert self.count is not None
        if self._held_back_starts < max(_WINDOW_STARTS, self.count, self._after):
            return
        self._held_back_starts = 0
        if self._good_count is None:
            self._good_count = self.count
            self.count += max(1, int(self._step * self.count))
            self._step *= 2
        else:  # a whole window of it was admitted
            self._good_count = None

    # --- counting

    def _is_in_use(self, now: float) -> bool:
        if self.count is None:
            return False
        span = max(2 * self.latency, 10 * self.seconds / self.count)
        return self._between(now - span, now) >= _IN_USE * span * self.count / self.seconds

    def _was_full(self, until: float) -> bool:
        """Whether the stretch that a refusal ended is long enough to measure what is allowed."""
        if not self._ends or self._unexplained < 2 or (self.count is not None and not self._held_back):
            return False
        return until - self._ends[-1] > 2 * self.latency and self._between(self._ends[-1], until) >= 10

    def _between(self, since: float, until: float) -> int:
        count = 0
        for start in reversed(self.starts):
            if start <= since:
                break
            count += start <= until
        return count


def _most(starts: list[float], seconds: float) -> int:
    """Return the most starts in any `seconds`."""
    most = first = 0
    for index, start in enumerate(starts):
        while starts[first] <= start - seconds:
            first += 1
        most = max(most, index - first + 1)
    return most

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
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass

# Providers count by the second, the minute and a few lengths between: tried before any odd length.
USUAL_WINDOWS = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0)
# The server's window opens by its own clock, and calls do not all take the same time to reach it.
_CLOCK_MARGIN = 1.005
# How far the most that was admitted may exceed the least that was refused, and a window still explain both.
_EXACT, _NEARLY = 1.0, 1.02
_LOGGED = 20_000  # starts
_PACE_STEP, _LARGEST_PACE_STEP = 0.1, 0.15
_PACE_STARTS = 12  # held back by a pace before the next step
_WINDOW_STARTS = 30
_RARER = 4  # times as many after a refused probe of a window
_ENOUGH = 10  # starts to measure a pace by: a single one more or less must not make it
_SMOOTHED = 4  # latencies over which throughput is averaged
_ROOM = 1.15  # over that average: bursts are held back, the throughput is not
_SLOWER = 1.03  # a pace that was refused after many starts
_SLOWER_BY_FEW, _MOST_BY_FEW = 1.1, 1.5  # and after few
_IN_USE = 0.85  # share of a pace that is used when it, and nothing else, holds the starts back
_MOST_ABSORBED = 2  # refusals in a row that only correct a pace; after more of them, all is closed


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
        starts: when the last calls started that were not refused, the oldest first.
        latency: seconds that a call takes, kept up to date by the rule.
        refusal_time: seconds that a refusal takes, kept up to date by the rule.
        is_unexplained: whether no rate was found that explains the last refusals.
    """

    def __init__(self) -> None:
        self.count: int | None = None
        self.seconds = 0.0
        self.latency = self.refusal_time = 0.0
        self.is_unexplained = False
        self.is_smoothing = False
        self.starts: list[float] = []
        self._is_window = False
        self._refusals: deque[float] = deque(maxlen=12)
        self._ends: deque[float] = deque(maxlen=8)  # of the stretches in which all that was allowed was used
        self._unexplained = 0
        self._absorbed = 0
        self._absorbed_at = 0.0
        self._found_before = 0.0
        self._times_found = 0
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

    # --- what happened

    def started(self, now: float) -> None:
        """Stamp a start, and probe upwards when the rate has held enough of them back."""
        is_held_back = self._due is not None and bool(self.starts) and now - self._due <= 0.1 * (now - self.starts[-1]) + 1e-4
        self._due = None
        is_beyond = self.is_probing and not self._is_good(now)
        self.starts.append(now)
        if len(self.starts) > 2 * _LOGGED:
            del self.starts[:_LOGGED]
        if self._trying is not None and self._tried is None:
            self._tried = now
        if self.count is None:
            return
        if is_beyond:
            if self._beyond_since is None:
                self._beyond_since = now
            self._beyond += self._is_window or is_held_back
            if now > self._beyond_since + 1.5 * self.refusal_time + 1e-3 and (self._is_window or self._beyond >= _PACE_STARTS):
                self._accept(now)
        elif is_held_back and not self.is_probing:
            self._held_back += 1
            if self._held_back >= self._after:
                self._probe()

    def forget(self, stamp: float) -> None:
        """Take back the stamp of a call that was refused or never sent."""
        at = bisect_left(self.starts, stamp)
        if at < len(self.starts) and self.starts[at] == stamp:
            del self.starts[at]

    def succeeded(self, started: float) -> None:
        """Take note that a call was served: a shorter window that it tried is the right one."""
        if self._absorbed and started > self._absorbed_at:
            self._absorbed = 0
        if self._tried is not None and self._trying is not None and started >= self._tried:
            self.seconds = self._trying
            self._is_usual = False
            self._good = (self._good[0], self.seconds)
            self._trying = self._tried = None

    def absorbs(self, started: float) -> bool:
        """Return whether a refusal only corrects this rate, which is done then; else it is news."""
        if self._tried is not None and self._trying is not None and started >= self._tried:
            self._too_short = self.seconds if self._is_usual else self._trying
            self._trying = self._tried = None
            return True
        is_beyond = self.is_probing and (self._beyond > 0 or not self._is_good(started))
        if self.count is None or self._absorbed >= _MOST_ABSORBED or not (is_beyond or self._is_in_use(started)):
            return False
        self._absorbed += 1
        self._absorbed_at = started
        if self._is_window:
            if not self._is_sure and self._good[0] > self._base:
                return False
            self._is_sure = True
            # What was admitted beyond it may belong to the window after: one that is counted by the clock admits twice as much
            # around its end. So back to what explained everything.
            has_grown = self._good[0] > 1.1 * self._base
            self._after = _WINDOW_STARTS if has_grown else _RARER * max(_WINDOW_STARTS, self._base, self._after)
            self.count, self._step = self._base, 1
            self._good = (self.count, self.seconds)
            self._end_step()
            return True
        if is_beyond:
            self.seconds = self._good[1]
        self._find_pace(started)
        self._ends.append(started)
        return True

    def refused(self, started: float) -> None:
        """Take note of a refusal that any rate must explain."""
        self._refusals.append(started)
        self._absorbed = 0

    # --- what it allows

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        if self.count is None or len(self.starts) < self.count:
            return now
        first = self.starts[-self.count]
        at = first + self.seconds
        if at <= now:
            return now
        doubt = self.seconds - self._too_short
        if self._is_window and self._tried is None and doubt > 0.04 * self.seconds and at - now > 0.05 * self.seconds:
            self._trying = (self._too_short + self.seconds) / 2  # the first call of a cycle tries the middle of what is in doubt
            at = max(now, first + self._trying)
        self._due = at
        return at

    @property
    def is_trying(self) -> bool:
        """Whether a start has tried a shorter window."""
        return self._tried is not None

    @property
    def is_probing(self) -> bool:
        """Whether more is allowed than is known to be good."""
        return self.count is not None and (self.count, self.seconds) != self._good

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
        elif closing.is_rate or self._is_in_use(closing.since) or self._was_full(closing.since):
            self._find_pace(closing.since)
            is_rate = closing.is_rate
        else:
            self._unexplained += 1
            self.is_unexplained = True
            if self._unexplained >= 2:
                self.smooth(closing.since)
            is_rate = False
        self._ends.append(now if self._is_window and is_rate else closing.since)
        return is_rate

    def _find_window(self, closing: Closing, cycle: float, now: float) -> bool:
        shut = max(closing.last, closing.hinted_until)
        if closing.is_rate and shut > closing.since and shut - closing.since >= 0.1 * (closing.since - cycle):
            # Long closed: the length lies between the last refusal and the first admission, counted from the cycle's first call.
            # What was still refused long after the last start needs a window longer than that.
            newest = self.starts[at - 1] if (at := bisect_right(self.starts, shut)) else 0.0
            longest = now - cycle
            # Not the first refusal: calls that started just after it were admitted, if they were faster on their way.
            refusals = [*(refusal for refusal in self._refusals if refusal > closing.since), shut - 1e-6]
            usual = [length for length in USUAL_WINDOWS if shut - newest < length <= longest * 1.001]
            found = self._best_window([*usual, longest], refusals, _NEARLY)
            if found is not None and found[0] >= USUAL_WINDOWS[0]:
                is_exact = closing.hinted_until >= closing.last
                # Closed longer than it was open: all of what was open lies in one window.
                is_sure = shut - closing.since >= closing.since - cycle
                self._hold_window(*found, is_sure=is_sure, too_short=None if is_exact else closing.last - cycle)
                return True
        if len(self._refusals) < 2 or not self.starts:
            return False
        usual = [length for length in USUAL_WINDOWS if length <= (now - self.starts[0]) * 1.001]
        found = self._best_window(usual, self._refusals, _EXACT)
        if found is not None:
            self._hold_window(*found, is_sure=False)
        return found is not None

    def _best_window(self, lengths: list[float], refusals: deque[float] | list[float], blur: float) -> tuple[float, int] | None:
        starts = self.starts
        best: tuple[float, float, int] | None = None
        for seconds in lengths:
            least = min(bisect_right(starts, refusal) - bisect_right(starts, refusal - seconds) for refusal in refusals)
            most = _most(starts, seconds)
            misfit = most / least if least else math.inf
            if misfit <= blur and (best is None or misfit < best[0]):
                best = (misfit, seconds, max(least, most))
        return None if best is None else best[1:]

    def _hold_window(self, seconds: float, count: int, *, is_sure: bool, too_short: float | None = None) -> None:
        self._is_usual = seconds in USUAL_WINDOWS
        self._hold(count, _CLOCK_MARGIN * seconds if self._is_usual else seconds, is_window=True)
        self._too_short = self.seconds if too_short is None else too_short
        self._base, self._is_sure = count, is_sure
        self._step, self._after = 1, max(_WINDOW_STARTS, count) if is_sure else 1

    def _find_pace(self, until: float) -> None:
        """Hold what was admitted between two refusals, until which all that is allowed was used."""
        since = next((end for end in reversed(self._ends) if self._between(end, until) >= _ENOUGH), None)
        is_first = since is None
        if since is None and self.count is not None:
            self._slow_down(until)
            return
        if since is None and self._ends and self._between(self._ends[0], until) >= 2:
            since = self._ends[0]
            is_first = False
        if since is None:
            since = self.starts[0] if self.starts else until
            if self._between(since, until) < _ENOUGH:
                return
        if until <= since:
            return
        rate = overall = (self._between(since, until) + 1) / (until - since)
        span = max(2 * (self.latency or 1.0), until - self.starts[-_ENOUGH] if len(self.starts) >= _ENOUGH else until - since)
        recent = (self._between(until - span, until) + 1) / span if span < until - since else overall
        # What was admitted on the whole may be less than is allowed, what was admitted last was more: between the two.
        rate = 0.8 * recent if is_first else (overall * recent) ** 0.5
        slower = _SLOWER * self.seconds if self.count is not None and not self._is_window else 0.0
        seconds = max(1 / rate, slower)
        was_found = 0.85 * self._found_before < seconds < 1.18 * self._found_before
        self._times_found = min(self._times_found + 1, 3) if was_found else 0
        self._found_before = seconds
        self._hold_pace(seconds, 2**self._times_found)

    def _slow_down(self, until: float) -> None:
        """Correct a pace by a few starts: they are too few to measure one, and what was sent before them may still count."""
        assert self.count is not None
        known = self.seconds / self.count
        since = self._ends[0] if self._ends else until
        measured = (until - since) / (self._between(since, until) + 1)
        self._hold_pace(max(_SLOWER_BY_FEW * known, min(measured, _MOST_BY_FEW * known)), 1)

    def smooth(self, until: float) -> None:
        """Hold back bursts, which a window of a second takes for too much, and nothing else."""
        if not self.latency or self._is_window or len(self.starts) < 2:
            return
        span = min(_SMOOTHED * self.latency, until - self.starts[0])
        average = self._between(until - span, until) / span if span > 0 else 0.0
        if average > 0 and (self.count is None or self.seconds < 1 / (_ROOM * average)):
            self._hold_pace(1 / (_ROOM * average), 1)
            self.is_smoothing = True

    def widen(self, factor: float) -> None:
        """Let the pace that only smooths grow with the calls at once."""
        if self.is_smoothing:
            self._hold_pace(self.seconds / factor, 1)
            self.is_smoothing = True

    def roughen(self) -> None:
        """Stop smoothing: it was refused without a burst too."""
        if self.is_smoothing:
            self.count = None
            self.is_smoothing = False

    def _hold_pace(self, seconds: float, certainty: int) -> None:
        self._hold(1, seconds, is_window=False)
        self._step, self._after = _PACE_STEP / certainty, _PACE_STARTS * certainty

    def _hold(self, count: int, seconds: float, *, is_window: bool) -> None:
        self.count, self.seconds, self._is_window = count, seconds, is_window
        self._good = (count, seconds)
        self.is_smoothing = False
        self._trying = self._tried = None
        self._end_step()

    # --- upward probes

    def _is_good(self, now: float) -> bool:
        """Return whether what is known to be admitted allows a start at `now`, after those before it."""
        count, seconds = self._good
        before = bisect_right(self.starts, now)
        return before < count or self.starts[before - count] + seconds <= now + 1e-9

    def _probe(self) -> None:
        assert self.count is not None
        self._good = (self.count, self.seconds)
        if self._is_window:
            self.count += max(1, int(self._step))
        else:
            self.seconds /= 1 + self._step
        self._end_step()

    def _accept(self, now: float) -> None:
        """Take a step that was not refused in the time a refusal takes for good, and try one twice as large."""
        assert self.count is not None
        if self._is_window:
            known = self._between(now - self.seconds, now - 1.5 * self.refusal_time - 1e-3)
            self.count = min(self.count, max(self._good[0], known))
            self._step = min(2 * self._step, max(1, self.count // 10))
        else:
            self._step = min(2 * self._step, _LARGEST_PACE_STEP)
        self._probe()

    def _end_step(self) -> None:
        self._held_back = self._beyond = 0
        self._beyond_since = None

    # --- counting

    def _is_in_use(self, now: float) -> bool:
        if self.count is None or self._is_window:
            return False
        span = max(2 * self.latency, 10 * self.seconds)
        return self._between(now - span, now) >= _IN_USE * span / self.seconds

    def _was_full(self, until: float) -> bool:
        """Whether the stretch that a refusal ended is long enough to measure what is allowed."""
        if not self._ends or self._unexplained < 2:
            return False
        return until - self._ends[-1] > 2 * self.latency and self._between(self._ends[-1], until) >= _ENOUGH

    def _between(self, since: float, until: float) -> int:
        """Return how many starts there were after `since`, up to `until`."""
        return bisect_right(self.starts, until) - bisect_right(self.starts, since)


def _most(starts: list[float], seconds: float) -> int:
    """Return the most starts in any `seconds`."""
    most = first = 0
    for index, start in enumerate(starts):
        while starts[first] <= start - seconds:
            first += 1
        most = max(most, index - first + 1)
    return most

"""LearnedPace: one start in so many seconds, from what was admitted between two refusals.

Pure: times are arguments, in seconds. An API that counts by the second, or refills a bucket, is closed for a moment only. What it
admitted is what it allows, if all of that was used; then a faster pace is tried, by steps. A step that was refused is taken back.
If what went well before is refused as well, it was taken from what a bucket had saved up, and only what was admitted since it was
empty counts. A few refusals later, they tell the bucket itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bucket_fit import BucketSearch
from .evidence import SECOND
from .probing import Probing
from .stretches import SHORT

if TYPE_CHECKING:
    from .evidence import Evidence
    from .probing import Held
    from .stretches import Stretches
    from .timing import Timing

_FIRST_STEP, _LARGEST_STEP = 0.1, 0.15
_STARTS = 14  # held back before the next step
# Each time that a pace is found again halves the steps, and doubles the starts before them: the first _MOST_CERTAIN times. The
# starts after a refused step are doubled the first _RAREST times.
_MOST_CERTAIN, _RAREST = 3, 5
_WORTH = 50  # starts before the next step, at least, for each that was lost while the API asked to wait
_NEVER = 1e9  # starts
_SHORTEST_WINDOW, _LONGEST_PATIENCE = 1.0, 5.0  # seconds: for so long may go well what is too fast
_SAME = 0.85  # paces are the same if one is no less than this part of the other
_SLIGHTLY = 1.01  # times slower than a bucket refills, as calls are late
_SLOWER = 1.03  # times slower than a pace that was refused, or than what is counted by the second, as calls are late
_ALMOST = 16  # a second is full even if a sixteenth of what is allowed in it is left
# A pace that is so many times slower than what was admitted for some seconds, not long ago, is probed by doubling it, after _FEW
# starts, or _FEWEST if it is a guess: an API that was down for a while is used again soon.
_FAR, _FEW, _FEWEST = 2.0, 5, 2
# With more seconds than _SLOW between starts, a pace may have been learned while the API was hardly there: it is doubted soon. If
# it is that slow because the API was closed for long, _TRIED_AT_ONCE of those seconds are tried at once.
_SLOW, _TRIED_AT_ONCE = 8.0, 0.15
FASTEST = 1e-6  # seconds between starts, which nobody notices: by a coarse clock, or those of two loops, there may be none
# Of the starts that a pace allows in the time of _SPAN of them: if so many are made, it is the pace that holds them back.
_IN_USE, _SPAN = 0.85, 10
_HALF = 0.5  # a start: to try sooner than that after a refusal is in vain


class LearnedPace(Probing):
    """A pace, and what is known of how it was found, which lasts while none is held.

    Args:
        evidence: the starts there were, and the refusals.
        timing: how long calls and refusals take.
        stretches: what was admitted between refusals.

    Attributes:
        is_refilled: whether it is what a bucket refills, which explains when calls were refused.
    """

    is_window = False

    def __init__(self, evidence: Evidence, timing: Timing, stretches: Stretches) -> None:
        super().__init__(evidence, timing)
        self._stretches = stretches
        self._buckets = BucketSearch(evidence)
        self.is_refilled = False
        self._a_second: int | None = None  # starts, if they are counted by the second
        self._found_before = 0.0
        self._times_found = 0  # or returned to
        self._is_guess = False  # from a few starts, or a time in which the API may hardly have been there
        self._cycle = 0.0  # the last one
        self._fast_since: float | None = None  # when it was first made faster than it was found
        self._patience = _SHORTEST_WINDOW

    @property
    def gap(self) -> float:
        """Seconds in which half a start is allowed."""
        return _HALF * self.seconds

    @property
    def is_well_known(self) -> bool:
        """Whether it is what a bucket refills, as refusals tell."""
        return self.is_refilled

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        at = self._opens_at(now)
        if at > now:
            self._due = at
        return at

    def started(self, now: float, level: int) -> None:
        """Stamp a start, and probe a faster pace when enough of them were held back."""
        is_held_back = self._was_held_back(now)
        is_beyond = self.is_probing and not self._allows(*self._good, now)
        self._evidence.started(now, level)
        if is_beyond:
            if self._beyond_since is None:
                self._beyond_since = now
            self._beyond += is_held_back
            starts, patience = self._proof
            if self._beyond >= starts and now > self._known_at + patience:
                self._step = min(2 * self._step, _LARGEST_STEP)
                if self.is_refilled:  # all that such a bucket could have saved up was used: it is none
                    self.is_refilled, self._is_guess = False, True
                self._probe()
        elif is_held_back and not self.is_probing:
            self._held_back += 1
            if self._held_back >= self._after:
                self._fast_since = now if self._fast_since is None else self._fast_since
                self._probe()

    def _probe(self) -> None:
        self._good = (self.count, self.seconds)
        self._step = 1.0 if self._is_far else min(self._step, _LARGEST_STEP)
        self.seconds /= 1 + self._step
        self._end_step()

    @property
    def _proof(self) -> tuple[float, float]:
        """Starts beyond what is known, and seconds, after which a probe is believed."""
        if self._is_guess:
            return _FEWEST, _SHORTEST_WINDOW
        if self._is_far:
            return _FEW, _SHORTEST_WINDOW
        # What a bucket has saved up admits a faster pace until it is used up.
        bucket = self._buckets.found if self.is_refilled and self._times_found else None
        return max(_STARTS, bucket.burst / self._step if bucket is not None else 0), self._patience

    @property
    def _is_far(self) -> bool:
        return self._is_guess or (self._good[1] > _FAR * self._stretches.fastest and not self.is_refilled)

    def explains(self, started: float) -> bool:
        """Return whether a refusal is no more than what a pace that is used to the full is corrected by."""
        return self.is_beyond(started) or self.is_in_use(started) or self.is_full(started)

    @property
    def is_by_the_second(self) -> bool:
        """Whether it is known how many starts are allowed in a second."""
        return self._a_second is not None

    def is_full(self, started: float) -> bool:
        """Return whether all that is allowed in a second, as far as that is known, was used in the one before."""
        count = self._a_second
        return count is not None and self._evidence.between(started - SECOND, started) >= count - max(1, count // _ALMOST)

    def correct(self, started: float, wait: float = 0.0) -> None:
        """Slow down after the refusal of a call, for which the API asked to wait so many seconds."""
        if self.is_probing and self._is_far:
            after = min(2 * self._after, _STARTS)  # or what was admitted before it was slow would be tried again and again
            self.hold(self._good[1])
            self._after = after
            return
        if self.is_probing:
            self._times_found += 1
            self.hold(self._good[1], 2 ** min(self._times_found, _MOST_CERTAIN))
            self._after = self._rarer(_STARTS * 2 ** min(self._times_found, _RAREST), wait)
            return
        if self.is_full(started):
            self.hold(_SLOWER * self._good[1], 2**_MOST_CERTAIN)
        else:
            self.seconds = self._good[1]
            self._refit(started)
        if not self._is_far:
            self._after = self._rarer(self._after, wait)
        self._stretches.ended(started)

    def _refit(self, refused: float) -> None:
        """Correct a pace by what is known since it was refused."""
        was_refilled = self.is_refilled
        if self.find_bucket(refused):
            return
        if was_refilled:
            self.hold(_SLOWER * self.seconds, 2**_MOST_CERTAIN)
            return
        self._look_anew(refused)
        self._find_again(refused, self, cycle=0.0)

    def _rarer(self, after: int, wait: float) -> int:
        """Return the starts before the next step, after one that cost a wait of so many seconds."""
        return max(after, int(min(_WORTH * wait / self.seconds, _NEVER)))

    def hold(self, seconds: float, certainty: int = 1) -> None:
        """Allow one start in so many seconds, and probe it the more carefully the more certain it is."""
        self._stretches.look_back()
        seconds = max(seconds, FASTEST)
        self.seconds = seconds
        self._good = (self.count, seconds)
        self._is_guess = seconds > _SLOW
        self._step, self._after = _FIRST_STEP / certainty, _STARTS * certainty
        if self._is_far:
            self._step, self._after = 1.0, (1 if self._is_guess else _FEW)
        self._end_step()

    def hold_by_the_second(self, count: int) -> None:
        """Allow so many starts in any second."""
        self._a_second, self.is_refilled = count, False
        self.hold(_SLOWER * SECOND / count, 2**_MOST_CERTAIN)

    def find_bucket(self, until: float) -> bool:
        """Hold what a bucket refills, if one explains the refusals up to now; return whether one does."""
        bucket = self._buckets.look(until)
        self.is_refilled = bucket is not None
        if bucket is None:
            return False
        self._be_more_patient(until)
        self._hold_found(_SLIGHTLY / bucket.rate, is_news=self._buckets.is_news)
        if not self._is_guess:
            self._step = _FIRST_STEP
        return True

    def find(self, until: float, *, before: Held | None, reopened: float, cycle: float) -> bool:
        """Hold what was admitted since a refusal before; return whether it can be told.

        Args:
            until: when a refusal ended a stretch in which all that was allowed was used.
            before: what was held in it.
            reopened: when the first call was admitted again.
            cycle: seconds for each start from the time before that it was reopened to this one, if it was tried often; else 0.
        """
        self._look_anew(until)
        if before is not None:
            self._find_again(until, before, cycle)
            return True
        told = self._stretches.told(until, reopened)
        if told is None:
            return False
        if told.is_guess:
            self.hold(told.seconds)
            self._is_guess, self._step, self._after = True, 1.0, _FEW
        else:
            self._hold_found(told.seconds)
        return True

    def _look_anew(self, refused: float) -> None:
        """Look for a pace, and not first for the bucket that was found."""
        self._buckets.forget()
        self._be_more_patient(refused)

    def _find_again(self, until: float, before: Held, cycle: float) -> None:
        """Hold what was admitted though `before` was held: slower than that for sure, if it was this pace."""
        measured = self._stretches.measured(until)
        if measured is None:
            self._slow_down(until, before.seconds / before.count, cycle)
        else:
            self._hold_found(max(measured, _SLOWER * self.seconds) if before is self else measured)

    def _hold_found(self, seconds: float, *, is_news: bool = True) -> None:
        """Hold a pace, the more certain the more often it was found, if that is news."""
        was_found = _SAME * self._found_before < seconds < self._found_before / _SAME
        self._times_found = self._times_found + is_news if was_found else 0
        self._found_before = seconds
        self.hold(seconds, 2 ** min(self._times_found, _MOST_CERTAIN))

    def _slow_down(self, until: float, known: float, cycle: float) -> None:
        """Correct what was held by a few starts, too few to measure a pace."""
        self.hold(max(self._stretches.slowed(until, known), cycle))
        if cycle > max(SHORT, _FAR * known, _FAR * self._cycle):  # the API may have been down for as long, too
            self._is_guess, self._after = True, 1
            self.seconds *= _TRIED_AT_ONCE if self.seconds > _SLOW else 1
        self._cycle = cycle

    def _be_more_patient(self, refused: float) -> None:
        """Try a pace, before it is believed, for as long as one went well that was refused later."""
        if self._fast_since is not None:
            self._patience = min(max(self._patience, refused - self._fast_since), _LONGEST_PATIENCE)
            self._fast_since = None

    def is_in_use(self, now: float) -> bool:
        """Return whether it, and nothing else, held back the starts of late."""
        span = max(2 * (self._timing.latency or 0.0), _SPAN * self.seconds)
        return self._evidence.between(now - span, now) >= _IN_USE * span / self.seconds

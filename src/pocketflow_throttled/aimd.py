"""The adaptive rule: how many calls at once, and how fast, when nobody knows what an API allows.

Pure: what happened goes in with its time in seconds, limits come out. AIMD (additive increase, multiplicative decrease) in
outline, as TCP has it, with what an API needs beyond it:

* One cut per congestion event: a refusal of a call that started before the last cut only says again what is known (RFC 3168,
  section 6.1.2).
* A refusal with f others under way says that the cap is at most f. That ceiling is remembered: back to it fast, beyond it one
  small probe at a time, more and more rarely (CUBIC, RFC 9438, does the same). A refused probe costs that call and cuts nothing.
* Refused with nothing under way, it is a rate and not a cap. Fewer at once is the wrong answer to that: see LearnedRate.
* After a refusal one call tries first. Not refused for as long as a refusal takes, it was admitted.
* Starts beyond proven ground are spaced by about the time a refusal takes: the first 429 is back before ten more are sent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .adaptivity import Change
from .evidence import Closing
from .learned_rate import LearnedRate
from .timing import Timing

if TYPE_CHECKING:
    from .adaptivity import Adaptive

_RAREST_PROBE = 160  # successes between two probes: what watching for a rising cap may cost is a refused call in so many
_HISTORY = 1000
_DEAREST = 20  # times as rare, at the most, where a probe costs more than its call
_CONFIRMED = 10  # starts beyond a ceiling, none refused, that lift it
_DOUBTED = 3  # successes before a new ceiling is tried for the first time: a burst may have been refused, not a level
_SHORT_HINT = 2.0  # seconds: many an API asks for a second or two whatever it limits
_BELIEVED = 1  # times that such a hint is taken at its word
LIFT = 1.4
_DISPROVED = 2  # ceilings that turned out to be none: what refuses is no cap
_MOST_AT_ONCE = 15  # starts beyond proven ground in the time of one refusal, once as many went well


@dataclass(slots=True)
class _Before:
    """What was believed before a refusal, for the case that the limit of calls at once was not to blame."""

    target: int
    proven: int
    ceiling: int | None


class AdaptiveRule:
    """What a limiter asks before a start and tells after a call.

    Attributes:
        limit: calls at once, from `min_concurrent` to `max_concurrent`.
        opens_at: no start before that time, in seconds.
        trial: when the call started that tries whether the API admits calls again, if one does.
        ceiling: calls at once that were refused beyond; None: not known.
        rate: the rate that was found out, if any.
        history: the last 1,000 changes of the limit.
        successes, refusals, streak: counts of calls; the last, of successes without a retry in a row.

    Example:
        >>> from pocketflow_throttled import Adaptive
        >>> rule = AdaptiveRule(Adaptive(initial_concurrent=32, max_concurrent=50))
        >>> for level in range(1, 33):
        ...     rule.started(now=0.0, level=level)
        >>> for level in range(17, 33):
        ...     rule.refused(now=0.1, started=0.0, level=level)
        >>> rule.limit, rule.refusals
        (16, 16)
    """

    def __init__(self, settings: Adaptive) -> None:
        self.settings = settings
        self.history: deque[Change] = deque(maxlen=_HISTORY)
        self.reset()

    def reset(self) -> None:
        """Begin again as if nothing had been learned."""
        self.limit = self.settings.initial
        self.opens_at = -math.inf
        self.ceiling: int | None = None
        self._timing = Timing()
        self.rate = LearnedRate(self._timing)
        self.history.clear()
        self.successes = self.refusals = self.streak = 0
        self._target = 0  # calls at once to return to without probing
        self._step = 1  # of a probe
        self._probe_after = 2 * self.settings.recovery_threshold
        self._earned = 0  # successes in use since the last change
        self._beyond = 0  # of those, beyond the ceiling
        self._last_cut = -math.inf
        self._proven = 0  # calls at once that were admitted
        self._unproven_starts = 0
        self._cycle: float | None = None  # when the first call was admitted after the last closing
        self._closing: Closing | None = None
        self._before = _Before(0, 0, None)
        self.trial: float | None = None
        self._trial_level = 0
        self._trial_due = 0.0  # when it was allowed; it may have waited for a slot since
        self._beyond_since: float | None = None
        self._climbed = 0  # probes that went well since bursts are held back
        self._is_cap = False  # whether it was refused beyond the ceiling without a burst too
        self._disproved = 0.0
        self._shut_for = 0.0
        self._base = 1

    def forget_times(self) -> None:
        """Forget the pauses and the learned rate; the limit of calls at once stays."""
        self.opens_at = -math.inf
        self.rate = LearnedRate(self._timing)
        self._cycle = self._closing = self.trial = None

    def set_limit(self, now: float, limit: int) -> None:
        """Set calls at once by hand. Raises ValueError beyond min..max."""
        least, most = self.settings.min_concurrent, self.settings.max_concurrent
        if not least <= limit <= most:
            raise ValueError(f"max_concurrent must be within {least}..{most}, the bounds of the adaptive rule, got {limit}")
        self._change(now, limit, "set")

    @property
    def reason(self) -> str:
        """Why the limit is what it is."""
        return self.history[-1].reason if self.history else "initial"

    def set_settings(self, now: float, settings: Adaptive) -> None:
        """Go on with other settings and what was learned."""
        self.settings = settings
        self._change(now, self.limit, "settings")

    # --- what the limiter asks and tells

    def may_start(self, now: float) -> bool:
        """Return whether a call may start `now`, as far as pauses, spacing and the learned rate go."""
        if now < self.opens_at:
            return False
        if self.trial is not None:  # not refused in the time of a refusal
            self._reopen(now, self.trial)
            self.opens_at = self.rate.opens_at(now)
        return now >= self.opens_at

    def started(self, now: float, level: int) -> None:
        """Take note of a start, the `level`-th call under way."""
        if self._cycle is None:
            self._cycle = now
        rate, due = self.rate, self.opens_at
        rate.started(now, level)
        self.opens_at = rate.opens_at(now)
        if self._closing is not None:
            self.trial, self._trial_level = now, level
            self._trial_due = min(now, max(self._closing.last, due))
            self.opens_at = now + self._timing.unrefused_after
            return
        if level > self._proven:
            self.opens_at = max(self.opens_at, now + self._timing.spacing / (1 + self._unproven_starts * (self.successes > 0)))
            self._unproven_starts = min(self._unproven_starts + 1, _MOST_AT_ONCE)
        if self.ceiling is not None:
            if level > self.ceiling:
                self._beyond_ceiling(now)
            self.opens_at = max(self.opens_at, now + self._timing.refill(self.limit))

    def unsent(self, stamp: float) -> None:
        """Take back a start whose call was never sent."""
        self.rate.evidence.forget(stamp)
        if self.trial == stamp:
            self.trial = None
            self.opens_at = stamp

    def succeeded(self, now: float, started: float, level: int, *, in_use: bool, clean: bool) -> None:
        """Take note of a call that was served.

        Args:
            now: when.
            started: when it started.
            level: how many were under way then, itself included.
            in_use: whether the limit was reached at some moment while it ran.
            clean: whether it was served at the first attempt; else it is no evidence of room.
        """
        self.successes += 1
        rate = self.rate
        self._timing.served(now - started)
        if rate.held is not None:
            rate.succeeded(started)
        if self._closing is not None:
            if self.trial is None or started < self.trial:
                if self._closing.tries == 1 and in_use and self._closing.hinted_until == 0.0 and self.limit < self._target:
                    self._change(now, self.limit + 1, "return to what was proven")
                return
            self._reopen(now, self.trial)
            self.opens_at = self.rate.opens_at(now)
        if self.opens_at > now and rate.held is None:  # spaced by a guess, before any call had told how long one takes
            self.opens_at = min(self.opens_at, now + self._timing.spacing)
        if not clean:
            return
        self.streak += 1
        self._proven = max(self._proven, level)
        if in_use and (self.limit < self.settings.max_concurrent or self.ceiling is not None):
            self._grow(now)

    def refused(self, now: float, started: float, level: int, hint: float | None = None, at_most: float = math.inf) -> None:
        """Take note of a call that was refused.

        Args:
            now: when.
            started: when it started.
            level: how many were under way then, itself included.
            hint: seconds for which the API asked to wait; None: it did not say.
            at_most: seconds to wait if it did not.
        """
        self.refusals += 1
        self.streak = self._earned = self._unproven_starts = 0
        self.rate.evidence.forget(started)
        self._timing.refused(now - started)
        if started <= self._last_cut:
            return
        self.rate.evidence.refused_at(started, level)
        if self._closing is None and self.rate.is_pace and (cap := self.rate.evidence.cap()) is not None and cap < self.limit:
            self.rate.drop()
            self.ceiling = self._target = cap
            self._step, self._disproved, self._climbed = 1, 0.0, 0
            self._probe_after = 2 * self.settings.recovery_threshold
            self._last_cut = now
            self._change(now, cap, "it was a cap")
            self.opens_at = now + (self._timing.first_gap if hint is None else hint)
            return
        cost = 1 + (hint or 0.0) * self.limit / (self._timing.latency or 1.0)
        if self._closing is None and (
            (self._climbed and self.rate.absorbs(started, cost))
            or self._ends_probe(now, level, hint)
            or self.rate.absorbs(started, cost)
        ):
            self._last_cut = now
            self.opens_at = max(
                self.rate.opens_at(now), now + (max(self._timing.first_gap, self.rate.gap) if hint is None else hint)
            )
            return
        self._cut(now, started, level, hint, at_most)

    # --- up

    def _grow(self, now: float) -> None:
        if self.limit < self._target:
            self._change(now, self.limit + 1, "return to what was proven")
            return
        self._earned += 1
        settings = self.settings
        if self.ceiling is None:
            if self._earned >= settings.recovery_threshold:
                self._change(now, max(self.limit + 1, int(self.limit * settings.recovery_factor)), "successes in a row")
        elif self._beyond >= _CONFIRMED and self.limit > self.ceiling:
            self.ceiling = self._target = self.limit  # it was none: the next step is twice as large, and at once
            self._step *= 2
            self._disproved += 1
            self._climbed += 1
            self.rate.widen((self.limit + self._step) / self.limit)
            self._change(now, self.limit + self._step, "probe went well")
        elif self._earned >= self._probe_after and self.limit <= self.ceiling:
            self._change(now, max(self.ceiling, self.limit) + self._step, "probe")

    def _beyond_ceiling(self, now: float) -> None:
        """Count the starts beyond the ceiling before which others were not refused for as long as a refusal takes."""
        if self._beyond_since is None:
            self._beyond_since = now
        elif now > self._beyond_since + 1.5 * (self._timing.refusal or 0.0):
            self._beyond += 1

    # --- down

    def _ends_probe(self, now: float, level: int, hint: float | None) -> bool:
        """Return whether a refusal only ends a probe beyond the ceiling; it is taken back then."""
        # While one call probes, another may arrive before it and leave it, or itself, no room.
        if self.ceiling is None or not (level > self.ceiling or (self.limit > self.ceiling and level > 0.8 * self.ceiling)):
            return False
        self._step = 1
        self._disproved = max(0.0, self._disproved - 0.5)
        if not self.rate.is_smoothing and not self._is_cap:
            self.rate.smooth(now)
            self._climbed = 0
        elif self.rate.is_smoothing:
            self._is_cap = True
            self.rate.roughen()
        if self._is_cap or not self.rate.is_smoothing:
            # A probe that makes the API ask for a pause costs all the calls of that time.
            cost = 1 + (hint or 0.0) * self.limit / (self._timing.latency or 1.0)
            rarest = int(_RAREST_PROBE * max(1.0, min(cost, _DEAREST)))
            self._probe_after = min(max(2 * self.settings.recovery_threshold, int(2 * min(cost, 4) * self._probe_after)), rarest)
        self._proven = min(self._proven, level - 1)
        self._change(now, self.ceiling, "probe refused")
        return True

    def _cut(self, now: float, started: float, level: int, hint: float | None, at_most: float) -> None:
        others = level - 1
        closing = self._closing
        if closing is None:
            self._before = _Before(max(self.limit, self._target), self._proven, self.ceiling)
            opened = started if self._cycle is None else self._cycle
            self._closing = closing = Closing(opened, since=started)
        closing.tries += 1
        closing.level = level
        closing.last = started
        if hint is not None:
            closing.hinted_until = started + hint
        tells_window = hint is not None and hint > max(_SHORT_HINT, 2 * (self._timing.latency or 0.0))
        closing.is_rate = closing.is_rate or others == 0 or tells_window or closing.tries >= 4 or (self._disproved >= _DISPROVED and self._before.target >= LIFT * self._base)
        self.rate.refused(started)
        self._is_cap = False
        new = max(self.settings.min_concurrent, int(self._limit_at(started) * self.settings.backoff_factor))
        self.ceiling = self._target = max(others, new)
        self._base = self.ceiling
        self._proven = min(self._proven, max(others, 1))
        self._step = 1
        self._probe_after = _DOUBTED if self.ceiling != self._before.ceiling else 2 * self.settings.recovery_threshold
        self.trial = None
        self._last_cut = now
        self._change(now, new, "refused")
        least = max(self.rate.gap, min(0.4 * self._shut_for, 10.0)) if others == 0 and self.rate.count is None else self.rate.gap
        gap = self._timing.gap(now, closing.opened, closing.tries, least)
        if hint is None:
            self.opens_at = now + min(gap, at_most)
        elif hint > _SHORT_HINT:
            self.opens_at = now + hint
        else:  # asked for again and again, it is no word on when
            self.opens_at = now + max(hint, min(gap, at_most, hint * (closing.tries - _BELIEVED)))

    def _limit_at(self, started: float) -> int:
        """Return the limit that let a call start: what others raised since was no part of what was refused."""
        limit = self.limit
        for change in reversed(self.history):
            if change.time <= started:
                break
            limit = change.old
        return min(limit, self.limit)

    def _reopen(self, now: float, at: float) -> None:
        """Blame what explains the refusals, now that calls are admitted again since the one that started at `at`."""
        assert self._closing is not None
        closing, self._closing, self.trial = self._closing, None, None
        self._shut_for = at - closing.since
        closing.is_rate = closing.is_rate or self._trial_level >= closing.level
        if self.rate.explain(closing, self._trial_due):
            self.ceiling, self._target, self._proven = self._before.ceiling, self._before.target, self._before.proven
            self._cycle = at
            self._change(now, self._target, "it was a rate")
        elif self._before.ceiling is not None and self.ceiling is not None and self.rate.is_unexplained:
            # Refused below a ceiling that was known: the network blurs it, so stay clear of it.
            self.ceiling = self._target = max(self.limit, self.ceiling - max(1, self.ceiling // 16))

    def _change(self, now: float, new: int, reason: str) -> None:
        new = max(self.settings.min_concurrent, min(self.settings.max_concurrent, new))
        self._earned = self._beyond = 0
        self._beyond_since = None
        if new != self.limit:
            self.history.append(Change(now, self.limit, new, reason))
            self.limit = new

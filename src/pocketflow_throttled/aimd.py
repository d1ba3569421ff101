"""The adaptive rule: how many calls at once, and how fast, when nobody knows what an API allows.

Pure: what happened goes in with its time in seconds, limits come out. AIMD (additive increase, multiplicative decrease) in
outline, as TCP has it, with what an API needs beyond it:

* One cut per congestion event: a refusal of a call that started before the last cut only says again what is known (RFC 3168,
  section 6.1.2).
* A refusal with f others under way says that the cap is at most f. That ceiling is remembered: back to it fast, beyond it one
  small probe at a time, more and more rarely (CUBIC, RFC 9438, does the same). A refused probe costs that call and cuts nothing.
* Refused with nothing under way, it is a rate and not a cap. Fewer at once is the wrong answer to that: see LearnedRate.
* An API that says that it is overloaded teaches no rate: once it was down, all is as before.
* A rate may look like a ceiling, as it refuses calls that come too soon after others. So the first probes start as far from the
  last call as if all started evenly: only when such a one is refused is it surely a ceiling.
* After a refusal one call tries first. Not refused for as long as a refusal takes, it was admitted.
* A refusal that stands alone among many calls admitted at that level proves no limit lower than believed: it cuts nothing.
* Starts beyond proven ground are spaced by about the time a refusal takes: the first 429 is back before ten more are sent. After
  a refusal only calls that are still under way are such ground: what waited comes one by one, then ever closer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .blame import Blame
from .closing import Before, Closing, RefusedCall
from .moving_limit import MovingLimit
from .timing import Timing

if TYPE_CHECKING:
    from .adaptivity import Adaptive

_IDLE = 1.0  # seconds in which nobody asked to call, though the rule held none back: they tell nothing of what is allowed
_APART = 0.9  # of the seconds between even starts: a call that comes so long after another is not refused for coming too soon
_MOST_AT_ONCE = 10  # starts beyond proven ground in the time of one refusal, once as many went well


class AdaptiveRule(MovingLimit):
    """What a limiter asks before a start and tells after a call.

    Attributes:
        opens_at: no start before that time, in seconds.
        beyond_at: no start beyond what is known before that time, as `opens_for` tells; who only fills a free slot need not wait.
        trial: when the call started that tries whether the API admits calls again, if one does.
        rate: the rate that was found out, if any.
        refusals: calls that were refused.

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
        super().__init__(settings)
        self.reset()

    def reset(self) -> None:
        """Begin again as if nothing had been learned."""
        self._start_again()
        self.opens_at = self.beyond_at = self._unproven_at = -math.inf
        self._timing = Timing()
        self._blame = Blame(self.settings, self._timing)
        self._ceiling, self.rate = self._blame.ceiling, self._blame.rate
        self.refusals = 0
        self._earned = 0  # successes in use since the last change
        self._last_cut = self._last_end = self._last_start = -math.inf
        self._sure_since: float | None = -math.inf  # the first start after the last refusal; None: there was none since
        self._proven = self._sure = 0  # calls at once that were ever admitted, and since the first start after the last refusal
        self._unproven_starts = 0
        self._cycle: float | None = None  # when the first call was admitted after the last closing
        self._closing: Closing | None = None
        self.trial: float | None = None
        self._trial_level = 0

    def forget_times(self) -> None:
        """Forget the pauses and the learned rate; the limit of calls at once stays."""
        self.opens_at = self.beyond_at = self._unproven_at = -math.inf
        self._blame.forget_times()
        self.rate = self._blame.rate
        self._cycle = self._closing = self.trial = None

    def end_pause(self, now: float) -> None:
        """Let a call try `now`, or as soon as the learned rate allows."""
        self.opens_at = min(self.opens_at, self.rate.opens_at(now))

    def set_settings(self, now: float, settings: Adaptive) -> None:
        """Go on with other settings and what was learned."""
        self.settings = settings
        self._blame.set_settings(settings)
        self._change(now, self.limit, "settings")

    def opens_for(self, level: int) -> float:
        """Return before what time a call may not start that would be the `level`-th under way."""
        opens_at = self.opens_at if level <= self._sure else max(self.opens_at, self._unproven_at)
        if not self._ceiling.keeps_apart(level):
            return opens_at
        return max(opens_at, self._last_start + self._timing.between(level))

    def called(self, now: float) -> None:
        """Take note that somebody asks to start a call while none is under way and nobody else waits."""
        if now > max(self._last_end, self.opens_at) + _IDLE:
            self._cycle = self._closing = self.trial = None
            self.rate.was_idle(now)
            self._last_end = now

    def may_start(self, now: float, level: int) -> bool:
        """Return whether the `level`-th call under way may start `now`, as far as pauses, spacing and the learned rate go."""
        if now < self.opens_at:
            return False
        if self.trial is not None:  # not refused in the time of a refusal
            self._reopen(now, self.trial)
        return now >= self.opens_for(level)

    def started(self, now: float, level: int) -> None:
        """Take note of a start, the `level`-th call under way."""
        if self._cycle is None:
            self._cycle = now
        if self._sure_since is None:
            self._sure, self._sure_since = min(self._proven, level), now
        self._last_start = now
        rate = self.rate
        held = rate.held
        if held is None:
            rate.evidence.started(now, level)
            self.opens_at = now
        else:
            held.started(now, level)
            self.opens_at = held.opens_at(now)
        if self._closing is not None:
            self.trial, self._trial_level = now, level
            self.opens_at = now + self._timing.unrefused_after
            return
        if level > self._sure:
            self._unproven_at = self.beyond_at = now + self._timing.beyond(self._unproven_starts, self.limit)
            self._unproven_starts = min(self._unproven_starts + 1, _MOST_AT_ONCE)
        if self._ceiling.level is not None:
            self._ceiling.started(now, level)
            if self._ceiling.keeps_apart(beyond := self._ceiling.level + 1):
                self.beyond_at = max(self.beyond_at, now + self._timing.between(beyond))
            self.opens_at = max(self.opens_at, now + self._timing.refill(self.limit))

    def unsent(self, stamp: float) -> None:
        """Take back a start whose call was never sent."""
        self.rate.evidence.unsent(stamp)
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
        self._last_end = now
        rate = self.rate
        self._timing.served(now - started)
        if rate.held is not None:
            rate.succeeded(started)
            if rate.held is None and self._closing is None:
                self.opens_at = now
        if self._closing is not None:
            if self.trial is None or started < self.trial:
                if self._closing.tries == 1 and in_use and not self._closing.is_asked and self.limit < self._ceiling.target:
                    self._change(now, self.limit + 1, "return to what was proven")
                return
            self._reopen(now, self.trial)
        if self._unproven_at > now and rate.held is None:  # spaced by a guess, before any call had told how long one takes
            self._unproven_at = min(self._unproven_at, now + self._timing.spacing)
            if self._ceiling.level is None:
                self.beyond_at = self._unproven_at
        if not clean:
            return
        if level > self._sure:
            admitted = rate.evidence.served_level(started, level)
            self._proven = max(self._proven, admitted)
            if self._sure_since is not None and started >= self._sure_since:
                self._sure = max(self._sure, admitted)
        if in_use and (self.limit < self.settings.max_concurrent or self._ceiling.level is not None):
            self._grow(now)

    def refused(
        self,
        now: float,
        started: float,
        level: int,
        hint: float | None = None,
        at_most: float = math.inf,
        *,
        is_of_limits: bool = True,
    ) -> None:
        """Take note of a call that was refused.

        Args:
            now: when.
            started: when it started.
            level: how many were under way then, itself included.
            hint: seconds for which the API asked to wait; None: it did not say.
            at_most: seconds to wait if it did not.
            is_of_limits: whether a limit may be the reason; else the API has too much to do, for whoever calls.
        """
        wait = hint or 0.0
        self.refusals += 1
        self._last_end = now
        self._sure_since = None
        self._earned = self._unproven_starts = 0
        evidence = self.rate.evidence
        level = evidence.log_refusal(started, now, level)
        self._timing.refused(now - started)
        if started <= self._last_cut and started != self.trial:
            return
        evidence.log_telling(started, level)
        evenly = self._timing.between(level)
        is_apart = 0 < _APART * evenly <= evidence.pause_before(started)
        refusal = RefusedCall(now, started, level, wait, is_apart, is_of_limits)
        if self._closing is None:
            verdict = self._blame.explain(refusal, self.limit, self._proven)
            if verdict is not None:
                self._last_cut = now
                self._change(now, verdict.limit, verdict.reason)
            if verdict is not None or self._blame.tells_nothing(refusal):
                self.opens_at = max(self.rate.opens_at(now), now + (wait or max(self._timing.first_gap, self.rate.gap)))
                return
        self._cut(refusal, at_most)

    def _grow(self, now: float) -> None:
        ceiling, settings = self._ceiling, self.settings
        if self.limit < ceiling.target:
            self._change(now, self.limit + 1, "return to what was proven")
            return
        self._earned += 1
        if ceiling.level is None:
            if self._earned >= settings.recovery_threshold:
                self._change(now, max(self.limit + 1, int(self.limit * settings.recovery_factor)), "successes in a row")
        elif ceiling.is_to_be_lifted(self.limit):
            ceiling.lift(self.limit)
            self._unproven_starts = 0
            self._change(now, self.limit + ceiling.step, "probe went well")
        elif ceiling.is_to_be_probed(self.limit, self._earned):
            ceiling.stands()
            self._change(now, ceiling.level + ceiling.step, "probe")

    def _cut(self, refusal: RefusedCall, at_most: float) -> None:
        settings, closing, started = self.settings, self._closing, refusal.started
        if closing is None:
            known = self._ceiling.level
            target = self._ceiling.target if known is not None else max(self.limit, self._ceiling.target)  # not a probe's limit
            opened = started if self._cycle is None else min(started, self._cycle)  # times may be forgotten while it runs
            self._closing = closing = Closing(
                opened, since=started, before=Before(target, self._sure, known, self._ceiling.probe_after)
            )
        closing.refused(refusal)
        new = max(settings.min_concurrent, int(self._limit_at(started) * settings.backoff_factor))
        self._blame.closed(closing, refusal, new)
        self.trial = None
        self._last_cut = refusal.now
        self._change(refusal.now, new, "refused")
        self.opens_at = refusal.now + closing.wait(refusal, self._timing, self.rate.gap, at_most)

    def _reopen(self, now: float, at: float) -> None:
        """Go on with what explains the refusals, now that calls are admitted again since the one that started at `at`."""
        assert self._closing is not None
        closing, self._closing, self.trial = self._closing, None, None
        evidence = self.rate.evidence
        closing.level = evidence.refused_level(closing.last, closing.level)
        closing.is_rate = closing.is_rate or evidence.served_level(at, self._trial_level) >= closing.level
        verdict = self._blame.reopened(closing, at, self.limit)
        if verdict is not None:
            self._cycle = at
            self._change(now, verdict.limit, verdict.reason)
        self.opens_at = self.rate.opens_at(now)

    def _change(self, now: float, new: int, reason: str) -> None:
        self._earned = 0
        self._ceiling.forget_probe()
        super()._change(now, new, reason)

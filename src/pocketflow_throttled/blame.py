"""Blame: what refusals are put down to, too many calls at once or too many in a time, and what is believed of both since.

Pure: times are arguments, in seconds. What proves no limit lower than believed is known at once: a probe went too far, a rate is
slightly slower than was held, or one limit was taken for the other. All else is known only when calls are admitted again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .asked import Asked
from .ceiling import Ceiling
from .chance import Chance
from .conclusions import is_alone
from .learned_rate import LearnedRate

if TYPE_CHECKING:
    from .adaptivity import Adaptive
    from .closing import Closing, RefusedCall
    from .timing import Timing

_FAR_BELOW = 0.5  # of the calls at once before: if it refuses with so few, it is no matter of these
_SURELY_A_RATE = 4  # refusals in a row, each of a call that tried alone


class Verdict(NamedTuple):
    """What to go on with.

    Attributes:
        limit: calls at once.
        reason: why, in words.
    """

    limit: int
    reason: str


class Blame:
    """What is believed of an API's limits.

    Args:
        settings: of the rule.
        timing: how long calls and refusals take.

    Attributes:
        ceiling: calls at once that were refused beyond.
        rate: starts in a time, if they are known to be limited.
    """

    def __init__(self, settings: Adaptive, timing: Timing) -> None:
        self._timing = timing
        self.ceiling = Ceiling(timing)
        self.set_settings(settings)
        self.forget_times()

    def set_settings(self, settings: Adaptive) -> None:
        """Go on with other settings."""
        self._least = settings.min_concurrent
        self.ceiling.rare = 2 * settings.recovery_threshold

    def forget_times(self) -> None:
        """Forget the rate, and what was meant by long waits."""
        self.rate = LearnedRate(self._timing)
        self._chance = Chance(self.rate.evidence)
        self._was_open_shortly = False
        self._asked = Asked(self._timing)

    def explain(self, refusal: RefusedCall, limit: int, proven: int) -> Verdict | None:
        """Return what to go on with after a refusal that proves no limit lower than believed; None: it does."""
        return (
            self._as_chance(refusal, limit)
            or self._as_rate(refusal, limit)
            or self._as_cap(refusal, limit)
            or self._as_never_admitted(refusal, limit, proven)
            or self._as_probe(refusal, limit)
        )

    def _as_chance(self, refusal: RefusedCall, limit: int) -> Verdict | None:
        """Of none: it refuses some calls, however many there are. One that names a wait has a reason."""
        if refusal.hint:
            return None
        is_found = not self.ceiling.is_probed_by(refusal.level, limit) and self._chance.refused(refusal.started, refusal.level)
        if is_found:
            self.rate.drop()
            self.ceiling.drop()
        known = refusal.started - self._timing.surely_refused_in  # what started since may be refused as well
        return Verdict(limit, "no limit is the reason") if is_found or self._chance.explains(known) else None

    def _as_rate(self, refusal: RefusedCall, limit: int) -> Verdict | None:
        """Of a rate by the second, or a bucket, where a cap was thought to be the reason.

        If calls take about as long, a cap admits as many in any second, too, and who counts by it need ask for no longer wait. If
        one does, both are held, and the ceiling is lifted soon if it is none. So it is where a bucket is the reason of some.
        """
        ceiling = self.ceiling
        if (refusal.is_long and ceiling.is_probed_by(refusal.level, limit)) or not self.rate.find_by_refusals(refusal.started):
            return None
        if self.rate.is_bucket:
            if ceiling.level is not None:
                ceiling.found(ceiling.level, is_doubted=True)
            return Verdict(limit, "it was a rate")
        if not refusal.is_long:
            ceiling.drop()
            return Verdict(limit, "it was a rate")
        level = max(self._least, refusal.level - 1)
        if ceiling.level is None or level < ceiling.level:
            ceiling.found(level, is_doubted=True)
        return Verdict(ceiling.target, "it may be a rate")

    def _as_cap(self, refusal: RefusedCall, limit: int) -> Verdict | None:
        """Of a cap that the levels of the last refusals tell, where a pace was thought to be the reason."""
        cap = self.rate.tells_cap(refusal.started)
        if cap is None or cap >= limit or self.ceiling.is_probed_by(refusal.level, limit):
            return None
        self.rate.drop()
        self.ceiling.found(cap, is_doubted=False)
        return Verdict(cap, "it was a cap")

    def _as_never_admitted(self, refusal: RefusedCall, limit: int, proven: int) -> Verdict | None:
        """Of a window that is probed with more at once than were ever admitted: either may be the reason.

        Fewer are tried then, as that costs least, and the window is probed with those.
        """
        if (
            self.ceiling.level is not None
            or refusal.level <= max(proven, 1)
            or self._asked.tells_window(refusal)
            or not self.rate.probes_window(refusal.started)
        ):
            return None
        self.ceiling.found(max(self._least, refusal.level - 1), is_doubted=True)
        return Verdict(min(limit, self.ceiling.target), "never admitted")

    def _as_probe(self, refusal: RefusedCall, limit: int) -> Verdict | None:
        """Of a probe beyond the ceiling, or beyond a rate, that is taken back."""
        ceiling, rate = self.ceiling, self.rate
        if self._asked.is_news(refusal) and not rate.probes_window(refusal.started):
            return None
        is_probe = ceiling.is_probed_by(refusal.level, limit) or ceiling.went_too_far(refusal.level)
        if ceiling.level is None or not is_probe:
            return Verdict(limit, "the rate was corrected") if rate.correct(refusal.started, refusal.hint) else None
        if refusal.level <= ceiling.level:  # else it is what was probed that refused
            rate.may_have_refused(refusal.started)
        ceiling.is_met = ceiling.is_met or refusal.is_apart
        ceiling.probe_refused(refusal.level)
        ceiling.probe_more_rarely(self._timing.cost(refusal.hint, limit))
        return Verdict(min(limit, ceiling.level), "probe refused")

    def tells_nothing(self, refusal: RefusedCall) -> bool:
        """Return whether a refusal stands alone among many calls that were admitted at its level."""
        known = refusal.now - self._timing.surely_refused_in  # what started since may be refused as well
        return is_alone(self.rate.evidence, refusal.level, known) and not self._asked.tells_window(refusal)

    def closed(self, closing: Closing, refusal: RefusedCall, new: int) -> None:
        """Take note of a refusal that cuts calls at once to `new`."""
        is_asked = self._asked.tells_window(refusal)
        closing.is_asked = closing.is_asked or is_asked
        is_rate = is_asked and refusal.is_of_limits
        if refusal.level == 1 or is_rate or closing.tries >= _SURELY_A_RATE or self.ceiling.is_disproved:
            closing.is_rate = True
        self.rate.refused(refusal.started)
        ceiling = max(refusal.level - 1, new)
        self.ceiling.found(ceiling, is_doubted=ceiling != closing.before.ceiling)
        self.ceiling.is_met = refusal.is_apart

    def reopened(self, closing: Closing, at: float, limit: int) -> Verdict | None:
        """Return what explains the refusals, if no cap does, now that the call was admitted that started at `at`."""
        ceiling, rate, asked = self.ceiling, self.rate, self._asked
        closing.is_rate = closing.is_rate or closing.is_asked
        if self._was_down(closing, at):
            rate.evidence.forgive(closing.since)
            return self._as_before(closing, "it was down")
        if closing.is_asked and asked.try_fewer(closing, rate.evidence, at):
            rate.drop()
            level = max(self._least, min(ceiling.target, closing.level - 1))
            cost = asked.times * self._timing.cost(asked.seconds, level)
            ceiling.found(level, is_doubted=asked.times == 1, cost=cost)  # it may have been down for a moment
            limit = min(limit, level)
            ceiling.stay_clear(limit)
            return Verdict(limit, "as many as were admitted")
        explained = rate.explain(closing, at, asked.window)
        if explained.is_rate:
            return self._as_before(closing, "it was a rate")
        asked.heard(closing)
        if closing.before.ceiling is not None and explained.is_unexplained:
            ceiling.stay_clear(limit)
        return None

    def _as_before(self, closing: Closing, reason: str) -> Verdict:
        """Go back to what was believed before the API was closed."""
        before = self._asked.settle(closing)
        self.ceiling.go_back_to(before)
        return Verdict(before.target, reason)

    def _was_down(self, closing: Closing, until: float) -> bool:
        """Return whether it had too much to do, and refused whatever it was asked for. Some say so of a limit, time and again."""
        if closing.is_of_limits:
            return False
        is_short = not closing.was_open_for_long(until)
        is_again, self._was_open_shortly = is_short and self._was_open_shortly, is_short
        if is_short:
            return closing.level == 1 and not is_again
        return closing.is_rate or closing.level <= _FAR_BELOW * closing.before.target

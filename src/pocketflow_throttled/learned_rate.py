"""LearnedRate: a limit of starts in a time that nobody told, found out from what was admitted and what was refused.

Pure: `now` is an argument, in seconds. An API may count in windows (600 in any minute) or refill a bucket (10 a second), so
there are two ways to know a rate, a window or a pace, and one of them is held at a time. Either is a belief, and low at first,
since it was learned while the limit of calls at once still grew. So it is probed upwards: a step that was not refused is good
and the next one twice as large; one that is refused costs that call, and ends the probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .clock_fit import clock_that_explains, shuts_between
from .clock_window import ClockWindow
from .conclusions import starts_a_second, told_cap
from .evidence import Evidence
from .learned_pace import FASTEST, LearnedPace
from .learned_window import LearnedWindow
from .stretches import Stretches
from .window_fit import window_that_explains

if TYPE_CHECKING:
    from .closing import Closing
    from .probing import Held
    from .timing import Timing
    from .window_fit import WindowFit

_MOST_ABSORBED = 2  # refusals in a row that only correct a rate; after more of them, all is closed
_OFTEN = 3  # tries, that tell that no call would have been admitted any earlier
_SHUTS = 4  # times in which it refused, that are remembered
_UNEXPLAINED = 2  # refusals that nothing explained, as of which a pace is measured all the same, or let go


class Explained(NamedTuple):
    """Whether a rate, which was learned, explains refusals, and whether nothing does that is known of rates."""

    is_rate: bool
    is_unexplained: bool


class LearnedRate:
    """The window or the pace that is believed to limit starts, once one is.

    Args:
        timing: how long calls and refusals take, kept up to date by the rule.

    Attributes:
        evidence: the starts there were, and the refusals.
        held: the window or the pace; None: no limit is known.

    Example:
        >>> from pocketflow_throttled.closing import Closing
        >>> from pocketflow_throttled.timing import Timing
        >>> rate = LearnedRate(Timing())
        >>> for start in range(10):
        ...     rate.evidence.started(float(start))
        >>> rate.evidence.log_to_explain(started=9.5)
        >>> rate.explain(Closing(opened=0.0, since=9.5, last=50.0, tries=9, is_rate=True), now=60.0).is_rate
        True
        >>> rate.held.count, round(rate.held.seconds, 1)  # ten are known to fit, and one more is tried at once
        (11, 60.3)
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.evidence = Evidence()
        self._stretches = Stretches(self.evidence, timing)
        self._pace = LearnedPace(self.evidence, timing, self._stretches)
        self.held: Held | None = None
        self._unexplained = 0
        self._absorbed = 0
        self._absorbed_at = 0.0

    @property
    def per_second(self) -> float | None:
        """Starts a second that the API is believed to allow; None: it is not known to limit them."""
        held = self.held
        return None if held is None or held.seconds <= FASTEST else held.count / held.seconds

    @property
    def gap(self) -> float:
        """Seconds in which no more than half a start is allowed: to try sooner after a refusal is in vain."""
        return 0.0 if self.held is None else self.held.gap

    def opens_at(self, now: float) -> float:
        """Return when the next start is allowed, given those there were."""
        return now if self.held is None else self.held.opens_at(now)

    def succeeded(self, started: float) -> None:
        """Take note that a call was served."""
        if self._absorbed and started > self._absorbed_at:
            self._absorbed = 0
        held = self.held
        if held is not None and held.is_window and held.succeeded(started):
            self.held = None

    def correct(self, started: float, wait: float = 0.0) -> bool:
        """Correct this rate by a refusal, with a wait that was asked for, if it tells no more; return whether it does not."""
        held = self.held
        if held is None:
            return False
        if held.is_disproved:
            self.held = None
            return False
        if held.correct_length(started):
            return True
        if self._absorbed >= _MOST_ABSORBED or not held.explains(started):
            return False
        self._absorbed += 1
        self._absorbed_at = started
        held.correct(started, wait)
        return True

    def may_have_refused(self, started: float) -> None:
        """Take note of a refusal that was put down to another limit: a probe of one that is well known ends, too."""
        held = self.held
        if held is not None and held.is_well_known and held.is_beyond(started):
            held.correct(started)

    def probes_window(self, started: float) -> bool:
        """Return whether a call only started because more may fit into a window than is known."""
        return self.held is not None and self.held.is_probed_by(started)

    def was_idle(self, until: float) -> None:
        """Take note that nobody called for a while, though nothing held a call back."""
        self._stretches.was_idle(until)

    def refused(self, started: float) -> None:
        """Take note of a refusal that any rate must explain."""
        self.evidence.log_to_explain(started)
        self._absorbed = 0

    def find_by_refusals(self, refused: float) -> bool:
        """Hold the rate by the second, or the bucket, that explains the last refusals, if one does; return whether it does."""
        if self.is_window or (self.is_pace and self._pace.is_by_the_second):
            return False
        count = starts_a_second(self.evidence)
        if count is not None:
            self._pace.hold_by_the_second(count)
        elif self.is_bucket or not self._pace.find_bucket(refused):
            return False
        self.held = self._pace
        return True

    def tells_cap(self, started: float) -> int | None:
        """Return the calls at once that the last refusals tell, if a pace that was held does not explain them."""
        return told_cap(self.evidence) if self.is_pace and not self._pace.is_full(started) else None

    def explain(self, closing: Closing, now: float, doubted: WindowFit | None = None) -> Explained:
        """Learn what explains a time of refusals that ended `now`; `doubted` explains that before."""
        pace, held, since, is_unexplained = self._pace, self.held, closing.since, False
        if closing.is_rate and closing.hinted_until > closing.last:
            self.evidence.told(closing.hinted_until)
        is_bucket = not self.is_window and pace.find_bucket(since)
        window = None if is_bucket else self._window(closing, now, doubted)
        if is_bucket:
            self.held = pace
        elif window is not None:
            self.held = window
        elif (
            closing.is_rate
            or (self.is_pace and pace.is_in_use(since))
            or (self._unexplained >= _UNEXPLAINED and self._stretches.can_be_measured(since))
        ):
            admitted = self.evidence.count_from(closing.opened, since)
            cycle = (now - closing.opened) / max(1, admitted) if closing.tries >= _OFTEN else 0.0
            if pace.find(since, before=held, reopened=now, cycle=cycle):
                self.held = pace
        else:
            if self.is_pace and self._unexplained >= _UNEXPLAINED:
                self.held = None  # it was not in use
            self._unexplained += 1
            is_unexplained = True
        is_rate = window is not None or closing.is_rate
        self._stretches.ended(now if self.is_window and is_rate else since)
        return Explained(is_rate, is_unexplained)

    def _window(self, closing: Closing, now: float, doubted: WindowFit | None) -> Held | None:
        """Return the window that explains best why calls were refused, if one does; by a clock, if none held prevented it."""
        if closing.is_rate:
            starts = list(self.evidence.starts)
            shuts = shuts_between(starts, self.evidence.shut_at)[-_SHUTS:]
            # Where nothing was held, two such times may be of two reasons.
            fit = clock_that_explains(starts, shuts) if len(shuts) > 1 + (self.held is None) and shuts[-1].opened == now else None
            if fit is not None:
                return ClockWindow(self.evidence, self._timing, fit, now)
        window = window_that_explains(self.evidence, closing, now) or (doubted if closing.is_rate else None)
        return None if window is None else LearnedWindow(self.evidence, self._timing, window)

    @property
    def is_window(self) -> bool:
        """Whether a window is held."""
        return self.held is not None and self.held.is_window

    @property
    def is_pace(self) -> bool:
        """Whether a pace is held."""
        return self.held is self._pace

    @property
    def is_bucket(self) -> bool:
        """Whether a pace is held that is what a bucket refills, which explains when calls were refused."""
        return self.is_pace and self._pace.is_refilled

    def drop(self) -> None:
        """Hold nothing: what was refused had another reason."""
        self.held = None
        self._unexplained = 0

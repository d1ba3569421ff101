"""Which window that counts back from each call, and that nobody told, explains when an API refused.

Pure: times are arguments, in seconds. An API was closed until a window had passed, or no usual length is at odds with a refusal.
Some count the calls that they refuse as well, and each of these takes the place of another for as long as a window.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .evidence import between

if TYPE_CHECKING:
    from .closing import Closing
    from .evidence import Evidence

# Providers count by the minute, and some by a few lengths around it: tried before any odd length. The longest comes first, since
# to believe in a shorter one costs a burst of refusals, and to doubt a longer one costs a call.
USUAL_WINDOWS = (300.0, 60.0, 30.0, 20.0, 15.0, 10.0, 5.0)
# How far the most that was admitted may exceed the least that was refused, and a window still explain both.
_EXACT, _NEARLY = 1.0, 1.02
_BARELY = 1.001
_LONGEST_SURE, _LONGEST_ODD = 120.0, 3600.0  # seconds
_LONG_ENOUGH = 61.0  # seconds, for an API to be down
_MANY = 10  # starts since it opened: fewer may be all that a bucket has
_FEW, _SHORT = 5, 10.0  # starts and seconds, below which a window is no more than a pace
_LONG = 0.1  # of the time that it was open: closed for longer, a window has ended, and no single place in it become free
_WIDEST = 0.1  # of a window, by which calls differ on their way at the most
# Seconds in which an API may count refused calls as well. Those that tried while it was closed would make other lengths seem to
# fit, or any time for which it was down, and so would they where they are not far fewer than all.
_COUNTING, _MORE = (300.0, 60.0), 2
_ROUNDED = 1  # starts, by which a window misfits whose end was told


@dataclass(frozen=True, slots=True)
class WindowFit:
    """A window that would explain what was admitted and what was refused.

    Attributes:
        seconds: its length.
        count: starts allowed in it.
        too_short: a length that was refused, so that the true one lies between; the same as `seconds` if it is exact.
        is_sure: whether all that was counted lay in one window; else it may allow more.
        is_doubted: whether an API that was down for a while would look the same.
        counts_refused: whether refused calls are counted as well.
    """

    seconds: float
    count: int
    too_short: float
    is_sure: bool
    is_doubted: bool = False
    counts_refused: bool = False


def window_that_explains(evidence: Evidence, closing: Closing, now: float) -> WindowFit | None:
    """Return the window that explains best why an API was closed until `now`, or None if none does."""
    window = _closed_for(evidence, closing, now) if closing.is_rate else None
    if window is not None or len(evidence.to_explain) < 2 or not evidence.starts:
        return window
    usual = [length for length in USUAL_WINDOWS if length <= (now - evidence.starts[0]) * _BARELY]
    found = _best(evidence, usual, list(evidence.to_explain), _EXACT)
    return None if found is None else WindowFit(*found[:2], found[0], False, closing.is_asked, found[2])


def _closed_for(evidence: Evidence, closing: Closing, now: float) -> WindowFit | None:
    """Return the window that a time tells for which an API was closed."""
    opened, shut = closing.opened, closing.shut_until
    at = bisect_right(evidence.starts, closing.since)
    since = evidence.starts[at - 1] if at else closing.since
    was_closed, was_open = shut - since, since - opened
    if was_closed <= 0 or was_closed < _LONG * was_open:
        return None
    # The length lies between the last refusal and the first admission, counted from the first call since it opened.
    longest = now - opened
    lengths = [*(length for length in USUAL_WINDOWS if length <= longest * _BARELY), longest]
    # Not the first refusal: calls that started just after it were admitted, if they were faster on their way.
    refusals = [*(refusal for refusal in evidence.to_explain if refusal > closing.since), shut - 1e-6]
    found = _best(evidence, lengths, refusals, _NEARLY)
    if found is None and evidence.between(opened, closing.since) >= _MANY:
        # Counted by the server's clock: what was admitted before it opened does not count, and two windows may meet.
        found = _best(evidence, lengths, refusals, _NEARLY, opened)
        if found is not None and evidence.most(found[0]) > 2 * found[1]:
            return None
    if found is None or not USUAL_WINDOWS[-1] <= found[0] <= _LONGEST_ODD:
        return None
    if found[1] < _FEW and found[0] < _SHORT:  # a pace admits as many, and is the sooner known better
        return None
    # Closed for longer than it was open, so all of what was open lies in one window. Or the API was down for so long.
    is_sure = was_closed >= was_open and found[0] <= _LONGEST_SURE
    is_doubted = found[0] not in USUAL_WINDOWS or found[0] > _LONG_ENOUGH or closing.is_asked or found[2]
    return WindowFit(*found[:2], shut - opened, is_sure, is_doubted, found[2])


def _best(
    evidence: Evidence, lengths: list[float], refusals: list[float], blur: float, since: float = -math.inf
) -> tuple[float, int, bool] | None:
    """Return the length that fits best, the first of several, its starts, and whether refused calls are among these.

    Those are counted only where it does not fit without them. No call counts before `since`.
    What started later than a refused call, or in the window before, may have arrived with it, as calls differ on their way.
    """
    best: tuple[float, float, int, bool] | None = None
    arrived, spread = [(refusal, evidence.arrived_by(refusal)) for refusal in refusals], evidence.spread
    for seconds in lengths:
        spans = [(refusal, max(refusal - seconds, since - 1e-9), by) for refusal, by in arrived]
        within = seconds - min(spread, _WIDEST * seconds) - 1e-6
        for counts_refused in (False, True) if seconds in _COUNTING and since == -math.inf else (False,):
            own = evidence.refused_starts if counts_refused else []
            least = min(evidence.between(after, by) + between(own, after, by) - (refusal in own) for refusal, after, by in spans)
            if least <= _MORE * len(own):
                continue
            # A full log takes long to look through, to no end.
            most = evidence.most(within, since, enough=blur * least, counts_refused=counts_refused)
            misfit = most / least
            if misfit > blur:
                continue
            if best is None or misfit < best[0]:
                # Who goes on trying while it is closed was refused though many more were counted than fit.
                best = (misfit, seconds, most if counts_refused else max(least, most), counts_refused)
            if most <= least + _ROUNDED:
                break
    return None if best is None else best[1:]

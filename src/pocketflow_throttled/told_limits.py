"""Told limits: those that headers name, put into the windows of a budget as far as the user allows.

Pure: it knows neither clock nor queue, and nothing of what is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .span import ALIKE, FULL_SECOND, SHORT, Span

if TYPE_CHECKING:
    from .budget import Budget
    from .headers import Kind, Quota

_HALF = 0.5  # of the window: resets of tokens that are longer may be those of the window itself
_ROUNDING = 1e-6  # of what is calculated back and forth
# Resets that told a window's length tell of something else if the server refuses at least _A_FEW calls in such a window, and has
# served no more than _HARDLY of the limit; or than _FEW requests, which are served also where a limit is small. Fewer refusals
# may be bad luck.
_HARDLY, _FEW, _A_FEW = 0.1, 2, 3


class ToldLimits:
    """The limits of a budget, as a server tells them.

    Args:
        budget: whose windows they are.
        asked: what the user set, and may set anew: what headers say may be less, and is never more.

    Attributes:
        spans: what is known of the windows whose lengths nobody tells.
    """

    def __init__(self, budget: Budget, asked: dict[Kind, int | None]) -> None:
        self._budget = budget
        self._asked = asked
        self.spans: dict[Kind, Span] = {"requests": Span(), "tokens": Span()}
        # When windows got the lengths that resets tell.
        self._length_since: dict[Kind, float] = {"requests": math.inf, "tokens": math.inf}

    def is_of_bursts(self, quota: Quota) -> bool:
        """Whether it tells of the bursts that the user set, as a bucket does: its own log keeps to these better."""
        burst = self._budget.burst
        if quota.kind == "tokens" or quota.window is not None or burst is None or burst == self._asked["requests"]:
            return False
        return quota.limit == burst or (quota.limit is None and (quota.remaining or 0) <= burst)

    def set(self, quota: Quota, now: float, active: int) -> bool:
        """Set a limit that is told, as far as the user allows, and return whether it only is a pace within the user's.

        Args:
            quota: what is told.
            now: seconds.
            active: calls that are under way, which were not counted if there was no limit.
        """
        limit, asked, budget = quota.limit, self._asked[quota.kind], self._budget
        if limit is None:
            return False
        seconds = self.spans[quota.kind].seconds(quota, budget.seconds) if quota.window is None else quota.window
        if asked is None:
            self._set_alone(quota.kind, limit, seconds, now, active)
            return False
        share = self._share(limit, asked, quota)
        if self._tells_no_longer_than(share, quota):
            seconds = min(seconds, share)
        is_pace = seconds < ALIKE * budget.seconds and limit < asked
        if is_pace and quota.kind == "requests":
            budget.set_pace(limit, seconds, now)  # as well as the user's own
        within = limit if ALIKE <= seconds / budget.seconds <= 1 else max(1, int(limit * budget.seconds / seconds + _ROUNDING))
        self._set_limit(quota.kind, min(within, asked))
        if is_pace and budget.tokens is not None and quota.kind == "tokens":
            budget.tokens.set_slice(limit, max(seconds, share), now)
        return is_pace

    def _set_alone(self, kind: Kind, limit: int, seconds: float, now: float, active: int) -> None:
        """Set a limit where the user set none."""
        budget = self._budget
        before = budget.window(kind)
        if before is None or (before.seconds < budget.seconds) != (seconds < budget.seconds):
            self._length_since[kind] = now
        if kind == "requests" and (before is None or before.seconds != seconds):
            budget.disregard_until(now)
        self._set_limit(kind, limit, seconds)
        if before is None:  # calls that are under way were not counted, and the server does
            budget.book_under_way(kind, active, now)

    def _set_limit(self, kind: Kind, limit: int, seconds: float | None = None) -> None:
        set_limit = self._budget.set_requests if kind == "requests" else self._budget.set_tokens
        set_limit(limit, seconds)

    def _share(self, limit: int, asked: int, quota: Quota) -> float:
        """Return the seconds in which as many as are told may start at the pace that is asked: what is told is rounded down."""
        least, most = (each * self._budget.seconds / asked for each in (limit, limit + 1))
        return max(least, min(_at_least(self.spans[quota.kind].longest), most))

    def _tells_no_longer_than(self, seconds: float, quota: Quota) -> bool:
        """Whether a window, as far as the API tells, may be as short as that: then the user's limit is told in other words."""
        longest = quota.window
        if longest is None:
            longest = self.spans[quota.kind].longest
            most = SHORT if quota.kind == "requests" else _HALF * self._budget.seconds
            if quota.reset is None or quota.is_guess or not longest or seconds > most:
                return False
        return _at_least(longest) <= seconds

    def doubt_length(self, now: float, stamp: float) -> None:
        """Take the word of resets for another, where a server refuses nearly all that would fit the windows they tell.

        Args:
            now: seconds.
            stamp: when a call started that was refused.
        """
        kinds: tuple[tuple[Kind, Kind, int], ...] = (("requests", "tokens", _FEW), ("tokens", "requests", 0))
        for kind, other, few in kinds:
            window, since = self._budget.window(kind), self._length_since[kind]
            if (
                window is None
                or window.seconds >= self._budget.seconds
                or stamp <= since
                or not self._budget.has_room(other, now)
            ):
                continue
            served = self._budget.served(kind, now)
            if served <= max(few, _HARDLY * window.limit) and self._budget.refused_since(since) >= _A_FEW:
                self.spans[kind].is_of_one = True


def _at_least(told: float) -> float:
    """Return the least that seconds may be which are told: full ones are rounded up."""
    return told - (FULL_SECOND if told.is_integer() else 0.0)

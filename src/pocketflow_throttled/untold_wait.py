"""The untold wait: a refusal says that nothing is left of a limit, and not when more will be.

Pure: times are in seconds. If others have used a limit up, it comes back within a window. If it is a small bucket, there never is
much left, and it comes back bit by bit. No single refusal tells these apart. But if a wait for the window has passed, little was
served since, and the server says the same again, then nobody else had used the limit up: it is a small bucket. From then on the
next try comes when one more call may fit, and twice as late after each refused one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .budget import Budget
    from .headers import Kind
    from .token_window import TokenWindow
    from .window import SlidingWindow

_WAITED = 0.5  # of a window
_MOST_SERVED = 0.5  # of a limit, in a window: with more, it may well be used up
_MOST_DOUBLED = 10  # times


class UntoldWait:
    """How long to wait where a refusal told that others have used a limit of one kind.

    Args:
        budget: whose windows they are.
        kind: of the limit.
    """

    __slots__ = ("_budget", "_is_vain", "_kind", "_refused_at")

    def __init__(self, budget: Budget, kind: Kind) -> None:
        self._budget = budget
        self._kind: Kind = kind
        self._refused_at = -math.inf
        self._is_vain = False

    def refused(self, window: SlidingWindow | TokenWindow, others: int, now: float) -> tuple[float, float] | None:
        """Return after how many seconds the first of what others have taken is back, and the last; None: within a window."""
        before, self._refused_at = self._refused_at, now
        last = self._last_served(now)
        if now >= before + _WAITED * window.seconds and -math.inf < before < last:
            self._is_vain = True
        if self._budget.served(self._kind, now) > _MOST_SERVED * window.limit:
            self._is_vain = False
        if not self._is_vain:
            return None
        each = window.seconds / window.limit
        calls = max(1, self._budget.starts_between(now - window.seconds, now))
        times = 2.0 ** min(_MOST_DOUBLED, self._budget.refused_since(last))
        first = min(window.seconds, times * each * max(1.0, window.own(now) / calls))
        return first, max(first, others * each)

    def _last_served(self, now: float) -> float:
        """Return when the last call started that is not known to be refused."""
        window = self._budget.requests
        served = [] if window is None else window.served_between(now - window.seconds, now)
        return served[-1] if served else -math.inf

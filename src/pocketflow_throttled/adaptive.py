"""What adaptive nodes and flows share: a limiter that moves, its bounds and factors, and what can be seen of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .adaptivity import Adaptive, Change
from .coverable import coverable
from .mixins import Throttled
from .state import scope

if TYPE_CHECKING:
    from .rate_limiter import RateLimiter


def of_the_rule(*bounds: str) -> dict[str, str]:
    """Return what a limiter takes as its `adaptive`: the settings that bound it, and how it moves."""
    return dict.fromkeys((*bounds, "backoff_factor", "recovery_threshold", "recovery_factor"), "adaptive")


@coverable
class AdaptiveThrottled(Throttled):
    """A `Throttled` whose limiter adapts. A subclass names the three settings that bound it."""

    backoff_factor: float = 0.5
    recovery_threshold: int = 10
    recovery_factor: float = 1.2

    _bound_names: tuple[str, str, str]  # the names of the initial, the least and the most at once

    def _check_settings(self) -> None:
        super()._check_settings()
        self._adaptive_settings()

    def _adaptive_settings(self) -> Adaptive:
        initial, least, most = self._bound_names
        try:
            return Adaptive(
                getattr(self, initial) if self._is_given(initial) else None,  # a default is brought into the bounds
                getattr(self, least),
                getattr(self, most),
                self.backoff_factor,
                self.recovery_threshold,
                self.recovery_factor,
            )
        except (TypeError, ValueError) as error:
            message = str(error)
            for plain, name in zip(("initial_concurrent", "min_concurrent", "max_concurrent"), self._bound_names, strict=True):
                message = re.sub(rf"\b{plain}\b", name, message)
            raise type(error)(message) from None

    def _limiter_settings(self) -> dict[str, Any]:
        return {**super()._limiter_settings(), "adaptive": self._adaptive_settings()}

    def _throttled_limiter(self, *, for_a_run: bool = False) -> RateLimiter:
        limiter = super()._throttled_limiter(for_a_run=for_a_run)
        if limiter.adaptive is None:
            raise ValueError(
                f"{type(self).__name__} adapts, and its shared_limiter {self.shared_limiter!r} is fixed: register it with "
                "adaptive=True or with an Adaptive, or use a throttled class that does not adapt"
            )
        return limiter

    def reset_adaptive_state(self) -> None:
        """Forget what was learned of the API: the limit is the initial one again, and every count is zero."""
        limiters = {self._adapting_limiter()}
        if scope.get() is None:
            limiters.add(self._throttled_limiter())  # the next run's
        for limiter in limiters:
            limiter.reset_adaptive()
        self._throttled_state.reset_counts()

    @property
    def history(self) -> list[Change]:
        """The last 1,000 changes of the limit in use, `(time, old, new, reason)`, the oldest first."""
        return self._adapting_limiter().history

    def _current_limit(self) -> int:
        return self._adapting_limiter().max_concurrent

    def _adapting_limiter(self) -> RateLimiter:
        """Return the limiter to look at: within a flow's instance that of this instance, else that of the last run."""
        state, limiters = self._throttled_state, scope.get()
        if limiters is not None and state in limiters:
            return self._throttled_limiter()
        return state.latest or self._throttled_limiter()

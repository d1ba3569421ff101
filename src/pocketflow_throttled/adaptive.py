"""What adaptive nodes and flows share: a limiter that moves, its bounds and factors, and what can be seen of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .adaptivity import Adaptive, Change
from .mixins import Throttled

if TYPE_CHECKING:
    from .rate_limiter import RateLimiter


class AdaptiveThrottled(Throttled):
    """A `Throttled` whose limiter adapts. A subclass names the three settings that bound it."""

    backoff_factor: float = 0.5
    recovery_threshold: int = 10
    recovery_factor: float = 1.2

    _bounds: tuple[str, str, str]  # the names of the initial, the least and the most at once

    def _check_settings(self) -> None:
        super()._check_settings()
        self._adaptive()

    def _adaptive(self) -> Adaptive:
        initial, least, most = self._bounds
        try:
            return Adaptive(
                getattr(self, initial) if self._is_given(initial) else None,
                getattr(self, least),
                getattr(self, most),
                self.backoff_factor,
                self.recovery_threshold,
                self.recovery_factor,
            )
        except (TypeError, ValueError) as error:
            message = str(error)
            for plain, name in zip(("initial_concurrent", "min_concurrent", "max_concurrent"), self._bounds, strict=True):
                message = re.sub(rf"\b{plain}\b", name, message)
            raise type(error)(message) from None

    def _is_given(self, name: str) -> bool:
        """Whether a setting is the user's; a default is brought into the bounds, what was given must lie within."""
        if name in vars(self):
            return True
        return not next(cls for cls in type(self).__mro__ if name in vars(cls)).__module__.startswith(__package__ or "")

    def _limiter(self) -> RateLimiter:
        limiter = super()._limiter()
        if limiter.adaptive is None:
            raise ValueError(
                f"{type(self).__name__} adapts, and its shared_limiter {self.shared_limiter!r} is fixed: register it with "
                "adaptive=True or with an Adaptive, or use a throttled class that does not adapt"
            )
        return limiter

    def reset_adaptive_state(self) -> None:
        """Forget what was learned of the API: the limit is the initial one again, and every count is zero."""
        own = self._limiter()
        for limiter in {own, self._state.latest or own}:
            limiter.reset_adaptive()
        self._state.reset_counts()

    @property
    def history(self) -> list[Change]:
        """The last 1,000 changes of the limit in use, `(time, old, new, reason)`, the oldest first."""
        return (self._state.latest or self._limiter()).history

    def _current(self) -> int:
        return (self._state.latest or self._limiter()).max_concurrent

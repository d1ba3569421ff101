"""Adjusting: what of a limiter may be set while it is in use, and who waits then goes by it."""

from __future__ import annotations

from typing import Any

from .adaptivity import Adaptive, Change
from .observing import Observing
from .validation import check_burst, check_count, check_optional_count


class Adjusting(Observing):
    """A queue whose settings its user may change, and read."""

    @property
    def max_concurrent(self) -> int:
        """Requests at once, as it is now if adaptive. Raising it wakes waiters at once; lowering it interrupts nothing."""
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        check_count("max_concurrent", value)
        with self._lock:
            if self._rule is not None:
                self._rule.set_limit(self._now(), value)
            self._max_concurrent = value
            self._wake()

    @property
    def max_per_window(self) -> int | None:
        """Starts in any window; None: no limit, and nothing is counted: one that is set later counts those under the last."""
        requests = self._budget.requests
        return None if requests is None else requests.limit

    @max_per_window.setter
    def max_per_window(self, value: int | None) -> None:
        check_optional_count("max_per_window", value)
        check_burst(self._budget.burst, "max_per_window", value)
        with self._lock:
            self._asked["requests"] = value
            self._budget.forget_pace()
            self._budget.set_requests(value)
            self._wake()

    @property
    def max_tokens_per_window(self) -> int | None:
        """Tokens in any window; None: no limit, as for starts."""
        tokens = self._budget.tokens
        return None if tokens is None else tokens.limit

    @max_tokens_per_window.setter
    def max_tokens_per_window(self, value: int | None) -> None:
        check_optional_count("max_tokens_per_window", value)
        with self._lock:
            self._asked["tokens"] = value
            self._budget.set_tokens(value)
            self._wake()

    @property
    def window_seconds(self) -> float:
        """Length of the window in seconds."""
        return self._budget.seconds

    @property
    def max_burst(self) -> int | None:
        """Starts in any `max_burst / max_per_window` share of the window; None: as they come."""
        return self._budget.burst

    @max_burst.setter
    def max_burst(self, value: int | None) -> None:
        check_optional_count("max_burst", value)
        check_burst(value, "max_per_window", self.max_per_window)
        with self._lock:
            self._budget.set_burst(value)
            self._wake()

    @property
    def adaptive(self) -> Adaptive | None:
        """The settings of the adaptive rule; None: the limiter is fixed."""
        return None if self._rule is None else self._rule.settings

    @adaptive.setter
    def adaptive(self, value: Adaptive) -> None:
        if self._rule is None:
            raise ValueError("adaptive cannot be set on a fixed limiter: make it with adaptive=True or an Adaptive")
        if not isinstance(value, Adaptive):
            raise TypeError(f"adaptive must be an Adaptive, got {value!r}")
        with self._lock:
            self._rule.set_settings(self._now(), value)
            self._max_concurrent = self._rule.limit
            self._wake()

    @property
    def history(self) -> list[Change]:
        """The last 1,000 changes that the adaptive rule made, the oldest first; times are the loop's, in seconds."""
        with self._lock:
            return [] if self._rule is None else list(self._rule.history)

    def reset_adaptive(self) -> None:
        """Forget what the adaptive rule has learned; its limit is the initial one again."""
        if self._rule is not None:
            with self._lock:
                self._rule.reset()
                self._max_concurrent = self._rule.limit
                self._wake()

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings as they were given, in the order of the arguments, whatever headers or the rule made of them since."""
        adaptive = self.adaptive
        return {
            "max_concurrent": self._max_concurrent if adaptive is None else adaptive.max_concurrent,
            "max_per_window": self._asked["requests"],
            "window_seconds": self._budget.seconds,
            "max_tokens_per_window": self._asked["tokens"],
            "max_burst": self._budget.burst,
            "adaptive": adaptive,
        }

"""RateLimiter: slots, windows and a pause behind one first-come, first-served queue: what is taken, given back and told of it."""

from __future__ import annotations

import asyncio
import math
from threading import get_ident
from typing import Any, NoReturn, Self

from .adaptivity import Adaptive
from .adjusting import Adjusting
from .aimd import AdaptiveRule
from .budget import Budget
from .forked import begin_anew
from .permit import Permit
from .validation import check_burst, check_count, check_limit, check_optional_count, check_seconds, check_tokens


class RateLimiter(Adjusting):
    """At most so many requests at once, and so many requests and tokens in any window; first come, first served.

    Args:
        max_concurrent: requests at once.
        max_per_window: starts in any window of `window_seconds`, counted when granted; None: no limit.
        window_seconds: length of the window in seconds.
        max_tokens_per_window: tokens in any window; None: no limit.
        max_burst: also space the starts: at most so many in any `max_burst / max_per_window` share of the window.
        adaptive: whether `max_concurrent` moves with what the API refuses and serves: True, between 1 and `max_concurrent`, or
            the settings of the rule, whose bounds then count.
        max_per_minute: `max_per_window` of 60 seconds, by the name that nodes and presets give it.
        max_tokens_per_minute: `max_tokens_per_window` of 60 seconds, likewise.

    Raises:
        TypeError, ValueError: a setting is out of range; the message names it and its value.

    It may be made at import time and shared by event loops, one after another or at the same time in several threads.
    `max_concurrent`, `max_per_window` and `max_tokens_per_window` may be set while it is in use.

    Example:
        >>> import asyncio
        >>> limiter = RateLimiter(max_concurrent=2, max_per_window=60)
        >>> async def call() -> int:
        ...     async with limiter:
        ...         return limiter.active
        >>> asyncio.run(call())
        1
    """

    def __init__(
        self,
        max_concurrent: int = 5,
        max_per_window: int | None = None,
        window_seconds: float = 60.0,
        *,
        max_tokens_per_window: int | None = None,
        max_burst: int | None = None,
        adaptive: Adaptive | bool | None = None,
        max_per_minute: int | None = None,
        max_tokens_per_minute: int | None = None,
    ) -> None:
        check_count("max_concurrent", max_concurrent)
        seconds = check_seconds("window_seconds", window_seconds)
        max_per_window = check_limit("max_per_window", max_per_window, "max_per_minute", max_per_minute, seconds)
        max_tokens_per_window = check_limit(
            "max_tokens_per_window", max_tokens_per_window, "max_tokens_per_minute", max_tokens_per_minute, seconds
        )
        check_optional_count("max_burst", max_burst)
        check_burst(max_burst, "max_per_window", max_per_window)
        super().__init__(
            max_concurrent,
            Budget(max_per_window, max_tokens_per_window, max_burst, seconds),
            _rule(adaptive, max_concurrent),
            {"requests": max_per_window, "tokens": max_tokens_per_window},
        )
        begin_anew.add(self)

    async def __aenter__(self) -> Self:
        lock = self._lock
        lock.acquire()  # measured: half the cost of `with`, on the path that every request takes
        try:
            loop = self._loop
            if self._thread != get_ident() or loop is None or not loop.is_running():
                loop = self._running_loop()
            if self._active < self._max_concurrent and not self._queue:
                now = self._clock()
                rule, budget = self._rule, self._budget
                if rule is not None and not self._active:
                    rule.called(now)
                if (
                    now >= self._paused_until
                    and not self._outputs.is_enforced
                    and (rule is None or self._lets_start(rule, now))
                    and (budget.requests is None or budget.admit(now))
                ):
                    if rule is not None:
                        level = self._active + 1
                        if level >= self._max_concurrent:
                            self._last_full = now
                        rule.started(now, level)
                    self._active += 1
                    return self
            if loop is None:
                raise RuntimeError("waiting needs a running event loop")
            permit = Permit(self, 0)
            future = loop.create_future()
            self._enqueue(permit, future, loop)
        finally:
            lock.release()
        try:
            await future
        except BaseException:
            permit._give_back_unsent()
            raise
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        lock = self._lock
        lock.acquire()
        try:
            self._active -= 1
            if self._queue:
                self._wake()
        finally:
            lock.release()

    async def acquire(self, *, tokens: int = 0, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for one request's room. Pair it with `release()`; better, use `async with`.

        Args:
            tokens: what the request will cost.
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            TimeoutError: there was no room in time. Nothing was taken.
        """
        permit = self.reserve(tokens=tokens)
        if timeout is not None:
            check_seconds("timeout", timeout, positive=False)
        if permit.take():
            pass
        elif timeout is None:
            await permit.wait()
        else:
            try:
                async with asyncio.timeout(timeout):
                    await permit.wait()
            except TimeoutError:
                raise TimeoutError(f"no room within {timeout} s: {self!r}") from None
        self._was_acquired()

    def release(self) -> None:
        """Give back one slot taken by `acquire` or `try_acquire`.

        Raises:
            RuntimeError: no such slot is held.
        """
        with self._lock:
            if self._acquired == 0:
                raise RuntimeError(
                    "release() without a grant: no slot that acquire() took is held, and `async with` gives its slot back itself"
                )
            self._acquired -= 1
            self._active -= 1
            self._wake()

    def try_acquire(self, *, tokens: int = 0) -> bool:
        """Take room if there is some now and nobody waits for it. Never waits, never jumps the queue."""
        if not self.reserve(tokens=tokens).take():
            return False
        self._was_acquired()
        return True

    def _was_acquired(self) -> None:
        with self._lock:
            self._acquired += 1

    def reserve(self, tokens: int = 0) -> Permit:
        """Return a permit for a request that costs `tokens`, to be used with `async with`.

        Example:
            >>> import asyncio
            >>> limiter = RateLimiter(max_tokens_per_window=1000)
            >>> async def call() -> int:
            ...     async with limiter.reserve(tokens=800) as permit:
            ...         permit.settle(tokens=120)
            ...     return limiter.stats["current_window_tokens"]
            >>> asyncio.run(call())
            120
        """
        return Permit(self, check_tokens("tokens", tokens))

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds` from now. A pause can be extended, never shortened."""
        seconds = check_seconds("seconds", seconds, positive=False)
        with self._lock:
            self._start_clock()
            self._pause_until(self._clock() + seconds)

    def reset(self) -> None:
        """Forget the windows and the pause. Held slots stay held."""
        with self._lock:
            self._budget.clear()
            self._outputs.clear()
            if self._rule is not None:
                self._rule.forget_times()
            self._paused_until = self._surely_paused_until = -math.inf
            self._wake()

    @property
    def active(self) -> int:
        """Requests granted and not yet given back."""
        return self._active

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def current_window_count(self) -> int:
        """Starts in the window that ends now."""
        with self._lock:
            requests = self._budget.requests
            return 0 if requests is None else requests.used(self._now())

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0.0 when there is none."""
        with self._lock:
            return max(0.0, self._paused_until - self._now())

    @property
    def stats(self) -> dict[str, Any]:
        """The settings and the live numbers, as a new dict; where it is adaptive, also the starts a second that were learned."""
        with self._lock:
            return {
                "max_concurrent": self._max_concurrent,
                "max_per_window": self.max_per_window,
                "window_seconds": self._budget.seconds,
                "max_tokens_per_window": self.max_tokens_per_window,
                "max_burst": self._budget.burst,
                "active": self._active,
                "waiting": len(self._queue),
                "current_window_count": self.current_window_count,
                "current_window_tokens": 0 if self._budget.tokens is None else self._budget.tokens.used(self._now()),
                "paused_for": self.paused_for,
                **({} if self._rule is None else {"learned_per_second": self._rule.rate.per_second}),
            }

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.stats.items() if value is not None}
        return f"<RateLimiter {' '.join(f'{name}={value}' for name, value in shown.items())}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a limiter lives in one process and cannot be pickled, got {self!r}. Register one in each process, by "
            "LimiterRegistry.register('name', ...) with its share of the limit, and say shared_limiter='name'"
        )


def _rule(adaptive: Adaptive | bool | None, max_concurrent: int) -> AdaptiveRule | None:
    if adaptive is None or adaptive is False:
        return None
    if adaptive is True:
        return AdaptiveRule(Adaptive(max_concurrent=max_concurrent))
    if not isinstance(adaptive, Adaptive):
        raise TypeError(f"adaptive must be True, an Adaptive or None, got {adaptive!r}")
    return AdaptiveRule(adaptive)

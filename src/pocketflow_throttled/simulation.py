"""An API with limits, latency and 429s: for tests, demos and dry runs."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from .validation import check_count, check_optional_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

Algorithm = Literal["sliding_window", "token_bucket", "fixed_window"]
_ROUNDING = 1e-9  # seconds, windows, or of a bucket's level: who waits as long as it was told is not refused for less


class SimulatedResponse:
    """The part of an HTTP response that the SDKs' exceptions carry."""

    def __init__(self, status_code: int, headers: dict[str, str]) -> None:
        self.status_code = status_code
        self.headers = headers


class SimulatedRateLimitError(Exception):
    """A refusal as the SDKs raise it: `status_code`, `response.headers`, `body`."""

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(f"Error code: 429 - Rate limit reached: {reason}")
        self.status_code = 429
        headers = {} if retry_after is None else {"retry-after": f"{math.ceil(max(retry_after, 0.001) * 1000) / 1000:.3f}"}
        self.response = SimulatedResponse(429, headers)
        self.body = {"error": {"type": "rate_limit_error", "message": reason}}
        self._arguments = reason, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments, self.__dict__  # its `args` are the message alone


class _Bucket:
    """A token bucket of `limit`, refilled continuously in `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self._level = float(limit)
        self._at = -math.inf

    def wait(self, now: float, cost: int) -> float:
        rate = self.limit / self.seconds
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * rate)
            self._at = now
        missing = min(cost, self.limit) - self._level
        return missing / rate if missing > _ROUNDING * self.limit else 0.0

    def take(self, now: float, cost: int) -> None:
        self.wait(now, cost)
        self._level -= cost


class _Fixed:
    """`limit` in each window of `seconds` counted from the first request."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self._start: float | None = None
        self._used = 0

    def wait(self, now: float, cost: int) -> float:
        if self._start is None:
            self._start = now
        windows = math.floor((now - self._start) / self.seconds + _ROUNDING)
        if windows:
            self._start += windows * self.seconds
            self._used = 0
        return 0.0 if self._used + min(cost, self.limit) <= self.limit else self._start + self.seconds - now

    def take(self, now: float, cost: int) -> None:
        self.wait(now, cost)
        self._used += cost


class _Sliding:
    """`limit` in any `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self._log: deque[tuple[float, int]] = deque()
        self._used = 0

    def wait(self, now: float, cost: int) -> float:
        while self._log and self._log[0][0] + self.seconds <= now + _ROUNDING:
            self._used -= self._log.popleft()[1]
        missing = self._used + min(cost, self.limit) - self.limit
        for time, spent in self._log if missing > 0 else ():  # the oldest leave first
            missing -= spent
            if missing <= 0:
                return time + self.seconds - now
        return 0.0

    def take(self, now: float, cost: int) -> None:
        self._log.append((now, cost))
        self._used += cost


_ALGORITHMS: dict[str, type[_Sliding | _Bucket | _Fixed]] = {
    "sliding_window": _Sliding,
    "token_bucket": _Bucket,
    "fixed_window": _Fixed,
}


class SimulatedAPI:
    """An API that refuses what is over its limits.

    Args:
        max_concurrent: requests at once; None: no limit; or a function from the time, in seconds of the loop, to either.
        max_per_window: requests in a window; None: no limit.
        window_seconds: length of the window in seconds.
        max_tokens_per_window: tokens in a window; None: no limit.
        algorithm: how windows are counted: "sliding_window", "token_bucket" (full at the start, refilled continuously) or
            "fixed_window" (counted from the first request).
        latency: seconds that a request takes, or a function from the item to seconds.
        network_delay: seconds that a request is on its way, and again its answer, or a function that returns them.
        refusal_latency: seconds that the API takes to refuse, or a function that returns them.
        retry_after: whether a refusal by a window says in a Retry-After header when room will be; or seconds that every refusal
            asks for, as many an API does whatever it limits.
        error: makes the exception of a refusal from its reason and its hint in seconds or None.

    Attributes:
        served: requests answered.
        refused: requests refused; they count in no window.
        in_flight: requests under way.
        peak_concurrent: the most that were under way at once.
        worst_window: the most that were admitted in any `window_seconds`.

    Example:
        >>> from pocketflow_throttled import run_virtual
        >>> api = SimulatedAPI(max_concurrent=1, latency=1.0)
        >>> run_virtual(api.call("hello"))
        'hello'
        >>> api.served, api.refused, api.peak_concurrent
        (1, 0, 1)
    """

    def __init__(
        self,
        *,
        max_concurrent: int | Callable[[float], int | None] | None = None,
        max_per_window: int | None = None,
        window_seconds: float = 60.0,
        max_tokens_per_window: int | None = None,
        algorithm: Algorithm = "sliding_window",
        latency: float | Callable[[Any], float] = 0.0,
        network_delay: float | Callable[[], float] = 0.0,
        refusal_latency: float | Callable[[], float] = 0.0,
        retry_after: bool | float = True,
        error: Callable[[str, float | None], Exception] = SimulatedRateLimitError,
    ) -> None:
        self.max_concurrent = max_concurrent
        if not callable(max_concurrent):
            check_optional_count("max_concurrent", max_concurrent)
        check_optional_count("max_per_window", max_per_window)
        check_optional_count("max_tokens_per_window", max_tokens_per_window)
        self.window_seconds = check_seconds("window_seconds", window_seconds)
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(_ALGORITHMS)}, got {algorithm!r}")
        for name, value in (("latency", latency), ("network_delay", network_delay), ("refusal_latency", refusal_latency)):
            if not callable(value):
                check_seconds(name, value, positive=False)
        self._latency = latency
        self._network_delay = network_delay
        self._refusal_latency = refusal_latency
        counter = _ALGORITHMS[algorithm]
        self._requests = None if max_per_window is None else counter(max_per_window, self.window_seconds)
        self._tokens = None if max_tokens_per_window is None else counter(max_tokens_per_window, self.window_seconds)
        if not isinstance(retry_after, bool | int | float):
            raise TypeError(f"retry_after must be True, False or a number of seconds, got {retry_after!r}")
        self._hints = retry_after if isinstance(retry_after, bool) else check_seconds("retry_after", retry_after, positive=False)
        if not callable(error):
            raise TypeError(f"error must make an exception of a reason and a hint, got {error!r}")
        self._error = error
        self._recent: deque[float] = deque()
        self.served = self.refused = self.in_flight = self.peak_concurrent = self.worst_window = 0

    async def __call__(self, item: Any = None, *, tokens: int = 0, reply: Any = None) -> Any:
        """Do the same as `call`."""
        return await self.call(item, tokens=tokens, reply=reply)

    async def call(self, item: Any = None, *, tokens: int = 0, reply: Any = None) -> Any:
        """Send one request, which costs `tokens`, and return `reply`, or the item if there is none.

        Raises:
            SimulatedRateLimitError: a limit would be exceeded.
        """
        check_count("tokens", tokens, least=0)
        await _pass(self._network_delay)
        now = asyncio.get_running_loop().time()
        refusal = self._refusal(now, tokens)
        if refusal is not None:
            self.refused += 1
            await _pass(self._refusal_latency)
            await _pass(self._network_delay)
            raise refusal
        self._admit(now, tokens)
        try:
            await asyncio.sleep(self._latency(item) if callable(self._latency) else self._latency)
        finally:
            self.in_flight -= 1
        self.served += 1
        await _pass(self._network_delay)
        return item if reply is None else reply

    def _admit(self, now: float, tokens: int) -> None:
        for counter, cost in ((self._requests, 1), (self._tokens, tokens)):
            if counter is not None:
                counter.take(now, cost)
        self._recent.append(now)
        while self._recent[0] + self.window_seconds <= now:
            self._recent.popleft()
        self.worst_window = max(self.worst_window, len(self._recent))
        self.in_flight += 1
        self.peak_concurrent = max(self.peak_concurrent, self.in_flight)

    def _refusal(self, now: float, tokens: int) -> Exception | None:
        most = self.max_concurrent(now) if callable(self.max_concurrent) else self.max_concurrent
        if most is not None and self.in_flight >= most:
            return self._error(f"{self.in_flight} requests under way, {most} allowed", self._hint(None))
        for counter, cost, unit in ((self._requests, 1, "requests"), (self._tokens, tokens, "tokens")):
            wait = counter.wait(now, cost) if counter is not None and cost else 0.0
            if counter is not None and wait > 0:
                reason = f"{counter.limit} {unit} in {self.window_seconds:g} s allowed"
                return self._error(reason, self._hint(wait))
        return None

    def _hint(self, wait: float | None) -> float | None:
        if isinstance(self._hints, bool):
            return wait if self._hints else None
        return self._hints

    @property
    def stats(self) -> dict[str, int]:
        """The counts, as a new dict."""
        names = ("served", "refused", "in_flight", "peak_concurrent", "worst_window")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"<SimulatedAPI {' '.join(f'{name}={value}' for name, value in self.stats.items())}>"


async def _pass(seconds: float | Callable[[], float]) -> None:
    seconds = seconds() if callable(seconds) else seconds
    if seconds > 0:
        await asyncio.sleep(seconds)

"""A model of a provider in virtual time: it counts in a way of its own, says so in headers, and others use the same key."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal

from pocketflow_throttled.headers import Kind

Counting = Literal["sliding", "bucket", "fixed"]
EPOCH = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass
class Count:
    """How much of one limit is used: `limit` in `seconds`, in any of these, in a bucket, or in windows that begin at `phase`."""

    limit: int
    seconds: float
    counting: Counting = "sliding"
    phase: float = 0.0
    _log: deque[tuple[float, int]] = field(default_factory=deque)
    _used: float = 0.0
    _at: float = 0.0

    def used(self, now: float) -> float:
        if self.counting == "bucket":
            self._used = max(0.0, self._used - (now - self._at) * self.limit / self.seconds)
        elif self.counting == "fixed" and self._window(now) != self._window(self._at):
            self._used = 0.0
        while self.counting == "sliding" and self._log and self._log[0][0] + self.seconds <= now + 1e-9:
            self._used -= self._log.popleft()[1]
        self._at = now
        return self._used

    def _window(self, now: float) -> int:
        return math.floor((now - self.phase) / self.seconds + 1e-9)

    def add(self, now: float, cost: int) -> None:
        self._used = self.used(now) + cost
        self._log.append((now, cost))

    def left(self, now: float) -> int:
        return max(0, math.floor(self.limit - self.used(now) + 1e-6))

    def wait(self, now: float, cost: int) -> float:
        """Seconds until `cost` fits; 0.0 if it does now."""
        over = self.used(now) + min(cost, self.limit) - self.limit
        if over <= 1e-6:
            return 0.0
        if self.counting == "bucket":
            return over * self.seconds / self.limit
        if self.counting == "fixed":
            return self.phase + (self._window(now) + 1) * self.seconds - now
        for time, spent in self._log:
            over -= spent
            if over <= 0:
                return time + self.seconds - now
        return self.seconds

    def reset(self, now: float) -> float:
        """Seconds until the limit is whole again."""
        used = self.used(now)
        if self.counting == "bucket":
            return used * self.seconds / self.limit
        if self.counting == "fixed":
            return self.phase + (self._window(now) + 1) * self.seconds - now
        return self._log[-1][0] + self.seconds - now if self._log else 0.0


class ModelError(Exception):
    """What an SDK raises."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"Error code: {status}")
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers=headers)


@dataclass
class Model:
    """The provider: its counts, how it tells of them, how long things take, and what it saw.

    `others` is the share of each limit that other clients of the key use, evenly. `skew` is how far its clock is ahead.
    """

    requests: Count | None = None
    tokens: Count | None = None
    max_concurrent: int | None = None
    dialect: Literal["openai", "azure", "anthropic", "ietf", "none"] = "openai"
    skew: float = 0.0
    sends_date: bool = True
    retry_after: Literal["seconds", "whole", "none"] = "seconds"
    rounding: int = 1  # of the tokens it says are left
    others: float = 0.0
    tells_late: bool = False  # counts told when it answers, not when it admits
    latency: Callable[[], float] = lambda: 1.0
    delay: Callable[[], float] = lambda: 0.0
    received: int = 0
    served: int = 0
    refused: int = 0
    in_flight: int = 0

    def _counts(self) -> list[tuple[Kind, Count]]:
        counts: list[tuple[Kind, Count | None]] = [("requests", self.requests), ("tokens", self.tokens)]
        return [(kind, count) for kind, count in counts if count is not None]

    def headers(self, now: float) -> dict[str, str]:
        clock = EPOCH + timedelta(seconds=now + self.skew)
        found: dict[str, str] = {"date": clock.strftime("%a, %d %b %Y %H:%M:%S GMT")} if self.sends_date else {}
        for kind, count in self._counts():
            left, reset = count.left(now), count.reset(now)
            if kind == "tokens":
                left = round(left / self.rounding) * self.rounding
            if self.dialect in ("openai", "azure"):
                told = f"{reset:.3f}s" if self.dialect == "openai" else f"{math.ceil(reset)}"
                found |= {f"x-ratelimit-limit-{kind}": str(count.limit), f"x-ratelimit-remaining-{kind}": str(left)}
                found[f"x-ratelimit-reset-{kind}"] = told
            elif self.dialect == "anthropic":
                name = f"anthropic-ratelimit-{'input-tokens' if kind == 'tokens' else kind}"
                found |= {f"{name}-limit": str(count.limit), f"{name}-remaining": str(left)}
                found[f"{name}-reset"] = (clock + timedelta(seconds=reset)).strftime("%Y-%m-%dT%H:%M:%SZ")
            elif self.dialect == "ietf" and kind == "requests":
                found["ratelimit"] = f'"api";r={left};t={math.ceil(reset)}'
                found["ratelimit-policy"] = f'"api";q={count.limit};w={math.ceil(count.seconds)}'
        return found

    async def call(self, tokens: int = 0) -> Any:
        loop = asyncio.get_running_loop()
        self.received += 1
        await asyncio.sleep(self.delay())
        now = loop.time()
        waits = [count.wait(now, 1 if kind == "requests" else tokens) for kind, count in self._counts()]
        wait = max(waits, default=0.0)
        is_full = self.max_concurrent is not None and self.in_flight >= self.max_concurrent
        if wait > 0 or is_full:
            self.refused += 1
            headers = self.headers(now)
            if self.retry_after != "none" and wait > 0:
                headers["retry-after"] = f"{wait:.3f}" if self.retry_after == "seconds" else f"{math.ceil(wait)}"
            await asyncio.sleep(self.delay())
            raise ModelError(429, headers)
        for kind, count in self._counts():
            count.add(now, 1 if kind == "requests" else tokens)
        headers = self.headers(now)
        self.in_flight += 1
        try:
            await asyncio.sleep(self.latency())
        finally:
            self.in_flight -= 1
        if self.tells_late:
            headers = self.headers(loop.time())
        await asyncio.sleep(self.delay())
        self.served += 1
        return SimpleNamespace(headers=headers, usage=SimpleNamespace(total_tokens=tokens))

    async def others_call(self, tokens: int = 0) -> None:
        """Use the key as other clients do, evenly, until cancelled."""
        loop = asyncio.get_running_loop()
        rates = [
            self.others * count.limit / count.seconds / (1 if kind == "requests" else max(tokens, 1))
            for kind, count in self._counts()
        ]
        while True:
            await asyncio.sleep(1 / min(rates))
            for kind, count in self._counts():
                cost = 1 if kind == "requests" else tokens
                if count.wait(loop.time(), cost) == 0:
                    count.add(loop.time(), cost)


def jitter(chance: random.Random, least: float, most: float) -> Callable[[], float]:
    return lambda: chance.uniform(least, most)

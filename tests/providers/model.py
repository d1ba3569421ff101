"""A model of a provider in virtual time: it counts in a way of its own, says so in headers, and others use the same key."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

from pocketflow_throttled.headers import Kind

from .counting import Count
from .dialects import Dialect, RetryAfter, quotas, retry_after

EPOCH = datetime(2026, 11, 24, 12, tzinfo=UTC)


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
    dialect: Dialect = "openai"
    skew: float = 0.0
    sends_date: bool = True
    retry_after: RetryAfter = "seconds"
    rounding: int = 1  # of the tokens it says are left
    others: float = 0.0
    tells_late: bool = False  # counts told when it answers, not when it admits
    latency: Callable[[], float] = lambda: 1.0
    delay: Callable[[], float] = lambda: 0.0
    received: int = 0
    served: int = 0
    refused: int = 0
    in_flight: int = 0

    def counts(self) -> list[tuple[Kind, Count]]:
        counts: list[tuple[Kind, Count | None]] = [("requests", self.requests), ("tokens", self.tokens)]
        return [(kind, count) for kind, count in counts if count is not None]

    def headers(self, now: float) -> dict[str, str]:
        clock = self._clock(now)
        found = quotas(self.dialect, self.counts(), now, clock, self.rounding)
        return found | ({"date": format_datetime(clock, usegmt=True)} if self.sends_date else {})

    def _clock(self, now: float) -> datetime:
        return EPOCH + timedelta(seconds=now + self.skew)

    async def call(self, tokens: int = 0) -> Any:
        loop = asyncio.get_running_loop()
        self.received += 1
        await asyncio.sleep(self.delay())
        now = loop.time()
        waits = [count.wait(now, 1 if kind == "requests" else tokens) for kind, count in self.counts()]
        wait = max(waits, default=0.0)
        is_full = self.max_concurrent is not None and self.in_flight >= self.max_concurrent
        if wait > 0 or is_full:
            self.refused += 1
            headers = self.headers(now) | (retry_after(self.retry_after, wait, self._clock(now)) if wait > 0 else {})
            await asyncio.sleep(self.delay())
            raise ModelError(429, headers)
        for kind, count in self.counts():
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
            for kind, count in self.counts()
        ]
        while True:
            await asyncio.sleep(1 / min(rates))
            for kind, count in self.counts():
                cost = 1 if kind == "requests" else tokens
                if count.wait(loop.time(), cost) == 0:
                    count.add(loop.time(), cost)


def jitter(chance: random.Random, least: float, most: float) -> Callable[[], float]:
    return lambda: chance.uniform(least, most)

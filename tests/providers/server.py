"""An HTTP server on loopback with the wire formats of OpenAI and Anthropic: it enforces limits, and misbehaves at will."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

# Two requests may come closer together than they were sent: server and client share one loop and one core, which take up to
# a few tenths of a second for a burst of twenty. So the server counts in a window that much shorter than the limiter's.
JITTER = 0.5


@dataclass
class Behaviour:
    """What the server does to one request instead of answering it."""

    status: int
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    seconds: float = 0.0


@dataclass
class Provider:
    """The server's limits, what it does to which request (by its number), and what it saw."""

    max_concurrent: int | None = None
    max_per_window: int | None = None
    max_tokens_per_window: int | None = None
    window_seconds: float = 1.0
    latency: float = 0.01
    skew: float = 0.0
    garbage: bool = False
    sends_date: bool = True
    misbehave: Callable[[int], Behaviour | None] = lambda number: None
    served: int = 0
    refused: int = 0
    in_flight: int = 0
    peak_concurrent: int = 0
    received: int = 0
    _admitted: deque[tuple[float, int]] = field(default_factory=deque)

    def _used(self) -> tuple[int, int]:
        now = time.monotonic()
        while self._admitted and self._admitted[0][0] + self.window_seconds - JITTER <= now:
            self._admitted.popleft()
        return len(self._admitted), sum(tokens for _, tokens in self._admitted)

    def _over(self, tokens: int) -> bool:
        requests, spent = self._used()
        return (
            (self.max_concurrent is not None and self.in_flight >= self.max_concurrent)
            or (self.max_per_window is not None and requests >= self.max_per_window)
            or (self.max_tokens_per_window is not None and spent + tokens > self.max_tokens_per_window)
        )

    def _left(self) -> dict[str, tuple[int, int, float]]:
        requests, tokens = self._used()
        opens = self._admitted[0][0] + self.window_seconds - time.monotonic() if self._admitted else 0.0
        limits = {"requests": (self.max_per_window, requests), "tokens": (self.max_tokens_per_window, tokens)}
        return {kind: (limit, max(0, limit - used), max(0.0, opens)) for kind, (limit, used) in limits.items() if limit}

    def openai_headers(self) -> dict[str, str]:
        if self.garbage:
            return {
                "x-ratelimit-limit-requests": "lots",
                "x-ratelimit-remaining-requests": "-1",
                "x-ratelimit-reset-tokens": "soon",
            }
        headers = {}
        for kind, (limit, left, opens) in self._left().items():
            headers |= {f"x-ratelimit-limit-{kind}": str(limit), f"x-ratelimit-remaining-{kind}": str(left)}
            headers[f"x-ratelimit-reset-{kind}"] = f"{max(1, int(opens * 1000))}ms"
        return headers

    def anthropic_headers(self) -> dict[str, str]:
        if self.garbage:
            return {"anthropic-ratelimit-requests-reset": "yesterday", "anthropic-ratelimit-requests-limit": "0"}
        headers = {}
        clock = datetime.now(UTC) + timedelta(seconds=self.skew)
        for kind, (limit, left, opens) in self._left().items():
            name = "input-tokens" if kind == "tokens" else kind
            headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(left)
            headers[f"anthropic-ratelimit-{name}-reset"] = (clock + timedelta(seconds=opens)).isoformat().replace("+00:00", "Z")
        if self.sends_date:
            headers["Date"] = clock.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return headers

    async def answer(self, request: web.Request, headers: Callable[[], dict[str, str]], reply: Callable[[str], Any]) -> Any:
        self.received += 1
        number = self.received
        body = await request.json()
        text = body["messages"][-1]["content"]
        behaviour = self.misbehave(number)
        if behaviour is not None:
            await asyncio.sleep(behaviour.seconds)
            if behaviour.drop:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            if behaviour.status != 200:
                self.refused += behaviour.status in (429, 529)
                return web.json_response({"error": behaviour.error}, status=behaviour.status, headers=behaviour.headers)
        if self._over(len(text) // 4):
            self.refused += 1
            _, _, opens = min(self._left().values(), key=lambda left: left[1], default=(0, 0, 0.1))
            error = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Rate limit reached"}
            return web.json_response({"error": error}, status=429, headers={**headers(), "retry-after": f"{opens:.3f}"})
        self._admitted.append((time.monotonic(), len(text) // 4))
        self.in_flight += 1
        self.peak_concurrent = max(self.peak_concurrent, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        self.served += 1
        return web.json_response(reply(text), headers=headers())

    async def openai(self, request: web.Request) -> Any:
        def reply(text: str) -> Any:
            usage = {"prompt_tokens": len(text) // 4, "completion_tokens": 0, "total_tokens": len(text) // 4}
            message = {"role": "assistant", "content": text.upper()}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

        return await self.answer(request, self.openai_headers, reply)

    async def anthropic(self, request: web.Request) -> Any:
        def reply(text: str) -> Any:
            usage = {"input_tokens": len(text) // 4, "output_tokens": 500, "cache_read_input_tokens": 90}
            content = [{"type": "text", "text": text.upper()}]
            return {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": content, "usage": usage}

        return await self.answer(request, self.anthropic_headers, reply)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on loopback, and give the address."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.openai)
        app.router.add_post("/v1/messages", self.anthropic)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

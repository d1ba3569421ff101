"""An HTTP server on loopback with the wire formats of OpenAI and Anthropic: it enforces limits, and misbehaves at will.

It runs in a thread and a loop of its own, so that what the client does between two requests does not hold up its clock.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Thread
from typing import Any, Literal

from aiohttp import web

from pocketflow_throttled.headers import Kind

from .counting import Count
from .dialects import Dialect, RetryAfter, output_quota, quotas, retry_after


@dataclass
class Behaviour:
    """What the server does to one request instead of answering it.

    `drop` cuts the connection; `late` lets an error come in mid-flight: after the request was admitted, and if it streams, after
    half of the answer.
    """

    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    late: bool = False
    seconds: float = 0.0


@dataclass
class Provider:
    """The server's limits, what it does to which request (by its number from 1), and what it saw.

    Its fixed windows begin when it is made, so that no test depends on where in a minute the machine happens to be.
    `received` is all there was; `served` was answered, `refused` was over a limit, `unfair` was refused for no reason.
    """

    requests: Count | None = None
    tokens: Count | None = None
    output: Count | None = None  # Anthropic's, counted as an answer is written; who has any left is admitted
    max_concurrent: int | None = None
    latency: float = 0.01
    dialect: Dialect | None = None  # that of the wire format, unless it is said
    retry_after: RetryAfter = "seconds"
    skew: float = 0.0  # seconds by which its clock is ahead
    sends_date: bool = True
    misbehave: Callable[[int], Behaviour | None] = lambda number: None
    received: int = 0
    served: int = 0
    refused: int = 0
    unfair: int = 0
    in_flight: int = 0
    peak_concurrent: int = 0
    _made: float = field(default_factory=time.monotonic, repr=False)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve on loopback, and give the address."""
        ready: list[str] = []
        loop = asyncio.new_event_loop()

        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self._openai)
            app.router.add_post("/v1/messages", self._anthropic)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ready.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            return runner

        runner = loop.run_until_complete(start())
        thread = Thread(target=loop.run_forever, name="provider")
        thread.start()
        try:
            yield ready[0]
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, OpenAI)

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Anthropic)

    async def _answer(self, request: web.Request, wire: "Wire") -> web.StreamResponse:
        now = time.monotonic() - self._made
        self.received += 1
        behaviour = self.misbehave(self.received)
        body = await request.json()
        text = body["messages"][-1]["content"]
        cost = len(text) // 4
        if behaviour is not None and not behaviour.late:
            await asyncio.sleep(behaviour.seconds)
            if behaviour.drop or behaviour.status != 200:
                return self._misbehave(request, behaviour, wire)
        counts: list[tuple[Kind, Count, int]] = []
        if self.requests is not None:
            counts.append(("requests", self.requests, 1))
        if self.tokens is not None:
            counts.append(("tokens", self.tokens, cost))
        wait = max((count.wait(now, need) for _, count, need in counts), default=0.0)
        if self.output is not None:
            wait = max(wait, self.output.wait(now, 1))
        if wait > 0 or (self.max_concurrent is not None and self.in_flight >= self.max_concurrent):
            self.refused += 1
            headers = self._headers(wire, counts, now)
            if wait > 0:
                headers |= retry_after(self.retry_after, wait, self._clock())
            return web.json_response(wire.refusal(), status=429, headers=headers)
        for _, count, need in counts:
            count.add(now, need)
        self.in_flight += 1
        self.peak_concurrent = max(self.peak_concurrent, self.in_flight)
        headers = self._headers(wire, counts, now)
        try:
            await asyncio.sleep(self.latency)
            if behaviour is not None and behaviour.late and not body.get("stream"):
                return self._misbehave(request, behaviour, wire)
            if body.get("stream"):
                return await self._stream(request, wire, text, cost, headers, behaviour)
        finally:
            self.in_flight -= 1
        self.served += 1
        if self.output is not None:
            self.output.add(time.monotonic() - self._made, Anthropic.OUTPUT)
        return web.json_response(wire.answer(text.upper(), cost), headers=headers)

    def _misbehave(self, request: web.Request, behaviour: Behaviour, wire: "Wire") -> web.Response:
        if behaviour.drop:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        self.unfair += behaviour.status in (402, 429, 503, 529)
        return web.json_response(wire.error(behaviour.error), status=behaviour.status, headers=behaviour.headers)

    async def _stream(
        self,
        request: web.Request,
        wire: "Wire",
        text: str,
        cost: int,
        headers: dict[str, str],
        behaviour: Behaviour | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await response.prepare(request)
        events = wire.events(text.upper(), cost)
        if behaviour is not None:
            events = [*events[: len(events) // 2], wire.failed(behaviour.error)]
            self.unfair += 1
        else:
            self.served += 1
        for name, data in events:
            told = f"event: {name}\n" if name else ""
            await response.write(f"{told}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())
        await response.write_eof()
        return response

    def _clock(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.skew)

    def _headers(self, wire: "Wire", counts: list[tuple[Kind, Count, int]], now: float) -> dict[str, str]:
        told = quotas(self.dialect or wire.dialect, [(kind, count) for kind, count, _ in counts], now, self._clock())
        if self.output is not None:
            told |= output_quota(self.output, now, self._clock())
        # An empty one keeps the library from adding that of this machine.
        return told | {"Date": format_datetime(self._clock(), usegmt=True) if self.sends_date else ""}


Wire = type["OpenAI | Anthropic"]
Event = tuple[str, dict[str, Any] | str]


class OpenAI:
    """The wire format of chat completions."""

    dialect: Dialect = "openai"

    @staticmethod
    def answer(text: str, tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    @staticmethod
    def events(text: str, tokens: int) -> list[Event]:
        def chunk(content: str, reason: Literal["stop"] | None = None) -> Event:
            choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
            return "", {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

        half = len(text) // 2
        return [chunk(text[:half]), chunk(text[half:]), chunk("", "stop"), ("", "[DONE]")]

    @staticmethod
    def error(error: dict[str, Any]) -> dict[str, Any]:
        return {"error": error}

    @classmethod
    def failed(cls, error: dict[str, Any]) -> Event:
        return "", cls.error(error)

    @staticmethod
    def refusal() -> dict[str, Any]:
        message = "Rate limit reached for m"
        return {"error": {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}}


class Anthropic:
    """The wire format of messages. Output and what is read from the cache are told, and do not count."""

    dialect: Dialect = "anthropic"
    OUTPUT = 500  # tokens of each answer

    @staticmethod
    def answer(text: str, tokens: int) -> dict[str, Any]:
        usage = {"input_tokens": tokens, "output_tokens": Anthropic.OUTPUT, "cache_read_input_tokens": 90}
        content = [{"type": "text", "text": text}]
        message = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": content, "usage": usage}
        return message | {"stop_reason": "end_turn", "stop_sequence": None}

    @classmethod
    def events(cls, text: str, tokens: int) -> list[Event]:
        def event(name: str, **fields: Any) -> Event:
            return name, {"type": name, **fields}

        def delta(part: str) -> Event:
            return event("content_block_delta", index=0, delta={"type": "text_delta", "text": part})

        half = len(text) // 2
        return [
            event("message_start", message={**cls.answer("", tokens), "content": [], "stop_reason": None}),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            delta(text[:half]),
            delta(text[half:]),
            event("content_block_stop", index=0),
            event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": cls.OUTPUT}),
            event("message_stop"),
        ]

    @staticmethod
    def error(error: dict[str, Any]) -> dict[str, Any]:
        return {"type": "error", "error": error}

    @classmethod
    def failed(cls, error: dict[str, Any]) -> Event:
        return "error", cls.error(error)

    @classmethod
    def refusal(cls) -> dict[str, Any]:
        return cls.error({"type": "rate_limit_error", "message": "This request would exceed your rate limit"})

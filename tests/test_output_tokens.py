"""Output tokens, which Anthropic limits apart: what a call will take of them is known only when it ends."""

import asyncio
import math
from collections import deque
from typing import Any

import httpx2
import pytest

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.simulation import SimulatedRateLimitError

from .test_nodes import now

PREFIX, SENT = "anthropic-ratelimit-output-tokens-", {"date": "Thu, 26 Nov 2026 06:00:00 GMT"}


def told(remaining: int, seconds: int | None = 25) -> dict[str, str]:
    """Return headers of an answer that tells what is left of 8,000 a minute, and when all of it is."""
    headers = SENT | {f"{PREFIX}limit": "8000", f"{PREFIX}remaining": str(remaining)}
    return headers if seconds is None else headers | {f"{PREFIX}reset": f"2026-11-26T06:00:{seconds:02}Z"}


def of_requests(remaining: int) -> dict[str, str]:
    names = {"limit": "50", "remaining": str(remaining), "reset": "2026-11-26T06:00:40Z"}
    return {f"anthropic-ratelimit-requests-{name}": value for name, value in names.items()}


def paused_for(headers: dict[str, str]) -> float:
    async def main() -> float:
        limiter = RateLimiter(5)
        limiter.observe(headers)
        return limiter.paused_for

    return run_virtual(main())


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        (told(0), 25.0),
        (told(1000), 0.0),
        (told(0, None), 0.0),
        (told(0) | {"retry-after": "3"}, 3.0),
        (told(0) | of_requests(0), 40.0),
        (told(0) | of_requests(10), 25.0),
        (told(0, None) | {f"{PREFIX}reset": "300s"}, 300.0),  # what is written beyond the limit is a debt
    ],
)
def test_no_call_starts_until_the_reset_when_none_is_left(headers: dict[str, str], pause: float) -> None:
    assert paused_for(headers) == pytest.approx(pause, abs=1e-6)


def test_a_reset_by_a_clock_that_may_be_wrong_pauses_for_a_minute_at_most() -> None:
    undated = {name: value for name, value in told(0).items() if name not in SENT}
    assert paused_for(undated | {f"{PREFIX}reset": "2099-01-01T00:00:00Z"}) == pytest.approx(60.0)


def test_what_is_left_of_them_is_no_limit_of_what_calls_are_sent_with() -> None:
    limiter = RateLimiter(5)
    limiter.observe(told(3000))
    assert (limiter.max_tokens_per_window, limiter.max_per_window) == (None, None)


class Server:
    """8,000 output tokens a minute, counted as they are written; a call is refused when none is left.

    What is written beyond them is owed, by a bucket; where it `slides`, for a minute.
    """

    def __init__(self, *, slides: bool = False) -> None:
        self.refused = self.written = 0
        self._slides = slides
        self._left, self._since = 8000.0, 0.0
        self._log: deque[tuple[float, int]] = deque()

    def _look(self) -> float:
        if self._slides:
            while self._log and self._log[0][0] + 60 <= now():
                self._left += self._log.popleft()[1]
        else:
            self._left, self._since = min(8000, self._left + (now() - self._since) * 8000 / 60), now()
        return self._left

    def headers(self) -> dict[str, str]:
        left = self._look()
        seconds = self._log[-1][0] + 60 - now() if self._slides and self._log else (8000 - left) * 60 / 8000
        return told(max(0, round(left, -3)), None) | {f"{PREFIX}reset": f"{math.ceil(seconds)}s"}

    def answer(self, written: int) -> httpx2.Response:
        self._look()
        self._left -= written
        self.written += written
        self._log.append((now(), written))
        return httpx2.Response(200, headers=self.headers(), request=httpx2.Request("POST", "https://x"))

    def admit(self) -> None:
        if self._look() <= 0:
            self.refused += 1
            error = SimulatedRateLimitError("no output token is left", 1.0)
            error.response = httpx2.Response(429, headers=self.headers())  # type: ignore[attr-defined]
            raise error


class Writing(ThrottledParallelBatchNode):
    """Calls that write 400 tokens on average; by their usage, if they return it."""

    max_concurrent = 20
    server: Server
    has_hook = True
    tells_of = "its end"  # what headers tell: what is left at that moment of the call
    returns_usage = True
    items = 200
    least, most = 100, 700
    takes = 3.5  # seconds, at least, beyond half a second

    async def prep_async(self, shared: Any) -> Any:
        return range(self.items)

    async def exec_async(self, item: int) -> Any:
        await asyncio.sleep(0.05)
        self.server.admit()
        began = self.server.headers()
        await asyncio.sleep(0.5)
        if self.tells_of == "a stream's start":
            self.limiter.observe(began)
        await asyncio.sleep(self.takes + item % 7 * 0.31)
        tokens = self.least + (self.most - self.least) * (item % 5) // 4
        response = self.server.answer(tokens)
        if self.tells_of == "its start":
            self.limiter.observe(began)
        elif self.has_hook and self.tells_of == "its end":
            await self.limiter.observe_response(response)
        return {"item": item, "usage": {"input_tokens": 1, "output_tokens": tokens}} if self.returns_usage else {"item": item}

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
        shared["answers"] = [answer["item"] for answer in exec_res_list]


class AdaptiveWriting(Writing, AdaptiveThrottledNode):
    max_concurrent = 20


def run(node: Writing) -> float:
    """Run a batch of calls that write, and return the seconds it took."""

    async def main() -> float:
        shared: dict[str, Any] = {}
        await node.run_async(shared)
        assert shared["answers"] == list(range(node.items))
        return now()

    return run_virtual(main())


@pytest.mark.parametrize("slides", [False, True])
@pytest.mark.parametrize("returns_usage", [False, True])
@pytest.mark.parametrize("node_class", [Writing, AdaptiveWriting])
def test_a_batch_that_writes_more_than_is_allowed_is_hardly_refused(
    node_class: type[Writing], *, returns_usage: bool, slides: bool
) -> None:
    node = node_class()
    node.server, node.returns_usage = Server(slides=slides), returns_usage
    seconds = run(node)
    assert node.server.refused <= (2 if returns_usage else 4)
    assert seconds <= 1.1 * node.server.written / 8000 * 60


@pytest.mark.parametrize("slides", [False, True])
@pytest.mark.parametrize("tells_of", ["its start", "a stream's start"])
@pytest.mark.parametrize("node_class", [Writing, AdaptiveWriting])
def test_so_it_is_where_answers_tell_what_was_left_as_their_calls_began(
    node_class: type[Writing], *, tells_of: str, slides: bool
) -> None:
    node = node_class()
    node.server, node.tells_of, node.items = Server(slides=slides), tells_of, 300
    seconds = run(node)
    assert node.server.refused <= (12 if slides else 5)
    assert seconds <= 1.25 * node.server.written / 8000 * 60


@pytest.mark.parametrize("slides", [False, True])
@pytest.mark.parametrize("node_class", [Writing, AdaptiveWriting])
def test_without_a_hook_the_first_refusals_and_the_usage_tell(node_class: type[Writing], *, slides: bool) -> None:
    node = node_class()
    node.server, node.has_hook = Server(slides=slides), False
    seconds = run(node)
    assert node.server.refused <= 8
    assert seconds <= 1.1 * node.server.written / 8000 * 60


def test_where_neither_answers_nor_results_tell_refusals_are_waited_out() -> None:
    node = Writing(max_concurrent=10)
    node.server, node.has_hook, node.returns_usage = Server(), False, False
    assert run(node) <= 1.1 * node.server.written / 8000 * 60


def test_calls_that_each_write_a_large_part_of_the_limit_are_none_of_them_given_up() -> None:
    node = Writing(max_concurrent=50, rate_limit_timeout=300.0)
    node.server, node.has_hook, node.items = Server(), False, 60
    node.least, node.most = 2000, 5000
    run(node)
    assert node.server.refused <= 50  # those that started before any had been told what calls write


def test_calls_that_write_little_of_the_limit_are_not_held_back() -> None:
    node = Writing()
    node.server, node.items, node.least, node.most = Server(), 100, 10, 30
    assert run(node) < 100 / 20 * 6.0


def test_what_was_told_of_them_is_forgotten_when_the_limiter_is_reset() -> None:
    async def main() -> None:
        node = Writing()
        node.server, node.items, node.has_hook = Server(), 60, False
        await node.run_async({})
        assert node.limiter.paused_for == 0.0
        assert not await starts_at_once(node.limiter, 20)
        node.limiter.reset()
        assert await starts_at_once(node.limiter, 20)

    run_virtual(main())


async def held_back() -> RateLimiter:
    """Return a limiter that holds calls back, for some of them were refused and their results told what each writes."""
    node = Writing()
    node.server, node.items, node.has_hook = Server(), 60, False
    await node.run_async({})
    return node.limiter


def test_code_of_ones_own_is_held_back_as_the_node_is() -> None:
    async def main() -> float:
        limiter = await held_back()
        start = now()

        async def call() -> None:
            async with limiter:
                await asyncio.sleep(1.0)

        await asyncio.gather(*(call() for _ in range(20)))
        return now() - start

    assert run_virtual(main()) > 2.0


def test_who_is_held_back_need_not_pause_until_the_reset() -> None:
    async def main() -> None:
        limiter = await held_back()
        await limiter.observe_response(httpx2.Response(200, headers=told(0, 25)))
        assert limiter.paused_for == 0.0
        await limiter.observe_response(httpx2.Response(429, headers=told(0, 25)))
        assert limiter.paused_for == pytest.approx(25.0)

    run_virtual(main())


@pytest.mark.parametrize(("seconds", "pause"), [(0.5, 0.0), (9.5, 25.0)])
def test_a_stream_that_tells_as_it_begins_that_none_is_left_holds_calls_back_one_by_one(seconds: float, pause: float) -> None:
    paused: list[float] = []

    class Streaming(ThrottledParallelBatchNode):
        max_concurrent = 1

        async def prep_async(self, shared: Any) -> Any:
            return range(2)

        async def exec_async(self, item: int) -> Any:
            self.limiter.observe(told(3000, None))
            await asyncio.sleep(seconds)
            if item == 1:
                self.limiter.observe(told(0, 25))
                paused.append(self.limiter.paused_for)
            await asyncio.sleep(10 - seconds)
            return {"usage": {"output_tokens": 500}}

    run_virtual(Streaming().run_async({}))
    assert paused == pytest.approx([pause])


async def starts_at_once(limiter: RateLimiter, calls: int) -> bool:
    taken = [limiter.try_acquire() for _ in range(calls)]
    for _ in range(sum(taken)):
        limiter.release()
    return all(taken)


class StatusError(Exception):
    """An error with the response it is of, as of any client."""

    response: httpx2.Response


def enforced() -> dict[str, str]:
    """Return the headers of a refusal because none of 4,000 a minute is left."""
    return {f"{PREFIX}limit": "4000", f"{PREFIX}remaining": "0", f"{PREFIX}reset": "30s"}


async def refuse(limiter: RateLimiter) -> None:
    await limiter.observe_response(httpx2.Response(429, headers=enforced()))


def test_who_holds_a_slot_by_hand_while_a_batch_runs_under_it_waits_for_it_in_vain_for_a_window_at_most() -> None:
    class Batch(ThrottledParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(4)

        async def exec_async(self, item: int) -> Any:
            await asyncio.sleep(1.0)
            await refuse(limiter)
            return {"usage": {"input_tokens": 1, "output_tokens": 4000}}

    limiter = RateLimiter(5)

    async def main() -> float:
        batch = Batch(shared_limiter=limiter)
        await batch.run_async({})
        async with limiter:
            await batch.run_async({})
        return now()

    assert run_virtual(main()) <= 10 * 60.0


@pytest.mark.parametrize("status", [429, 529, 500, 401])
def test_who_is_refused_or_fails_for_another_reason_is_held_back_for_no_output_tokens(status: int) -> None:
    class Batch(ThrottledParallelBatchNode):
        max_concurrent, max_retries = 20, 2

        async def prep_async(self, shared: Any) -> Any:
            return range(200)

        async def exec_async(self, item: int) -> Any:
            await asyncio.sleep(1.0)
            if item == 5 and not failed:
                failed.append(item)
                told = enforced() | {"retry-after": "1"}
                if status == 429:  # for requests
                    told |= {"anthropic-ratelimit-requests-limit": "1000", "anthropic-ratelimit-requests-remaining": "0"}
                error = SimulatedRateLimitError("no", 1.0) if status == 429 else StatusError("no")
                error.response = httpx2.Response(status, headers=told)
                raise error
            return {"usage": {"input_tokens": 1, "output_tokens": 4000}}

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["seconds"] = now()

    failed, shared = list[int](), dict[str, Any]()
    run_virtual(Batch(max_per_minute=1000).run_async(shared))
    assert shared["seconds"] <= 60.0

"""The official clients, through the throttled nodes, over real HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import APIConnectionError, AsyncOpenAI, InternalServerError, RateLimitError

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, ThrottledParallelBatchNode

from .server import Behaviour, Provider

Ask = Callable[[str], Any]


@asynccontextmanager
async def openai_client(url: str, **http: Any) -> AsyncIterator[Ask]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0, http_client=httpx2.AsyncClient(**http)) as client:

        async def ask(text: str) -> Any:
            return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        yield ask


@asynccontextmanager
async def anthropic_client(url: str, **http: Any) -> AsyncIterator[Ask]:
    async with AsyncAnthropic(base_url=url, api_key="test", max_retries=0, http_client=httpx2.AsyncClient(**http)) as client:

        async def ask(text: str) -> Any:
            return await client.messages.create(model="m", max_tokens=500, messages=[{"role": "user", "content": text}])

        yield ask


CLIENTS = {"openai": openai_client, "anthropic": anthropic_client}


def answer_of(result: Any) -> str:
    return result.choices[0].message.content if hasattr(result, "choices") else result.content[0].text


class Asking(ThrottledParallelBatchNode):
    ask: Ask

    async def prep_async(self, shared: Any) -> Any:
        return shared["questions"]

    async def exec_async(self, question: str) -> Any:
        return await self.ask(question)

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
        shared["answers"] = exec_res_list


class Adapting(Asking, AdaptiveThrottledNode):
    pass


async def run(
    provider: Provider,
    node: Asking,
    questions: list[str],
    client: str = "openai",
    hook: RateLimiter | None = None,
    *,
    warm: bool = False,
) -> list[Any]:
    hooks = {"event_hooks": {"response": [hook.observe_response]}} if hook else {}
    async with provider.serve() as url, CLIENTS[client](url, timeout=30, **hooks) as ask:
        node.ask = ask
        if provider.received == 0 and warm:
            # Requests that open a connection take long enough to arrive together with those of the next window.
            await asyncio.gather(*(ask("warm up") for _ in range(20)))
            await asyncio.sleep(provider.window_seconds)
            provider.served = provider.received = 0
        shared = {"questions": questions}
        await node.run_async(shared)
    assert (node.limiter.active, node.limiter.waiting) == (0, 0)
    return shared["answers"]


def questions(count: int, length: int = 12) -> list[str]:
    return [f"question {number}".ljust(length, ".") for number in range(count)]


def right(answers: list[Any], asked: list[str]) -> bool:
    return [answer_of(answer) for answer in answers] == [question.upper() for question in asked]


@pytest.mark.parametrize("client", CLIENTS)
def test_300_items_at_a_limit_tighter_than_the_batch_are_answered_in_order_and_none_is_refused(client: str) -> None:
    provider = Provider(max_concurrent=20, max_per_window=100, window_seconds=2.0)
    node = Asking(shared_limiter=RateLimiter(20, 100, 2.0))
    asked = questions(300)
    start = time.monotonic()
    assert right(asyncio.run(run(provider, node, asked, client, warm=True)), asked)
    assert (provider.served, provider.refused) == (300, 0)
    assert provider.peak_concurrent <= 20
    assert time.monotonic() - start >= 4.0  # three windows


@pytest.mark.parametrize("client", CLIENTS)
def test_items_keep_to_a_limit_of_tokens(client: str) -> None:
    provider = Provider(max_tokens_per_window=1200, window_seconds=2.0)
    node = Asking(shared_limiter=RateLimiter(20, None, 2.0, max_tokens_per_window=1200))
    asked = questions(150, 40)
    assert right(asyncio.run(run(provider, node, asked, client, warm=True)), asked)
    assert (provider.served, provider.refused) == (150, 0)
    assert node.stats["tokens_estimated"] == node.stats["tokens_used"] == 1500


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("settings", [{}, {"skew": 3600.0}, {"garbage": True}], ids=str)
def test_limits_nobody_set_are_learned_from_the_headers(client: str, settings: dict[str, Any]) -> None:
    provider = Provider(max_per_window=100, window_seconds=2.0, **settings)
    limiter = RateLimiter(10, None, 2.0)
    asked = questions(150)
    assert right(asyncio.run(run(provider, Asking(shared_limiter=limiter), asked, client, hook=limiter)), asked)
    assert provider.served == 150
    if not provider.garbage:
        assert limiter.max_per_window == 100
        assert provider.refused <= 10


def test_500s_and_dropped_connections_are_the_users_retries() -> None:
    def misbehave(number: int) -> Behaviour | None:
        if number % 7 == 0:
            return Behaviour(500, {"message": "oops"})
        return Behaviour(0, drop=True) if number % 11 == 0 else None

    provider = Provider(misbehave=misbehave)
    asked = questions(100)
    node = Asking(max_retries=8, max_concurrent=10)
    assert right(asyncio.run(run(provider, node, asked)), asked)
    assert node.stats["refused"] == 0
    for behaviour, error in ((Behaviour(500, {}), InternalServerError), (Behaviour(0, drop=True), APIConnectionError)):
        with pytest.raises(error):
            asyncio.run(run(Provider(misbehave=lambda _, what=behaviour: what), Asking(max_retries=2), ["x"]))


@pytest.mark.parametrize("client", CLIENTS)
def test_overload_and_unfair_refusals_are_waited_out_and_lose_nothing(client: str) -> None:
    def misbehave(number: int) -> Behaviour | None:
        if number in (5, 6, 40):
            return Behaviour(529, {"type": "overloaded_error", "message": "Overloaded"}, {"retry-after": "0.2"})
        if number in (20, 21):
            return Behaviour(429, {"type": "rate_limit_error", "message": "slow down"}, {"retry-after-ms": "150"})
        return None

    provider = Provider(misbehave=misbehave)
    node = Asking(max_concurrent=10)
    asked = questions(100)
    assert right(asyncio.run(run(provider, node, asked, client)), asked)
    assert node.stats["refused"] == provider.refused == 5


def test_slow_answers_change_nothing() -> None:
    provider = Provider(misbehave=lambda number: Behaviour(200, seconds=0.3) if number % 10 == 0 else None)
    asked = questions(50)
    assert right(asyncio.run(run(provider, Asking(max_concurrent=10), asked)), asked)


def test_a_quota_that_is_used_up_goes_to_the_fallback_at_once_and_says_why() -> None:
    error = {"code": "insufficient_quota", "type": "insufficient_quota", "message": "You exceeded your current quota"}
    provider = Provider(misbehave=lambda _: Behaviour(429, error))

    class FallingBack(Asking):
        async def exec_fallback_async(self, question: str, exc: Exception) -> str:
            assert isinstance(exc, RateLimitError)
            return str(exc)

    [message] = asyncio.run(run(provider, FallingBack(max_retries=5), ["x"]))
    assert "not sent again: insufficient_quota" in message
    assert provider.received == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_an_adaptive_node_finds_the_limit_of_a_server_that_says_nothing(client: str) -> None:
    provider = Provider(max_concurrent=8, latency=0.03)
    node = Adapting(max_concurrent=50)
    asked = questions(300)
    assert right(asyncio.run(run(provider, node, asked, client)), asked)
    assert provider.served == 300
    assert provider.refused <= 30


def test_cancelling_in_mid_flight_leaves_no_slot_and_no_task() -> None:
    provider = Provider(latency=5.0)

    async def main() -> None:
        async with provider.serve() as url, openai_client(url) as ask:
            node = Asking(max_concurrent=5)
            node.ask = ask
            task = asyncio.create_task(node.run_async({"questions": questions(20)}))
            while provider.in_flight < 5:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    asyncio.run(main())

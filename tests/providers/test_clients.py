"""The official clients, through the throttled nodes, over real HTTP: the one place where tests take real time."""

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

from .counting import Count, Counting
from .dialects import Dialect, RetryAfter
from .server import Behaviour, Provider

# Server and client are threads of one process, which take turns at the interpreter of a machine that may be busy: two requests
# may arrive so much closer together than they were sent. That windows are exact is tested in virtual time.
TOLERANCE = 0.2  # seconds

many = pytest.mark.no_cover  # of many calls, most of what would be traced is the clients, and what is ours others cover

Ask = Callable[[str], Any]


@asynccontextmanager
async def openai_client(url: str, **http: Any) -> AsyncIterator[tuple[Ask, Ask]]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0, http_client=httpx2.AsyncClient(**http)) as client:

        async def ask(text: str) -> Any:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
            assert answer.usage is not None
            return answer

        async def stream(text: str) -> str:
            chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        yield ask, stream


@asynccontextmanager
async def anthropic_client(url: str, **http: Any) -> AsyncIterator[tuple[Ask, Ask]]:
    async with AsyncAnthropic(base_url=url, api_key="test", max_retries=0, http_client=httpx2.AsyncClient(**http)) as client:

        async def ask(text: str) -> Any:
            return await client.messages.create(model="m", max_tokens=500, messages=[{"role": "user", "content": text}])

        async def stream(text: str) -> str:
            async with client.messages.stream(model="m", max_tokens=500, messages=[{"role": "user", "content": text}]) as events:
                return "".join([part async for part in events.text_stream])

        yield ask, stream


CLIENTS = {"openai": openai_client, "anthropic": anthropic_client}
both_clients = pytest.mark.parametrize("client", CLIENTS)


def text_of(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    return answer.choices[0].message.content if hasattr(answer, "choices") else answer.content[0].text


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


def answers_of(
    provider: Provider, node: Asking, asked: list[str], client: str = "openai", *, hook: bool = False, stream: bool = False
) -> list[str]:
    """Return what a node is answered; with a hook its limiter observes every response."""

    async def main() -> list[Any]:
        hooks = {"event_hooks": {"response": [node.limiter.observe_response]}} if hook else {}
        async with CLIENTS[client](url, timeout=30, verify=False, **hooks) as asks:  # there is no TLS on loopback
            node.ask = asks[stream]
            shared = {"questions": asked}
            await node.run_async(shared)
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)
        return shared["answers"]

    with provider.serve() as url:
        return [text_of(answer) for answer in asyncio.run(main())]


def questions(count: int, length: int = 12) -> list[str]:
    return [f"question {number}".ljust(length, ".") for number in range(count)]


def right(asked: list[str]) -> list[str]:
    return [question.upper() for question in asked]


@many
@pytest.mark.parametrize(("client", "counting"), [("openai", "sliding"), ("anthropic", "sliding"), ("anthropic", "fixed")])
def test_300_items_at_a_limit_tighter_than_the_batch_are_answered_in_order_and_none_is_refused(
    client: str, counting: Counting
) -> None:
    provider = Provider(requests=Count(100, 1.0 - TOLERANCE, counting), max_concurrent=20)
    node = Asking(shared_limiter=RateLimiter(20, 100, 1.0))
    asked = questions(300)
    start = time.monotonic()
    assert answers_of(provider, node, asked, client, hook=counting == "fixed") == right(asked)
    assert (provider.served, provider.refused) == (300, 0)
    assert provider.peak_concurrent <= 20
    assert time.monotonic() - start >= 2.0  # three windows


@many
@both_clients
def test_items_keep_to_a_limit_of_tokens(client: str) -> None:
    provider = Provider(tokens=Count(600, 1.0 - TOLERANCE))
    node = Asking(shared_limiter=RateLimiter(20, None, 1.0, max_tokens_per_window=600))
    asked = questions(150, 40)
    assert answers_of(provider, node, asked, client) == right(asked)
    assert (provider.served, provider.refused) == (150, 0)
    assert node.stats["tokens_estimated"] == node.stats["tokens_used"] == 1500


@many
@pytest.mark.parametrize("hook", [False, True])
def test_a_limit_of_output_tokens_that_nobody_set_is_kept_to_by_what_answers_tell(hook: bool) -> None:
    provider = Provider(output=Count(5000, 1.0, "bucket"), latency=0.2)  # ten answers a second
    node = Asking(shared_limiter=RateLimiter(20, None, 1.0))
    asked = questions(40)
    assert answers_of(provider, node, asked, "anthropic", hook=hook) == right(asked)
    assert provider.served == 40
    assert provider.refused <= 30  # the calls that are on their way when the limit is met, and as many if timing is bad


@many
@both_clients
@pytest.mark.parametrize("settings", [{"skew": 3600.0}, {"skew": -5.0, "sends_date": False}], ids=str)
def test_limits_nobody_set_are_learned_from_the_headers(client: str, settings: dict[str, Any]) -> None:
    provider = Provider(requests=Count(100, 1.0 - TOLERANCE), retry_after="milliseconds", **settings)
    node = Asking(shared_limiter=RateLimiter(10, None, 1.0))
    asked = questions(150)
    assert answers_of(provider, node, asked, client, hook=True) == right(asked)
    assert node.limiter.max_per_window == 100
    assert provider.refused <= 25  # an unknown limit costs the calls that are on their way when it is met


@pytest.mark.parametrize("dialect", ["azure", "openrouter", "ietf", "garbage", "none"])
def test_no_dialect_loses_an_item(dialect: Dialect) -> None:
    provider = Provider(requests=Count(40, 0.5), dialect=dialect)
    asked = questions(60)
    assert answers_of(provider, Asking(max_concurrent=10), asked, hook=True) == right(asked)
    assert provider.served == 60


@pytest.mark.parametrize("retry_after", ["seconds", "whole", "milliseconds", "date"])
def test_refusals_are_waited_out_however_they_say_for_how_long(retry_after: RetryAfter) -> None:
    provider = Provider(requests=Count(4, 0.5), retry_after=retry_after, dialect="none", skew=600.0)
    asked = questions(8)
    node = Asking(max_concurrent=5)  # one more than it takes at once: a slow machine is refused too
    start = time.monotonic()
    assert answers_of(provider, node, asked) == right(asked)
    assert node.stats["refused"] == provider.refused >= 1
    assert time.monotonic() - start < 300  # the clocks are ten minutes apart


def test_500s_and_dropped_connections_are_the_users_retries() -> None:
    def misbehave(number: int) -> Behaviour | None:
        if number % 7 == 0 and number <= 100:
            return Behaviour(500, {"message": "oops"})
        return Behaviour(drop=True) if number % 11 == 0 and number <= 100 else None

    provider = Provider(misbehave=misbehave)
    asked = questions(100)
    node = Asking(max_retries=23, max_concurrent=10)  # one more than all that go wrong, if an item met every one of them
    assert answers_of(provider, node, asked) == right(asked)
    assert node.stats["refused"] == 0
    for behaviour, error in ((Behaviour(500), InternalServerError), (Behaviour(drop=True), APIConnectionError)):
        with pytest.raises(error):
            answers_of(Provider(misbehave=lambda _, what=behaviour: what), Asking(max_retries=2), ["x"])


OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}


@many
@both_clients
def test_overload_and_unfair_refusals_are_waited_out_and_lose_nothing(client: str) -> None:
    def misbehave(number: int) -> Behaviour | None:
        if number in (5, 6, 40):
            return Behaviour(529, OVERLOADED, {"retry-after": "0.2"})
        if number in (20, 21):
            return Behaviour(429, {"type": "rate_limit_error", "message": "slow down"}, {"retry-after-ms": "150"})
        if number == 60:
            return Behaviour(503, {"message": "busy"}, {"retry-after": "0.1"})
        return Behaviour(529, OVERLOADED, {"retry-after": "0.1"}, late=True) if number == 70 else None

    provider = Provider(misbehave=misbehave)
    node = Asking(max_concurrent=10)
    asked = questions(100)
    assert answers_of(provider, node, asked, client) == right(asked)
    assert node.stats["refused"] == provider.unfair == 7


@both_clients
def test_overload_in_mid_stream_is_a_refusal_and_the_answer_is_asked_for_again(client: str) -> None:
    provider = Provider(misbehave=lambda number: Behaviour(error=OVERLOADED, late=True) if number in (3, 4) else None)
    node = Asking(max_concurrent=5)
    asked = questions(20)
    assert answers_of(provider, node, asked, client, stream=True) == right(asked)
    assert (node.stats["refused"], provider.served) == (2, 20)


def test_slow_answers_change_nothing() -> None:
    provider = Provider(misbehave=lambda number: Behaviour(seconds=0.3) if number % 10 == 0 else None)
    asked = questions(50)
    assert answers_of(provider, Asking(max_concurrent=10), asked) == right(asked)


@pytest.mark.parametrize(
    ("client", "status", "error", "reason"),
    [
        ("openai", 429, {"code": "insufficient_quota", "type": "insufficient_quota", "message": "no"}, "insufficient_quota"),
        (
            "anthropic",
            429,
            {"type": "rate_limit_error", "error_code": "enforced_spend_limit_reached", "message": "no"},
            "enforced_spend_limit_reached",
        ),
        ("openai", 413, {"code": "rate_limit_exceeded", "type": "tokens", "message": "Request too large"}, "can never fit"),
    ],
)
def test_what_is_refused_for_good_goes_to_the_fallback_at_once_and_says_why(
    client: str, status: int, error: dict[str, Any], reason: str
) -> None:
    provider = Provider(misbehave=lambda _: Behaviour(status, error, {"retry-after": "1"}))

    class FallingBack(Asking):
        async def exec_fallback_async(self, question: str, exc: Exception) -> str:
            assert status != 429 or client != "openai" or isinstance(exc, RateLimitError)
            return str(exc)

    [message] = answers_of(provider, FallingBack(max_retries=5), ["x"], client)
    assert "not sent again" in message
    assert reason in message
    assert provider.received == 1


@many
@both_clients
def test_an_adaptive_node_finds_the_limit_of_a_server_that_says_nothing(client: str) -> None:
    provider = Provider(max_concurrent=8, latency=0.03, dialect="none")
    node = Adapting(max_concurrent=50)
    asked = questions(200)
    assert answers_of(provider, node, asked, client) == right(asked)
    assert provider.served == 200
    assert provider.refused <= 30


def test_cancelling_in_mid_flight_leaves_no_slot_and_no_task() -> None:
    provider = Provider(latency=5.0)

    async def main() -> None:
        async with openai_client(url, verify=False) as (ask, _):
            node = Asking(max_concurrent=5)
            node.ask = ask
            task = asyncio.create_task(node.run_async({"questions": questions(20)}))
            while provider.in_flight < 5:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    with provider.serve() as url:
        asyncio.run(main())

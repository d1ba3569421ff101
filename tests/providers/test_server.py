"""What the server on loopback does, so that tests may rely on it."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from pocketflow_throttled.headers import lowered, read_quotas, retry_after

from .counting import Count, Counting
from .dialects import Dialect, RetryAfter
from .server import Anthropic, Behaviour, OpenAI, Provider

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@contextmanager
def served(provider: Provider, wire: str = "openai") -> Iterator[Any]:
    """Give a function that sends a text, of 4 characters a token, and returns the response."""
    with provider.serve() as url, httpx2.Client() as client:

        def send(text: str = "abcd", **fields: Any) -> httpx2.Response:
            return client.post(url + PATHS[wire], json={"messages": [{"role": "user", "content": text}], **fields})

        yield send


@pytest.mark.parametrize("counting", ["sliding", "bucket", "fixed"])
def test_it_refuses_what_is_over_its_limit_of_requests_to_the_last_one(counting: Counting) -> None:
    provider = Provider(requests=Count(3, 60.0, counting))
    with served(provider) as send:
        assert [send().status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert (provider.received, provider.served, provider.refused, provider.unfair) == (5, 3, 2, 0)


def test_it_refuses_what_is_over_its_limit_of_tokens() -> None:
    provider = Provider(tokens=Count(10, 60.0))
    with served(provider) as send:
        assert [send("x" * length).status_code for length in (24, 20, 16)] == [200, 429, 200]


def test_it_has_room_again_when_the_window_has_passed_and_not_before() -> None:
    provider = Provider(requests=Count(1, 0.3), latency=0.0)
    with served(provider) as send:
        start = time.monotonic()
        send()
        while send().status_code == 429:
            pass
        assert time.monotonic() - start >= 0.3


def test_it_refuses_more_at_once_than_it_allows() -> None:
    provider = Provider(max_concurrent=1, latency=1.0)
    with provider.serve() as url:

        async def main() -> list[int]:
            async with httpx2.AsyncClient() as client:
                body = {"messages": [{"role": "user", "content": "x"}]}
                answers = await asyncio.gather(*(client.post(url + PATHS["openai"], json=body) for _ in range(3)))
                return sorted(answer.status_code for answer in answers)

        assert asyncio.run(main()) == [200, 429, 429]
    assert (provider.peak_concurrent, provider.in_flight, provider.refused) == (1, 0, 2)


@pytest.mark.parametrize(("wire", "answer"), [("openai", OpenAI), ("anthropic", Anthropic)])
def test_it_answers_in_the_wire_format_whole_and_in_a_stream(wire: str, answer: Any) -> None:
    with served(Provider(), wire) as send:
        assert send("abcdefgh").json() == answer.answer("ABCDEFGH", 2)
        lines = [line[6:] for line in send("abcdefgh", stream=True).text.splitlines() if line.startswith("data: ")]
        assert [json.loads(line) if line != "[DONE]" else line for line in lines] == [
            data for _, data in answer.events("ABCDEFGH", 2)
        ]


@pytest.mark.parametrize("dialect", ["openai", "azure", "anthropic", "mistral", "openrouter", "ietf"])
@pytest.mark.parametrize("skew", [0.0, 3600.0])
def test_it_says_in_every_dialect_what_is_left(dialect: Dialect, skew: float) -> None:
    provider = Provider(requests=Count(50, 30.0), tokens=Count(1000, 30.0), dialect=dialect, skew=skew)
    with served(provider) as send:
        send("x" * 400)
        quotas = {quota.kind: quota for quota in read_quotas(lowered(send("x" * 400).headers))}
    assert (quotas["requests"].limit, quotas["requests"].remaining) == (50, 48)
    if dialect != "mistral":
        assert quotas["requests"].reset == pytest.approx(30, abs=2)
    if dialect in ("openai", "azure", "anthropic", "mistral"):
        assert (quotas["tokens"].limit, quotas["tokens"].remaining) == (1000, 800)


@pytest.mark.parametrize("kind", ["seconds", "whole", "milliseconds", "date"])
def test_it_says_in_every_way_how_long_to_wait(kind: RetryAfter) -> None:
    with served(Provider(requests=Count(1, 20.0), retry_after=kind, skew=-100.0)) as send:
        send()
        assert retry_after(lowered(send().headers)) == pytest.approx(20, abs=2)


def test_it_says_nothing_if_told_so_and_nonsense_if_told_so() -> None:
    with served(Provider(requests=Count(1, 20.0), retry_after="none", dialect="none", sends_date=False)) as send:
        send()
        assert not {"retry-after", "x-ratelimit-limit-requests"} & set(send().headers)
        assert send().headers["date"] == ""
    with served(Provider(requests=Count(1, 20.0), dialect="garbage")) as send:
        assert send().headers["x-ratelimit-limit-requests"] == "lots"


def test_it_misbehaves_as_told() -> None:
    behaviours = {
        1: Behaviour(500, {"message": "oops"}),
        2: Behaviour(drop=True),
        3: Behaviour(529, {"type": "overloaded_error"}, {"retry-after": "3"}),
        4: Behaviour(529, {"type": "overloaded_error"}, late=True),
        5: Behaviour(seconds=0.2),
    }
    provider = Provider(misbehave=behaviours.get)
    with served(provider, "anthropic") as send:
        assert send().status_code == 500
        with pytest.raises(httpx2.TransportError):
            send()
        overloaded = send()
        assert (overloaded.status_code, overloaded.headers["retry-after"]) == (529, "3")
        assert send().json() == {"type": "error", "error": {"type": "overloaded_error"}}
        start = time.monotonic()
        assert send().status_code == 200
        assert time.monotonic() - start >= 0.2
    assert (provider.served, provider.unfair, provider.in_flight) == (1, 2, 0)


@pytest.mark.parametrize("wire", PATHS)
def test_an_error_in_mid_stream_follows_half_of_an_answer(wire: str) -> None:
    provider = Provider(misbehave=lambda _: Behaviour(529, {"type": "overloaded_error"}, late=True))
    with served(provider, wire) as send:
        response = send("abcdefgh", stream=True)
    assert response.status_code == 200
    assert "ABCD" in response.text
    assert "overloaded_error" in response.text.splitlines()[-2]
    assert (provider.served, provider.unfair) == (0, 1)

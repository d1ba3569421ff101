"""Answers that are here late and tell no reset: of which minute they tell, in virtual time."""

import asyncio
from contextvars import Context, copy_context

import pytest

from pocketflow_throttled import RateLimiter, run_virtual

from .test_nodes import now
from .test_observing import told

LIMIT = 58


async def start(limiter: RateLimiter, time: float, calls: int) -> list[Context]:
    """Start calls at a time, and return the contexts that their answers come in."""
    await asyncio.sleep(time - now())
    contexts = [copy_context() for _ in range(calls)]
    for context in contexts:
        await limiter.acquire()
        context.run(limiter._mark)
    return contexts


def answer(limiter: RateLimiter, calls: list[Context], used: int, reset: object) -> None:
    for number, context in enumerate(calls):
        context.run(limiter.observe, told(LIMIT, LIMIT - used - number - 1, reset))
        limiter.release()


async def until_the_minute_has_turned(limiter: RateLimiter) -> list[Context]:
    """The server's minute ends at 64 s. Return ten calls of 62 s, of which no answer is here yet."""
    limiter.observe(told(LIMIT, LIMIT, "64s"))
    first = await start(limiter, 5, 20)
    await asyncio.sleep(1)
    answer(limiter, first, 0, "59s")
    second = await start(limiter, 20, 20)
    await asyncio.sleep(1)
    answer(limiter, second, 20, "44s")
    late = await start(limiter, 62, 10)
    newer = await start(limiter, 66.5, 3)
    await asyncio.sleep(1)
    answer(limiter, newer, 0, "57s")
    return late


@pytest.mark.parametrize("reset", [None, -1])
def test_a_late_answer_without_a_reset_does_not_count_against_a_minute_that_has_begun_since(reset: object) -> None:
    limiter = RateLimiter(max_concurrent=100, max_per_window=LIMIT)

    async def main() -> int:
        answer(limiter, await until_the_minute_has_turned(limiter), 40, reset)
        return limiter.current_window_count

    assert run_virtual(main()) == 33  # its own of the last 60 s


@pytest.mark.parametrize("reset", [None, -1])
def test_an_answer_without_a_reset_counts_if_it_is_of_this_minute(reset: object) -> None:
    limiter = RateLimiter(max_concurrent=100, max_per_window=LIMIT)

    async def main() -> int:
        await until_the_minute_has_turned(limiter)
        newest = await start(limiter, 68, 1)
        answer(limiter, newest, 50, reset)
        return limiter.current_window_count

    assert run_virtual(main()) > 50

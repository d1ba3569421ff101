"""What is found out of how a server counts tokens, in virtual time."""

import asyncio
import random
from collections import deque
from typing import Any

import pytest

from pocketflow_throttled import RateLimitHit, run_virtual
from pocketflow_throttled.counting import Counting, Way
from pocketflow_throttled.token_window import TokenWindow

from .test_nodes import Batch, now

LIMIT, INPUT, MOST_OUTPUT = 100_000, 300, 700


class Server:
    """Counts input and the most output of a call as it arrives, and what it cost when it has ended, unless it keeps that."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.counted: deque[list[float]] = deque()  # when, how much
        self.served = 0
        self.refused: list[float] = []  # when

    async def call(self, output: int) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        time = now()
        while self.counted and self.counted[0][0] <= time - 60:
            self.counted.popleft()
        tokens = INPUT + (output if self.way is Way.COST else MOST_OUTPUT)
        over = sum(counted for _, counted in self.counted) + tokens - LIMIT
        if over > 0:
            self.refused.append(time)
            left = (started for started, counted in self.counted if (over := over - counted) <= 0)
            raise RateLimitHit("tokens", retry_after=next(left) + 60 - time)
        entry = [time, tokens]
        self.counted.append(entry)
        await asyncio.sleep(4 + output / 100)
        if self.way is Way.ESTIMATE_AT_FIRST:
            entry[1] = INPUT + output
        self.served += 1
        return {"usage": {"total_tokens": INPUT + output}}


@pytest.mark.parametrize("way", list(Way))
def test_how_a_server_counts_is_found_out_in_two_minutes_or_so(way: Way) -> None:
    server, chance = Server(way), random.Random(7)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return INPUT + MOST_OUTPUT

    node = Node(server.call, max_concurrent=60, max_tokens_per_minute=LIMIT)

    async def main() -> float:
        await node.run_async({"items": [chance.randint(50, 350) for _ in range(1000)]})
        return now()

    seconds = run_virtual(main())
    assert server.served == 1000
    if way is Way.COST:
        assert len(server.refused) <= 10
    else:
        assert max(server.refused) < 150
    tokens = node.limiter._budget.tokens
    assert tokens is not None
    assert tokens.counting.way is way
    calls_a_minute = {Way.COST: 200, Way.ESTIMATE_AT_FIRST: 178, Way.ESTIMATE: 100}[way]  # 500 tokens for a minute, 1,000 for 6 s
    assert seconds <= 60 * 1000 / calls_a_minute / 0.95


def test_calls_that_are_refused_now_and_then_do_not_tell_that_a_server_counts_estimates_which_are_too_high() -> None:
    counting = Counting()
    for call in range(1000):
        counting.started(call, Way.ESTIMATE_AT_FIRST)
        if call > 5 and call % 50 < 10:
            counting.refused(call)
    assert counting.way is Way.COST


def test_calls_that_are_refused_all_at_once_do_not_tell_that_estimates_are_counted_for_good_until_others_are_too() -> None:
    """They would all be refused as well where a shorter window is used up."""
    counting = Counting()
    for _ in range(2):
        for call in range(60):
            counting.started(call / 1000, Way.ESTIMATE)
        assert not any(counting.refused(call / 1000) for call in range(60))
    counting.started(9.0, Way.ESTIMATE)
    assert counting.refused(9.0)


def test_refusals_of_calls_that_would_fit_in_any_way_are_for_another_reason() -> None:
    """As those by a server that allows less in a shorter time."""
    counting = Counting()
    for call in range(100):
        counting.refused(call)
        counting.started(call + 0.5, Way.ESTIMATE_AT_FIRST)
        counting.refused(call + 0.5)
    assert counting.way is Way.COST


def test_what_a_server_counts_of_calls_under_way_is_in_the_way_until_they_end() -> None:
    window = TokenWindow(limit=1000, seconds=60.0)
    window.counting.way = Way.ESTIMATE_AT_FIRST
    spend = window.add(0.0, 100, estimated=700)
    assert window.fits(0.0, 100, estimated=300)
    assert not window.fits(0.0, 100, estimated=301)
    window.correct(spend, 150)
    assert window.fits(0.0, 100, estimated=850)
    window.counting.way = Way.ESTIMATE
    assert window.fits(0.0, 100, estimated=300)
    assert not window.fits(0.0, 100, estimated=301)
    assert window.fits(60.0, 100, estimated=1000)


@pytest.mark.parametrize("way", list(Way))
def test_calls_that_were_never_sent_or_have_left_count_in_no_way(way: Way) -> None:
    window = TokenWindow(limit=1000, seconds=60.0)
    window.counting.way = way
    for _ in range(2):
        window.take_back(window.add(0.0, 100, estimated=700))
        window.correct(window.add(0.0, 100, estimated=700), 150)
        window.refuse(window.add(0.0, 100, estimated=700))
        late = window.add(0.0, 100, estimated=700)
        window.forget(60.0)
        for spend in (late, late):
            window.correct(spend, 500)
            window.take_back(spend)
        assert (window.more, window.used(60.0)) == (0, 0)
        assert window.fits(60.0, 1000)
        window.clear()
        window.counting.way = way

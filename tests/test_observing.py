"""What a limiter makes of headers: pauses, limits, others' share, and windows whose length nobody tells; in virtual time."""

import asyncio
import math
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal, get_args

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledParallelBatchNode,
    run_virtual,
)
from pocketflow_throttled.answers import UNMARKED
from pocketflow_throttled.boundary import Boundary
from pocketflow_throttled.budget import Budget
from pocketflow_throttled.gate import Hold
from pocketflow_throttled.headers import Quota
from pocketflow_throttled.moment import Moment
from pocketflow_throttled.observing import sent
from pocketflow_throttled.others import Others
from pocketflow_throttled.simulation import SimulatedRateLimitError
from pocketflow_throttled.span import Span

from .providers.counting import Count, Counting
from .test_nodes import Batch, echo, now, run
from .test_signals import NAMES, TEXT, HostileError, Raising, SDKError


def told(limit: int | None = None, remaining: int | None = None, reset: object = None, **others: object) -> dict[str, str]:
    """Return headers of OpenAI's kind, of requests, and others."""
    parts = {"limit": limit, "remaining": remaining, "reset": reset}
    found = {f"x-ratelimit-{part}-requests": str(value) for part, value in parts.items() if value is not None}
    return found | {name.replace("_", "-"): str(value) for name, value in others.items()}


def dated(limit: int, remaining: int, seconds: int) -> dict[str, str]:
    """Return headers of Anthropic's kind, of requests, whose reset is told as a date."""
    found = {"limit": str(limit), "remaining": str(remaining), "reset": f"2026-11-26T06:00:{seconds:02}Z"}
    headers = {f"anthropic-ratelimit-requests-{part}": value for part, value in found.items()}
    return headers | {"date": "Thu, 26 Nov 2026 06:00:00 GMT"}


def observed(limiter: RateLimiter, *args: Any, **kwargs: Any) -> RateLimiter:
    limiter.observe(told(*args, **kwargs))
    return limiter


async def take(limiter: RateLimiter, calls: int = 1) -> None:
    for _ in range(calls):
        await limiter.acquire()
        limiter.release()


async def starts(limiter: RateLimiter, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        await take(limiter)
        times.append(now())
    return times


# --- limits


def test_a_limit_the_headers_name_becomes_the_limit_when_none_was_set() -> None:
    limiter = observed(RateLimiter(), 50, x_ratelimit_limit_tokens=1000)
    assert (limiter.max_per_window, limiter.max_tokens_per_window) == (50, 1000)


def test_calls_that_are_under_way_when_a_limit_is_told_are_counted() -> None:
    """The server counts them as they arrive; that it has not yet, as it tells of the first, leaves no room for as many others."""

    async def main() -> None:
        limiter = RateLimiter(100)
        assert all(limiter.try_acquire() for _ in range(30))
        observed(limiter, 50, 48)
        assert limiter.current_window_count == 30
        observed(limiter, 50, 15)
        assert limiter.current_window_count == 35
        await asyncio.sleep(61)
        assert limiter.current_window_count == 0

    run_virtual(main())


def tokens_told(limit: int, remaining: int, **others: object) -> dict[str, str]:
    return {"x-ratelimit-limit-tokens": str(limit), "x-ratelimit-remaining-tokens": str(remaining)} | told(**others)


@pytest.mark.parametrize(("refused", "counted"), [(0, 1000), (1, 800)])
def test_tokens_of_calls_under_way_when_a_limit_is_told_are_those_that_others_have_cost(refused: int, counted: int) -> None:
    """The first answer was told as its call arrived: what it says is left is no room for others beside the four under way."""

    async def main() -> None:
        permits = [limiter.reserve() for _ in range(5)]
        assert all(permit.take() for permit in permits)
        await asyncio.sleep(2)
        limiter.observe(tokens_told(1000, 800))
        permits[0].settle(200)
        for permit in permits[1 : 1 + refused]:
            permit._not_served()
        limiter.observe(tokens_told(1000, 800))
        assert limiter.stats["current_window_tokens"] == counted
        for permit in permits[1 + refused :]:
            permit.settle(100)
        await asyncio.sleep(59)  # since it was told: as far away is the end of a fixed window
        assert limiter.stats["current_window_tokens"] == 200 + 100 * (4 - refused)
        await asyncio.sleep(2)
        assert limiter.stats["current_window_tokens"] == 0

    limiter = RateLimiter(10)
    run_virtual(main())


def test_an_item_that_was_first_sent_before_a_limit_of_tokens_was_told_is_sent_again_when_its_tokens_fit() -> None:
    async def call(item: str) -> SimpleNamespace:
        started.append(now())
        is_refused = len(started) == 2
        await asyncio.sleep(1)
        if is_refused:
            raise SDKError("slow down", 429, tokens_told(1000, 400, retry_after=2))
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=600))

    started: list[float] = []
    node = Batch(call, max_concurrent=2)
    run(node, ["x" * 2400] * 2)
    assert started == [0, 0, pytest.approx(60, abs=1)]


def test_an_item_that_queued_before_a_limit_of_tokens_was_told_takes_its_tokens_as_it_starts() -> None:
    async def call(item: str) -> SimpleNamespace:
        started.append(now())
        await asyncio.sleep(1)
        node.limiter.observe(tokens_told(1000, 700))
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=300))

    started: list[float] = []
    node = Batch(call, max_concurrent=2)
    run(node, ["x" * 1200] * 4)
    assert started == [0, 0, 1, pytest.approx(60, abs=1)]


def test_a_retry_that_queued_before_a_limit_of_tokens_was_told_takes_its_tokens_as_it_starts() -> None:
    async def call(item: str) -> SimpleNamespace:
        calls.append(item)
        if item == "first" and calls.count(item) == 1:
            raise ValueError(item)
        await asyncio.sleep(1)
        if item == "first":
            booked.append(node.limiter.stats["current_window_tokens"])
        else:
            node.limiter.observe(tokens_told(1000, 1000))
        return SimpleNamespace(usage=SimpleNamespace(total_tokens=100))

    class Priced(Batch):
        def estimate_tokens(self, item: str) -> int:
            return 100

    calls: list[str] = []
    booked: list[int] = []
    node = Priced(call, max_concurrent=1, max_retries=2, wait=0.5)
    run(node, ["first", "second"])
    assert calls == ["first", "second", "first"]
    assert booked == [200]


def test_an_item_that_was_granted_before_a_limit_of_tokens_was_told_takes_its_tokens_once() -> None:
    limiter = RateLimiter(max_concurrent=2)

    async def main() -> int:
        async with limiter.reserve() as granted, limiter.reserve() as other:
            await asyncio.sleep(1)
            limiter.observe(tokens_told(1000, 1000))
            granted._charge(100)
            for permit in (granted, other):
                permit.settle(100)
        tokens: int = limiter.stats["current_window_tokens"]
        return tokens

    assert run_virtual(main()) == 200


def test_an_estimate_that_raises_for_an_item_that_queued_before_a_limit_was_told_takes_its_place() -> None:
    class Wrong(Batch):
        def estimate_tokens(self, item: str) -> int:
            raise ValueError(item)

    async def call(item: str) -> str:
        await asyncio.sleep(1)
        node.limiter.observe(tokens_told(1000, 700))
        return item

    node = Wrong(call, max_concurrent=1, on_error="collect")
    results = run(node, ["a", "b", "c"])
    assert [str(result) for result in results] == ["a", "b", "c"]
    assert all(isinstance(result, ValueError) for result in results)
    assert node.limiter.active == 0


def test_it_is_never_raised_above_what_was_set_and_rises_again_after_it_fell() -> None:
    limiter = observed(RateLimiter(5, 20, max_tokens_per_window=100), 50, x_ratelimit_limit_tokens=1000)
    assert (limiter.max_per_window, limiter.max_tokens_per_window) == (20, 100)
    observed(limiter, 10, x_ratelimit_limit_tokens=30)
    assert (limiter.max_per_window, limiter.max_tokens_per_window) == (10, 30)
    observed(limiter, 15, x_ratelimit_limit_tokens=500)
    assert (limiter.max_per_window, limiter.max_tokens_per_window) == (15, 100)
    assert observed(limiter, 500).max_per_window == 20


@pytest.mark.parametrize(("limit", "remaining"), [(0, -1), (-1, -1), (0, 0), (-1, 0)])
def test_minus_one_and_nought_are_unknown(limit: int, remaining: int) -> None:
    limiter = observed(RateLimiter(), limit, remaining)
    assert limiter.max_per_window is None
    assert limiter.paused_for == 0


def test_a_limit_that_is_the_burst_which_was_set_is_no_limit_of_the_window() -> None:
    limiter = observed(RateLimiter(5, 300, max_burst=50), 50, 0, "10s")
    assert limiter.max_per_window == 300
    assert limiter.paused_for == 0
    assert observed(limiter, None, 3, "10s").current_window_count == 0
    assert observed(limiter, None, 100, "10s").current_window_count == 200
    assert observed(limiter, 49, 49, "0s").max_per_window == 49


def test_a_limit_per_day_is_not_taken_for_one_a_minute() -> None:
    assert observed(RateLimiter(), 1000, 990, "14m24s").max_per_window is None
    assert observed(RateLimiter(5, 30), 20, 10, "12h").max_per_window == 30


@pytest.mark.parametrize(("limit", "remaining", "reset"), [(500, 499, "60s"), (5000, 4999, "1m0s"), (1000, 985, "59")])
def test_the_first_answer_of_a_minute_that_ends_at_once_tells_its_limit(limit: int, remaining: int, reset: str) -> None:
    assert observed(RateLimiter(), limit, remaining, reset).max_per_window == limit


@pytest.mark.parametrize(
    ("requests", "tokens"),
    [
        ((60, 59, "1s"), (150_000, 149_984, "6m0s")),  # platform.openai.com/docs/guides/rate-limits
        ((14_400, 14_370, "2m59.56s"), (18_000, 17_997, "7.66s")),  # console.groq.com/docs/rate-limits
    ],
)
def test_the_headers_on_the_pages_of_providers_tell_a_limit_of_tokens(
    requests: tuple[int, int, str], tokens: tuple[int, int, str]
) -> None:
    limiter = RateLimiter()
    told = {}
    for kind, values in (("requests", requests), ("tokens", tokens)):
        for name, value in zip(("limit", "remaining", "reset"), values, strict=True):
            told[f"x-ratelimit-{name}-{kind}"] = str(value)
    limiter.observe(told)
    assert limiter.max_tokens_per_window == tokens[0]


def test_a_window_the_server_names_is_held_as_it_is() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50)
        limiter.observe({"ratelimit": '"api";r=10;t=2', "ratelimit-policy": '"api";q=10;w=2'})
        starts = []
        for _ in range(25):
            await take(limiter)
            starts.append(now())
        return starts

    assert run_virtual(main()) == pytest.approx([0] * 10 + [2] * 10 + [4] * 5, abs=1e-3)


def test_of_a_users_limit_a_shorter_window_of_the_server_takes_nothing_but_the_pace() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 600)
        limiter.observe({"ratelimit": '"api";r=10;t=1', "ratelimit-policy": '"api";q=10;w=1'})
        assert limiter.max_per_window == 600
        starts = []
        for _ in range(25):
            await take(limiter)
            starts.append(now())
        return starts

    assert run_virtual(main()) == pytest.approx([0] * 10 + [1] * 10 + [2] * 5, abs=1e-3)


@pytest.mark.parametrize(("remaining", "reset"), [(5, "500ms"), (0, "1s"), (0, "2s"), (9, "1s")])
def test_a_limit_that_is_the_users_by_the_second_is_not_taken_for_a_smaller_one(remaining: int, reset: str) -> None:
    """Full seconds may be rounded up."""

    async def main() -> list[float]:
        limiter = observed(RateLimiter(50, 600), 10, remaining, reset)
        assert limiter.max_per_window == 600
        return await starts(limiter, 25)

    assert run_virtual(main()) == pytest.approx([0] * 10 + [1] * 10 + [2] * 5, abs=1e-3)


@pytest.mark.parametrize(("limit", "remaining", "reset"), [(10, 5, "15s"), (10, 5, None), (300, 200, "5s"), (10, 10, "0s")])
def test_a_limit_that_may_be_smaller_than_the_users_is_held(limit: int, remaining: int, reset: str | None) -> None:
    assert observed(RateLimiter(50, 600), limit, remaining, reset).max_per_window == limit


def test_what_is_left_of_a_second_does_not_hold_back_the_minute() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 600)
        found = []
        for _ in range(25):
            found += await starts(limiter, 1)
            limiter.observe({"ratelimit": '"api";r=0;t=1', "ratelimit-policy": '"api";q=10;w=1'})
        return found

    assert run_virtual(main()) == pytest.approx([0] * 10 + [1] * 10 + [2] * 5, abs=1e-3)


@pytest.mark.parametrize("seconds", [10, 20, 30])
def test_of_a_users_tokens_a_shorter_window_of_the_server_takes_nothing_but_the_pace(seconds: int) -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, max_tokens_per_window=6000)
        headers = {"limit-tokens": 100 * seconds, "remaining-tokens": 200, "reset-tokens": f"{seconds - 2}s"}
        limiter.observe({f"x-ratelimit-{name}": str(value) for name, value in headers.items()})
        assert limiter.max_tokens_per_window == 6000
        assert limiter.stats["current_window_tokens"] == 100 * seconds - 200  # of others
        starts = []
        for _ in range(seconds + 3):
            await limiter.acquire(tokens=100)
            limiter.release()
            starts.append(now())
        return starts

    again = [seconds - 2] * (seconds - 2) + [seconds] * 2 + [2 * seconds - 2]
    assert run_virtual(main()) == pytest.approx([0, 0, *again], abs=1e-3)


@pytest.mark.parametrize(
    ("limit", "reset", "held"), [(2000, "5s", 6000), (2000, "30s", 2000), (4000, "5s", 4000), (2000, None, 2000)]
)
def test_tokens_are_told_of_a_shorter_window_if_that_is_the_users_limit_in_half_the_window_or_less(
    limit: int, reset: str | None, held: int
) -> None:
    limiter = RateLimiter(50, max_tokens_per_window=6000)
    headers = {"limit-tokens": str(limit), "remaining-tokens": str(limit - 500)} | ({"reset-tokens": reset} if reset else {})
    limiter.observe({f"x-ratelimit-{name}": value for name, value in headers.items()})
    assert limiter.max_tokens_per_window == held


# --- what is left


def test_what_is_left_beats_what_was_counted_until_the_reset() -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(100, 60), 60, 2, "10s")
        assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
        await asyncio.sleep(10.01)
        assert limiter.current_window_count == 2

    run_virtual(main())


def test_the_newest_word_on_what_others_have_used_counts_and_not_the_sum() -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(100, 60), 60, 20, "40s")
        assert limiter.current_window_count == 40
        assert observed(limiter, 60, 20, "40s").current_window_count == 40
        assert observed(limiter, 60, 50, "10s").current_window_count == 10
        assert observed(limiter, 60, 60, "0s").current_window_count == 0

    run_virtual(main())


def test_what_is_left_of_tokens_is_held_against_those_counted() -> None:
    async def main() -> None:
        limiter = RateLimiter(100, max_tokens_per_window=1000)
        assert limiter.try_acquire(tokens=300)
        limiter.observe({"anthropic-ratelimit-input-tokens-remaining": "100"})
        assert not limiter.try_acquire(tokens=101)
        assert limiter.try_acquire(tokens=100)
        assert limiter.stats["current_window_tokens"] == 1000

    run_virtual(main())


def test_calls_that_the_server_has_not_counted_yet_are_not_taken_for_others() -> None:
    async def main() -> None:
        limiter = RateLimiter(100, 60)
        await take(limiter, 10)
        observed(limiter, 60, 59, "1s")  # the answer to the first, which came before the rest arrived
        assert limiter.current_window_count == 10

    run_virtual(main())


@pytest.mark.parametrize("latency", [1.0, 15.0])
def test_an_answer_tells_of_what_was_counted_when_its_call_started(latency: float) -> None:
    """What has left the window since is no one else's: held for another minute, it would cost half the throughput."""

    async def call(item: int) -> int:
        node.limiter.observe({})
        await asyncio.sleep(latency)
        node.limiter.observe(told(4, max(0, 3 - item % 4), "60s"))
        starts.append(now() - latency)
        return item

    starts: list[float] = []
    node = Batch(call, max_concurrent=2, max_per_minute=4)
    run(node, range(12))
    assert max(starts) <= 120 + latency + 2


def test_what_has_left_the_window_since_a_call_started_is_no_one_elses() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(1 if item < 5 else 30)
        node.limiter.observe(told(20, 20 - item - 1, "60s"))
        return item

    node = Batch(call, max_concurrent=6, max_per_minute=20)

    async def main() -> int:
        await node.run_async({"items": range(5)})
        await asyncio.sleep(39)
        await node.run_async({"items": [5]})  # its answer comes when the first five have left the window
        return node.limiter.current_window_count

    assert run_virtual(main()) == 1


Told = Literal["as calls arrive", "as it answers"]


class Server:
    """Allows 100 a minute, of which others have used 20 at once; its answers take one to seven seconds."""

    def __init__(self, told_when: Told) -> None:
        self.told_when = told_when
        self.arrived = 20
        self.node = Batch(self.call, max_concurrent=10, max_per_minute=100)

    async def call(self, item: int) -> int:
        self.arrived += 1
        seen = self.arrived
        await asyncio.sleep(1 + item * 5 % 7)
        self.node.limiter.observe(told(100, 100 - (seen if self.told_when == "as calls arrive" else self.arrived), "60s"))
        return item


@pytest.mark.parametrize("told_when", get_args(Told))
def test_what_others_have_used_is_known_whichever_moment_answers_tell_of(told_when: Told) -> None:
    server = Server(told_when)

    async def main() -> int:
        await server.node.run_async({"items": range(60)})
        return server.node.limiter.current_window_count

    assert run_virtual(main()) == 20 + 60


@pytest.mark.parametrize("is_date", [False, True])
@pytest.mark.parametrize("told_when", get_args(Told))
def test_a_reset_is_counted_from_the_moment_that_answers_tell_of(told_when: Told, is_date: bool) -> None:
    """Not from when the call started: it took a moment to arrive. Dates are counted from when the answer was sent."""
    server = Server(told_when)

    async def call(_: int) -> None:
        await asyncio.sleep(6)
        if is_date:
            headers = told(100, 0, "2026-11-24T12:00:20Z", date="Tue, 24 Nov 2026 12:00:00 GMT")
        else:
            headers = told(100, 0, "20s")
        server.node.limiter.observe(headers)

    async def main() -> float:
        await server.node.run_async({"items": range(20)})
        server.node.call = call
        await server.node.run_async({"items": [0]})
        return server.node.limiter.paused_for

    assert run_virtual(main()) == (20 - 6 + 1 if told_when == "as calls arrive" and not is_date else 20)


def test_calls_that_started_together_are_not_forgotten_when_the_first_of_them_is_answered() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(1 + item)
        node.limiter.observe(told(20, 20 - item - 1, "60s"))
        counts.append(node.limiter.current_window_count)
        return item

    counts: list[int] = []
    node = Batch(call, max_concurrent=10)
    node.limiter.observe(told(20, 20, "60s"))
    run(node, range(10))
    assert counts == [10] * 10


def test_calls_that_started_just_before_one_that_arrived_first_are_not_forgotten() -> None:
    """Nor taken for those of a fixed window that has ended: only an answer to a call that started later tells that."""

    async def start() -> None:
        await limiter.acquire()
        limiter._mark()

    async def main() -> list[int]:
        counts = []
        for pause in (0.1, 0.1, 1.0, 0.0):
            await start()
            observed(limiter, 20, 19, "60s")
            counts.append(limiter.current_window_count)
            await asyncio.sleep(pause)
        return counts

    limiter = observed(RateLimiter(10), 20, 20, "60s")
    assert run_virtual(main()) == [1, 2, 3, 1]


@pytest.mark.parametrize("reset", ["1s", "0.95s", "2s", None])
def test_a_bucket_that_its_own_calls_keep_empty_holds_nothing_back(reset: str | None) -> None:
    """It holds one call, of 60 a minute, and tells of the moment after a call has come; its answer takes three seconds."""

    async def call(item: int) -> None:
        starts.append(now())
        await asyncio.sleep(3)
        node.limiter.observe(told(60, 0, reset))

    starts: list[float] = []
    node = Batch(call, max_concurrent=10, max_per_minute=60, max_burst=1)
    run(node, range(60))
    assert starts == pytest.approx([*range(60)], rel=0.01, abs=0.2)


def test_a_bucket_that_refuses_one_call_in_ten_is_emptied_by_others() -> None:
    """What is missing is as much as its own calls took, yet they cannot have been all, or none would have been refused."""

    async def counted(refusals: int) -> int:
        limiter = RateLimiter(10, 60, max_burst=1)
        for call in range(10):
            permit = limiter.reserve()
            await permit.wait()
            if call < refusals:
                permit._not_served()
            permit.release()
        observed(limiter, 60, 48, "8s")
        return limiter.current_window_count

    assert run_virtual(counted(0)) == 10
    assert run_virtual(counted(1)) == 10 + 3  # what it refused, it does not count


def test_what_is_missing_of_a_bucket_that_tells_no_reset_comes_back_as_fast_as_the_limit_says() -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(10, 60), 60, 10)
        assert limiter.current_window_count == 50
        await asyncio.sleep(30.1)
        assert limiter.current_window_count == 20

    run_virtual(main())


def test_where_no_reset_is_told_others_share_is_held_for_a_window_if_much_of_the_limit_was_left_before() -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(10, 60), 60, 50)
        observed(limiter, 60, 20)
        await asyncio.sleep(59)
        assert limiter.current_window_count == 40
        await asyncio.sleep(2)
        assert limiter.current_window_count == 0

    run_virtual(main())


def test_a_small_bucket_is_not_waited_for_as_for_a_whole_window_once_a_call_that_it_served_gives_it_away() -> None:
    """That a call was served which started earlier is the first word on how much there ever is left."""

    async def main() -> list[float]:
        limiter = RateLimiter(10, 120, max_burst=40)
        await take(limiter, 3)
        await asyncio.sleep(1)
        sent.set(UNMARKED)
        await limiter.observe_response(httpx2.Response(429, headers=told(120, 0)))
        assert limiter.current_window_count == 120
        await limiter.observe_response(httpx2.Response(200, headers=told(120, 2)))
        return await starts(limiter, 10)

    assert run_virtual(main())[-1] < 10


@pytest.mark.parametrize("name", ["status_code", "status"])
def test_a_response_is_known_for_a_refusal_whatever_its_client_calls_the_status(name: str) -> None:
    """One that was served would give away that there never is much left."""

    async def main() -> int:
        limiter = RateLimiter(10, 120, max_burst=40)
        await take(limiter, 3)
        await limiter.observe_response(SimpleNamespace(**{name: 429}, headers=told(120, 0)))
        await asyncio.sleep(30)
        return limiter.current_window_count

    assert run_virtual(main()) == 120


def test_a_refusal_that_tells_no_reset_is_not_waited_for_as_for_a_whole_window_where_starts_are_spaced() -> None:
    """A user who sets small bursts says that the limit a minute is one by the second; whoever is served tells nothing."""

    async def call(item: int) -> None:
        starts.append(now())
        if len(starts) == 5:
            raise SDKError("Requests rate limit exceeded", 429, {f"x-ratelimit-{told}-req-minute": n for told, n in left})

    left = [("limit", "60"), ("remaining", "0")]
    starts: list[float] = []
    run(Batch(call, max_per_minute=60, max_burst=1), range(10))
    assert starts[-1] < 15


def test_a_small_bucket_that_tells_no_reset_is_not_taken_for_one_that_others_empty() -> None:
    """It counts by the second, tells of what it has left when it answers, and its own calls are all that there are."""

    async def call(item: int) -> None:
        await asyncio.sleep(0.1)
        arrived.append(now())
        await asyncio.sleep(1 + item % 7 / 3)
        left = 10 - sum(now() - 1 < time for time in arrived)
        await asyncio.sleep(0.1)
        node.limiter.observe(told(600, left))

    arrived: list[float] = []
    node = Batch(call, max_concurrent=60, max_per_minute=600, max_burst=10)
    run(node, range(300))
    assert max(arrived) < 30.5


@pytest.mark.parametrize("burst", [1, 5, 10, 15, 19])
def test_a_bucket_that_holds_the_bursts_that_were_set_is_not_taken_for_one_that_others_empty(burst: int) -> None:
    """It tells of the limit a minute and no reset: all that is ever left is what a burst may take."""

    async def call(item: int) -> None:
        nonlocal level, filled_at
        level = min(burst, level + (now() - filled_at) / 3) - 1
        filled_at = now()
        assert level > -0.01
        arrived.append(now())
        left = math.floor(level)
        await asyncio.sleep(2 + item % 5)
        node.limiter.observe({"x-ratelimit-limit-req-minute": "20", "x-ratelimit-remaining-req-minute": str(left)})

    level, filled_at = float(burst), 0.0
    arrived: list[float] = []
    node = Batch(call, max_concurrent=20, max_per_minute=20, max_burst=burst)
    run(node, range(100))
    assert max(arrived) < 310


@pytest.mark.parametrize("told_when", ["start", "end"])
def test_others_who_take_a_third_of_a_small_bucket_cost_few_refusals(told_when: Told) -> None:
    """It holds 20 of 300 a minute, which the user set as bursts; others take theirs at random, and headers tell what is left."""

    async def others() -> None:
        while True:
            await asyncio.sleep(chance.expovariate(1.6))
            take_one()

    def fill() -> int:
        level[0], level[1] = min(20.0, level[0] + 5 * (now() - level[1])), now()
        return int(level[0])

    def take_one() -> bool:
        is_there = fill() >= 1
        level[0] -= is_there
        return is_there

    async def call(item: int) -> None:
        await asyncio.sleep(0.05)
        if not take_one():
            refused.append(now())
            raise SDKError("slow down", 429, told(300, 0))
        left = fill()
        await asyncio.sleep(chance.uniform(1, 3))
        node.limiter.observe(told(300, left if told_when == "start" else fill()))

    async def main() -> float:
        competing = asyncio.create_task(others())
        await node.run_async({"items": range(1000)})
        competing.cancel()
        return now()

    chance = random.Random(2)
    level = [20.0, 0.0]
    refused: list[float] = []
    node = Batch(call, max_concurrent=40, max_per_minute=300, max_burst=20)
    seconds = run_virtual(main())
    assert len(refused) < 10
    assert seconds < 1000 / 3.4 * 1.1


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_others_who_take_at_random_of_a_whole_window_cost_few_refusals(share: float) -> None:
    """While it is used up, no answer tells what they take meanwhile; and it is not by the second that it refuses."""

    async def others() -> None:
        while True:
            await asyncio.sleep(chance.expovariate(5 * share))
            log.add(now(), 1)

    async def call(item: int) -> None:
        await asyncio.sleep(0.02)
        if wait := log.wait(now(), 1):
            refused.append(now())
            raise SDKError("slow down", 429, told(300, 0, f"{log.reset(now())}s", retry_after_ms=1000 * wait))
        log.add(now(), 1)
        answer = told(300, log.left(now()), f"{log.reset(now())}s")
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        node.limiter.observe(answer)

    async def main() -> float:
        competing = asyncio.create_task(others())
        await asyncio.sleep(60)
        await node.run_async({"items": range(calls)})
        competing.cancel()
        return now() - 60

    chance, log = random.Random(3), Count(300, 60.0)
    calls = int(300 * (1 - share) * 12)
    refused: list[float] = []
    node = Batch(call, max_concurrent=20, max_per_minute=300)
    seconds = run_virtual(main())
    assert len(refused) <= 0.01 * calls
    assert seconds <= 12 * 60 * 1.05


@pytest.mark.parametrize("told_when", ["start", "end"])
def test_a_small_bucket_that_tells_what_is_left_is_not_emptied_where_starts_are_not_spaced(told_when: Told) -> None:
    """It holds 20 of 300 a minute, of which nobody knows before it tells."""

    def fill() -> float:
        level[0], level[1] = min(20.0, level[0] + 5 * (now() - level[1])), now()
        return level[0]

    async def call(item: int) -> None:
        if fill() < 1:
            refused.append(now())
            raise SDKError("slow down", 429, told(300, 0))
        level[0] -= 1
        left = int(level[0])
        await asyncio.sleep(1 + item % 7 / 3)
        node.limiter.observe(told(300, left if told_when == "start" else int(fill())))

    class Adapting(AdaptiveThrottledNode):
        async def prep_async(self, shared: dict[str, Any]) -> Any:
            return range(600)

        async def exec_async(self, item: int) -> None:
            await call(item)

    async def main() -> float:
        await node.run_async({})
        return now()

    level = [20.0, 0.0]
    refused: list[float] = []
    node = Adapting(max_concurrent=40)
    assert run_virtual(main()) < 600 / 5 * 1.05
    assert refused == []


class OneASecond:
    """A server that enforces 60 a minute as one a second, and tells in each answer what was left of that as its call arrived."""

    def __init__(
        self, base: type[Any], counting: Counting, *, late: float = 0.0, calls: int = 240, burst: int | None = None
    ) -> None:
        class Node(base):  # type: ignore[misc]
            async def prep_async(self, shared: dict[str, Any]) -> Any:
                return range(calls)

            async def exec_async(self, item: int) -> None:
                await server.call()

        server, self._late, self._count = self, late, Count(1, 1.0, counting, phase=0.05)
        self._chance = random.Random(1)
        self._tells_when = counting != "fixed"
        self.refused = 0
        self.node = Node(max_concurrent=5, max_per_minute=60, max_burst=burst)

    async def call(self) -> None:
        count, chance = self._count, self._chance
        await asyncio.sleep(0.05 + chance.uniform(0, self._late))
        is_served = count.left(now()) >= 1
        if is_served:
            count.add(now(), 1)
        answer = told(60, 0, f"{math.ceil(1000 * count.reset(now()))}ms" if self._tells_when else None)
        if not is_served:
            self.refused += 1
            raise SDKError("slow down", 429, answer | ({"retry-after": "1"} if self._tells_when else {}))
        await asyncio.sleep(chance.uniform(0.5, 3.5))
        self.node.limiter.observe(answer)

    def run(self) -> float:
        """Return how many seconds 240 calls take."""

        async def main() -> float:
            await self.node.run_async({})
            return now()

        return run_virtual(main())


@pytest.mark.parametrize("base", [AdaptiveThrottledNode, ThrottledParallelBatchNode])
@pytest.mark.parametrize("counting", ["bucket", "sliding", "fixed"])
def test_a_server_of_one_a_second_that_tells_it_has_none_left_gets_one_a_second(base: type[Any], counting: Counting) -> None:
    """Not one for each answer, in which it says that none is left for a second; nor where it does not say for how long."""
    server = OneASecond(base, counting)
    assert server.run() <= 240 / 0.91
    assert server.refused <= 10


@pytest.mark.parametrize("burst", [None, 1])
def test_an_adaptive_batch_is_spaced_by_as_much_more_as_calls_arrive_unevenly_where_single_ones_are_allowed(
    burst: int | None,
) -> None:
    server = OneASecond(AdaptiveThrottledNode, "bucket", late=0.1, calls=480, burst=burst)
    assert server.run() <= 480 / 0.89
    assert server.refused <= 8


def test_calls_that_were_refused_before_a_limit_was_told_are_not_taken_for_served_at_once() -> None:
    """Else a bucket would hold as many as had started by then."""

    async def main() -> int | None:
        limiter = RateLimiter(10)
        permits = [limiter.reserve() for _ in range(6)]
        assert all(permit.take() for permit in permits)
        await asyncio.sleep(0.1)
        await limiter.observe_response(httpx2.Response(429, headers=told(60, 0)))
        for permit in permits[1:]:
            permit._not_served()
            permit.release()
        await asyncio.sleep(2)
        for _ in range(3):
            observed(limiter, 60, 0)
        return limiter._budget.at_once

    assert run_virtual(main()) == 1


def single(limiter: RateLimiter, *left: int) -> None:
    """Let a call be refused, and answers tell what is left of 60 a minute."""
    permit = limiter.reserve()
    assert permit.take()
    permit._not_served()
    permit.release()
    for remaining in left:
        observed(limiter, 60, remaining)


@pytest.mark.parametrize(("left", "is_spaced"), [((0, 1, 0), True), ((0, 1), False), ((0, 2, 0), False), ((0, 1, 0, 40), False)])
def test_starts_are_single_only_while_a_few_answers_tell_of_no_more(left: tuple[int, ...], is_spaced: bool) -> None:
    async def main() -> int | None:
        limiter = RateLimiter(10, 60)
        single(limiter, *left)
        return limiter._budget.at_once

    assert run_virtual(main()) == (1 if is_spaced else None)


def test_starts_that_were_single_are_as_fast_as_a_limit_that_has_risen() -> None:
    async def main() -> int | None:
        limiter = RateLimiter(10)
        single(limiter, 0, 1, 0)
        assert limiter._budget.at_once == 1
        observed(limiter, 600, 9)
        return limiter._budget.at_once

    assert run_virtual(main()) is None


def test_starts_are_not_single_while_no_call_is_refused() -> None:
    async def main() -> int | None:
        limiter = RateLimiter(10, 60)
        for _ in range(5):
            observed(limiter, 60, 0)
        return limiter._budget.at_once

    assert run_virtual(main()) is None


@pytest.mark.parametrize("seconds", [[20.0], [15.0, 20.0, 25.0]])
def test_a_window_that_answers_find_used_up_is_not_taken_for_a_small_bucket(seconds: list[float]) -> None:
    """Answers that take long tell of a limit only when all of it was started: never much is left, and yet all were served."""

    async def call(item: int) -> None:
        starts.append(now())
        count.add(now(), 1)
        await asyncio.sleep(seconds[item % len(seconds)])
        node.limiter.observe(told(60, count.left(now())))

    count, starts = Count(60, 60.0, "sliding"), list[float]()
    node = Batch(call, max_concurrent=100, max_per_minute=60)
    run(node, range(240))
    assert starts == pytest.approx([60.0 * (index // 60) for index in range(240)], abs=4)


def test_a_limiter_that_is_reset_holds_nothing_back_for_a_small_bucket() -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 300)
        limiter._budget.hold(Hold(left=-9.0, rate=1.0, apart=1.0, most=5.0), now())
        assert not limiter.try_acquire()
        limiter.reset()
        assert limiter.try_acquire()

    run_virtual(main())


def test_what_is_held_back_for_others_goes_on_after_a_window_in_which_nothing_is_told() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(10, 300)
        limiter._budget.hold(Hold(left=1.0, rate=0.5, apart=1.0, most=5.0), now())
        return await starts(limiter, 35)

    times = run_virtual(main())
    assert times[:31] == pytest.approx([2 * index for index in range(31)], abs=0.01)
    assert times[31:] == pytest.approx([60] * 4, abs=0.01)


def test_a_reset_that_tells_of_the_next_single_call_does_not_hide_what_others_have_taken() -> None:
    """Azure's: however much of the limit is used up, one more call fits in a second."""

    async def main() -> None:
        limiter = observed(RateLimiter(100, 300), 300, 300, "0s")
        await take(limiter, 10)
        observed(limiter, 300, 200, "1s")
        assert limiter.current_window_count == 100

    run_virtual(main())


@pytest.mark.parametrize("reset", ["0s", "50ms", "1s"])
def test_others_share_comes_back_as_fast_as_the_limit_says_where_resets_tell_of_the_next_single_call(reset: str) -> None:
    async def main() -> None:
        limiter = observed(RateLimiter(100, 300), 300, 300, "0s")
        observed(limiter, 300, 150, reset)
        assert limiter.current_window_count == pytest.approx(150, abs=3)
        await asyncio.sleep(15)
        assert limiter.current_window_count == pytest.approx(75, abs=6)
        await asyncio.sleep(16)
        assert limiter.current_window_count == 0

    run_virtual(main())


def test_a_bucket_that_others_keep_empty_is_waited_for() -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 60, max_burst=1)
        await take(limiter, 3)
        await asyncio.sleep(5)
        assert observed(limiter, 60, 0, "1.5s").paused_for == 1.5

    run_virtual(main())


# --- pauses


def test_at_none_left_it_pauses_until_the_reset() -> None:
    async def main() -> None:
        assert observed(RateLimiter(), x_ratelimit_remaining_tokens=0, x_ratelimit_reset_tokens="6m0s").paused_for == 360
        assert observed(RateLimiter(5, 100), 100, 0, "20s").paused_for == 20
        assert observed(RateLimiter(), retry_after=5).paused_for == 5
        assert observed(RateLimiter(), retry_after=1_000_000).paused_for == 600

    run_virtual(main())


@pytest.mark.parametrize(
    "reset", ["60s", "1h", (datetime.now(UTC) + timedelta(hours=1)).isoformat()], ids=["a minute", "an hour", "a date"]
)
def test_retry_after_wins_over_the_resets(reset: str) -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 100)
        await take(limiter, 5)
        observed(limiter, 100, 0, reset, retry_after=1)
        assert limiter.paused_for == 1
        await take(limiter)
        assert now() == pytest.approx(1, abs=1e-3)
        await take(limiter, 99)
        # From then on the others' share comes back as evenly as a bucket fills, and within a window.
        assert now() <= 62

    run_virtual(main())


@pytest.mark.parametrize(
    ("per_minute", "headers", "later"),
    [
        (20, told(20, 0, "60s"), 6),  # the first it counts itself leave at 3 and 6
        (20, told(None, 0, "60s"), 6),
        (20, told(20, 0, "60s", retry_after="20"), 20),
        (100, told(100, 0, "60s"), 6),  # what others have used comes back as it likes, what is its own at 6
    ],
    ids=["told", "no limit told", "Retry-After is meant as it says", "others have used most of it"],
)
def test_a_refusal_that_only_says_when_all_is_whole_again_is_waited_out_as_its_own_log_says(
    per_minute: int, headers: dict[str, str], later: float
) -> None:
    served: list[float] = []
    refused = False

    async def call(item: int) -> int:
        nonlocal refused
        if item == 20 and not refused:
            refused = True
            raise SDKError("slow down", 429, headers)
        served.append(now())
        await asyncio.sleep(3)
        return item

    run(Batch(call, max_concurrent=1, max_per_minute=per_minute), range(21))
    assert served[20] - 60 == pytest.approx(later, abs=1e-3)


def test_a_window_that_is_longer_than_its_own_log_is_waited_for_when_it_is_used_up() -> None:
    async def main() -> float:
        limiter = RateLimiter(20, 100)
        await take(limiter, 100)
        limiter.observe({"ratelimit": '"api";r=0;t=40', "ratelimit-policy": '"api";q=500;w=300'})
        return limiter.paused_for

    assert run_virtual(main()) == 40


def test_what_it_has_counted_itself_reopens_as_its_own_log_says() -> None:
    async def main() -> float:
        limiter = RateLimiter(10, 4, 60.0)
        for _ in range(4):
            await take(limiter)
            await asyncio.sleep(5)
        # All four are used. "Whole again" is a minute after the last; the first comes back a minute after the first.
        observed(limiter, 4, 0, "55s")
        await take(limiter)
        return now()

    assert run_virtual(main()) == pytest.approx(60, abs=1e-3)


@pytest.mark.parametrize("skew", [-3600, -5, 5, 3600])
def test_a_reset_by_a_clock_that_is_wrong_is_no_further_than_the_window_is_long(skew: float) -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 100)
        reset = (datetime.now(UTC) + timedelta(seconds=30 + skew)).isoformat()
        limiter.observe({f"anthropic-ratelimit-requests-{part}": str(value) for part, value in
                         (("limit", 100), ("remaining", 0), ("reset", reset))})  # fmt: skip
        assert limiter.paused_for <= 60

    run_virtual(main())


# --- windows whose length nobody tells


@pytest.mark.parametrize(
    ("quotas", "seconds"),
    [
        ([], 60.0),
        ([Quota("requests", 20, None, None)], 60.0),
        ([Quota("requests", 20, 0, None)], 60.0),
        ([Quota("requests", 20, 19, 0.3)], 60.0),  # much is left: it may be the end of a minute
        ([Quota("requests", 20, 0, 0.3)], 0.3),
        ([Quota("requests", 20, 5, 0.3)], 0.4),
        ([Quota("requests", 20, 0, 0.0)], 1.0),  # told to the second
        ([Quota("requests", 20, 0, 0.3, is_guess=True)], 60.0),
        ([Quota("requests", 20, 0, 0.3), Quota("requests", 20, 19, 45.0)], 45.0),  # it was the end of a window
        ([Quota("requests", 20, 0, 0.3), Quota("requests", 20, 19, 59.0)], 60.0),  # a minute, told on its way
        ([Quota("tokens", 20, 0, 51.0)], 60.0),  # a minute that had begun, perhaps
        ([Quota("requests", 20, 0, 0.3), Quota("requests", 40, 39, 59.0)], 60.0),  # another limit
        ([Quota("requests", 20, 0, 300.0)], 60.0),
        ([Quota("requests", 100, 100 - used, used / 5) for used in (10, 18, 25, 12, 40)], 20.4),  # a bucket, five a second
        (
            [Quota("requests", 100, 100 - used, float(math.ceil(used / 5))) for used in (12, 22, 48, 33, 57)],
            1300 / 57,
        ),  # to the second
        ([Quota("requests", 100, 100 - used, used / 5) for used in (10, 18, 25, 12)], 60.0),  # few have told so
        ([Quota("requests", 100, 100 - used, used / 5) for used in (20, 21, 22, 23, 24)], 60.0),  # all of them alike
        ([Quota("requests", 100, 100 - used, 60 - used / 2) for used in (10, 18, 25, 33, 40)], 60.0),  # it counts down
        ([Quota("requests", 100, 100 - used, 20.0) for used in (10, 18, 25, 33, 40)], 60.0),  # the newest is the last to leave
    ],
    ids=str,
)
def test_the_length_of_a_window_follows_from_its_resets(quotas: list[Quota], seconds: float) -> None:
    span, found = Span(), 60.0
    for quota in quotas:
        found = span.seconds(quota, 60.0)
    assert found == pytest.approx(seconds)


@pytest.mark.parametrize("reset", ["1e-3", "1e-310", "5e-324"])
@pytest.mark.parametrize("per_minute", [None, 60])
def test_a_window_that_is_told_to_be_no_time_at_all_does_no_harm(per_minute: int | None, reset: str) -> None:
    async def main() -> None:
        limiter = RateLimiter(50, per_minute)
        for _ in range(10):
            async with limiter.reserve() as permit:
                observed(limiter, 100, 0, reset)
                permit._not_served()
        assert limiter.max_per_window == (per_minute or 100)

    run_virtual(main())


@pytest.mark.parametrize("reset", ["1s", "0s"], ids=["rounded up", "rounded down"])
def test_a_reset_that_tells_when_the_next_single_call_fits_is_found_out_by_refusals(reset: str) -> None:
    """A bucket of 60 a minute says "60, none left, reset in 1 s": by other servers' word that is 60 a second."""
    api = SimulatedAPI(max_per_window=60, algorithm="token_bucket", latency=0.5)
    refused = 0

    async def call(item: int) -> int:
        nonlocal refused
        try:
            return await api.call(item)
        except SimulatedRateLimitError as error:
            refused += 1
            raise SDKError("slow down", 429, told(60, 0, reset, **error.response.headers)) from None

    async def main() -> float:
        await Batch(call, max_concurrent=20).run_async({"items": range(300)})
        return now()

    assert run_virtual(main()) < 240 + 70
    assert refused <= 3 * 20


def test_a_reset_that_tells_of_the_next_single_token_is_found_out_by_refusals() -> None:
    """As above, of 6,000 tokens a minute, of which the next one comes back within a second: that looks like 6,000 a second."""
    api = SimulatedAPI(max_tokens_per_window=6000, algorithm="token_bucket", latency=0.5)
    left, told_at, refused = 6000.0, 0.0, 0

    def told_tokens() -> dict[str, str]:
        names = (("limit", 6000), ("remaining", int(left)), ("reset", 1))
        return {f"x-ratelimit-{name}-tokens": str(value) for name, value in names}

    class Asks(Batch):
        max_concurrent = 20

        def estimate_tokens(self, item: int) -> int:  # noqa: ARG002
            return 100

        async def exec_async(self, item: int) -> Any:
            nonlocal left, told_at, refused
            try:
                answer = await api.call(item, tokens=100, reply={"usage": {"total_tokens": 100}})
            except SimulatedRateLimitError as error:
                refused += 1
                raise SDKError("slow down", 429, told_tokens() | error.response.headers) from None
            left, told_at = min(6000.0, left + 100 * (now() - told_at)) - 100, now()
            self.limiter.observe(told_tokens())
            return answer

    async def main() -> float:
        await Asks(echo).run_async({"items": range(300)})
        return now()

    assert run_virtual(main()) < 240 + 70
    assert refused <= 3 * 20


@pytest.mark.parametrize(
    ("others", "is_start", "is_end"),
    [
        ([(3, -5), (3, -9), (4, -2), (4, -7)], True, False),
        ([(9, 3), (15, 3), (8, 4), (12, 4)], False, True),
        ([(3, 3), (3, 3), (60, 60), (3, 3)], False, False),
        ([(3, 2), (3, 1), (3, 2)], False, False),
        ([(3, -5), (3, -9), (4, -2), *[(3, 3)] * 100], True, False),
        ([(3, -5), (3, -9), (4, -2), *[(90, 3), (9, 4)] * 50], False, True),
        ([], False, False),
    ],
    ids=["start", "end", "a window ends", "too little", "it is remembered", "it has changed", "nothing"],
)
def test_by_the_count_of_the_right_moment_others_share_is_steady(
    others: list[tuple[int, int]], is_start: bool, is_end: bool
) -> None:
    moment = Moment()
    for by_start, by_end in others:
        moment.learn(by_start, by_end)
    assert (moment.is_start, moment.is_end) == (is_start, is_end)


def test_a_limit_a_second_is_not_taken_for_one_a_minute() -> None:
    async def main() -> float:
        limiter = observed(RateLimiter(50), 20, 0, "0.3s")
        await take(limiter, 200)
        return now()

    assert run_virtual(main()) == pytest.approx(3.0, abs=0.31)


@pytest.mark.parametrize("rounded", [False, True])
def test_a_fixed_window_is_known_by_an_end_that_stays_where_it_is(rounded: bool) -> None:
    boundary = Boundary()
    for call in range(20):
        left = 39.75 - call
        boundary.learn(call, call + 1.0, call + (math.ceil(left) if rounded else left), call, seconds=60.0)
    assert boundary.end is not None
    assert 39.75 <= boundary.end <= 40.0
    boundary.learn(130.0, 131.0, 160.0 if rounded else 159.75, 5, seconds=60.0)
    assert boundary.end is not None
    assert 159.75 <= boundary.end <= 160.0
    boundary.learn(132.0, 133.0, 173.0, 9, seconds=60.0)  # it is none after all
    assert boundary.end is None


@pytest.mark.parametrize("per_second", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_an_end_that_moves_with_what_is_used_is_of_no_fixed_window(per_second: float, rounded: bool) -> None:
    sliding, bucket = Boundary(), Boundary()
    for call in range(300):
        time = call / per_second
        for boundary, reset in ((sliding, 60.0), (bucket, 1 / per_second)):
            boundary.learn(time, time + 3, time + (math.ceil(reset) if rounded else reset), min(call, 60), seconds=60.0)
            assert boundary.end is None


def test_answers_to_calls_that_started_at_once_tell_of_no_fixed_window_as_the_last_start_does_not_move() -> None:
    boundary = Boundary()
    for call in range(20):
        boundary.learn(call / 20, 3.0 + call, 61.0, call, seconds=60.0)
        assert boundary.end is None


def test_a_window_that_turned_out_not_to_be_fixed_is_taken_for_fixed_no_sooner_than_any_other() -> None:
    boundary = Boundary()
    for call in (0, 4):
        boundary.learn(call, call + 1.0, 60.0, 1 + call, seconds=60.0)
    assert boundary.end == 60.0
    for call in range(9):  # started at once, so that the last start does not move
        boundary.learn(20.0, 21.0 + call, 80.0, 10 + call, seconds=60.0)
        assert boundary.end is None


# --- where headers come from


def test_it_is_an_event_hook_of_an_http_client() -> None:
    limiter = RateLimiter()

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=told(7, 6))

    async def main() -> None:
        hooks = {"response": [limiter.observe_response]}
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks) as client:
            await client.get("https://api.example/")

    asyncio.run(main())
    assert (limiter.max_per_window, limiter.current_window_count) == (7, 1)


@pytest.mark.parametrize(("status", "pause"), [(200, 0.0), (429, 1.0)])
def test_what_own_calls_explain_is_still_waited_for_when_a_response_is_a_refusal(status: int, pause: float) -> None:
    async def main() -> None:
        limiter = RateLimiter(10, 60, max_burst=1)
        await take(limiter)
        await limiter.observe_response(httpx2.Response(status, headers=told(60, 0, "1s")))
        assert limiter.paused_for == pause

    run_virtual(main())


@pytest.mark.parametrize("number", ["٣", "1_0", "３"])
def test_numbers_that_no_server_writes_are_no_information(number: str) -> None:
    limiter = RateLimiter(5, 60)
    limiter.observe({f"x-ratelimit-{part}-requests": number for part in ("limit", "remaining")})
    limiter.observe({"ratelimit": f'"api";r={number}', "ratelimit-policy": f'"api";q={number}'})
    assert (limiter.max_per_window, limiter.current_window_count, limiter.paused_for) == (60, 0, 0.0)


def test_a_response_that_cannot_be_read_says_nothing() -> None:
    for response in (None, 5, HostileError(), Raising()):
        asyncio.run(RateLimiter().observe_response(response))


def test_headers_on_an_exception_are_observed_by_the_node() -> None:
    calls = 0

    async def call(item: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            headers = {"x-ratelimit-limit-req-minute": "30", "x-ratelimit-remaining-req-minute": "10", "retry-after": "2"}
            raise SDKError("slow down", 429, headers)
        return item

    node = Batch(call, max_concurrent=1)
    assert run(node, range(3)) == [0, 1, 2]
    assert node.limiter.max_per_window == 30


def test_headers_on_an_error_that_is_no_refusal_are_observed_by_the_node() -> None:
    async def call(item: int) -> int:
        if item == 0 and not times:
            times.append(now())
            raise SDKError("broken", 500, {**told(30, 0, "9s"), "retry-after": "100"})
        times.append(now())
        return item

    times: list[float] = []
    node = Batch(call, max_concurrent=1, max_retries=2)
    assert run(node, range(3)) == [0, 1, 2]
    assert node.limiter.max_per_window == 30
    assert 9 <= times[1] <= times[3] < 20  # what is left is that of all, what the error asks to wait is not


@pytest.mark.parametrize("timeout", [0.0, 5.0, 30.0, 600.0])
@pytest.mark.parametrize(
    "headers",
    [
        told(1),
        told(50, 0),
        told(10, 0, "9h"),
        {"ratelimit-policy": '"api";q=1;w=3000', "ratelimit": '"api";r=0;t=2000'},
        {"retry-after": "1000"},
    ],
)
@pytest.mark.parametrize("per_minute", [100, None])
def test_nothing_that_a_refusal_tells_makes_a_refused_item_wait_beyond_the_timeout(
    headers: dict[str, str], timeout: float, per_minute: int | None
) -> None:
    async def call(item: int) -> None:
        raise SDKError("slow down", 429, headers)

    async def main() -> float:
        node = Batch(call, on_error="collect", rate_limit_timeout=timeout, max_per_minute=per_minute, max_concurrent=2)
        await node.run_async({"items": range(2)})
        return now()

    assert run_virtual(main()) <= 2 * timeout + 1  # a limit of one lets them take turns


def test_an_item_that_cannot_be_sent_again_in_time_says_why() -> None:
    async def call(item: int) -> None:
        raise SDKError("slow down", 429, told(1))

    shared: dict[str, Any] = {"items": [1]}
    run_virtual(Batch(call, on_error="collect", rate_limit_timeout=30).run_async(shared))
    assert "by what the API tells, it admits no call for 60.0 s; rate_limit_timeout is 30 s" in str(shared["results"][0])


def test_a_limit_that_is_told_with_a_result_is_waited_for_however_long_it_takes() -> None:
    async def call(item: int) -> None:
        starts.append(now())
        node.limiter.observe(told(1))

    starts: list[float] = []
    node = Batch(call, max_concurrent=1, rate_limit_timeout=5)
    run(node, range(3))
    assert starts == pytest.approx([0, 60, 120], abs=1)


def test_a_reset_that_is_hours_away_is_not_believed_for_longer_than_a_pause() -> None:
    async def main() -> list[float]:
        limiter = observed(RateLimiter(5, 100), 10, 0, "9h")
        return await starts(limiter, 1)

    assert run_virtual(main()) == pytest.approx([600], abs=1)


def test_a_bucket_whose_reset_is_told_as_a_date_up_to_two_seconds_too_late_is_not_waited_for() -> None:
    """It holds 10 and is whole again in half a second: by dates of full seconds, in up to two."""

    async def main() -> float:
        limiter = RateLimiter(20, 1200, max_burst=10)
        await take(limiter, 20)
        limiter.observe(dated(1200, 0, 2))
        return limiter.paused_for

    assert run_virtual(main()) == 0


@pytest.mark.parametrize(("sends_date", "pause"), [(True, 50.0), (False, 0.0)])
def test_a_reset_that_is_seconds_off_by_clocks_which_differ_is_no_time_to_pause_for(sends_date: bool, pause: float) -> None:
    """Told without the server's own time, a window that has begun just now may seem to have begun ten seconds ago."""

    async def main() -> float:
        limiter = RateLimiter(5, max_tokens_per_window=1000)
        async with limiter.reserve(tokens=900):
            pass
        now = datetime.now(UTC)
        headers = {"limit": "1000", "remaining": "0", "reset": (now + timedelta(seconds=50)).isoformat()}
        told = {f"anthropic-ratelimit-tokens-{part}": value for part, value in headers.items()}
        limiter.observe(told | ({"date": now.isoformat()} if sends_date else {}))
        return limiter.paused_for

    assert run_virtual(main()) == pytest.approx(pause, abs=1)


@pytest.mark.parametrize(
    "headers",
    [
        told(5, 0, "3"),
        dated(5, 0, 4),
    ],
    ids=["seconds", "dates"],
)
def test_a_reset_that_is_a_window_but_for_full_seconds_is_not_waited_for(headers: dict[str, str]) -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(10, 5, 2.0)
        await take(limiter, 5)
        await asyncio.sleep(0.1)
        limiter.observe(headers)
        return await starts(limiter, 5)

    assert run_virtual(main()) == [2.0] * 5


def test_what_an_adaptive_limiter_waits_for_after_refusals_counts_as_time_in_which_an_item_is_refused() -> None:
    """The server tells a limit that is seldom reached, and refuses all."""
    calls: dict[int, list[float]] = {}

    class Adapting(AdaptiveThrottledNode):
        rate_limit_timeout = 30.0
        on_error = "collect"

        async def prep_async(self, shared: dict[str, Any]) -> Any:
            return range(5)

        async def exec_async(self, item: int) -> None:
            calls.setdefault(item, []).append(now())
            raise SDKError("slow down", 429, told(3))

    run_virtual(Adapting().run_async({}))
    assert len(calls) == 5
    assert max(times[-1] - times[0] for times in calls.values()) <= 30.1


def test_a_reset_limiter_forgets_what_others_have_used() -> None:
    limiter = observed(RateLimiter(5, 10), 10, 0, "60s")
    limiter.reset()
    assert limiter.try_acquire()
    assert limiter.current_window_count == 1


@settings(deadline=None)
@given(st.lists(st.dictionaries(NAMES, TEXT), max_size=4))
def test_no_headers_raise_or_pause_beyond_the_cap_or_block_for_longer_than_a_window(responses: list[dict[str, str]]) -> None:
    async def main() -> None:
        limiter = RateLimiter(5, 10, max_tokens_per_window=100)
        for headers in responses:
            limiter.observe(headers)
        assert 0 <= limiter.paused_for <= 600
        assert 1 <= (limiter.max_per_window or 1) <= 10
        for nonsense in (None, 5, "x", [1], [("a",)], {"retry-after": object()}):
            limiter.observe(nonsense)
        async with limiter.reserve(tokens=1):
            assert now() <= 600 + 3600

    run_virtual(main())


# --- servers that refuse what has room


def refused(limiter: RateLimiter, calls: int) -> None:
    """Let so many calls start and be refused."""
    for _ in range(calls):
        permit = limiter.reserve()
        assert permit.take()
        permit._not_served()
        permit.release()


def test_a_server_that_refuses_what_has_room_gets_the_starts_spaced_evenly() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 120)
        refused(limiter, 5)
        return await starts(limiter, 4)

    assert run_virtual(main()) == pytest.approx([0.5, 1, 1.5, 2], abs=1e-3)


def test_tiny_bursts_that_are_refused_are_sent_one_by_one() -> None:
    """Of two calls that start together, one that arrives late meets the next two. One by one, as often, are as many."""

    async def main() -> list[float]:
        limiter = RateLimiter(50, 120, max_burst=2)
        assert await starts(limiter, 4) == pytest.approx([0, 0, 1, 1], abs=0.1)
        await asyncio.sleep(10)
        refused(limiter, 1)
        began = now()
        assert await starts(limiter, 1) == [pytest.approx(began + 1, abs=0.1)]  # what was sent last was a burst
        await asyncio.sleep(10)
        assert limiter.max_burst == 2
        return [at - now() for at in await starts(limiter, 4)]

    assert run_virtual(main()) == pytest.approx([-1.5, -1, -0.5, 0], abs=1e-3)


@pytest.mark.parametrize("told", [None, 20])
@pytest.mark.parametrize("burst", [2, 3])
def test_bursts_are_no_larger_where_they_become_single_starts(burst: int, told: int | None) -> None:
    share = 60 * burst / 24

    async def main() -> list[float]:
        limiter = RateLimiter(50, 24, max_burst=burst)
        began = [now(), *await starts(limiter, burst - 1)]
        refused(limiter, 1)
        if told is not None:
            observed(limiter, told, 10, "30s")
        return began + await starts(limiter, 6)

    began = run_virtual(main())
    assert all(later - earlier >= share - 1e-6 for earlier, later in zip(began, began[burst:], strict=False))


def test_a_limit_that_is_set_anew_is_tried_with_its_bursts() -> None:
    async def main() -> None:
        limiter = RateLimiter(50, 120, max_burst=3)
        assert limiter.try_acquire()
        refused(limiter, 1)
        await asyncio.sleep(60)
        limiter.release()
        limiter.max_per_window = 120
        assert await starts(limiter, 3) == [60] * 3

    run_virtual(main())


def test_resets_of_a_small_bucket_are_no_reason_to_disregard_its_refusals() -> None:
    """It says "600, none left, whole again in 0.995 s", as if so many were allowed in that time: more than the user allows."""

    async def main() -> list[float]:
        limiter = RateLimiter(50, 600)
        permits = [limiter.reserve() for _ in range(20)]
        assert all(permit.take() for permit in permits)
        await asyncio.sleep(0.1)
        for permit in permits[10:]:
            observed(limiter, 600, 0, "995ms", retry_after_ms=95)
            permit._not_served()
            permit.release()
        await asyncio.sleep(5)
        return await starts(limiter, 4)

    assert run_virtual(main()) == pytest.approx([5.1, 5.2, 5.3, 5.4], abs=1e-3)


def test_a_few_refusals_are_no_reason_to_space_the_starts() -> None:
    async def main() -> None:
        limiter = RateLimiter(50, 120)
        refused(limiter, 4)
        assert all(limiter.try_acquire() for _ in range(46))

    run_virtual(main())


def test_refusals_of_few_among_many_are_no_reason_to_space_the_starts() -> None:
    async def main() -> None:
        limiter = RateLimiter(50, 600)
        for _ in range(8):
            await take(limiter, 10)
            refused(limiter, 1)
            await asyncio.sleep(1)
        assert all(limiter.try_acquire() for _ in range(50))

    run_virtual(main())


def test_a_few_refusals_each_time_a_part_of_the_minute_is_full_space_the_starts() -> None:
    """A server that enforces 300 a minute as 50 in ten seconds, of which at most one in thirty calls is refused."""
    chance = random.Random(1)
    api = SimulatedAPI(
        max_per_window=50,
        window_seconds=10.0,
        algorithm="fixed_window",
        latency=lambda _: chance.lognormvariate(math.log(2.5), 0.4),
        network_delay=lambda: chance.uniform(0.02, 0.05),
    )
    assert run(Batch(api.call, max_concurrent=19, max_per_minute=300), range(2400)) == list(range(2400))
    assert api.refused <= 0.01 * 2400


def test_refusals_of_calls_that_started_before_a_limit_was_told_are_no_reason_to_space_the_starts() -> None:
    async def main() -> None:
        limiter = RateLimiter(50)
        permits = [limiter.reserve() for _ in range(20)]
        assert all(permit.take() for permit in permits)
        observed(limiter, 100, 50, "30s")
        for permit in permits:
            permit._not_served()
            permit.release()
        await asyncio.sleep(60)
        assert all(limiter.try_acquire() for _ in range(50))

    run_virtual(main())


def test_refusals_where_the_window_is_full_are_no_reason_to_space_the_starts() -> None:
    async def main() -> None:
        limiter = RateLimiter(60, 60)
        await take(limiter, 55)
        await asyncio.sleep(1)
        refused(limiter, 5)
        await asyncio.sleep(61)
        assert all(limiter.try_acquire() for _ in range(60))

    run_virtual(main())


@pytest.mark.parametrize(("own", "at_once"), [(28, 20), (5, 1)])
def test_refusals_that_others_share_explains_are_no_reason_to_space_the_starts(own: int, at_once: int) -> None:
    """Others take 25 of 60 as a rule: then 28 may have been all that was left, and 5 not."""

    async def main() -> None:
        limiter = RateLimiter(60, 60)
        await take(limiter, own)
        assert limiter._budget.requests is not None
        limiter._budget.requests.take_away(25, 60.0, 60.0, told_at=0.0)
        await asyncio.sleep(1)
        refused(limiter, 5)
        await asyncio.sleep(62)
        assert [limiter.try_acquire() for _ in range(20)].count(True) == at_once

    run_virtual(main())


def test_what_is_missing_of_a_small_bucket_of_tokens_is_not_taken_for_others_who_go_on() -> None:
    async def main(left: int) -> bool:
        limiter = RateLimiter(10, max_tokens_per_window=100_000)
        for _ in range(20):
            limiter._mark()
            async with limiter.reserve(tokens=1000):
                await asyncio.sleep(1)
            limiter.observe({"x-ratelimit-limit-tokens": "100000", "x-ratelimit-remaining-tokens": str(left)})
        assert limiter._budget.tokens is not None
        return limiter._budget.tokens.is_filled(own=50_000)

    assert not run_virtual(main(left=20_000))
    assert run_virtual(main(left=26_000))


def test_refusals_of_calls_that_started_before_a_pace_was_told_space_the_starts_no_more() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 600)
        permits = [limiter.reserve() for _ in range(20)]
        assert all(permit.take() for permit in permits)
        await asyncio.sleep(0.1)
        limiter.observe({"ratelimit": '"api";r=0;t=1', "ratelimit-policy": '"api";q=10;w=1'})
        for permit in permits[10:]:
            permit._not_served()
            permit.release()
        await asyncio.sleep(5)
        return await starts(limiter, 20)

    assert run_virtual(main()) == pytest.approx([5.1] * 10 + [6.1] * 10, abs=1e-3)


def test_starts_are_spaced_no_closer_than_timers_tell() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 12_000)
        refused(limiter, 5)
        await asyncio.sleep(5)
        return await starts(limiter, 9)

    assert run_virtual(main()) == pytest.approx([5.0] * 4 + [5.02] * 4 + [5.04], abs=1e-3)


def test_spaced_starts_that_are_refused_are_spaced_more() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(50, 120)
        refused(limiter, 5)
        await asyncio.sleep(5)
        assert limiter.try_acquire()
        await asyncio.sleep(1)
        refused(limiter, 1)
        await asyncio.sleep(4)
        return await starts(limiter, 4)

    started = run_virtual(main())
    apart = started[1] - started[0]
    assert 1.05 * 0.5 < apart < 1.5 * 0.5
    assert started == pytest.approx([10 + apart * count for count in range(4)], abs=1e-3)


def test_refusals_before_any_spaced_start_was_served_space_them_no_more() -> None:
    """What was sent at once before is still counted, for as long as the server's own time is."""

    async def main() -> list[float]:
        limiter = RateLimiter(50, 120)
        refused(limiter, 5)
        for _ in range(2):
            await asyncio.sleep(1)
            refused(limiter, 1)
        await asyncio.sleep(1)
        return await starts(limiter, 4)

    assert run_virtual(main()) == pytest.approx([3, 3.5, 4, 4.5], abs=1e-3)


def test_a_limit_that_is_set_anew_is_not_spaced_as_the_one_before() -> None:
    async def main() -> None:
        limiter = RateLimiter(50, 120)
        refused(limiter, 5)
        assert not limiter.try_acquire()
        limiter.max_per_window = 600
        assert all(limiter.try_acquire() for _ in range(50))

    run_virtual(main())


def test_a_reset_limiter_forgets_what_was_refused() -> None:
    async def main() -> None:
        limiter = RateLimiter(50, 120)
        refused(limiter, 5)
        assert not limiter.try_acquire()
        limiter.reset()
        assert all(limiter.try_acquire() for _ in range(4))
        for _ in range(4):
            limiter.release()
        refused(limiter, 4)  # nor are these added to those
        assert all(limiter.try_acquire() for _ in range(50))

    run_virtual(main())


def test_an_api_that_is_down_for_a_while_is_no_reason_to_space_the_starts_more() -> None:
    async def call(item: int) -> int:
        if 10 <= now() < 130:
            raise RateLimitHit("down", retry_after=5.0)
        return item

    async def main() -> float:
        await Batch(call, max_concurrent=10, max_per_minute=600, max_burst=1).run_async({"items": range(700)})
        return now()

    assert run_virtual(main()) < 10 + (120 + 5) + 1.05 * 60


@pytest.mark.parametrize("burst", [None, 1])
def test_calls_that_are_refused_now_and_then_at_any_pace_are_not_spaced_more_and_more(burst: int | None) -> None:
    """As where other clients' load decides: a bare refusal that has nothing to do with this client's own limits."""
    chance, ended = random.Random(2), 0.0

    async def call(item: int) -> int:
        nonlocal ended
        await asyncio.sleep(0.1)
        if chance.random() < 0.02:
            raise RateLimitHit("429 Too Many Requests", retry_after=0.0)
        await asyncio.sleep(2)
        ended = now()
        return item

    run(Batch(call, max_concurrent=100, max_per_minute=600, max_burst=burst), range(2900))
    assert ended <= (260 if burst is None else 296 * 1.1)


def test_an_overloaded_server_is_no_reason_to_space_the_starts() -> None:
    """Whoever calls, two calls in a hundred are answered with 529: that says nothing of this client's limits."""
    chance, ended = random.Random(1), 0.0

    class OverloadedError(Exception):
        status_code = 529

    async def call(item: int) -> int:
        nonlocal ended
        await asyncio.sleep(0.1)
        if chance.random() < 0.02:
            raise OverloadedError("Overloaded")
        await asyncio.sleep(2)
        ended = now()
        return item

    run(Batch(call, max_concurrent=100, max_per_minute=1000), range(2900))
    assert ended <= 190


@pytest.mark.parametrize("told", ["1" + "0" * 12, "9" * 30, "1e13", "1e400"])
def test_a_limit_beyond_all_reason_is_no_limit(told: str) -> None:
    limiter = RateLimiter()
    limiter.observe({"x-ratelimit-limit-tokens": told, "x-ratelimit-remaining-tokens": told, "x-ratelimit-reset-tokens": "6s"})
    assert limiter.max_tokens_per_window is None


def test_a_window_that_ends_as_the_clock_shows_0_has_an_end() -> None:
    others = Others(
        Budget(requests=10, tokens=None, burst=None, seconds=60.0),
        {"requests": 10, "tokens": None},
        {"requests": Span(), "tokens": Span()},
    )
    for seconds, used in ((-50.0, 1), (-40.0, 2)):
        others._boundaries["requests"][0].learn(seconds, seconds + 1, 0.0, used, seconds=60.0)
    assert others._began_at("requests", now=-10.0, seconds=60.0) == -60.0
    assert others._began_at("requests", now=0.0, seconds=60.0) == -math.inf


@pytest.mark.parametrize(
    ("asked", "told", "reset", "allowed"),
    [(832, 138, "9.98s", 829), (832, 138, "9.9s", 832), (832, 138, "10s", 832), (100, 16, "9.99s", 96), (100, 1, "1s", 100)],
)
def test_what_a_server_allows_in_ten_seconds_of_a_limit_a_minute_is_told_rounded_down(
    asked: int, told: int, reset: str, allowed: int
) -> None:
    """A sixth of 832 is 138.67: of 138 that are told, in ten seconds, 828 are allowed in a minute, and never 138."""
    limiter = RateLimiter(max_concurrent=100, max_per_window=asked)
    names = ("limit", "remaining", "reset")
    limiter.observe({f"x-ratelimit-{name}-requests": str(value) for name, value in zip(names, (told, told, reset), strict=True)})
    assert limiter.max_per_window == allowed

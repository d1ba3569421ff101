"""Whose turn it is: a refused item keeps its place, a retry waits behind one, and waiting one's turn is not being refused."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledParallelBatchNode,
    run_virtual,
)

Call = Callable[[Any], Coroutine[Any, Any, Any]]


def node(call: Call, base: Any = ThrottledParallelBatchNode, **settings: Any) -> Any:
    class Node(base):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            return shared["items"]

        async def exec_async(self, item: Any) -> Any:
            return await call(item)

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            shared["results"] = exec_res_list

    return Node(**settings)


def run(node: Any, items: Any) -> list[Any]:
    shared = {"items": items}
    run_virtual(node.run_async(shared))
    results: list[Any] = shared["results"]
    return results


async def one_by_one(items: int) -> AsyncIterator[int]:
    for item in range(items):
        await asyncio.sleep(0.01)
        yield item


class Server:
    """Refuses the first call of some items, after a time each, and serves all others in a second."""

    def __init__(
        self, refused: dict[Any, float], *, pause: float | None = 1.0, error: Callable[..., Exception] = RateLimitHit
    ) -> None:
        self.refused = dict(refused)
        self.pause = pause
        self.error = error
        self.calls: list[Any] = []

    async def call(self, item: Any) -> Any:
        self.calls.append(item)
        seconds = self.refused.pop(item, None)
        if seconds is not None:
            await asyncio.sleep(seconds)
            raise RateLimitHit(retry_after=self.pause) if self.error is RateLimitHit else self.error(item)
        await asyncio.sleep(1)
        return item


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("base", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
@pytest.mark.parametrize(("told", "takes"), [(2, 1), (3, 1), (3, 2), (5, 4), (10, 5)])
def test_no_item_starves_on_an_api_that_takes_fewer_at_once_than_it_was_said_to(told: int, takes: int, base: Any) -> None:
    api = SimulatedAPI(max_concurrent=takes, latency=2.0)
    assert run(node(api.call, base, max_concurrent=told, on_error="collect"), range(400)) == list(range(400))


def test_a_refused_item_goes_before_what_has_not_started() -> None:
    server = Server({0: 0.5})
    run(node(server.call, max_concurrent=2), range(6))
    assert server.calls == [0, 1, 0, 2, 3, 4, 5]


def test_of_several_that_were_refused_the_one_that_came_first_goes_first() -> None:
    server = Server({0: 0.3, 1: 0.2, 2: 0.1})
    run(node(server.call, max_concurrent=3), one_by_one(6))
    assert server.calls == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def test_one_that_was_refused_twice_still_goes_before_what_came_later() -> None:
    refusals = {0: 2, 1: 1}
    calls = []

    async def call(item: int) -> int:
        calls.append(item)
        await asyncio.sleep(0.1 if item else 0.2)
        if refusals.get(item):
            refusals[item] -= 1
            raise RateLimitHit(retry_after=1.0)
        return item

    assert run(node(call, max_concurrent=2), one_by_one(4)) == [0, 1, 2, 3]
    assert calls == [0, 1, 0, 1, 2, 0, 3]  # 2 began when 1 ended; 3 came later than 0


def test_a_refused_item_goes_before_those_of_other_batches_and_these_stay_in_order() -> None:
    limiter, server = RateLimiter(1), Server({0: 0.5})

    async def plain(name: str) -> None:
        async with limiter:
            await server.call(name)

    async def main() -> None:
        batches = [asyncio.create_task(node(server.call, shared_limiter=limiter).run_async({"items": [0, 1]}))]
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(plain(name)) for name in "abc"]
        await asyncio.sleep(0.1)
        batches.append(asyncio.create_task(node(server.call, shared_limiter=limiter).run_async({"items": [20, 21]})))
        await asyncio.gather(*batches, *others)

    run_virtual(main())
    # Item 1 queued before a, b and c came; what was not refused stays first come, first served.
    assert server.calls == [0, 0, 1, "a", "b", "c", 20, 21]


def test_a_retry_of_an_error_waits_behind_one_item_not_behind_the_batch() -> None:
    server = Server({0: 0.5}, error=ValueError)
    run(node(server.call, max_retries=2, max_concurrent=2), range(10))
    assert server.calls.index(0, 1) <= 3


def test_a_retry_of_an_error_does_not_go_before_others_on_a_shared_limiter() -> None:
    limiter, server = RateLimiter(1), Server({0: 0.5}, error=ValueError)

    async def main() -> None:
        batches = [asyncio.create_task(node(server.call, shared_limiter=limiter, max_retries=2).run_async({"items": [0]}))]
        await asyncio.sleep(0.1)
        batches.append(asyncio.create_task(node(server.call, shared_limiter=limiter).run_async({"items": [10]})))
        await asyncio.gather(*batches)

    run_virtual(main())
    assert server.calls == [0, 10, 0]


def test_a_refused_item_that_is_cancelled_in_the_queue_leaves_the_place_to_the_next() -> None:
    server, limiter = Server({0: 0.2, 1: 0.1}, pause=10.0), RateLimiter(2)

    async def main() -> None:
        shared: Any = {"items": [0, 1]}
        first = asyncio.create_task(node(server.call, shared_limiter=limiter).run_async(shared))
        await asyncio.sleep(1)
        second = asyncio.create_task(node(server.call, shared_limiter=limiter).run_async({"items": [2]}))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.wait([first, second])

    run_virtual(main())
    assert server.calls == [0, 1, 2]
    assert (limiter.active, limiter.waiting) == (0, 0)


def test_waiting_for_a_slot_that_a_long_call_holds_is_not_being_refused() -> None:
    refusals = 2

    async def call(item: str) -> str:
        nonlocal refusals
        if item == "refused" and refusals:
            refusals -= 1
            await asyncio.sleep(0.1)
            raise RateLimitHit(retry_after=1.0)
        await asyncio.sleep(1000)
        return item

    # The first refusal leaves one slot, which the long call holds.
    adaptive = node(call, AdaptiveThrottledNode, initial_concurrent=2, max_concurrent=2, rate_limit_timeout=100.0)
    assert run(adaptive, ["long", "refused"]) == ["long", "refused"]
    assert [change.new for change in adaptive.history][:1] == [1]


def test_waiting_for_a_window_is_not_being_refused() -> None:
    refusals = 4

    async def call(item: int) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise RateLimitHit(retry_after=1.0)
        return item

    assert run(node(call, max_per_minute=1, rate_limit_timeout=100.0), [7]) == [7]


def test_an_item_that_is_always_refused_is_given_up_in_time_while_others_are_served() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(1)
        if item == 0:
            raise RateLimitHit(retry_after=10.0)
        return item

    results = run(node(call, max_concurrent=2, on_error="collect", rate_limit_timeout=100.0), range(300))
    assert isinstance(results[0], RateLimitHit)
    assert "rate_limit_timeout is 100 s" in str(results[0])
    assert results[1:] == list(range(1, 300))


class Refused:
    """Stands for a permit in the queue, and counts how often it is asked for its place."""

    asked = 0

    def __init__(self, place: float) -> None:
        self.place = place

    @property
    def _place(self) -> float:
        Refused.asked += 1
        return self.place


@pytest.mark.parametrize("waiting", [0, 1, 7])
@pytest.mark.parametrize("order", ["as they came", "backwards", "at random"])
def test_who_is_refused_queues_where_it_came_whatever_order_refusals_are_in(order: str, waiting: int) -> None:
    places = [float(number // 2) for number in range(50)]  # some at the same time
    random.Random(1).shuffle(places) if order == "at random" else places.sort(reverse=order == "backwards")
    queue: Any = RateLimiter()
    others = [Refused(math.inf) for _ in range(waiting)]
    queue._queue.update(dict.fromkeys(others))
    refused = [Refused(place) for place in places]
    for each in refused:
        queue._put_in_place(each)
    assert list(queue._queue) == [*sorted(refused, key=lambda each: each.place), *others]


@pytest.mark.parametrize("is_backwards", [False, True])
def test_many_that_are_refused_in_order_queue_without_a_look_at_each(is_backwards: bool) -> None:
    queue: Any = RateLimiter()
    queue._queue[Refused(math.inf)] = None
    Refused.asked = 0
    for number in range(1000):
        queue._put_in_place(Refused(-number if is_backwards else number))
    assert Refused.asked <= 5 * 1000

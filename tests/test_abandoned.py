"""A batch whose task nobody keeps runs to its end as long as its loop runs, and once that was closed, it keeps no slot back."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pocketflow import AsyncNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    RateLimiter,
    RateLimitHit,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)
from pocketflow_throttled.virtual_time import VirtualTimeLoop

from .test_nodes import now

pytestmark = pytest.mark.usefixtures("any_pocketflow")

NODES = (ThrottledParallelBatchNode, AdaptiveThrottledNode)
FLOWS = (ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow)
Call = Callable[[int], Awaitable[None]]


def batch(cls: Any, limiter: RateLimiter, call: Call, source: Callable[[], Any] = lambda: range(3)) -> Any:
    """Return a node that makes three calls."""

    class Node(cls):  # type: ignore[misc]
        shared_limiter = limiter

        async def prep_async(self, shared: Any) -> Any:
            return source()

        async def exec_async(self, item: int) -> None:
            await call(item)

    return Node()


async def awaited() -> AsyncIterator[int]:
    for item in range(3):
        yield item


async def collect_for(seconds: int) -> None:
    """Let time pass, and collect what nobody keeps."""
    for _ in range(seconds):
        await asyncio.sleep(1)
        gc.collect()


@pytest.mark.parametrize("source", [lambda: range(3), awaited])
@pytest.mark.parametrize("cls", NODES)
def test_a_batch_that_nobody_keeps_waits_for_the_slots_of_others(cls: Any, source: Callable[[], Any]) -> None:
    limiter = RateLimiter(2, adaptive=cls is AdaptiveThrottledNode)
    called: list[int] = []

    async def call(item: int) -> None:
        await asyncio.sleep(1)
        called.append(item)

    async def main() -> None:
        async with limiter, limiter:
            asyncio.create_task(batch(cls, limiter, call, source).run_async({}))  # noqa: RUF006
            await collect_for(5)
            assert called == []
        await collect_for(5)

    run_virtual(main())
    assert called == [0, 1, 2]
    assert (limiter.active, limiter.waiting) == (0, 0)


async def one_later() -> AsyncIterator[int]:
    yield 0
    await asyncio.sleep(0.5)
    yield 1


@pytest.mark.parametrize("cls", NODES)
def test_a_batch_that_nobody_keeps_waits_also_once_its_last_call_has_ended(cls: Any) -> None:
    limiter = RateLimiter(1, adaptive=cls is AdaptiveThrottledNode)
    called: list[int] = []

    async def call(item: int) -> None:
        await asyncio.sleep(1)
        called.append(item)

    async def main() -> None:
        asyncio.create_task(batch(cls, limiter, call, one_later).run_async({}))  # noqa: RUF006
        await asyncio.sleep(0.2)
        async with limiter:  # ahead of the second item
            await collect_for(5)
            assert called == [0]
        await collect_for(5)

    run_virtual(main())
    assert called == [0, 1]


@pytest.mark.parametrize("cls", FLOWS)
def test_a_flow_that_nobody_keeps_waits_for_the_slots_of_others(cls: Any) -> None:
    called: list[int] = []

    class Call(AsyncNode):
        async def exec_async(self, _: Any) -> None:
            await asyncio.sleep(1)
            called.append(self.params["item"])

    class Calls(cls):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            return [{"item": item} for item in range(3)]

    async def main() -> None:
        flow = Calls(start=Call())
        async with asyncio.TaskGroup() as group:
            for _ in range(flow.flow_limiter.max_concurrent):
                group.create_task(hold(flow.flow_limiter))
            await asyncio.sleep(0.5)
            asyncio.create_task(flow.run_async({}))  # noqa: RUF006
            del flow
            await collect_for(5)
            assert called == []
        await collect_for(9)

    async def hold(limiter: RateLimiter) -> None:
        async with limiter:
            await asyncio.sleep(20)

    run_virtual(main())
    assert sorted(called) == [0, 1, 2]


@pytest.mark.parametrize("is_hinted", [True, False])
@pytest.mark.parametrize("cls", NODES)
def test_a_batch_that_nobody_keeps_calls_again_after_all_of_it_was_refused(cls: Any, is_hinted: bool) -> None:
    limiter = RateLimiter(3, adaptive=cls is AdaptiveThrottledNode)
    called: list[int] = []

    async def call(item: int) -> None:
        await asyncio.sleep(1)
        if now() < 10:
            raise RateLimitHit("slow down", retry_after=9.0 if is_hinted else None)
        called.append(item)

    async def main() -> None:
        asyncio.create_task(batch(cls, limiter, call).run_async({}))  # noqa: RUF006
        await collect_for(120)

    run_virtual(main())
    assert sorted(called) == [0, 1, 2]
    assert (limiter.active, limiter.waiting) == (0, 0)


@pytest.mark.parametrize("cls", NODES)
def test_a_batch_that_nobody_keeps_waits_between_what_it_calls(cls: Any) -> None:
    limiter = RateLimiter(2, 1, 10.0, adaptive=cls is AdaptiveThrottledNode)
    called: list[float] = []

    async def call(_: int) -> None:
        called.append(now())
        await asyncio.sleep(2)  # the next one waits by then, and alone from then on

    async def main() -> None:
        asyncio.create_task(batch(cls, limiter, call).run_async({}))  # noqa: RUF006
        await collect_for(30)

    run_virtual(main())
    assert called == pytest.approx([0, 10, 20])


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("was_refused", [False, True])
@pytest.mark.parametrize("cls", NODES)
def test_a_batch_keeps_no_slot_once_its_loop_was_closed_while_one_of_it_queued_again(
    cls: Any, *, was_refused: bool, others: int
) -> None:
    limiter = RateLimiter(9, adaptive=cls is AdaptiveThrottledNode)

    async def call(item: int) -> None:
        if was_refused and now() < 1:  # all of it, so that it queues and calls nothing
            await asyncio.sleep(1)
            raise RateLimitHit("slow down", retry_after=1.0)
        if item == 2:
            raise RateLimitHit("slow down", retry_after=50.0)
        await asyncio.sleep(1000)

    async def begin() -> None:
        for _ in range(others):
            await limiter.acquire()
        tasks.append(asyncio.create_task(batch(cls, limiter, call).run_async({})))
        await asyncio.sleep(10)

    tasks = list[Any]()
    loop = VirtualTimeLoop()
    loop.run_until_complete(begin())
    assert (limiter.active, limiter.waiting) == (2 + others, 1)
    tasks[0]._log_destroy_pending = False
    loop.close()
    tasks.clear()
    del loop
    gc.collect()
    assert limiter.active == others

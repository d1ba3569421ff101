"""What throttling costs, each figure a ratio to what it replaces, measured side by side."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from aiolimiter import AsyncLimiter
from pocketflow import AsyncNode, AsyncParallelBatchFlow, AsyncParallelBatchNode

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    RateLimiter,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
)

ROUNDS = 15
Work = Callable[[int], Awaitable[Any]]


def ratio(ours: Work, theirs: Work, times: int, rounds: int = ROUNDS, *, collector: bool) -> tuple[float, float]:
    """Return the seconds of one of ours and one of theirs: the best of interleaved rounds, with the collector or without."""

    async def clock(work: Work) -> float:
        gc.collect()
        if not collector:
            gc.disable()
        start = time.perf_counter()
        await work(times)
        spent = time.perf_counter() - start
        gc.enable()
        return spent / times

    async def main() -> tuple[float, float]:
        pairs = [(await clock(ours), await clock(theirs)) for _ in range(rounds)]
        return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)

    return asyncio.run(main())


def entering(make: Callable[[], Any]) -> Work:
    async def work(times: int) -> None:
        gate = make()
        for _ in range(times):
            async with gate:
                pass

    return work


def contending(make: Callable[[], Any]) -> Work:
    async def work(times: int) -> None:
        gate = make()

        async def one() -> None:
            for _ in range(times // 200):
                async with gate:
                    await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(200)))

    return work


def batch(base: type, source: Callable[[int], Any] = range, **settings: Any) -> Work:
    class Instant(base):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            return shared

        async def exec_async(self, item: int) -> int:
            return item

    async def work(times: int) -> None:
        await Instant(**settings).run_async(source(times))

    return work


def a_list(items: int) -> list[int]:
    return list(range(items))


def a_generator(items: int) -> Iterator[int]:
    yield from range(items)


async def an_async_generator(items: int) -> AsyncIterator[int]:
    for item in range(items):
        yield item


def flow(base: type, **settings: Any) -> Work:
    class Leaf(AsyncNode):
        async def exec_async(self, _: Any) -> None:
            return None

    class Many(base):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            return [{"number": number} for number in range(shared)]

    async def work(times: int) -> None:
        await Many(start=Leaf(), **settings).run_async(times)

    return work


def peak_mebibytes(items: int) -> float:
    """Return the peak memory of a batch beyond its list of results, in MiB."""

    class Instant(ThrottledParallelBatchNode):
        max_concurrent = 50

        async def exec_async(self, item: int) -> None:
            return None

    def source() -> Iterator[int]:
        yield from range(items)

    async def main() -> float:
        node = Instant()
        await node._exec(range(1000))
        gc.collect()
        tracemalloc.start()
        results = await node._exec(source())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (peak - results.__sizeof__()) / 2**20

    return asyncio.run(main())


def wake_up(waiters: int, times: int = 2000) -> float:
    """Return the seconds of one wake-up with so many waiters behind it."""

    async def main() -> float:
        limiter = RateLimiter(1)
        await limiter.acquire()
        woken = 0

        async def one() -> None:
            nonlocal woken
            await limiter.acquire()
            woken += 1

        tasks = [asyncio.create_task(one()) for _ in range(waiters)]
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        for _ in range(times):
            limiter.release()
            await asyncio.sleep(0)
        spent = time.perf_counter() - start
        gc.enable()
        assert woken >= times - 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return spent / times

    return asyncio.run(main())


def measure(scale: int = 1, rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Yield one row for each figure; a larger scale measures less."""
    semaphore: Callable[[], Any] = lambda: asyncio.Semaphore(10)  # noqa: E731
    limiter: Callable[[], Any] = lambda: RateLimiter(10)  # noqa: E731
    windowed: Callable[[], Any] = lambda: RateLimiter(10, 10**9)  # noqa: E731
    own, throttled, adaptive = AsyncParallelBatchNode, ThrottledParallelBatchNode, AdaptiveThrottledNode
    window = {"max_per_minute": 10**9}
    # A batch is timed with the collector, as it runs in a program: 10,000 tasks held at once are work for it.
    pairs: list[tuple[str, Work, Work, int, float | None]] = [
        ("uncontended async with, to Semaphore", entering(limiter), entering(semaphore), 20_000, 1.6),
        ("the same with a window", entering(windowed), entering(semaphore), 20_000, 1.6),
        ("the same of aiolimiter", entering(lambda: AsyncLimiter(10**9)), entering(semaphore), 20_000, None),
        ("contended, to Semaphore", contending(limiter), contending(semaphore), 10_000, 1.25),
        ("the same with a window", contending(windowed), contending(semaphore), 10_000, 1.25),
        *(
            (f"an item of {name}", batch(throttled, source, **settings), batch(own, source), items, 1.1)
            for name, source, items, settings in (
                ("1,000, 5 at once", a_list, 1_000, {}),
                ("1,000, 50 at once, a window", a_list, 1_000, {"max_concurrent": 50, **window}),
                ("10,000, 5 at once", a_list, 10_000, {}),
                ("10,000, 5 at once, a window", a_list, 10_000, window),
                ("10,000, 50 at once", a_list, 10_000, {"max_concurrent": 50}),
                ("10,000, 500 at once, a window", a_list, 10_000, {"max_concurrent": 500, **window}),
                ("10,000 of a generator, 5 at once", a_generator, 10_000, {}),
                ("100,000 of a generator, 50 at once", a_generator, 100_000, {"max_concurrent": 50}),
            )
        ),
        ("an item of 10,000, one at once", batch(throttled, max_concurrent=1), batch(own), 10_000, None),
        ("an item of 10,000 of an async generator, 5 at once", batch(throttled, an_async_generator), batch(own), 10_000, None),
        ("an instance of a flow, 5 at once", flow(ThrottledAsyncParallelBatchFlow), flow(AsyncParallelBatchFlow), 3_000, 1.2),
        ("an adaptive item, to a fixed one", batch(adaptive), batch(throttled), 10_000, 1.3),
        (
            "an adaptive item, both 20 at once",
            batch(adaptive, initial_concurrent=20),
            batch(throttled, max_concurrent=20),
            10_000,
            1.3,
        ),
    ]
    for name, ours, baseline, times, target in pairs:
        many = min(5 * rounds, max(3, rounds * 10_000 // times))  # short rounds are the more easily disturbed
        mine, other = ratio(ours, baseline, max(200, times // scale), many, collector=name.startswith("an "))
        yield {"name": name, "ours": mine * 1e6, "theirs": other * 1e6, "ratio": mine / other, "target": target, "unit": "us"}
    crowd, few = (min(wake_up(waiters, 1_000) for _ in range(5)) for waiters in (200_000 // scale, 2_000))
    yield {
        "name": "a wake-up, 200,000 waiters to 2,000",
        "ours": crowd * 1e6,
        "theirs": few * 1e6,
        "ratio": crowd / few,
        "target": 1.25,
        "unit": "us",
    }
    items = 1_000_000 // scale
    yield {
        "name": f"peak memory of {items:,} items beyond the results",
        "ours": peak_mebibytes(items),
        "theirs": None,
        "ratio": None,
        "target": 5.0,
        "unit": "MiB",
    }


def report(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    reached = row["ours"] if row["ratio"] is None else row["ratio"]
    ratio_ = "" if row["ratio"] is None else f"{row['ratio']:6.2f}"
    theirs = "" if row["theirs"] is None else f"{row['theirs']:9.2f}"
    target = "" if row["target"] is None else f"{row['target']:6.2f} {'met' if reached <= row['target'] else 'MISSED'}"
    return f"{row['name']:52} {row['ours']:9.2f} {theirs:9} {row['unit']:4} {ratio_:6} {target}"


def run() -> list[dict[str, Any]]:
    """Measure all, print the table and return its rows."""
    print(f"{'':52} {'ours':>9} {'theirs':>9} {'':4} {'ratio':>6} {'target':>6}")
    rows = []
    for row in measure():
        print(report(row), flush=True)
        rows.append(row)
    return rows

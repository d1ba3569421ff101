"""Whole runs of nodes on one limiter, in which anything goes wrong: each item has one outcome, and nothing stays behind."""

import asyncio
import random
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, RateLimitHit, ThrottledParallelBatchNode, run_virtual

WINDOW = 20.0
RETRIES = 3


class Refused(RateLimitHit):
    pass


class Runs:
    """Nodes on one limiter, what their items met with, and what was seen of their calls."""

    def __init__(self, seed: int, limiter: RateLimiter, slots: int, holds: list[float], hints: list[float | None]) -> None:
        self.chance = random.Random(seed)
        self.limiter = limiter
        self.slots = slots
        self.holds = holds
        self.hints = hints
        self.lock = threading.Lock()
        self.inside = 0
        self.starts: list[float] = []
        self.met: Counter[tuple[int, int, str]] = Counter()

    def chosen(self, among: list[Any]) -> Any:
        with self.lock:
            return self.chance.choice(among)

    def node(self, number: int, on_error: str, troubles: list[str], base: Any) -> Any:
        runs = self

        class Node(base):  # type: ignore[misc]
            max_retries = RETRIES
            rate_limit_timeout = 50.0

            async def prep_async(self, shared: Any) -> Any:
                return shared["items"]

            async def exec_async(self, item: int) -> Any:
                with runs.lock:
                    runs.inside += 1
                    assert runs.inside <= runs.slots, "over the slots"
                    runs.starts.append(asyncio.get_running_loop().time())
                try:
                    await asyncio.sleep(runs.chosen(runs.holds))
                    trouble = runs.chosen(troubles)
                    runs.met[number, item, trouble] += 1
                    if trouble == "error":
                        raise ValueError(item)
                    if trouble == "refused":
                        raise Refused(retry_after=runs.chosen(runs.hints))
                    return "served", item
                finally:
                    with runs.lock:
                        runs.inside -= 1

            async def exec_fallback_async(self, item: int, exc: Exception) -> Any:
                runs.met[number, item, "fallback"] += 1
                if item % 2:
                    return "fallback", item
                raise exc

            async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
                shared["results"] = exec_res_list

        return Node(on_error=on_error, shared_limiter=self.limiter)

    def check(self, number: int, items: int, results: list[Any]) -> None:
        """Check that every item has one outcome, and the one that its calls have had."""
        assert len(results) == items
        for item, result in enumerate(results):
            met = {what: self.met[number, item, what] for what in ("served", "error", "refused", "fallback")}
            assert met["error"] <= RETRIES
            assert met["served"] + met["fallback"] == 1, "served once, or given up once"
            if met["served"]:
                assert result == ("served", item)
            elif item % 2:
                assert result == ("fallback", item)
            else:
                assert isinstance(result, Refused if met["error"] < RETRIES else ValueError)

    def check_at_the_end(self) -> None:
        assert self.inside == 0
        assert (self.limiter.active, self.limiter.waiting) == (0, 0)


async def usable(limiter: RateLimiter) -> None:
    """Check that a limiter serves as many at once as it says."""
    limiter.reset()
    for _ in range(limiter.max_concurrent):
        await asyncio.wait_for(limiter.acquire(), 1000)  # an adaptive one may let them go one by one
    for _ in range(limiter.max_concurrent):
        limiter.release()
    assert limiter.active == 0


TROUBLES = st.lists(st.sampled_from(["served", "served", "error", "refused"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 5),
    per_window=st.none() | st.integers(5, 20),
    adaptive=st.booleans(),
    nodes=st.lists(st.tuples(st.sampled_from(["raise", "collect"]), st.integers(0, 25), TROUBLES), min_size=1, max_size=3),
    cancels=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.1, 1.0, 1.5, 7.3, 40.0])), max_size=2),
    hints=st.lists(st.sampled_from([None, 0.0, 0.5, 3.0]), min_size=1, max_size=3),
)
def test_each_item_has_one_outcome_and_nothing_stays_behind(
    seed: int,
    slots: int,
    per_window: int | None,
    *,
    adaptive: bool,
    nodes: list[tuple[str, int, list[str]]],
    cancels: list[tuple[int, float]],
    hints: list[float | None],
) -> None:
    limiter = RateLimiter(slots, per_window, WINDOW, adaptive=adaptive)
    runs = Runs(seed, limiter, slots, [0.0, 0.1, 1.0, 5.0], hints)

    async def main() -> None:
        shareds: list[dict[str, Any]] = [{"items": range(items)} for _, items, _ in nodes]
        base = AdaptiveThrottledNode if adaptive else ThrottledParallelBatchNode
        tasks = [
            asyncio.create_task(runs.node(number, on_error, troubles, base).run_async(shareds[number]))
            for number, (on_error, _, troubles) in enumerate(nodes)
        ]
        loop = asyncio.get_running_loop()
        cancelled = {victim % len(tasks) for victim, _ in cancels}
        for victim, when in cancels:
            loop.call_later(when, tasks[victim % len(tasks)].cancel)
        await asyncio.wait(tasks)
        for number, (task, (on_error, items, _)) in enumerate(zip(tasks, nodes, strict=True)):
            if task.cancelled():
                assert number in cancelled
            elif (error := task.exception()) is not None:
                assert on_error == "raise"
                assert isinstance(error, Refused | ValueError), repr(error)
            else:
                runs.check(number, items, shareds[number]["results"])
        runs.check_at_the_end()
        assert len(asyncio.all_tasks()) == 1
        calls = len(runs.starts)
        await asyncio.sleep(100)
        assert len(runs.starts) == calls, "a call began after its run had ended"
        await usable(limiter)
        if per_window is not None:
            for first, last in zip(runs.starts, runs.starts[per_window:], strict=False):
                assert last - first >= WINDOW - 1e-6, "over the window"

    run_virtual(main())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 4),
    adaptive=st.booleans(),
    nodes=st.lists(st.tuples(st.integers(0, 40), TROUBLES), min_size=2, max_size=4),
    cancelled=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 30)),
)
def test_loops_in_two_threads_lose_nothing_of_what_they_share(
    seed: int, slots: int, *, adaptive: bool, nodes: list[tuple[int, list[str]]], cancelled: tuple[int, int] | None
) -> None:
    # A pause is of real time here, a millisecond at first: so few are refused.
    rare = [[what for what in troubles if what != "refused"] + ["served"] * 9 + ["refused"] for _, troubles in nodes]
    limiter = RateLimiter(slots, adaptive=adaptive)
    runs = Runs(seed, limiter, slots, [0.0], [0.0])
    failures: list[BaseException] = []

    async def main(part: int) -> None:
        base = AdaptiveThrottledNode if adaptive else ThrottledParallelBatchNode
        mine = range(part, len(nodes), 2)
        shareds: dict[int, dict[str, Any]] = {number: {"items": range(nodes[number][0])} for number in mine}
        tasks = {
            number: asyncio.create_task(runs.node(number, "collect", rare[number], base).run_async(shareds[number]))
            for number in mine
        }
        if cancelled is not None and cancelled[0] in tasks:
            for _ in range(cancelled[1]):
                await asyncio.sleep(0)
            tasks[cancelled[0]].cancel()
        await asyncio.wait(tasks.values())
        for number, task in tasks.items():
            if task.cancelled():
                assert cancelled is not None
            else:
                task.result()
                runs.check(number, nodes[number][0], shareds[number]["results"])
        assert len(asyncio.all_tasks()) == 1

    def work(part: int) -> None:
        try:
            asyncio.run(main(part))
        except BaseException as error:  # noqa: BLE001  (raised below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,), daemon=True) for part in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), repr(limiter)
    if failures:
        raise failures[0]
    runs.check_at_the_end()
    asyncio.run(usable(limiter))


@pytest.mark.parametrize("threads", [1, 4])
def test_counts_are_exact_when_a_node_runs_in_several_threads(threads: int) -> None:
    class Node(ThrottledParallelBatchNode):
        async def exec_async(self, item: int) -> int:
            return item

    node = Node(max_concurrent=3)
    crowd = [threading.Thread(target=lambda: asyncio.run(node._exec(range(500)))) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(60)
    assert node.stats["completed"] == 500 * threads

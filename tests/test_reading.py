"""Reading a node or a flow changes nothing: its settings are taken when a run starts, or as they are set between runs."""

import asyncio
import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    RateLimiter,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

from .test_nodes import now

pytestmark = pytest.mark.usefixtures("any_pocketflow")

NODES = (ThrottledParallelBatchNode, AdaptiveThrottledNode)
FLOWS = (ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow)
READS: list[tuple[Any, str]] = [
    *((cls, name) for cls in NODES for name in ("limiter", "stats")),
    *((cls, name) for cls in FLOWS for name in ("flow_limiter", "stats")),
    *((AdaptiveThrottledNode, name) for name in ("current_concurrent", "history")),
    *((AdaptiveThrottledBatchFlow, name) for name in ("current_concurrent_flows", "history")),
]


class Counts:
    """When calls of a second started, and how many there were at once."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.running = self.peak = 0

    async def call(self) -> None:
        self.starts.append(now())
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(1)
        self.running -= 1

    @property
    def worst_window(self) -> int:
        return max(sum(start <= other < start + 60 - 1e-6 for other in self.starts) for start in self.starts)


def made(cls: Any, counts: Counts, size: int = 15, **limits: int) -> Any:
    """Return a node, or a flow of a node, whose `prep_async` sets limits on the copy that runs."""
    is_flow = cls in FLOWS

    class Call(AsyncNode):
        async def exec_async(self, _: Any) -> None:
            await counts.call()

    class Limited(cls):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            for name, value in limits.items():
                setattr(self, name, value)
            return [{} for _ in range(size)]

        async def exec_async(self, item: Any) -> None:
            await counts.call()

    return Limited(Call()) if is_flow else Limited()


def named(cls: Any, name: str) -> str:
    """Return a node's setting by the name that a flow may give it."""
    if cls not in FLOWS:
        return name
    return "max_flows_per_minute" if name == "max_per_minute" else f"{name}_flows"


@pytest.mark.parametrize(("cls", "name"), READS)
@pytest.mark.parametrize("setting", ["max_per_minute", "max_concurrent"])
def test_reading_during_a_run_leaves_the_limits_of_the_copy_that_runs(cls: Any, name: str, setting: str) -> None:
    counts = Counts()
    runnable = made(cls, counts, **{named(cls, setting): 3})

    async def main() -> None:
        getattr(runnable, name)
        run = asyncio.create_task(AsyncFlow(runnable).run_async({}))
        while not run.done():
            await asyncio.sleep(0.7)
            getattr(runnable, name)
        await run

    run_virtual(main())
    assert len(counts.starts) == 15
    assert (counts.worst_window if setting == "max_per_minute" else counts.peak) <= 3


@pytest.mark.parametrize("in_prep", [True, False])
@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls, name in READS if cls in (NODES[1], FLOWS[1])])
def test_reading_before_the_first_run_leaves_where_it_begins(cls: Any, name: str, in_prep: bool) -> None:
    initial = {named(cls, "initial_concurrent"): 12}
    runnable = made(cls, Counts(), size=1, **(initial if in_prep else {}))
    getattr(runnable, name)
    if not in_prep:
        setattr(runnable, *initial.popitem())
    run_virtual(AsyncFlow(runnable).run_async({}))
    assert (getattr(runnable, named(cls, "current_concurrent")), runnable.history) == (12, [])


def test_what_an_adaptive_node_has_found_stays_when_its_settings_change() -> None:
    counts = Counts()
    node = made(AdaptiveThrottledNode, counts, size=100)
    node.limiter.max_concurrent = 3  # by hand, before any run
    node.initial_concurrent = 12
    assert node.current_concurrent == 3
    run_virtual(AsyncFlow(node).run_async({}))
    found = node.current_concurrent
    node.initial_concurrent = 2
    assert node.current_concurrent == found > 3


@pytest.mark.parametrize(("cls", "name"), READS)
def test_reading_between_runs_leaves_what_the_last_has_started(cls: Any, name: str) -> None:
    counts = Counts()
    runnable = made(cls, counts, size=5, **{named(cls, "max_per_minute"): 5})

    async def main() -> None:
        for _ in range(3):
            await AsyncFlow(runnable).run_async({})
            getattr(runnable, name)

    run_virtual(main())
    assert (len(counts.starts), counts.worst_window) == (15, 5)


@pytest.mark.parametrize("cls", NODES)
def test_resetting_the_limiter_leaves_its_limits(cls: Any) -> None:
    counts = Counts()
    node = made(cls, counts, size=5, max_per_minute=5)
    run_virtual(AsyncFlow(node).run_async({}))
    node.reset_limiter()
    assert (node.limiter.max_per_window, node.limiter.current_window_count) == (5, 0)


@pytest.mark.parametrize("cls", [*NODES, *FLOWS])
def test_a_limiter_that_is_read_before_any_run_has_the_settings_of_the_node_that_is_read(cls: Any) -> None:
    runnable = made(cls, Counts(), **{named(cls, "max_per_minute"): 5})
    limiter = runnable.flow_limiter if cls in FLOWS else runnable.limiter
    assert limiter.max_per_window is None
    run_virtual(AsyncFlow(runnable).run_async({}))
    assert limiter.max_per_window == 5
    setattr(runnable, named(cls, "max_per_minute"), 7)
    assert limiter.max_per_window == 7


@pytest.mark.parametrize("read", ["limiter", "stats", "cur_retry"])
@pytest.mark.parametrize("around", [lambda node: node, AsyncFlow])
def test_a_setting_made_during_a_run_counts_from_the_next(read: str, around: Callable[[Any], Any]) -> None:
    counts = Counts()
    node = made(ThrottledParallelBatchNode, counts)
    node.max_concurrent = 2

    async def main() -> None:
        run = asyncio.create_task(around(node).run_async({}))
        await asyncio.sleep(2.5)
        node.max_concurrent = 4
        getattr(node, read)
        await run
        assert (counts.peak, node.limiter.max_concurrent) == (2, 2)
        await around(node).run_async({})
        assert (counts.peak, node.limiter.max_concurrent) == (4, 4)

    run_virtual(main())


def test_a_setting_made_between_runs_is_taken_alone_and_at_once() -> None:
    node = made(ThrottledParallelBatchNode, Counts(), size=1, max_per_minute=5)
    run_virtual(AsyncFlow(node).run_async({}))
    node.max_concurrent = 6
    assert (node.limiter.max_concurrent, node.limiter.max_per_window) == (6, 5)
    copy.copy(node).max_concurrent = 3
    assert (node.limiter.max_concurrent, node.limiter.max_per_window) == (3, 5)


def test_a_setting_made_after_a_run_that_failed_or_was_cancelled_is_taken_at_once() -> None:
    class Fails(ThrottledParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(3)

        async def exec_async(self, item: int) -> None:
            await asyncio.sleep(1)
            raise ValueError(item)

    async def main(node: Fails) -> None:
        with pytest.raises(ValueError, match="0"):
            await node.run_async({})
        node.max_concurrent = 2
        assert node.limiter.max_concurrent == 2
        run = asyncio.create_task(node.run_async({}))
        await asyncio.sleep(0.5)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        node.max_concurrent = 3
        assert node.limiter.max_concurrent == 3

    run_virtual(main(Fails()))


def test_settings_of_a_node_in_a_flows_instance_are_taken_there_alone() -> None:
    seen: list[tuple[RateLimiter, int | None]] = []

    class Limited(ThrottledParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            self.max_per_minute = self.params["limit"]
            seen.append((self.limiter, self.limiter.max_per_window))
            return range(2)

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            assert node.limiter.max_per_window == self.params["limit"]

    class Flow(ThrottledAsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"limit": 4}, {"limit": 5}]

    node = Limited()
    run_virtual(Flow(node, on_error="raise").run_async({}))
    assert sorted(limit or 0 for _, limit in seen) == [4, 5]
    assert len({id(limiter) for limiter, _ in seen}) == 2
    assert node.limiter.max_per_window is None


def test_settings_that_only_go_together_may_be_set_one_by_one_whichever_comes_first() -> None:
    node = ThrottledParallelBatchNode()
    limiter = node.limiter
    node.max_burst = 3  # without a rate
    assert limiter.max_burst is None
    node.max_per_minute = 30
    assert (limiter.max_burst, limiter.max_per_window) == (3, 30)
    bounded = AdaptiveThrottledNode()
    limiter = bounded.limiter
    bounded.min_concurrent = 30  # above the most
    assert limiter.adaptive is not None
    assert limiter.adaptive.min_concurrent == 1
    bounded.max_concurrent = 40
    assert (limiter.adaptive.min_concurrent, limiter.adaptive.max_concurrent) == (30, 40)


def test_a_setting_that_was_set_holds_though_it_was_the_same_before_another_was_set_on_the_limiter() -> None:
    node = ThrottledParallelBatchNode(max_concurrent=5)
    node.limiter.max_concurrent = 10
    node.max_concurrent = 5
    assert node.limiter.max_concurrent == 5


def test_a_setting_is_taken_as_soon_as_the_others_are_sound_again() -> None:
    node = ThrottledParallelBatchNode()
    assert node.limiter.max_per_window is None
    node.wait = -1
    node.max_per_minute = 9
    node.wait = 0
    assert node.limiter.max_per_window == 9


@pytest.mark.parametrize("cls", NODES)
def test_a_run_whose_loop_was_closed_under_it_keeps_no_slot_and_no_setting_back(cls: Any) -> None:
    class Call(cls):  # type: ignore[misc]
        max_concurrent, seconds = 2, 100.0

        async def prep_async(self, shared: Any) -> Any:
            return range(10)

        async def exec_async(self, _: int) -> None:
            await asyncio.sleep(self.seconds)

    async def begin() -> None:
        tasks.append(asyncio.create_task(node.run_async({})))
        await asyncio.sleep(0.01)

    node, tasks = Call(), list[Any]()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    assert node.limiter.active > 0
    tasks[0]._log_destroy_pending = False
    loop.close()
    tasks.clear()
    del loop
    gc.collect()
    assert node.limiter.active == 0
    node.max_concurrent = 3
    assert node.limiter.max_concurrent == 3 or node.limiter.adaptive.max_concurrent == 3
    node.seconds = 0.0
    run_virtual(node.run_async({}))

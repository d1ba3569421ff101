"""Whose limiter is it: what copies, runs, instances and levels share, in virtual time, on both of PocketFlow's sources."""

import asyncio
import contextvars
import copy
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode, AsyncParallelBatchFlow

from pocketflow_throttled import (
    Adaptive,
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    LimiterRegistry,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    mixins,
    run_virtual,
)

from .test_nodes import now

pytestmark = pytest.mark.usefixtures("any_pocketflow")


class Calls(ThrottledParallelBatchNode):
    """Awaits `call(user, item)` for every item."""

    def __init__(self, call: Callable[[Any, Any], Any], items: Iterable[Any] = range(1), **settings: Any) -> None:
        super().__init__(**settings)
        self.call, self.items = call, items

    async def prep_async(self, shared: Any) -> Any:
        return self.items

    async def exec_async(self, item: Any) -> Any:
        return await self.call(self.params.get("user"), item)


class Refuses(AsyncNode):
    """Refuses an instance so many times, then lets it end."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.refused: dict[Any, int] = {}
        self.times = times

    async def exec_async(self, _: Any) -> None:
        user = self.params["user"]
        self.refused[user] = self.refused.get(user, 0) + 1
        if self.refused[user] <= self.times:
            raise RateLimitHit("slow down", retry_after=1)


class Users(ThrottledAsyncParallelBatchFlow):
    def __init__(self, start: Any, users: Iterable[Any] = range(1), **settings: Any) -> None:
        super().__init__(start, **settings)
        self.users = users

    async def prep_async(self, shared: Any) -> Any:
        return [{"user": user} for user in self.users]


class Starts(dict[Any, list[float]]):
    """When calls started, by user."""

    async def __call__(self, user: Any, _: Any) -> None:
        self.setdefault(user, []).append(now())


# --- an instance


def test_an_instance_that_is_run_again_keeps_its_windows() -> None:
    starts = Starts()
    node = Calls(starts, range(2), max_per_minute=2)
    node >> Refuses(times=2)
    run_virtual(Users(node, max_flow_retries=2).run_async({}))
    assert starts == {0: pytest.approx([0, 0, 60, 60, 120, 120], abs=0.01)}


def test_every_instance_has_windows_of_its_own_also_when_it_is_run_again() -> None:
    starts = Starts()
    node = Calls(starts, range(2), max_per_minute=2)
    node >> Refuses(times=1)
    flow = Users(node, "AB", max_flow_retries=1)
    run_virtual(flow.run_async({}))
    assert starts == {user: pytest.approx([0, 0, 60, 60], abs=0.01) for user in "AB"}
    assert flow.stats["completed_flows"] == 2


def test_an_instance_of_a_nested_flow_that_is_run_again_keeps_its_windows() -> None:
    starts = Starts()
    node = Calls(starts, range(2), max_per_minute=2)
    node >> Refuses(times=1)
    run_virtual(Users(Users(node, "A", max_flow_retries=1)).run_async({}))
    assert starts == {"A": pytest.approx([0, 0, 60, 60], abs=0.01)}


def test_a_nested_flow_keeps_its_own_window_when_the_outer_instance_is_run_again() -> None:
    starts = Starts()
    inner = Users(Calls(starts), "AB", max_flows_per_minute=2)
    inner >> Refuses(times=1)
    run_virtual(Users(inner, max_flow_retries=1).run_async({}))
    assert starts == {user: pytest.approx([0, 60], abs=0.01) for user in "AB"}


def test_two_instances_do_not_share_the_limiter_of_a_nested_flow() -> None:
    api = SimulatedAPI(latency=1.0)
    inner = Users(Calls(lambda user, item: api.call(item)), range(4), max_concurrent_flows=2)
    run_virtual(Users(inner, range(3)).run_async({}))
    assert (api.served, api.peak_concurrent) == (12, 6)


def test_what_an_instance_used_is_no_part_of_the_next_run() -> None:
    starts = Starts()
    flow = Users(Calls(starts, range(2), max_per_minute=2))

    async def main() -> None:
        await flow.run_async({})
        await flow.run_async({})

    run_virtual(main())
    assert starts == {0: [0, 0, 0, 0]}


def test_five_flows_of_three_calls_are_fifteen_calls_and_stats_add_up() -> None:
    api = SimulatedAPI(latency=1.0)
    node = Calls(lambda user, item: api.call(item), range(6), max_concurrent=3)
    run_virtual(Users(node, range(5), max_concurrent_flows=5).run_async({}))
    assert api.peak_concurrent == 15
    assert node.stats["completed"] == 30


def test_what_is_live_in_stats_adds_up_over_the_instances_that_are_under_way() -> None:
    seen: list[list[int]] = []
    own: list[int] = []

    async def call(_user: Any, item: int) -> None:
        await asyncio.sleep(1)
        own.append(node.stats["active"])  # within an instance, of that

    node = Calls(call, range(6), max_concurrent=3, max_per_minute=30)

    async def main() -> None:
        running = asyncio.ensure_future(Users(node, range(5), max_concurrent_flows=5).run_async({}))
        for wait in (0.5, 1, 9):
            await asyncio.sleep(wait)
            seen.append([node.stats[name] for name in ("active", "current_window_count", "completed")])
        await running

    run_virtual(main())
    assert seen == [[15, 15, 0], [15, 30, 15], [0, 0, 30]]
    assert max(own) <= 3


def test_tokens_and_those_who_wait_add_up_over_instances_and_a_shared_limiter_is_counted_once() -> None:
    class Costly(Calls):
        def estimate_tokens(self, item: Any) -> int:
            return 100

    def live(**settings: Any) -> list[int]:
        node = Costly(lambda user, item: asyncio.sleep(1), range(6), **settings)

        async def main() -> list[int]:
            running = asyncio.ensure_future(Users(node, range(5), max_concurrent_flows=5).run_async({}))
            await asyncio.sleep(0.5)
            stats = node.stats
            await running
            return [stats[name] for name in ("active", "waiting", "current_window_tokens")]

        return run_virtual(main())

    active, waiting, spent = live(max_concurrent=3, max_tokens_per_minute=10_000)
    assert (active, waiting) == (15, 5)
    assert spent >= 15 * 100
    assert live(shared_limiter=RateLimiter(4))[:2] == [4, 5]


def test_within_an_instance_limiter_is_the_one_that_holds_it() -> None:
    seen = []
    node: Calls

    async def call(user: Any, item: Any) -> None:
        seen.append(node.limiter)
        assert node.limiter.active == 1

    node = Calls(call)
    run_virtual(Users(node, "AB", on_error="raise").run_async({}))
    assert len(set(map(id, seen))) == 2
    assert node.limiter not in seen


def test_a_nested_flow_sees_the_limiter_of_the_instance_around_it() -> None:
    seen: list[RateLimiter] = []

    class Looks(Users):
        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            await asyncio.sleep(1)  # so that the instances mix
            seen.append(self.flow_limiter)

    run_virtual(Users(Looks(Calls(Starts())), range(2)).run_async({}))
    assert len(set(map(id, seen))) == 2


@pytest.mark.parametrize("cls", [ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow])
def test_a_flow_that_is_reset_within_an_instance_resets_the_limiter_that_holds_it(cls: type[Any]) -> None:
    class Flow(cls):  # type: ignore[misc]
        async def prep_async(self, shared: Any) -> Any:
            return [{"user": "A"}]

    async def call(user: Any, item: Any) -> None:
        limiter = flow.flow_limiter
        limiter.pause(50)
        if cls is AdaptiveThrottledBatchFlow:
            limiter.max_concurrent = 2
            flow.reset_adaptive_state()
        flow.reset_flow_limiter()
        assert flow.flow_limiter is limiter
        assert (limiter.paused_for, limiter.max_concurrent, limiter.active) == (0, 5, 1)

    flow = Flow(Calls(call), on_error="raise")
    run_virtual(flow.run_async({}))


def test_a_node_that_gives_up_in_every_instance_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(user: Any, item: Any) -> None:
        raise RateLimitHit("no", retry_after=5)

    run_virtual(Users(Calls(refuse, rate_limit_timeout=10), range(3)).run_async({}))
    assert [record.message for record in caplog.records if "gave up" in record.message] == ["Calls gave up: refused for 10.0 s"]


class ToldError(Exception):
    """An SDK's error, with the headers of its response."""

    def __init__(self, status_code: int) -> None:
        super().__init__("no answer")
        names = {"limit": "100", "remaining": "0", "reset": "60s"}
        self.status_code, self.headers = status_code, {f"x-ratelimit-{name}-requests": value for name, value in names.items()}


@pytest.mark.parametrize("status", [429, 500])
def test_a_flows_timeout_is_not_that_of_the_nodes_in_it(status: int) -> None:
    async def call(user: Any, item: Any) -> None:
        started.append(now())
        if now() < 60:
            raise ToldError(status)

    started: list[float] = []
    run_virtual(Users(Calls(call, max_retries=2), rate_limit_timeout=5, on_error="raise").run_async({}))
    assert started == pytest.approx([0, 60], abs=0.1)


def test_the_timeout_of_a_node_is_not_that_of_a_batch_in_its_call() -> None:
    async def call(user: Any, item: Any) -> None:
        started.append(now())
        if now() < 60:
            raise ToldError(429)

    started: list[float] = []
    inner = Calls(call)
    run_virtual(Calls(lambda user, item: inner.run_async({}), rate_limit_timeout=5).run_async({}))
    assert started == pytest.approx([0, 60], abs=0.1)


def test_a_bound_that_is_raised_leaves_an_adaptive_node_at_what_it_has_found() -> None:
    node = AdaptiveThrottledNode(max_concurrent=10)
    assert node.current_concurrent == 5
    node.max_concurrent = 50
    assert (node.current_concurrent, node.limiter.adaptive) == (5, Adaptive(max_concurrent=50))


@pytest.mark.parametrize("lowered", [True, False])
def test_a_bound_that_is_set_after_a_run_holds_at_once_for_what_can_be_seen(lowered: bool) -> None:
    class Ask(AdaptiveThrottledNode):
        async def exec_async(self, item: int) -> None:
            await asyncio.sleep(1)

    node = Ask()
    run_virtual(node._exec(range(300)))
    assert node.current_concurrent == 20
    node.max_concurrent, node.min_concurrent = (3, 1) if lowered else (40, 30)
    assert node.current_concurrent == (3 if lowered else 30)
    assert node.history[-1].new == (3 if lowered else 30)


def test_an_adaptive_node_shows_within_an_instance_what_it_has_found_there() -> None:
    seen: dict[Any, list[int]] = {"A": [], "B": []}
    refused: list[int] = []

    class Ask(AdaptiveThrottledNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(5)

        async def exec_async(self, item: int) -> None:
            await asyncio.sleep(1)
            if self.params["user"] == "A" and not refused:
                refused.append(item)
                raise RateLimitHit("slow down", retry_after=1)
            assert self.current_concurrent == self.stats["current_concurrent"] == self.limiter.max_concurrent
            assert self.history == self.limiter.history
            seen[self.params["user"]].append(self.current_concurrent)

    run_virtual(Users(Ask(), "AB", on_error="raise").run_async({}))
    assert seen == {"A": [2] * 5, "B": [5] * 5}


def test_prep_sees_the_limiter_that_the_calls_will_take() -> None:
    seen: dict[Any, set[RateLimiter]] = {"A": set(), "B": set()}

    class Looks(Calls):
        async def prep_async(self, shared: Any) -> Any:
            await asyncio.sleep(1)  # so that the instances mix
            seen[self.params["user"]].add(self.limiter)
            assert (self.limiter.active, self.stats["active"]) == (0, 0)
            return range(2)

        async def exec_async(self, item: Any) -> None:
            await asyncio.sleep(1)
            seen[self.params["user"]].add(self.limiter)

    run_virtual(Users(Looks(None), "AB", max_flows_per_minute=1, on_error="raise").run_async({}))
    assert [len(limiters) for limiters in seen.values()] == [1, 1]
    assert seen["A"] != seen["B"]


def test_a_recursive_flow_has_a_limiter_of_its_own_at_each_depth() -> None:
    class Tree(ThrottledAsyncParallelBatchFlow):
        max_concurrent_flows = 2

        async def prep_async(self, shared: Any) -> Any:
            depth = self.params.get("depth", 0)
            return [{"depth": depth + 1}] * 3 if depth < 3 else []

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            shared["leaves"] += not prep_res

    tree = Tree()
    tree.start(tree)
    shared = {"leaves": 0}
    run_virtual(tree.run_async(shared))
    assert shared == {"leaves": 27}


# --- copies and runs


def test_instances_of_a_flow_that_is_not_throttled_share_the_nodes_limiter() -> None:
    api = SimulatedAPI(latency=1.0)

    class Plain(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"user": user} for user in range(5)]

    run_virtual(Plain(Calls(lambda user, item: api.call(item), range(6), max_concurrent=3)).run_async({}))
    assert (api.served, api.peak_concurrent) == (30, 3)


def test_limits_hold_round_a_loop_in_the_graph() -> None:
    starts = Starts()

    class Again(AsyncNode):
        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> str:
            shared["rounds"] += 1
            return "again" if shared["rounds"] < 3 else "done"

    node, again = Calls(starts, range(2), max_per_minute=2), Again()
    node >> again
    again - "again" >> node
    again - "done" >> AsyncNode()
    run_virtual(AsyncFlow(node).run_async({"rounds": 0}))
    assert starts == {None: pytest.approx([0, 0, 60, 60, 120, 120], abs=0.01)}


def test_two_runs_at_once_of_one_node_share_its_limiter_and_mix_nothing() -> None:
    api = SimulatedAPI(latency=1.0)

    class Results(Calls):
        async def prep_async(self, shared: Any) -> Any:
            return shared["items"]

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            shared["results"] = exec_res_list

    node = Results(lambda user, item: api.call(item), max_concurrent=2)
    first, second = {"items": range(5)}, {"items": range(100, 105)}

    async def main() -> None:
        await asyncio.gather(node.run_async(first), node.run_async(second))

    run_virtual(main())
    assert first["results"] == list(range(5))
    assert second["results"] == list(range(100, 105))
    assert api.peak_concurrent == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_limiter_and_counts(duplicate: Callable[[Any], Any]) -> None:
    async def call(user: Any, item: Any) -> None:
        pass

    node = Calls(call)
    other = duplicate(node)
    run_virtual(other.run_async({}))
    assert other.limiter is node.limiter
    assert node.stats["completed"] == 1


def test_a_node_that_is_sent_to_another_process_has_a_limiter_and_counts_of_its_own() -> None:
    node = Calls(Starts(), max_concurrent=3)
    flow = Users(node, max_concurrent_flows=2)
    run_virtual(flow.run_async({}))
    there = pickle.loads(pickle.dumps(flow))
    run_virtual(there.run_async({}))
    assert there.flow_limiter.max_concurrent == 2
    assert there.start_node.limiter.max_concurrent == 3
    assert there.start_node.limiter is not node.limiter
    assert there.start_node.stats["completed"] == node.stats["completed"] == flow.stats["completed_flows"] == 1


def test_threads_that_use_a_node_for_the_first_time_get_one_limiter(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowlyMade(RateLimiter):
        def __init__(self, **settings: Any) -> None:
            time.sleep(0)  # lets the other threads go on
            super().__init__(**settings)

    monkeypatch.setattr(mixins, "RateLimiter", SlowlyMade)
    for _ in range(20):
        node = Calls(None)
        start = threading.Barrier(8)
        got: list[RateLimiter] = []

        def work(node: Calls = node, start: threading.Barrier = start, got: list[RateLimiter] = got) -> None:
            start.wait()
            got.append(node.limiter)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, got))) == 1


def test_two_nodes_of_one_class_have_limiters_of_their_own() -> None:
    assert Calls(None).limiter is not Calls(None).limiter


@pytest.mark.parametrize("in_a_flow", [False, True])
def test_what_is_set_on_the_limiter_in_use_holds_until_the_nodes_own_setting_changes(in_a_flow: bool) -> None:
    api = SimulatedAPI(latency=1.0)
    node: Calls

    async def call(user: Any, item: Any) -> None:
        if item == 0:
            node.limiter.max_concurrent = 4
            node.limiter.max_per_window = 30
            assert (node.limiter.max_concurrent, node.stats["max_per_window"]) == (4, 30)
        await api.call(item)

    node = Calls(call, range(12), max_concurrent=2)
    run_virtual((Users(node) if in_a_flow else node).run_async({}))
    assert (api.served, api.peak_concurrent) == (12, 4)
    if not in_a_flow:
        node.items = range(1, 9)
        node.max_per_minute = 20
        run_virtual(node.run_async({}))
        assert (node.limiter.max_concurrent, node.limiter.max_per_window) == (4, 20)
        node.max_concurrent = 3
        assert (node.limiter.max_concurrent, node.limiter.max_per_window) == (3, 20)


# --- a slot is held while somebody waits for another of the same limiter


@pytest.mark.parametrize("shared", ["api", RateLimiter(3), 5])
def test_a_flow_has_no_shared_limiter_since_its_slot_is_not_a_calls_slot(shared: Any) -> None:
    LimiterRegistry.register("api")
    flow = type("Bad", (Users,), {"shared_limiter": shared})
    with pytest.raises(TypeError, match=r"shared_limiter.*nodes.*max_concurrent_flows") as caught:
        flow(Calls(None))
    assert repr(shared) in str(caught.value)
    late = Users(Calls(None))
    late.shared_limiter = shared
    for use in (lambda: run_virtual(late.run_async({})), lambda: late.flow_limiter, lambda: late.stats):
        with pytest.raises(TypeError, match="shared_limiter"):
            use()
    with pytest.raises(TypeError, match="no setting 'shared_limiter'"):
        Users(Calls(None), shared_limiter=shared)


def test_nodes_that_wait_for_the_slots_of_their_own_flow_are_told_so_and_do_not_hang() -> None:
    flow = Users(None, range(5), max_concurrent_flows=2, on_error="raise")
    flow.start(Calls(Starts(), shared_limiter=flow.flow_limiter))
    with pytest.raises(RuntimeError, match="Calls needs slots of a limiter of which its own caller holds one"):
        run_virtual(flow.run_async({}))


def test_a_batch_in_a_call_that_waits_for_the_slots_of_that_call_is_told_so_and_does_not_hang() -> None:
    limiter = RateLimiter(2)
    inner = Calls(Starts(), shared_limiter=limiter)
    outer = Calls(lambda user, item: inner.run_async({}), range(2), shared_limiter=limiter)
    with pytest.raises(RuntimeError, match="of which its own caller holds one"):
        run_virtual(outer.run_async({}))


def test_it_is_told_while_slots_are_free_too_and_before_any_call() -> None:
    starts = Starts()
    limiter = RateLimiter(9)
    inner = Calls(starts, shared_limiter=limiter)
    outer = Calls(lambda user, item: inner.run_async({}), shared_limiter=limiter)
    with pytest.raises(RuntimeError, match="That is refused, however many are free now"):
        run_virtual(outer.run_async({}))
    assert starts == {}
    assert limiter.active == 0


def test_it_is_told_through_a_nested_flow_too() -> None:
    outer = Users(None, range(2), max_concurrent_flows=2, on_error="raise")
    outer.start(Users(Calls(Starts(), shared_limiter=outer.flow_limiter), range(2), on_error="raise"))
    with pytest.raises(RuntimeError, match="of which its own caller holds one"):
        run_virtual(outer.run_async({}))


def test_a_batch_in_a_call_may_use_another_limiter_or_run_after_the_call_is_over() -> None:
    starts = Starts()
    limiter = RateLimiter(1)
    inner = Calls(starts, range(3))
    later = Calls(starts, range(2), shared_limiter=limiter)
    background: list[asyncio.Task[Any]] = []

    async def call(user: Any, item: Any) -> None:
        background.append(asyncio.create_task(later.run_async({})))
        await inner.run_async({})

    async def main() -> None:
        await Calls(call, range(2), shared_limiter=limiter).run_async({})
        await asyncio.gather(*background)

    run_virtual(main())
    assert len(starts[None]) == 2 * 3 + 2 * 2
    assert (limiter.active, limiter.waiting) == (0, 0)


def test_a_fallback_holds_no_slot_and_may_run_a_batch_on_the_same_limiter() -> None:
    starts = Starts()
    limiter = RateLimiter(1)
    cheaper = Calls(starts, range(3), shared_limiter=limiter)

    class FallsBack(Calls):
        async def exec_fallback_async(self, item: Any, exc: Exception) -> None:
            await cheaper.run_async({})

    async def fails(user: Any, item: Any) -> None:
        raise ValueError("too dear")

    run_virtual(FallsBack(fails, range(2), shared_limiter=limiter).run_async({}))
    assert len(starts[None]) == 6
    between = Calls(lambda user, item: cheaper.run_async({}))  # its call holds a slot, but of another limiter
    FallsBack.exec_fallback_async = lambda self, item, exc: between.run_async({})  # type: ignore[assignment]
    run_virtual(FallsBack(fails, range(2), shared_limiter=limiter).run_async({}))
    assert len(starts[None]) == 12


def test_runs_in_one_task_leave_nothing_behind_in_its_context() -> None:
    async def main() -> None:
        node = Calls(Starts())
        await node.run_async({})
        context = dict(contextvars.copy_context())
        for _ in range(3):
            await node.run_async({})
            await Users(node, range(2)).run_async({})
        assert dict(contextvars.copy_context()) == context

    run_virtual(main())


def test_a_run_that_is_abandoned_is_closed_in_any_context() -> None:
    async def main() -> None:
        node = Calls(lambda user, item: asyncio.sleep(100), range(5), max_concurrent=2)
        coroutine = node.run_async({})
        contextvars.copy_context().run(coroutine.send, None)
        await asyncio.sleep(1)
        assert node.limiter.active == 2
        contextvars.copy_context().run(coroutine.close)
        await asyncio.sleep(1)
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    run_virtual(main())


def test_a_shared_limiter_is_one_for_all_wherever_it_is_named() -> None:
    api = SimulatedAPI(max_concurrent=4, latency=1.0)
    limiter = LimiterRegistry.register("api", 4)

    async def call(user: Any, item: Any) -> Any:
        return await api.call(item)

    async def by_hand() -> None:
        async with LimiterRegistry.get("api"):
            await api.call()

    async def main() -> None:
        first = Calls(call, range(6), shared_limiter="api")
        first >> Calls(call, range(6), shared_limiter=limiter)
        flows = Users(first, range(3)), Users(first, range(3))
        await asyncio.gather(*(flow.run_async({}) for flow in flows), *(by_hand() for _ in range(10)))

    run_virtual(main())
    assert (api.served, api.refused, api.peak_concurrent) == (6 * 12 + 10, 0, 4)

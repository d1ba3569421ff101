"""What ThrottledAsyncParallelBatchFlow promises, in virtual time, on both of PocketFlow's sources."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketflow import AsyncFlow, AsyncNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    FlowPresets,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

from .test_nodes import now

pytestmark = pytest.mark.usefixtures("any_pocketflow")


class Leaf(AsyncNode):
    """Calls with the instance's number, and ends with what that returned."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    async def exec_async(self, _: Any) -> Any:
        return await self.call(self.params["number"])

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return exec_res


class Many(ThrottledAsyncParallelBatchFlow):
    async def prep_async(self, shared: Any) -> Any:
        source = shared["numbers"]
        return source if not isinstance(source, range) else [{"number": number} for number in source]

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
        shared["actions"] = exec_res_list


def run(flow: Many, numbers: Any) -> list[Any]:
    shared = {"numbers": numbers}
    run_virtual(flow.run_async(shared))
    return shared["actions"]


async def echo(number: int) -> int:
    return number


async def slow(number: int) -> int:
    await asyncio.sleep(1)
    return number


def test_post_gets_the_last_actions_in_order() -> None:
    chance = random.Random(1)

    async def call(number: int) -> int:
        await asyncio.sleep(chance.random())
        return number

    assert run(Many(start=Leaf(call)), range(50)) == list(range(50))


def test_never_more_instances_at_once_than_allowed_nor_more_a_minute() -> None:
    api = SimulatedAPI(max_concurrent=3, max_per_window=10, latency=1.0)
    flow = Many(start=Leaf(api.call), max_concurrent_flows=3, max_flows_per_minute=10)
    assert run(flow, range(25)) == list(range(25))
    assert (api.refused, api.peak_concurrent, api.worst_window) == (0, 3, 10)


def test_one_failing_instance_does_not_stop_the_others_and_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("bad user")

    async def call(number: int) -> int:
        if number == 2:
            raise error
        return number

    flow = Many(start=Leaf(call))
    with caplog.at_level(logging.ERROR):
        assert run(flow, range(5)) == [0, 1, error, 3, 4]
    assert (flow.stats["completed_flows"], flow.stats["failed_flows"]) == (4, 1)
    [record] = caplog.records
    assert "{'number': 2}" in record.getMessage()
    assert "bad user" in record.getMessage()


def test_on_error_raise_cancels_the_rest_and_raises_as_it_was() -> None:
    error = ValueError("bad user")
    ended = []

    async def call(number: int) -> int:
        try:
            await asyncio.sleep(1 if number == 1 else 100)
            raise error
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="bad user") as caught:
        run(Many(start=Leaf(call), on_error="raise", max_concurrent_flows=3), range(10))
    assert caught.value is error
    assert sorted(ended) == [0, 1, 2]


@pytest.mark.parametrize("bad", [5, None, "user", ("number", 1)])
def test_a_parameter_set_that_is_no_dict_is_refused_at_once_and_never_collected(bad: Any) -> None:
    calls = []

    async def call(number: int) -> None:
        calls.append(number)
        await asyncio.sleep(10)

    with pytest.raises(TypeError) as caught:
        run(Many(start=Leaf(call), max_concurrent_flows=1), iter([{"number": 0}, bad, {"number": 2}]))
    assert f"parameter set 1 must be a dict, got {bad!r}" in str(caught.value)
    assert calls == [0]


@pytest.mark.parametrize("numbers", [None, [], (), iter(())])
def test_nothing_to_do_is_an_empty_list(numbers: Any) -> None:
    assert run(Many(start=Leaf(echo)), numbers) == []


def test_any_iterable_will_do_lazily() -> None:
    read = []

    def source() -> Iterator[dict[str, int]]:
        for number in range(100):
            read.append(number)
            yield {"number": number}

    async def call(number: int) -> int:
        await asyncio.sleep(1)
        assert len(read) <= number + 12
        return number

    async def asynchronous() -> AsyncIterator[dict[str, int]]:
        for number in range(3):
            yield {"number": number}

    assert run(Many(start=Leaf(call)), source()) == list(range(100))
    assert run(Many(start=Leaf(echo)), asynchronous()) == [0, 1, 2]


def test_parameters_of_the_flow_and_of_the_instance_are_merged() -> None:
    class Shows(AsyncNode):
        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["seen"].append(dict(self.params))

    flow = Many(start=Shows())
    flow.set_params({"region": "eu", "number": -1})
    shared: dict[str, Any] = {"numbers": [{"number": 1}, {}], "seen": []}
    run_virtual(flow.run_async(shared))
    assert shared["seen"] == [{"region": "eu", "number": 1}, {"region": "eu", "number": -1}]


def test_limits_are_taken_after_prep_and_around_the_instance() -> None:
    class Prepared(Many):
        async def prep_async(self, shared: Any) -> Any:
            assert self.flow_limiter.active == 0
            return await super().prep_async(shared)

    flow: Prepared

    async def call(number: int) -> int:
        assert flow.flow_limiter.active == 2
        await asyncio.sleep(1)
        return number

    flow = Prepared(start=Leaf(call), max_concurrent_flows=2)
    assert run(flow, range(4)) == [0, 1, 2, 3]


def test_each_instance_has_limiters_of_its_own_and_stats_add_up() -> None:
    api = SimulatedAPI(latency=1.0)

    class Calls(ThrottledParallelBatchNode):
        max_concurrent = 3
        max_per_minute = 6

        async def prep_async(self, shared: Any) -> Any:
            return range(6)

        async def exec_async(self, item: int) -> int:
            return await api.call(item)

    node = Calls()
    run(Many(start=node, max_concurrent_flows=5), range(5))
    assert api.peak_concurrent == 15
    assert api.served == 30
    assert node.stats["completed"] == 30
    assert node.limiter.active == 0


def test_limits_of_an_instance_hold_over_all_its_nodes_and_loops() -> None:
    starts: list[float] = []

    class Calls(ThrottledParallelBatchNode):
        max_per_minute = 2

        async def prep_async(self, shared: Any) -> Any:
            return [1, 2]

        async def exec_async(self, item: int) -> None:
            starts.append(now())

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> str | None:
            return "again" if len(starts) < 6 else None

    node = Calls()
    node - "again" >> node
    run(Many(start=node), range(1))
    assert starts == pytest.approx([0, 0, 60, 60, 120, 120], abs=1e-3)


def test_a_batch_flow_is_a_node_of_another_flow() -> None:
    class Inner(ThrottledAsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"number": 1}]

    class After(AsyncNode):
        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["after"] = True

    inner = Inner(start=Leaf(echo))
    inner >> After()
    shared: dict[str, Any] = {}
    run_virtual(AsyncFlow(start=inner).run_async(shared))
    assert shared == {"after": True}


def test_nested_flows_each_keep_to_their_limit() -> None:
    api = SimulatedAPI(latency=1.0)

    class Inner(ThrottledAsyncParallelBatchFlow):
        max_concurrent_flows = 2

        async def prep_async(self, shared: Any) -> Any:
            return [{"number": number} for number in range(4)]

    run(Many(start=Inner(start=Leaf(api.call)), max_concurrent_flows=3), range(6))
    assert api.served == 24
    assert api.peak_concurrent == 6


def test_a_refusal_that_leaves_an_instance_pauses_the_flow() -> None:
    starts: list[float] = []

    async def call(number: int) -> int:
        starts.append(now())
        await asyncio.sleep(1)
        if number == 1:
            raise RateLimitHit("slow down", retry_after=30)
        return number

    flow = Many(start=Leaf(call), max_concurrent_flows=2)
    actions = run(flow, range(6))
    assert [type(action) for action in actions] == [int, RateLimitHit, int, int, int, int]
    assert [start for start in starts if 1.1 < start < 31] == []
    assert flow.stats["total_rate_limits"] == 1


def test_a_refused_instance_is_run_again_as_often_as_asked() -> None:
    calls = 0

    async def call(number: int) -> int:
        nonlocal calls
        calls += 1
        raise RateLimitHit("slow down", retry_after=1)

    [hit] = run(Many(start=Leaf(call), max_flow_retries=3), range(1))
    assert isinstance(hit, RateLimitHit)
    assert calls == 4


def test_limits_hold_from_one_run_to_the_next_and_can_be_reset() -> None:
    async def main() -> float:
        flow = Many(start=Leaf(echo), max_flows_per_minute=3)
        for _ in range(3):
            await flow.run_async({"numbers": range(3)})
        flow.reset_flow_limiter()
        assert flow.stats["completed_flows"] == 0
        await flow.run_async({"numbers": range(3)})
        return now()

    assert run_virtual(main()) == pytest.approx(120, abs=1e-3)


@pytest.mark.parametrize("name", [name.upper() for name in FlowPresets.CONFIGS])
def test_every_preset_is_accepted(name: str) -> None:
    assert run(Many(start=Leaf(echo), **getattr(FlowPresets, name)), range(3)) == [0, 1, 2]


COUNTS = [0, -1, 1.5, math.nan, math.inf, "5", True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_concurrent_flows", value) for value in [*COUNTS, None]],
        *[("max_flows_per_minute", value) for value in COUNTS],
        *[("max_flow_retries", value) for value in (-1, 1.5, math.nan, "5", True, None)],
        *[("on_error", value) for value in ("ignore", None, 1)],
    ],
)
def test_bad_settings_are_refused_with_name_and_value(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name) as caught:
        Many(start=Leaf(echo), **{name: value})
    assert repr(value) in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_leaks_whenever_it_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)

    async def call(number: int) -> int:
        await asyncio.sleep(chance.choice([0, 1, 3]))
        if chance.random() < 0.3:
            raise chance.choice([ValueError(number), RateLimitHit(retry_after=chance.choice([None, 0, 2]))])
        return number

    async def main() -> None:
        flow = Many(start=Leaf(call), max_concurrent_flows=3, max_flow_retries=2)
        task = asyncio.create_task(flow.run_async({"numbers": range(20)}))
        await asyncio.sleep(chance.choice([0, 0, 1, 4, 30]))
        task.cancel()
        await asyncio.wait([task])
        assert len(asyncio.all_tasks()) == 1
        assert (flow.flow_limiter.active, flow.flow_limiter.waiting) == (0, 0)

    logging.disable()
    try:
        run_virtual(main())
    finally:
        logging.disable(logging.NOTSET)


def test_slots_are_free_while_an_instance_waits_to_run_again() -> None:
    seen = []

    async def call(number: int) -> int:
        if number == 0 and not seen:
            seen.append(now())
            raise RateLimitHit("once", retry_after=0)
        await asyncio.sleep(1)
        return number

    assert run(Many(start=Leaf(call), max_concurrent_flows=1, max_flow_retries=1), range(3)) == [0, 1, 2]


@pytest.mark.parametrize("hint", [None, 30.0])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_node_that_leaves_refusals_to_the_flow_does_not_wait_for_them_as_well(hint: float | None, *, is_shared: bool) -> None:
    """Nor for a limiter that others share, as the flow waits until that lets calls start again."""
    limiter = RateLimiter(20, adaptive=True) if is_shared else None
    started: list[float] = []
    called: list[float] = []

    class Calls(AdaptiveThrottledNode):
        propagate_rate_limit = True
        shared_limiter = limiter

        async def prep_async(self, shared: Any) -> Any:
            if self.params["number"] == 30:
                started.append(now())
            return [self.params["number"]]

        async def exec_async(self, number: int) -> int:
            if number == 30:
                called.append(now())
                if len(called) <= 4:
                    if limiter is not None:
                        limiter.pause(20.0)  # as others' refusals do
                    raise RateLimitHit("slow down", retry_after=hint)
            await asyncio.sleep(1)
            return number

    class Flow(AdaptiveThrottledBatchFlow, Many):
        pass

    flow = Flow(start=Calls(), max_flow_retries=4)
    assert len(run(flow, range(60))) == 60
    assert len(called) == 5
    assert called == pytest.approx(started, abs=5.0 if is_shared else 0.0)  # spaced by what the shared limiter learns
    if hint:
        assert all(later - earlier >= hint - 1e-6 for earlier, later in zip(called, called[1:], strict=False))


def test_a_node_that_leaves_refusals_to_who_runs_it_outside_of_a_flow_waits_for_them_itself() -> None:
    called: list[float] = []

    class Calls(AdaptiveThrottledNode):
        propagate_rate_limit = True

        async def prep_async(self, shared: Any) -> Any:
            return [0]

        async def exec_async(self, item: int) -> int:
            called.append(now())
            if len(called) == 1:
                raise RateLimitHit("slow down")
            return item

    async def main() -> None:
        node = Calls()
        with pytest.raises(RateLimitHit):
            await node.run_async({})
        await node.run_async({})

    run_virtual(main())
    assert called[1] - called[0] >= 0.5


def test_a_limiter_that_others_share_pauses_also_for_what_is_left_to_the_flow() -> None:
    limiter, called, others = RateLimiter(5, adaptive=True), [], []

    class Calls(AdaptiveThrottledNode):
        propagate_rate_limit = True
        shared_limiter = limiter

        async def prep_async(self, shared: Any) -> Any:
            return [0]

        async def exec_async(self, item: int) -> int:
            called.append(now())
            if len(called) <= 3:
                raise RateLimitHit("slow down")
            return item

    async def other() -> None:
        while len(called) < 3:
            await asyncio.sleep(0.001)
        async with limiter:
            others.append(now())

    async def main() -> None:
        await asyncio.gather(Many(start=Calls(), max_flow_retries=3).run_async({"numbers": range(1)}), other())

    run_virtual(main())
    assert others[0] >= called[2] + 0.5


def test_a_hit_of_a_program_that_calls_no_init_of_ours_is_run_again_too() -> None:
    class Busy(RateLimitHit):
        def __init__(self) -> None:
            Exception.__init__(self, "busy")

    seen: list[float] = []

    async def call(number: int) -> int:
        seen.append(now())
        if len(seen) == 1:
            raise Busy
        return number

    assert run(Many(start=Leaf(call), max_flow_retries=1), range(1)) == [0]
    assert 0.5 <= seen[1] - seen[0] <= 1.1
    assert repr(Busy()) == "RateLimitHit('Rate limit hit', retry_after=None, source=None)"


@pytest.mark.parametrize("retries", [1, 4])
def test_a_wait_that_is_asked_for_is_kept_by_all_runs_of_a_node_in_an_instance(retries: int) -> None:
    """Those beside the one that was refused, and those of a node that tries again by itself, before the flow hears of it."""
    called: list[float] = []

    class Calls(AdaptiveThrottledNode):
        propagate_rate_limit = True
        max_concurrent = 2

        async def prep_async(self, shared: Any) -> Any:
            return [0]

        async def exec_async(self, item: int) -> int:
            called.append(now())
            await asyncio.sleep(0.05)
            if now() < 30:
                raise RateLimitHit("slow down", retry_after=30.0)
            return item

    calls = Calls()

    class Outer(AsyncNode):
        async def exec_async(self, prep_res: Any) -> None:
            await asyncio.gather(*(calls.run_async({}) for _ in range(10)))

    flow = Many(start=Outer(max_retries=retries, wait=1), max_flow_retries=1)
    assert run(flow, range(1)) == [None]
    assert sum(time < 30 for time in called) <= 2


def test_an_instance_that_was_refused_once_is_run_again_before_another_starts() -> None:
    """It may go well at once, as where a node within now starts fewer calls together than a new instance would."""
    began: list[int] = []

    async def call(number: int) -> int:
        began.append(number)
        await asyncio.sleep(0.1)
        if began.count(number) == 1:
            raise RateLimitHit("the first time")
        return number

    flow = Many(start=Leaf(call), max_concurrent_flows=1, max_flow_retries=1)
    assert run(flow, range(4)) == list(range(4))
    assert began == [0, 0, 1, 1, 2, 2, 3, 3]

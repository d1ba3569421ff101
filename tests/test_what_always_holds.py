"""No lost item, no silent None, no orphan task, no leaked slot, no call over a limit, results in order: whatever happens."""

import asyncio
import logging
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    RateLimitHit,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

from .test_flows import Leaf, Many
from .test_nodes import now

pytestmark = pytest.mark.usefixtures("any_pocketflow")


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 40),
    at_once=st.integers(1, 5),
    per_minute=st.none() | st.integers(3, 30),
    kind=st.sampled_from([ThrottledParallelBatchNode, AdaptiveThrottledNode]),
)
def test_nothing_is_lost_and_no_limit_is_exceeded_whatever_the_api_does(
    seed: int, count: int, at_once: int, per_minute: int | None, kind: Any
) -> None:
    chance = random.Random(seed)
    api = SimulatedAPI(
        max_concurrent=chance.choice([None, 2]),
        max_per_window=chance.choice([None, 20]),
        latency=lambda _: chance.choice([0.0, 0.3, 1.0, 7.0]),
        retry_after=chance.random() < 0.5,
    )
    running = most = 0
    fails = {item: chance.choice([0, 0, 0, 1, 2, 3, 9]) for item in range(count)}  # times before it is served

    class Ask(kind):
        async def prep_async(self, shared: Any) -> Any:
            return range(count)

        async def exec_async(self, item: int) -> int | None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await api.call(item)
            finally:
                running -= 1
            if self.cur_retry < fails[item]:
                raise ValueError(item)
            return item if item % 5 else None

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> None:
            shared["results"] = exec_res_list

    async def main() -> None:
        limits = {"max_concurrent": at_once, "max_per_minute": per_minute, "rate_limit_timeout": 1e6}
        node = Ask(3, chance.choice([0, 2]), on_error="collect", **limits)
        shared: dict[str, Any] = {}
        await node.run_async(shared)
        assert len(shared["results"]) == count
        for item, result in enumerate(shared["results"]):
            if fails[item] >= 3:
                assert isinstance(result, ValueError)
                assert result.args == (item,)
            else:
                assert result == (item if item % 5 else None)
        assert api.served == sum(min(times, 2) + 1 for times in fails.values())
        assert most <= at_once
        assert per_minute is None or api.worst_window <= per_minute
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 25),
    at_once=st.integers(1, 4),
    per_minute=st.none() | st.integers(3, 30),
    kind=st.sampled_from([ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow]),
)
def test_every_instance_is_accounted_for_whatever_happens_to_it(
    seed: int, count: int, at_once: int, per_minute: int | None, kind: Any
) -> None:
    chance = random.Random(seed)
    ends = [chance.choice(["well", "well", "badly", "refused", "refused once"]) for _ in range(count)]
    tries = [0] * count
    running = most = 0
    starts: list[float] = []

    async def call(number: int) -> str:
        nonlocal running, most
        tries[number] += 1
        starts.append(now())
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(chance.choice([0, 1, 5]))
            if ends[number] == "badly":
                raise ValueError(number)
            if ends[number] == "refused" or (ends[number] == "refused once" and tries[number] == 1):
                raise RateLimitHit("slow down", retry_after=chance.choice([None, 0, 3]))
            return ends[number]
        finally:
            running -= 1

    class Users(Many, kind):
        pass

    async def main() -> None:
        flow = Users(Leaf(call), max_concurrent_flows=at_once, max_flows_per_minute=per_minute, max_flow_retries=2)
        shared: dict[str, Any] = {"numbers": range(count)}
        await flow.run_async(shared)
        for number, action in enumerate(shared["actions"]):
            if ends[number] == "badly":
                assert isinstance(action, ValueError)
                assert action.args == (number,)
            elif ends[number] == "refused":
                assert isinstance(action, RateLimitHit)
            else:
                assert action == ends[number]
        expected = {"well": 1, "badly": 1, "refused": 3, "refused once": 2}
        assert tries == [expected[end] for end in ends]
        failed = sum(end in ("badly", "refused") for end in ends)
        assert (flow.stats["completed_flows"], flow.stats["failed_flows"]) == (count - failed, failed)
        assert flow.stats["total_rate_limits"] == sum({"refused": 3, "refused once": 1}.get(end, 0) for end in ends)
        assert most <= at_once
        if per_minute is not None:
            assert all(sum(first <= start < first + 60 for start in starts) <= per_minute for first in starts)
        assert (flow.flow_limiter.active, flow.flow_limiter.waiting) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    logging.disable()
    try:
        run_virtual(main())
    finally:
        logging.disable(logging.NOTSET)

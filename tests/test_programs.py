"""Real PocketFlow programs with nothing changed but the base classes: the same shared store comes out, on both sources."""

import asyncio
from typing import Any

import pytest
from pocketflow import AsyncParallelBatchFlow, AsyncParallelBatchNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

from .programs import PROGRAMS

pytestmark = pytest.mark.usefixtures("any_pocketflow")

PAIRS = {
    "throttled": (ThrottledParallelBatchNode, ThrottledAsyncParallelBatchFlow),
    "adaptive": (AdaptiveThrottledNode, AdaptiveThrottledBatchFlow),
}


def narrow(base: Any, **settings: Any) -> Any:
    return type(base.__name__, (base,), settings)


async def alone(program: Any, *bases: Any) -> Any:
    """Run a program and see that nothing of it is left behind."""
    shared = await program(*bases)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return shared


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_same_comes_out_with_our_base_classes(pair: str, program: Any) -> None:
    expected = run_virtual(program(AsyncParallelBatchNode, AsyncParallelBatchFlow))
    assert expected
    assert run_virtual(alone(program, *PAIRS[pair])) == expected


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_same_comes_out_under_the_tightest_limits(program: Any) -> None:
    expected = run_virtual(program(AsyncParallelBatchNode, AsyncParallelBatchFlow))
    node = narrow(ThrottledParallelBatchNode, max_concurrent=1, max_per_minute=7)
    flow = narrow(ThrottledAsyncParallelBatchFlow, max_concurrent_flows=1, max_flows_per_minute=7)
    assert run_virtual(alone(program, node, flow)) == expected

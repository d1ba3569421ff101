"""A program as a user writes it, that must pass `mypy --strict` with nothing set up: the package ships its types."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from pocketflow_throttled import (
    Adaptive,
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    Change,
    FlowPresets,
    LimiterRegistry,
    Permit,
    Presets,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

Shared = dict[str, Any]

api = SimulatedAPI(max_concurrent=5, latency=lambda item: 0.1)
limiter = LimiterRegistry.register("llm", max_concurrent=5, max_per_window=60, max_tokens_per_window=10_000)
assert_type(limiter, RateLimiter)
assert_type(LimiterRegistry.get_or_create("llm"), RateLimiter)
assert_type(LimiterRegistry.register("preset", **Presets.OPENAI_TIER1), RateLimiter)
assert_type(RateLimiter(**Presets.OPENAI_TIER1), RateLimiter)
assert_type(LimiterRegistry.stats("llm"), dict[str, Any])


class Summarize(ThrottledParallelBatchNode):
    max_concurrent = 3
    max_per_minute = 60
    max_tokens_per_minute = 10_000
    on_error = "collect"

    async def prep_async(self, shared: Shared) -> Iterator[str]:
        return iter(shared["texts"])

    async def exec_async(self, text: str) -> str:
        if self.cur_retry > 1:
            raise RateLimitHit("slow down", retry_after=1.5, source="mine")
        return str(await api.call(text, tokens=10))

    async def exec_fallback_async(self, text: str, exc: Exception) -> str:
        seconds: float | None = self.retry_after(exc)
        return f"{text}: {seconds}"

    async def post_async(self, shared: Shared, prep_res: Iterator[str], exec_res_list: list[str]) -> str:
        shared["summaries"] = exec_res_list
        return "done"

    def estimate_tokens(self, item: str) -> int:
        return len(item) // 3

    def count_tokens(self, item: str, result: str) -> int | None:
        return len(result)

    @staticmethod
    def is_rate_limit_error(exc: BaseException) -> bool:
        return "EBUSY" in str(exc) or ThrottledParallelBatchNode.is_rate_limit_error(exc)


class Translate(AdaptiveThrottledNode):
    max_per_minute = 60
    shared_limiter = "llm"

    async def prep_async(self, shared: Shared) -> AsyncIterator[str]:
        async def texts() -> AsyncIterator[str]:
            yield "one"

        return texts()


class EachUser(ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows = 3

    async def prep_async(self, shared: Shared) -> list[Shared]:
        return [{"user": user} for user in range(3)]


Summarize(max_retries=3, wait=0.5, max_per_minute=None)
Summarize(3, 1, **Presets.OPENAI_TIER1)
Translate(**{**Presets.get("moderate"), "max_per_minute": 30})
node = AdaptiveThrottledNode(initial_concurrent=2, max_concurrent=9, propagate_rate_limit=True, shared_limiter=limiter)
flow = EachUser(start=node, **FlowPresets.MODERATE)
AdaptiveThrottledBatchFlow(node, initial_concurrent_flows=2, max_flow_retries=1)
assert_type(node.current_concurrent, int)
assert_type(node.history, list[Change])
assert_type(node.limiter, RateLimiter)
assert_type(flow.flow_limiter, RateLimiter)
assert_type(flow.stats, dict[str, Any])


async def by_hand() -> int:
    limiter.max_concurrent = 4
    limiter.max_per_window = None
    async with limiter:
        pass
    async with limiter.reserve(tokens=1200) as permit:
        assert_type(permit, Permit)
        permit.settle(tokens=937)
    await limiter.acquire(tokens=3, timeout=1.5)
    limiter.release()
    limiter.observe({"retry-after": "3"})
    return limiter.active + int(limiter.try_acquire())


assert_type(run_virtual(by_hand()), int)
RateLimiter(50, adaptive=Adaptive(max_concurrent=50, min_concurrent=2))

# What is wrong is found: `--strict` complains of an ignore that is not needed.
Summarize(max_concurent=3)  # type: ignore[call-arg]
Summarize(max_concurrent="3")  # type: ignore[arg-type]
EachUser(start=node, max_concurrent=3)  # type: ignore[call-arg]
RateLimiter("3")  # type: ignore[arg-type]

"""One limit for two nodes, two flows and plain code; several APIs; limiters made when first needed. In virtual time."""

import argparse
import asyncio
import sys

from pocketflow import AsyncNode

from pocketflow_throttled import (
    LimiterRegistry,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

API = SimulatedAPI(max_concurrent=5, max_per_window=120, latency=1.0)


class Summarize(ThrottledParallelBatchNode):
    shared_limiter = "llm"

    async def prep_async(self, shared):
        return [f"text {number}" for number in range(30)]

    async def exec_async(self, text):
        return await API.call(text)


class Translate(Summarize):
    """The same limiter: it is one for both, wherever it is named."""


class Chat(AsyncNode):
    async def exec_async(self, _):
        async with LimiterRegistry.get("llm"):  # plain code takes its permit like everyone else
            return await API.call(self.params["user"])


class Users(ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows = 20

    async def prep_async(self, shared):
        return [{"user": user} for user in range(20)]


async def everything():
    await asyncio.gather(
        Summarize().run_async({}),
        Translate().run_async({}),
        Users(start=Chat()).run_async({}),
        Users(start=Summarize()).run_async({}),
    )
    embeddings = LimiterRegistry.get_or_create("embeddings", max_concurrent=50)  # another API, made when first needed
    async with embeddings:
        pass


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    LimiterRegistry.register("llm", max_concurrent=5, max_per_window=120)
    run_virtual(everything())
    served = 30 + 30 + 20 + 20 * 30
    print(f"Limiters: {', '.join(LimiterRegistry.list_names())}.")
    print(f"Two nodes and two flows under one limit: {API.served} calls, at most {API.peak_concurrent} at once and")
    print(f"{API.worst_window} a minute, {API.refused} refused.")
    held = (API.served, API.refused) == (served, 0) and API.peak_concurrent <= 5
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

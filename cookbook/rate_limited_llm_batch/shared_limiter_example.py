"""One limit for two nodes, two flows and plain code; a second API beside it, whose limiter is made when first needed.

Minutes pass in virtual time.
"""

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

LLM = SimulatedAPI(max_concurrent=5, max_per_window=120, latency=1.0)
EMBEDDINGS = SimulatedAPI(max_concurrent=50, latency=0.2)
TEXTS, USERS = 30, 20


class Summarize(ThrottledParallelBatchNode):
    shared_limiter = "llm"

    async def prep_async(self, shared):
        return [f"text {number}" for number in range(TEXTS)]

    async def exec_async(self, text):
        return await LLM.call(text)


class Translate(Summarize):
    """The same limiter: it is one for both, wherever it is named."""


class Chat(AsyncNode):
    async def exec_async(self, _):
        async with LimiterRegistry.get("llm"):  # plain code takes its permit like everyone else
            return await LLM.call(self.params["user"])


class EachUser(ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows = USERS

    async def prep_async(self, shared):
        return [{"user": user} for user in range(USERS)]


class Embed(ThrottledParallelBatchNode):
    async def prep_async(self, shared):
        self.shared_limiter = LimiterRegistry.get_or_create("embeddings", max_concurrent=50)  # made when first needed
        return range(1000)

    async def exec_async(self, text):
        return await EMBEDDINGS.call(text)


async def everything():
    await asyncio.gather(
        Summarize().run_async({}),
        Translate().run_async({}),
        EachUser(start=Chat()).run_async({}),
        EachUser(start=Summarize()).run_async({}),
        Embed().run_async({}),
    )
    return asyncio.get_running_loop().time()


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    LimiterRegistry.register("llm", max_concurrent=5, max_per_window=120)
    seconds = run_virtual(everything())
    calls = TEXTS + TEXTS + USERS + USERS * TEXTS
    print(f"Limiters: {', '.join(LimiterRegistry.list_names())}. All done in {seconds:.0f} s of virtual time.")
    for name, api in (("llm", LLM), ("embeddings", EMBEDDINGS)):
        print(f"  {name}: {api.served} calls, {api.peak_concurrent} at once, {api.worst_window} a minute, {api.refused} refused")
    held = (LLM.served, LLM.peak_concurrent, LLM.worst_window, LLM.refused) == (calls, 5, 120, 0)
    held &= (EMBEDDINGS.served, EMBEDDINGS.peak_concurrent, EMBEDDINGS.refused) == (1000, 50, 0)
    print("Two nodes, two flows and plain code kept to one limit together." if held else "A limit did not hold.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

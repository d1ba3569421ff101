"""Presets: the same 200 calls under several, in virtual time, against APIs that enforce just those limits."""

import argparse
import asyncio
import sys

from pocketflow_throttled import Presets, SimulatedAPI, ThrottledParallelBatchNode, run_virtual

NAMES = ("OPENAI_TIER1", "ANTHROPIC_BUILD_TIER1", "GROQ_FREE", "CONSERVATIVE", "MODERATE", "AGGRESSIVE")
ITEMS = 200


class Ask(ThrottledParallelBatchNode):
    async def prep_async(self, shared):
        return range(ITEMS)

    async def exec_async(self, question):
        return await self.api.call(question)

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["answers"] = exec_res_list


def run(name):
    settings = Presets.get(name)
    node = Ask(**settings)
    node.api = SimulatedAPI(max_concurrent=settings["max_concurrent"], max_per_window=settings["max_per_minute"], latency=2.0)
    shared = {}

    async def timed():
        await node.run_async(shared)
        return asyncio.get_running_loop().time()

    seconds = run_virtual(timed())
    return seconds, node.api.refused, shared["answers"] == list(range(ITEMS))


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"{ITEMS} calls of 2 s each, in virtual time.\n{'preset':24}{'minutes':>8}{'refused':>9}  source")
    held = True
    for name in NAMES:
        seconds, refused, whole = run(name)
        source = Presets.source(name)
        origin = f"{source.model} ({source.date})" if source.source else "ours"
        print(f"{name:24}{seconds / 60:8.1f}{refused:9}  {origin}")
        held = held and whole and not refused
    print("No call was refused and none lost." if held else "A call was refused or lost.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

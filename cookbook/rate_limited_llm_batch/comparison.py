"""100 calls of 1 s each, seven ways, against an API that takes 5 at once and one that takes 60 a minute. In virtual time."""

import argparse
import asyncio
import contextlib
import random
import sys
from pathlib import Path
from typing import NamedTuple

from plotting import new_figure, save
from pocketflow import AsyncBatchNode, AsyncNode, AsyncParallelBatchNode
from utils import SetupError

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    LimiterRegistry,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)
from pocketflow_throttled.simulation import SimulatedRateLimitError

ITEMS = 100
APIS = {
    "5 at once": {"max_concurrent": 5},
    "60 a minute, with Retry-After": {"max_per_window": 60},
}
BEGIN, END = "<!-- comparison: made by comparison.py --write -->", "<!-- end of comparison -->"
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COPIES = (HERE / "README.md", ROOT / "README.md", ROOT / "docs" / "pages" / "index.md")


class Row(NamedTuple):
    way: str
    told: bool
    seconds: float
    refused: int
    lost: int


class Calls:
    """What every node here does."""

    async def prep_async(self, shared):
        return range(ITEMS)

    async def exec_async(self, item):
        return await self.api.call(item)

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["results"] = exec_res_list


class OneByOne(Calls, AsyncBatchNode):
    pass


class AllAtOnce(Calls, AsyncParallelBatchNode):
    pass


class Throttled(Calls, ThrottledParallelBatchNode):
    pass


class Adaptive(Calls, AdaptiveThrottledNode):
    pass


class Call(AsyncNode):
    async def exec_async(self, _):
        return await self.api.call(self.params["item"])

    async def post_async(self, shared, prep_res, exec_res):
        return exec_res


class Flow(ThrottledAsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{"item": item} for item in range(ITEMS)]

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["results"] = exec_res_list


class Inner(ThrottledParallelBatchNode):
    """Ten calls of one user."""

    async def prep_async(self, shared):
        return range(self.params["user"] * 10, self.params["user"] * 10 + 10)

    async def exec_async(self, item):
        return await self.api.call(item)

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["results"] += exec_res_list


class Nested(ThrottledAsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{"user": user} for user in range(ITEMS // 10)]


def ways(api):
    """Yield each way by name, whether it is told the API's limit, and what runs it."""
    per_minute = "max_per_window" in api
    limits = {"max_per_minute": 60} if per_minute else {"max_concurrent": 5}
    flow_limits = {"max_flows_per_minute": 60} if per_minute else {"max_concurrent_flows": 5}
    yield "one after the other", False, OneByOne()
    yield "`AsyncParallelBatchNode`", False, AllAtOnce()
    yield "`AsyncParallelBatchNode`, 10 attempts", False, AllAtOnce(max_retries=10, wait=1)
    yield "`ThrottledParallelBatchNode`", True, Throttled(**limits)
    yield "`AdaptiveThrottledNode`, told nothing", False, Adaptive()
    yield "`ThrottledAsyncParallelBatchFlow`", True, Flow(start=Call(), **flow_limits)
    LimiterRegistry.register("api", 5, 60 if per_minute else None, replace=True)
    yield "nested, 10 users x 10 calls", True, Nested(start=Inner(shared_limiter="api"))


def run(runnable, settings):
    """Return the seconds, the refused calls and the items lost."""
    api = SimulatedAPI(latency=1.0, **settings)
    for node in (runnable, getattr(runnable, "start_node", None)):
        if node is not None:
            node.api = api
    shared = {"results": []}

    async def timed():
        with contextlib.suppress(SimulatedRateLimitError):  # of which PocketFlow's own dies
            await runnable.run_async(shared)
        return asyncio.get_running_loop().time()

    seconds = run_virtual(timed())
    return seconds, api.refused, len(set(range(ITEMS)) - set(shared["results"]))


def measure():
    """Return a Row for each way, by the API."""
    random.seed(0)  # of the jitter
    return {name: [Row(way, told, *run(runnable, api)) for way, told, runnable in ways(api)] for name, api in APIS.items()}


def table(measured):
    """Return the measurements as Markdown."""
    lines = [f"| {ITEMS} calls of 1 s each, on an API that takes | {' | '.join(measured)} |", "|---|---|---|"]
    lines += [f"| {rows[0].way} | {' | '.join(map(cell, rows))} |" for rows in zip(*measured.values(), strict=True)]
    lines += ["", "Where nothing is said, no call was refused and no item lost."]
    return "\n".join(lines)


def cell(row):
    said = [f"dead after {row.seconds:.0f} s" if row.lost else f"{row.seconds:.0f} s"]
    said += [f"{row.refused} refused"] if row.refused else []
    said += [f"**{row.lost} lost**"] if row.lost else []
    return ", ".join(said)


def placed(text, content):
    """Return a text with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def plot(measured, file):
    figure = new_figure(10, 4)
    for axes, (name, rows) in zip(figure.subplots(1, 2, sharey=True), measured.items(), strict=True):
        labels = [row.way.replace("`", "") for row in rows][::-1]
        bars = axes.barh(labels, [row.seconds for row in rows][::-1])
        axes.bar_label(bars, [f"{row.lost} lost" if row.lost else "" for row in rows][::-1], padding=3)
        axes.set(title=f"an API that takes {name}", xlabel="seconds")
    save(figure, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the README, the cookbook's and the docs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it as a picture too (needs matplotlib)")
    args = parser.parse_args()
    measured = measure()
    print(table(measured))
    if args.write:
        for copy in COPIES:
            copy.write_text(placed(copy.read_text(encoding="utf-8"), table(measured)), encoding="utf-8")
    if args.plot:
        plot(measured, args.plot)
    rows = [row for rows in measured.values() for row in rows]
    lost = {row.way for row in rows if row.lost}
    refused = sum(row.refused for row in rows if row.told)
    held = lost == {row.way for row in rows[1:3]} and not refused  # PocketFlow's own
    print(f"\nWho lost items: {', '.join(sorted(lost)) or 'nobody'}. Refused calls of those told the limit: {refused}.")
    print("It held: only PocketFlow's own lost items." if held else "It did not hold.")
    return 0 if held else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"comparison.py: {error}", file=sys.stderr)
        sys.exit(2)

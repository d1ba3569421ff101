"""100 calls of 1 s each, six ways, against an API that takes 5 at once and one that takes 60 a minute. In virtual time."""

import argparse
import asyncio
import random
import sys
from pathlib import Path

from pocketflow import AsyncBatchNode, AsyncNode, AsyncParallelBatchNode

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    LimiterRegistry,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

ITEMS = 100
APIS = {
    "5 at once": {"max_concurrent": 5},
    "60 a minute, with Retry-After": {"max_per_window": 60},
}
BEGIN, END = "<!-- comparison: made by comparison.py --write -->", "<!-- end of comparison -->"
HERE = Path(__file__).parent
COPIES = (HERE / "README.md", HERE.parent.parent / "README.md")


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
    """Yield each way by name, and what runs it, for an API of that kind."""
    per_minute = "max_per_window" in api
    limits = {"max_per_minute": 60} if per_minute else {"max_concurrent": 5}
    flow_limits = {"max_flows_per_minute": 60} if per_minute else {"max_concurrent_flows": 5}
    yield "one after the other", OneByOne()
    yield "`AsyncParallelBatchNode`", AllAtOnce()
    yield "`ThrottledParallelBatchNode`", Throttled(**limits)
    yield "`AdaptiveThrottledNode`, told nothing", Adaptive()
    yield "`ThrottledAsyncParallelBatchFlow`", Flow(start=Call(), **flow_limits)
    LimiterRegistry.register("api", 5, 60 if per_minute else None, replace=True)
    yield "nested, 10 users x 10 calls", Nested(start=Inner(shared_limiter="api"))


def run(runnable, settings):
    """Return the seconds, the refused calls and the items lost."""
    api = SimulatedAPI(latency=1.0, **settings)
    for node in (runnable, getattr(runnable, "start_node", None)):
        if node is not None:
            node.api = api
    shared = {"results": []}

    async def timed():
        try:
            await runnable.run_async(shared)
        except Exception as error:  # noqa: BLE001  (PocketFlow's own dies of the first refusal)
            print(f"{type(runnable).__name__} died: {error}", file=sys.stderr)
        return asyncio.get_running_loop().time()

    seconds = run_virtual(timed())
    return seconds, api.refused, len(set(range(ITEMS)) - set(shared["results"]))


def measure():
    random.seed(0)  # of the jitter
    return {name: [(way, *run(runnable, settings)) for way, runnable in ways(settings)] for name, settings in APIS.items()}


def table(measured):
    """Return the measurements as Markdown."""
    lines = [f"{ITEMS} calls of 1 s each:", ""]
    for name, rows in measured.items():
        lines += [f"| an API that takes {name} | time | refused calls | items lost |", "|---|---:|---:|---:|"]
        lines += [f"| {way} | {seconds:.0f} s | {refused} | {lost} |" for way, seconds, refused, lost in rows]
        lines.append("")
    return "\n".join(lines)


def placed(text, content):
    """Return a text with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{content}\n{END}{after}"


def plot(measured, file):
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional)
    except ImportError:
        print("comparison.py: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, 2, sharey=True), measured.items(), strict=True):
        labels = [way.replace("`", "") for way, *_ in rows][::-1]
        bars = axes.barh(labels, [seconds for _, seconds, *_ in rows][::-1])
        axes.bar_label(bars, [f"{lost} lost" if lost else "" for *_, lost in rows][::-1], padding=3)
        axes.set(title=f"an API that takes {name}", xlabel="seconds")
    figure.savefig(file, dpi=120)
    print(f"Drawn to {file}.")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it as a picture too (needs matplotlib)")
    args = parser.parse_args()
    measured = measure()
    print(table(measured))
    if args.write:
        for copy in COPIES:
            copy.write_text(placed(copy.read_text(encoding="utf-8"), table(measured)), encoding="utf-8")
    if args.plot and plot(measured, args.plot):
        return 2
    lost = [way for rows in measured.values() for way, _, _, lost in rows if lost]
    print(f"Lost items: {', '.join(sorted(set(lost)))} only.")
    return 0 if set(lost) == {"`AsyncParallelBatchNode`"} else 1


if __name__ == "__main__":
    sys.exit(main())

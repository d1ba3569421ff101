"""An API whose limit nobody knows, and that changes half way: watch the adaptive node find it. Minutes pass in virtual time."""

import argparse
import sys
from pathlib import Path

from pocketflow_throttled import AdaptiveThrottledNode, SimulatedAPI, run_virtual

ITEMS = 1500
CHANGES_AT = 60  # seconds
BEFORE, AFTER = 20, 8


class Ask(AdaptiveThrottledNode):
    max_concurrent = 50

    async def prep_async(self, shared):
        return range(ITEMS)

    async def exec_async(self, question):
        return await self.api.call(question)

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["answers"] = exec_res_list


def levels(history, initial, end):
    """Return the concurrency of each second."""
    steps = [(0.0, initial), *((change.time, change.new) for change in history)]
    return [[new for time, new in steps if time <= second][-1] for second in range(int(end) + 1)]


def draw(series, width=70):
    """Print the concurrency over time, one row for each few seconds."""
    step = max(1, len(series) // 30)
    for second in range(0, len(series), step):
        level = series[second]
        allowed = BEFORE if second < CHANGES_AT else AFTER
        bar = "#" * (level * width // 50)
        print(f"{second:5} s {level:3} {bar:<{width}} the API takes {allowed}")


def plot(series, file):
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional)
    except ImportError:
        print("adaptive_example.py: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    seconds = range(len(series))
    axes.step(seconds, series, where="post", label="the node's limit")
    axes.step(seconds, [BEFORE if second < CHANGES_AT else AFTER for second in seconds], where="post", ls="--", label="the API's")
    axes.set(xlabel="seconds", ylabel="calls at once", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=120)
    print(f"Drawn to {file}.")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it as a picture too (needs matplotlib)")
    args = parser.parse_args()
    node = Ask()
    node.api = SimulatedAPI(
        max_concurrent=lambda now: BEFORE if now < CHANGES_AT else AFTER,
        latency=lambda item: 0.8 + item % 5 / 10,
    )
    shared = {}
    run_virtual(node.run_async(shared))
    end = node.history[-1].time
    series = levels(node.history, initial=5, end=end)
    draw(series)
    if args.plot and plot(series, args.plot):
        return 2
    whole = shared["answers"] == list(range(ITEMS))
    share = node.api.refused / (node.api.refused + node.api.served)
    print(f"{ITEMS} items, all answered in order: {whole}. Refused: {node.api.refused} calls, {share:.1%}.")
    print(f"The limit ended at {node.current_concurrent}, where the API takes {AFTER}.")
    return 0 if whole and share < 0.05 and abs(node.current_concurrent - AFTER) <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())

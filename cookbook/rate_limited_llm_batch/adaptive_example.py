"""An API whose limit nobody knows, and that changes half way: watch the adaptive node find it. Minutes pass in virtual time."""

import argparse
import sys
from pathlib import Path

from plotting import new_figure, save
from utils import SetupError

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


def allowed(second):
    """Return what the API takes at once, which nobody tells the node."""
    return BEFORE if second < CHANGES_AT else AFTER


def levels(history, initial, end):
    """Return the node's limit in each second."""
    steps = [(0.0, initial), *((change.time, change.new) for change in history)]
    return [[new for time, new in steps if time <= second][-1] for second in range(int(end) + 1)]


def draw(series, width=60):
    """Print the limit over time, one row for each few seconds."""
    for second in range(0, len(series), max(1, len(series) // 30)):
        bar = "#" * (series[second] * width // max(series))
        print(f"{second:5} s {series[second]:3} {bar:<{width}} the API takes {allowed(second)}")


def plot(series, file):
    figure = new_figure(9, 4)
    axes = figure.subplots()
    seconds = range(len(series))
    axes.step(seconds, series, where="post", label="the node's limit")
    axes.step(seconds, [allowed(second) for second in seconds], where="post", ls="--", label="what the API takes")
    axes.set(xlabel="seconds", ylabel="calls at once", ylim=(0, None))
    axes.legend()
    save(figure, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it as a picture too (needs matplotlib)")
    args = parser.parse_args()
    node = Ask()
    node.api = SimulatedAPI(max_concurrent=allowed, latency=lambda item: 0.8 + item % 5 / 10)
    shared = {}
    run_virtual(node.run_async(shared))
    series = levels(node.history, initial=5, end=node.history[-1].time)
    draw(series)
    if args.plot:
        plot(series, args.plot)
    whole = shared["answers"] == list(range(ITEMS))
    share = node.api.refused / (node.api.refused + node.api.served)
    held = whole and share < 0.05 and abs(node.current_concurrent - AFTER) <= 1
    print(f"{ITEMS} calls in {len(series)} s of virtual time, all answered in order: {whole}.")
    print(f"Refused: {node.api.refused} calls, {share:.1%}. The limit ended at {node.current_concurrent}; the API takes {AFTER}.")
    print("It held." if held else "It did not hold: fewer than 5% refused, and a limit within 1 of what the API takes.")
    return 0 if held else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"adaptive_example.py: {error}", file=sys.stderr)
        sys.exit(2)

"""Draws the pictures of the docs from simulations, as SVG: `python docs/pictures.py`."""

import random
import sys
from pathlib import Path

from pocketflow_throttled import AdaptiveThrottledNode, SimulatedAPI, run_virtual

HERE = Path(__file__).parent / "pages" / "images"
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 300, 46, 40


class Ask(AdaptiveThrottledNode):
    max_concurrent = 50

    async def prep_async(self, shared):
        return range(2000)

    async def exec_async(self, question):
        return await self.api.call(question)


def allowed(now):
    """Return what the API takes at once: it changes twice."""
    return 20 if now < 40 else 8 if now < 90 else 30


def simulate():
    """Return the changes of the limit, when the last one was, and the share of refused calls."""
    random.seed(0)  # of the jitter
    node = Ask()
    node.api = SimulatedAPI(max_concurrent=allowed, latency=lambda item: 0.8 + item % 5 / 10)
    run_virtual(node.run_async({}))
    steps = [(0.0, 5), *((change.time, change.new) for change in node.history)]
    return steps, steps[-1][0], node.api.refused / (node.api.refused + node.api.served)


def line(steps, end, top, colour):
    """Return a line of steps as an SVG path."""

    def x(time):
        return LEFT + time / end * (WIDTH - LEFT - 10)

    def y(level):
        return HEIGHT - BOTTOM - level / top * (HEIGHT - BOTTOM - 16)

    path = f"M{x(0):.1f} {y(steps[0][1]):.1f}"
    for time, level in steps[1:]:
        path += f"H{x(time):.1f}V{y(level):.1f}"
    return f'<path d="{path}H{x(end):.1f}" fill="none" stroke="{colour}" stroke-width="2"/>'


def picture():
    """Return the limit over time beside what the API takes, as SVG."""
    steps, end, refused = simulate()
    top = 40
    truth = [(0.0, allowed(0)), (40.0, allowed(40)), (90.0, allowed(90))]
    right, floor = WIDTH - LEFT - 10, HEIGHT - BOTTOM
    texts = [
        f'<text x="{LEFT + second / end * right:.0f}" y="{floor + 18}" text-anchor="middle">{second}</text>'
        for second in range(0, int(end) + 1, 20)
    ]
    texts += [
        f'<text x="{LEFT - 8}" y="{floor - level / top * (floor - 16) + 4:.0f}" text-anchor="end">{level}</text>'
        for level in range(0, top + 1, 10)
    ]
    texts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">seconds</text>')
    texts.append(f'<text x="{LEFT + 8}" y="14" fill="#2563a8">the node: calls at once</text>')
    texts.append(f'<text x="{LEFT + 170}" y="14" fill="#e07a1f">what the API takes, which nobody told the node</text>')
    title = f"The limit of an adaptive node beside what the API takes; {refused:.1%} of the calls were refused"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
        f' fill="#444"><title>{title}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f"{''.join(texts)}{line(truth, end, top, '#e07a1f')}{line(steps, end, top, '#2563a8')}</svg>\n"
    )


if __name__ == "__main__":
    (HERE / "adaptive.svg").write_text(picture(), encoding="utf-8")
    sys.exit(0)

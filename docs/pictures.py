"""Draws the pictures of the docs from simulations, as SVG that is readable on a phone too."""

import random
from html import escape
from typing import NamedTuple

from pocketflow_throttled import AdaptiveThrottledNode, SimulatedAPI, run_virtual

WIDTH, FONT = 520, 14  # pixels; a phone shows them at two thirds
BLUE, ORANGE, RED, GREY, TEXT = "#2563a8", "#d9730d", "#b3261e", "#d0d0d0", "#333"
CHANGES = {0.0: 20, 40.0: 8, 90.0: 30}  # what the API takes at once, by the second from which it does
ITEMS = 2000


class Ask(AdaptiveThrottledNode):
    """Told nothing but not to go beyond 50."""

    max_concurrent = 50

    async def prep_async(self, shared):
        return range(ITEMS)

    async def exec_async(self, question):
        return await self.api.call(question)


class Learned(NamedTuple):
    """How a node's limit moved, when it was done, and what it cost."""

    steps: list[tuple[float, int]]
    seconds: float
    refused: int


def allowed(now):
    """Return what the API takes at once, which nobody tells the node."""
    return next(limit for since, limit in reversed(CHANGES.items()) if now >= since)


def learn():
    """Run a batch on an API that changes its mind twice."""
    random.seed(0)  # of the jitter
    node = Ask()
    node.api = SimulatedAPI(max_concurrent=allowed, latency=lambda item: 0.8 + item % 5 / 10)
    run_virtual(node.run_async({}))
    steps = [(0.0, Ask.initial_concurrent), *((change.time, change.new) for change in node.history)]
    return Learned(steps, steps[-1][0], node.api.refused)


def svg(height, title, parts):
    """Return a picture of its parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
        f' font-family="sans-serif" font-size="{FONT}" fill="{TEXT}">\n<title>{escape(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(x, y, words, **attributes):
    """Return words at a place."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{more}>{escape(words)}</text>'


def adaptive(learned):
    """Return the limit of an adaptive node over time, beside what the API takes."""
    left, right, top, floor, most = 34, WIDTH - 12, 34, 258, 40

    def x(second):
        return left + second / learned.seconds * (right - left)

    def y(level):
        return floor - level / most * (floor - top)

    def line(steps, colour):
        path = f"M{x(0):.1f} {y(steps[0][1]):.1f}" + "".join(f"H{x(time):.1f}V{y(level):.1f}" for time, level in steps[1:])
        return f'<path d="{path}H{right}" fill="none" stroke="{colour}" stroke-width="2.5"/>'

    parts = [f'<path d="M{left} {y(level):.1f}H{right}" stroke="{GREY}"/>' for level in range(0, most + 1, 10)]
    parts += [text(left - 6, y(level) + 5, str(level), text_anchor="end") for level in range(0, most + 1, 10)]
    parts += [text(x(second), floor + 18, str(second), text_anchor="middle") for second in range(0, int(learned.seconds) + 1, 20)]
    parts += [text(right, floor + 36, "seconds", text_anchor="end")]
    parts += [
        text(left, 20, "what the API takes at once", fill=ORANGE),
        text(left + 210, 20, "what the node lets through", fill=BLUE),
    ]
    parts += [line(list(CHANGES.items()), ORANGE), line(learned.steps, BLUE)]
    share = learned.refused / (learned.refused + ITEMS)
    return svg(300, f"The limit of an adaptive node beside what the API takes; {share:.1%} of the calls were refused", parts)


def comparison(measured):
    """Return the measurements of the cookbook's comparison as bars; `measured` has rows by the API."""
    row_height, left, right = 42, 12, WIDTH - 12
    slowest = max(row.seconds for rows in measured.values() for row in rows)
    parts, y = [], 8
    for name, rows in measured.items():
        parts.append(text(left, y + 18, f"an API that takes {name}", font_weight="bold"))
        y += 26
        for row in rows:
            length = row.seconds / slowest * (right - left - 60)
            colour = RED if row.lost else BLUE
            said = f"{row.lost} items lost" if row.lost else f"{row.seconds:.0f} s"
            parts += [
                text(left, y + 16, row.way.replace("`", "")),
                f'<rect x="{left}" y="{y + 22}" width="{max(length, 3):.1f}" height="14" fill="{colour}"/>',
                text(left + length + 8, y + 34, said, fill=colour),
            ]
            y += row_height
        y += 12
    return svg(y, "How long 100 calls of 1 s take, and what is lost", parts)

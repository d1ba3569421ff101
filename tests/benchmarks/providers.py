"""How much a fixed node uses of the limits of requests and of tokens that it is given, and how often it is refused."""

import asyncio
import heapq
import math
import random
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

from pocketflow_throttled import ThrottledParallelBatchNode, run_virtual
from tests.providers.counting import Count, Counting
from tests.providers.dialects import Dialect, RetryAfter
from tests.providers.model import Model

MINUTE = 60.0


@dataclass(frozen=True)
class Provider:
    """A server whose limits of a minute are given, and a batch for it.

    It enforces them in parts of `seconds`, and counts what a call costs, or what it may cost by the estimate. Its headers are
    seen on every response (`hooks`), or only on those that refuse.
    """

    counting: Counting
    seconds: float
    counts_estimates: bool
    requests: int | None  # a minute
    tokens: int  # a minute
    dialect: Dialect
    hooks: bool
    retry_after: RetryAfter
    skew: float
    delay: tuple[float, float]
    latency: tuple[float, float]
    at_once: int
    costs: tuple[int, ...]
    estimates: tuple[int, ...]
    wrong: str
    seed: int

    def counts(self) -> list[tuple[Literal["requests", "tokens"], Count]]:
        """Return its limits, each in parts of the minute."""
        share = self.seconds / MINUTE
        limits: list[tuple[Literal["requests", "tokens"], int | None]] = [("requests", self.requests), ("tokens", self.tokens)]
        return [
            (kind, Count(max(1, int(limit * share)), self.seconds, self.counting, phase=0.37 * self.seconds))
            for kind, limit in limits
            if limit is not None
        ]

    def counted(self, item: int) -> int:
        """Return the tokens that the server counts of an item."""
        return self.estimates[item] if self.counts_estimates else self.costs[item]

    def seconds_of(self, what: str, item: int) -> float:
        """Return how long an item's answer takes (`latency`), or is on its way (`delay`)."""
        least, most = self.latency if what == "latency" else self.delay
        return random.Random(f"{self.seed} {what} {item}").uniform(least, most)

    def clairvoyant(self) -> float:
        """Return the seconds that a client needs which knows all, takes the items in order and keeps to every limit.

        As ours does, it keeps to those of a minute in any minute, though a bucket, or the minutes of a clock, would admit more.
        """
        counts = self.counts() + replace(self, counting="sliding", seconds=MINUTE).counts()
        now = ended = 0.0
        under_way: list[float] = []
        for item in range(len(self.costs)):
            if len(under_way) >= self.at_once:
                now = max(now, heapq.heappop(under_way))
            arrives = now + self.seconds_of("delay", item)
            cost = {"requests": 1, "tokens": self.counted(item)}
            while (wait := max(count.wait(arrives, cost[kind]) for kind, count in counts)) > 0:
                arrives, now = arrives + wait + 1e-9, now + wait + 1e-9
            for kind, count in counts:
                count.add(arrives, cost[kind])
            end = arrives + self.seconds_of("latency", item) + self.seconds_of("delay", item)
            heapq.heappush(under_way, end)
            ended = max(ended, end)
        return ended


def measure(provider: Provider) -> dict[str, Any]:
    """Return one row: the share of the clairvoyant's speed, the share refused, and the items lost."""
    random.seed(provider.seed)
    counts = dict(provider.counts())
    current: ContextVar[int] = ContextVar("current")
    model = Model(
        counts.get("requests"),
        counts["tokens"],
        dialect=provider.dialect,
        skew=provider.skew,
        retry_after=provider.retry_after,
        rounding=1000 if provider.dialect == "anthropic" else 1,
        latency=lambda: provider.seconds_of("latency", current.get()),
        delay=lambda: provider.seconds_of("delay", current.get()),
    )
    items = range(len(provider.costs))

    class Node(ThrottledParallelBatchNode):
        max_concurrent = provider.at_once
        max_per_minute = provider.requests
        max_tokens_per_minute = provider.tokens
        on_error = "collect"  # one that is given up is lost

        async def prep_async(self, shared: Any) -> Any:
            return items

        def estimate_tokens(self, item: int) -> int:
            return provider.estimates[item]

        async def exec_async(self, item: int) -> Any:
            current.set(item)
            response = await model.call(provider.counted(item))
            if provider.hooks:
                await self.limiter.observe_response(response)
            return SimpleNamespace(item=item, usage=SimpleNamespace(total_tokens=provider.costs[item]))

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["answers"] = exec_res_list

    async def main() -> tuple[list[Any], float]:
        shared: dict[str, Any] = {}
        await Node().run_async(shared)
        return shared["answers"], asyncio.get_running_loop().time()

    answers, took = run_virtual(main())
    lost = sum(getattr(answer, "item", None) != item for item, answer in zip(items, answers, strict=True))
    return {"used": provider.clairvoyant() / took, "refused": model.refused / len(items), "lost": lost}


def drawn(seed: int, seconds: float = MINUTE, *, counts_estimates: bool = False) -> Provider:
    """Return a provider of any kind that enforces its limits in parts of `seconds`; the same arguments give the same one."""
    chance = random.Random(f"{seed} {seconds} {counts_estimates}")
    mean = _spread(chance, 100, 3000)
    a_minute = _spread(chance, 40, 600) * (1 if seconds == MINUTE else 10 / seconds + 1)  # calls
    items = int(min(3000, max(300, a_minute * chance.uniform(2.5, 8))))
    tokens = int(a_minute * mean)
    most = tokens * seconds / MINUTE / 3
    varied = chance.choice([0.0, 0.0, 0.3, 0.8])
    costs = [max(1, int(min(most, mean * chance.lognormvariate(-varied * varied / 2, varied)))) for _ in range(items)]
    wrong = chance.choice(["none", "x 3", "max_tokens"] if counts_estimates else ["none", "x 3", "/ 3", "random", "max_tokens"])
    largest = max(costs)

    def estimate(cost: int) -> int:
        if wrong == "max_tokens":
            return cost // 3 + largest
        off = {"none": 1.0, "x 3": 3.0, "/ 3": 1 / 3}.get(wrong) or math.exp(chance.uniform(-math.log(3), math.log(3)))
        return max(1, int(cost * off))

    dialects: list[Dialect] = ["none", "openai", "azure", "anthropic", "mistral"]
    dialect = chance.choice(dialects if seconds == MINUTE else dialects[:-1])  # the last one's names say that it is a minute
    late = _spread(chance, 0.005, 0.15)
    quick = _spread(chance, 0.3, 3.0)
    return Provider(
        counting=chance.choice(["sliding", "fixed", "bucket"]),
        seconds=seconds,
        counts_estimates=counts_estimates,
        requests=int(a_minute * chance.uniform(0.8, 1.6)) if chance.random() < 0.6 else None,
        tokens=tokens,
        dialect=dialect,
        hooks=chance.random() < 0.6,
        retry_after=chance.choice(["seconds", "whole", "milliseconds", "date", "none"]),
        skew=chance.choice([0.0, 0.0, -7.0, 7.0]),
        delay=(late / 2, late),
        latency=(quick, quick * chance.choice([1.2, 2, 6])),
        at_once=int(_spread(chance, 8, 100)),
        costs=tuple(costs),
        estimates=tuple(map(estimate, costs)),
        wrong=wrong,
        seed=seed,
    )


def _spread(chance: random.Random, least: float, most: float) -> float:
    return math.exp(chance.uniform(math.log(least), math.log(most)))


GROUPS: dict[str, tuple[float, bool]] = {
    "whole minutes, what calls cost": (MINUTE, False),
    "whole minutes, what they may cost": (MINUTE, True),
    "ten seconds, what calls cost": (10.0, False),
    "a second, what calls cost": (1.0, False),
}


def run(count: int = 40) -> list[dict[str, Any]]:
    """Run `count` servers of each group, print the table and return its rows."""
    rows = []
    print("used: a share of what a client does that knows everything and keeps to the limits in any minute")
    print(f"{'the server enforces, and counts':36}   used  worst  refused  worst  lost   used >= .95, refused <= 1%")
    for group, (seconds, counts_estimates) in GROUPS.items():
        found = [measure(drawn(seed, seconds, counts_estimates=counts_estimates)) for seed in range(count)]
        used, refused = ([result[key] for result in found] for key in ("used", "refused"))
        row = {
            "group": group,
            "used": sum(used) / count,
            "least used": min(used),
            "refused": sum(refused) / count,
            "most refused": max(refused),
            "lost": sum(result["lost"] for result in found),
            "within": sum(result["used"] >= 0.95 and result["refused"] <= 0.01 for result in found),
        }
        rows.append(row)
        shares = f"{row['used']:6.3f} {row['least used']:6.3f} {row['refused']:8.2%} {row['most refused']:6.1%}"
        print(f"{group:36} {shares} {row['lost']:5}   {row['within']} of {count}")
    return rows

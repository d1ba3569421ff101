"""A fixed node whose limits are those of the server, against servers of every kind: next to no refusal, no waste, no loss."""

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import product
from typing import Any

import pytest

from pocketflow_throttled import ThrottledParallelBatchNode, run_virtual

from .counting import Count, Counting
from .model import Model, jitter

# A long simulation runs the same lines many times, which shorter ones cover: traced, it takes four times as long.
is_long = pytest.mark.no_cover

COUNTINGS: list[Counting] = ["sliding", "bucket", "fixed"]
DIALECTS = ["openai", "azure", "anthropic", "ietf"]
WINDOWS = 6  # of a minute, for as long as throughput is measured
Factor = float | None  # of the estimates to the truth; None: each item's its own, up to 3 either way
COST = 100


@dataclass
class Answer:
    item: int
    usage: Any


@dataclass
class Outcome:
    """What came of a batch: the share refused, the share of the allowed throughput that was used, and whether nothing is lost."""

    refused: float
    share: float
    is_whole: bool
    node: ThrottledParallelBatchNode = field(repr=False)


def measure(
    make: Callable[[random.Random], Model],
    *,
    at_once: int = 50,
    hooks: bool = False,
    factor: Factor = 1.0,
    learned: bool = False,
    per_minute: int | None = None,
    burst: int | None = None,
    windows: float = WINDOWS,
) -> Outcome:
    """Run a batch that keeps a server busy for longer than `windows` minutes, and measure it over these."""
    chance = random.Random(7)
    model = make(chance)
    rates = [count.limit * 60 / count.seconds / (1 if kind == "requests" else COST) for kind, count in model.counts()]
    allowed = int(min(rates) * windows * (1 - model.others))
    items = range(int(allowed * (1 + 0.7 / windows)))

    class Node(ThrottledParallelBatchNode):
        max_concurrent = at_once
        max_per_minute = per_minute if learned or per_minute else (model.requests and model.requests.limit)
        max_burst = burst
        max_tokens_per_minute = None if learned or not model.tokens else model.tokens.limit

        async def prep_async(self, shared: Any) -> Any:
            return items

        def estimate_tokens(self, item: int) -> int:
            off = factor if factor is not None else math.exp(random.Random(item).uniform(-math.log(3), math.log(3)))
            return math.ceil(COST * off)

        async def exec_async(self, item: int) -> Answer:
            response = await model.call(COST)
            if hooks:
                await self.limiter.observe_response(response)
            return Answer(item, response.usage)

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
            shared["answers"] = exec_res_list

    admitted = 0

    async def main() -> tuple[Any, dict[str, Any]]:
        nonlocal admitted
        node, shared = Node(), {}
        others = asyncio.create_task(model.others_call(COST))
        batch = asyncio.create_task(node.run_async(shared))
        await asyncio.sleep(60 * windows)
        admitted = model.received - model.refused
        await batch
        others.cancel()
        return node, shared

    node, shared = run_virtual(main())
    whole = [answer.item for answer in shared["answers"]] == list(items)
    return Outcome(model.refused / len(items), admitted / allowed, whole, node)


def check(outcome: Outcome, *, refused: float = 0.01, share: float = 0.95) -> None:
    assert outcome.is_whole
    assert outcome.refused <= refused, outcome
    assert outcome.share >= share, outcome
    assert (outcome.node.limiter.active, outcome.node.limiter.waiting) == (0, 0)


Delay = tuple[float, float]
NETWORKS: dict[str, tuple[Delay, Delay]] = {  # seconds that an answer takes, and that it is on its way
    "quick": ((0.2, 2.0), (0.0, 0.0)),
    "slow": ((1.0, 8.0), (0.02, 0.15)),
}


def server(
    requests: int | None,
    tokens: int | None,
    counting: Counting,
    network: str = "slow",
    **settings: Any,
) -> Callable[[random.Random], Model]:
    latency, delay = NETWORKS[network]

    def make(chance: random.Random) -> Model:
        return Model(
            requests=Count(requests, 60.0, counting, phase=17.0) if requests else None,
            tokens=Count(tokens, 60.0, counting, phase=43.0) if tokens else None,
            latency=jitter(chance, *latency),
            delay=jitter(chance, *delay),
            **settings,
        )

    return make


def counted_in_turn(*settings: Iterable[Any], ways: list[Counting] = COUNTINGS) -> list[tuple[Any, ...]]:
    """Return each combination of settings with one way of counting, so that each way meets each setting."""
    combinations = product(*(enumerate(values) for values in settings))
    return [(ways[sum(at for at, _ in chosen) % len(ways)], *(value for _, value in chosen)) for chosen in combinations]


@pytest.mark.parametrize(
    ("counting", "dialect", "network"),
    [*counted_in_turn(DIALECTS, NETWORKS), *product(COUNTINGS, ["none"], NETWORKS)],  # with headers, mistakes are made good
)
def test_a_limit_of_requests_is_used_up_and_not_overrun(counting: Counting, dialect: Any, network: str) -> None:
    check(measure(server(100, None, counting, network, dialect=dialect), hooks=dialect != "none"))


@is_long
@pytest.mark.parametrize(
    ("counting", "factor", "limit"),
    counted_in_turn([1 / 3, 1.0, 3.0, None], [(30_000, False), (6_000, False), (6_000, True)]),
)
def test_a_limit_of_tokens_is_used_up_and_not_overrun_however_wrong_the_estimates(
    counting: Counting, factor: Factor, limit: tuple[int, bool]
) -> None:
    tokens, hooks = limit
    check(measure(server(None, tokens, counting, rounding=1000 if tokens > 6_000 else 100), hooks=hooks, factor=factor))


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("factor", [1 / 3, 3.0])
def test_both_limits_at_once_are_used_up_and_not_overrun(counting: Counting, factor: Factor) -> None:
    check(measure(server(90, 10_000, counting), hooks=True, factor=factor))


@is_long
@pytest.mark.parametrize(
    ("counting", "dialect", "skew", "sends_date"),
    counted_in_turn(["openai", "anthropic"], [-3600.0, -7.0, 7.0, 3600.0], [True, False]),
)
def test_clocks_that_differ_cost_nothing(counting: Counting, dialect: Any, skew: float, sends_date: bool) -> None:
    check(measure(server(100, None, counting, dialect=dialect, skew=skew, sends_date=sends_date), hooks=True, windows=4))


@pytest.mark.parametrize("counting", COUNTINGS)
def test_counts_told_only_with_the_answer_cost_nothing(counting: Counting) -> None:
    check(measure(server(100, None, counting, tells_late=True), hooks=True))
    check(measure(server(None, 10_000, counting, tells_late=True, rounding=1000), hooks=True, factor=1 / 3))


@pytest.mark.parametrize("retry_after", ["whole", "none"])
def test_refusals_that_say_little_cost_nothing(retry_after: Any) -> None:
    check(measure(server(100, None, "sliding", retry_after=retry_after)))


def run_estimated(model: Model, costs: list[int], factor: float, at_once: int) -> float:
    """Run a batch on a server that counts the estimates for good, which are `factor` times the costs; return how long it took."""
    assert model.tokens is not None
    limit = model.tokens.limit

    class Node(ThrottledParallelBatchNode):
        max_concurrent, max_tokens_per_minute = at_once, limit

        async def prep_async(self, shared: Any) -> Any:
            return costs

        def estimate_tokens(self, item: int) -> int:
            return int(factor * item)

        async def exec_async(self, item: int) -> Any:
            await self.limiter.observe_response(await model.call(int(factor * item)))
            return {"usage": {"total_tokens": item}}

    async def main() -> float:
        await Node().run_async({})
        return asyncio.get_running_loop().time()

    return run_virtual(main())


@pytest.mark.parametrize("counting", ["bucket", "fixed"])
@pytest.mark.parametrize("factor", [1.5, 2, 3])
def test_a_limit_that_counts_what_calls_may_cost_for_good_is_told_by_what_is_left(counting: Counting, factor: float) -> None:
    """What comes back bit by bit, or at once, is no sign that a server gives back at the end of a call what it did not cost."""
    chance = random.Random(7)
    costs = [chance.randint(300, 1700) for _ in range(300)]
    latency, delay = jitter(chance, 0.5, 3.0), jitter(chance, 0.01, 0.15)
    model = Model(tokens=Count(60_000, 60.0, counting, phase=43.0), tells_late=True, latency=latency, delay=delay)
    took = run_estimated(model, costs, factor, at_once=20)
    assert model.refused <= 0.01 * len(costs)
    assert took <= factor * sum(costs) / 1000 / 0.95


@is_long
@pytest.mark.parametrize(
    ("counting", "told", "at_once"),
    counted_in_turn([{"dialect": "openai"}, {"dialect": "anthropic", "rounding": 1000}], [12, 30]),
)
def test_room_that_a_bucket_has_is_no_sign_that_a_server_counts_less_than_calls_may_cost(
    counting: Counting, told: dict[str, Any], at_once: int
) -> None:
    """A bucket that was full admits more in its first minute, and while the batch waits for its own window."""
    chance = random.Random(7)
    costs = [chance.randint(300, 1300) for _ in range(400)]
    latency, delay = jitter(chance, 0.5, 1.5), jitter(chance, 0.02, 0.05)
    tokens = Count(144_000, 60.0, counting, phase=17.0)
    model = Model(tokens=tokens, latency=latency, delay=delay, **told)
    took = run_estimated(model, costs, 3.0, at_once)
    assert model.refused <= 0.01 * len(costs)
    assert took <= 3 * sum(costs) / 2400 / 0.95


def clairvoyant(seconds: list[float], slots: int, per_minute: int) -> float:
    """Return how long calls that take these seconds take together, if each starts as soon as slots and limit allow."""
    free, starts, end = [0.0] * slots, list[float](), 0.0
    for index, takes in enumerate(seconds):
        start = max(heappop(free), starts[index - per_minute] + 60 if index >= per_minute else 0.0)
        starts.append(start)
        heappush(free, start + takes)
        end = max(end, start + takes)
    return end


@is_long
@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("cover", [0.8, 1.0, 1.2])
@pytest.mark.parametrize(("per_minute", "latency"), [(10, 20.0), (30, 8.0), (60, 3.0), (120, 1.0)])
def test_slots_that_barely_cover_the_rate_are_all_used(counting: Counting, cover: float, per_minute: int, latency: float) -> None:
    """Slots and limit together may allow less than each of them: as much as a client that knows everything can do counts."""
    chance = random.Random(3)
    seconds = [latency * chance.choice([0.3, 0.3, 0.3, 3.1]) for _ in range(8 * per_minute)]
    slots = max(1, round(cover * latency * per_minute / 60))
    current: ContextVar[int] = ContextVar("current")
    count = Count(per_minute, 60.0, counting, phase=17.0)
    model = Model(requests=count, dialect="none", latency=lambda: seconds[current.get()])

    class Node(ThrottledParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(len(seconds))

        async def exec_async(self, item: int) -> None:
            current.set(item)
            await model.call()

    async def main() -> float:
        await Node(max_concurrent=slots, max_per_minute=per_minute).run_async({})
        return asyncio.get_running_loop().time()

    took = run_virtual(main())
    assert (model.served, model.refused) == (len(seconds), 0)
    assert took <= clairvoyant(seconds, slots, per_minute) / 0.95


@pytest.mark.parametrize(("requests", "seconds"), [(1, 1.0), (10, 10.0)])
def test_a_limit_a_minute_enforced_as_one_a_second_is_kept_by_spacing_the_starts(requests: int, seconds: float) -> None:
    """The first burst is refused; after it the starts are spaced."""

    def make(chance: random.Random) -> Model:
        return Model(requests=Count(requests, seconds, "bucket"), dialect="none", latency=jitter(chance, 1.0, 8.0))

    check(measure(make, at_once=20, per_minute=60, windows=20), refused=0.02, share=0.93)


@is_long
@pytest.mark.parametrize(("counting", "requests", "retry_after"), counted_in_turn([20, 10, 2, 1], ["whole", "none"]))
def test_a_limit_a_minute_enforced_as_fewer_in_less_is_found_out(counting: Counting, requests: int, retry_after: Any) -> None:
    """Of the first burst all that are under way are refused, and then a few, until the starts are spaced closely enough."""

    def make(chance: random.Random) -> Model:
        count = Count(requests, requests / 10, counting, phase=0.05)
        return Model(requests=count, dialect="none", retry_after=retry_after, latency=jitter(chance, 0.2, 1.0))

    check(measure(make, at_once=30, per_minute=600, windows=5), refused=0.025, share=0.93)


@is_long
@pytest.mark.parametrize(
    ("counting", "late", "limit"),
    counted_in_turn([0.01, 0.05, 0.1, 0.2], [(1, 60), (1, 600), (5, 300)], ways=["sliding", "bucket"]),
)
def test_bursts_are_kept_however_unevenly_calls_arrive(counting: Counting, late: float, limit: tuple[int, int]) -> None:
    """Of starts that are spaced by a second, those that take up to `late` seconds longer arrive so much too early or too late."""
    burst, per_minute = limit
    seconds = 60 * burst / per_minute

    def make(chance: random.Random) -> Model:
        count = Count(burst, seconds, counting)
        return Model(requests=count, dialect="none", latency=jitter(chance, 1.0, 3.0), delay=jitter(chance, 0.0, late * seconds))

    share = 0.95 if late < 0.05 else 0.95 - 1.1 * late  # no client that sends evenly can do better
    check(measure(make, at_once=50, per_minute=per_minute, burst=burst, windows=1200 / per_minute), share=share)


LIMITS = {"a minute": (100, 60.0, 4), "0.3 s": (20, 0.3, 0.3), "a second": (10, 1.0, 1), "five minutes": (500, 300.0, 6)}


@is_long
@pytest.mark.parametrize(("counting", "dialect", "limit_of"), counted_in_turn([*DIALECTS, "late"], LIMITS))
def test_limits_nobody_gave_are_learned_and_neither_overrun_nor_crawled_at(
    counting: Counting, dialect: Any, limit_of: str
) -> None:
    limit, seconds, windows = LIMITS[limit_of]
    tells_late, dialect = dialect == "late", "openai" if dialect == "late" else dialect

    def make(chance: random.Random) -> Model:
        count, latency = Count(limit, seconds, counting), jitter(chance, 0.1, 0.5)
        return Model(requests=count, dialect=dialect, tells_late=tells_late, latency=latency)

    # A reset told in whole seconds can be three times as long as the window, and no faster than that is it known to open.
    share = 0.85 if seconds > 1 or dialect == "openai" else 0.25 if seconds < 1 else 0.65
    check(measure(make, at_once=20, hooks=True, learned=True, windows=windows), refused=0.06, share=share)


@pytest.mark.parametrize("counting", ["sliding", "bucket"])
def test_others_who_use_the_same_key_are_made_room_for(counting: Counting) -> None:
    check(measure(server(100, None, counting, "quick", others=0.3), hooks=True), refused=0.1, share=0.9)

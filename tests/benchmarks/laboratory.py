"""Servers of every kind, and clients to measure on them: the adaptive node, a fixed one, and one that knows everything."""

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pocketflow_throttled import AdaptiveThrottledNode, SimulatedAPI, run_virtual

AT_ONCE = 100
INITIAL = 10
THRESHOLD, FACTOR = 10, 1.2  # the defaults of `recovery_threshold` and `recovery_factor`


def step(*changes: tuple[float, int | None]) -> Callable[[float], int | None]:
    """Return a limit that changes at given times."""

    def limit(now: float) -> int | None:
        return [value for since, value in changes if since <= now][-1]

    return limit


@dataclass(frozen=True)
class Server:
    """An API to be met unprepared: its settings, the batch, and how long an answer takes (log-normal)."""

    name: str
    items: int
    settings: dict[str, Any] = field(default_factory=dict)
    latency: float = 1.0
    sigma: float = 0.3
    jitter: float = 0.0

    def api(self, seed: int) -> SimulatedAPI:
        """Return the server; the same seed gives the same one."""
        chance = random.Random(f"{self.name} {seed} network")
        settings = {"max_concurrent": None, "retry_after": False, **self.settings}
        delay = settings.get("network_delay", 0.0)
        if self.jitter:
            settings["network_delay"] = lambda: delay * (1 + self.jitter * chance.random())
        return SimulatedAPI(latency=lambda item: self.latency_of(seed, item), **settings)

    def latency_of(self, seed: int, item: int) -> float:
        """Return the seconds that an item's answer takes."""
        return random.Random(f"{seed} {item}").lognormvariate(math.log(self.latency) - self.sigma**2 / 2, self.sigma)


@dataclass(frozen=True)
class Result:
    """What became of a batch: its speed, as a share of that of a client that knows all (`of_bound`: but must grow)."""

    speed: float
    of_bound: float
    refused: float
    lost: int
    seconds: float


def clairvoyant(server: Server, seed: int, *, grows: bool = False) -> float:
    """Return the seconds that a client needs which knows every limit and keeps to it, with at most 100 calls under way.

    One that `grows` starts with as many at once as the adaptive node, and has more after as many successes as that promises: no
    rule that keeps the promise can be faster.
    """
    api = server.api(seed)
    there_and_back = 2 * server.settings.get("network_delay", 0.0) * (1 + server.jitter / 2)
    now = ended = 0.0
    at_once, successes = INITIAL if grows else AT_ONCE, 0
    under_way: list[float] = []
    for item in range(server.items):
        while True:
            while under_way and under_way[0] <= now:
                heapq.heappop(under_way)
                successes += 1
                if successes >= THRESHOLD:
                    at_once, successes = min(AT_ONCE, max(at_once + 1, int(at_once * FACTOR))), 0
            cap = api.max_concurrent(now) if callable(api.max_concurrent) else api.max_concurrent
            wait = 0.0 if api._requests is None else api._requests.wait(now, 1)
            if len(under_way) >= min(at_once, cap or AT_ONCE):
                now = min(under_way[0], now + 0.1) if callable(api.max_concurrent) else under_way[0]
            elif wait > 0:
                now += wait + 1e-9
            else:
                break
        if api._requests is not None:
            api._requests.take(now, 1)
        end = now + server.latency_of(seed, item) + there_and_back
        heapq.heappush(under_way, end)
        ended = max(ended, end)
    return ended


class _Adaptive(AdaptiveThrottledNode):
    initial_concurrent = INITIAL
    min_concurrent = 1
    max_concurrent = AT_ONCE
    rate_limit_timeout = 10_000.0

    def __init__(self, api: SimulatedAPI, **settings: Any) -> None:
        self.api = api
        super().__init__(**settings)

    async def prep_async(self, shared: dict[str, Any]) -> Any:
        return range(shared["items"])

    async def exec_async(self, item: int) -> int:
        return await self.api.call(item)

    async def post_async(self, shared: dict[str, Any], prep_res: Any, exec_res_list: list[Any]) -> None:
        shared["results"] = exec_res_list
        shared["ended"] = asyncio.get_running_loop().time()


def adaptive(server: Server, seed: int) -> tuple[Result, AdaptiveThrottledNode]:
    """Run a batch through the adaptive node."""
    random.seed(f"{server.name} {seed}")
    api = server.api(seed)
    node = _Adaptive(api)
    shared: dict[str, Any] = {"items": server.items}
    run_virtual(node.run_async(shared))
    return _result(server, seed, api, shared["results"], shared["ended"]), node


async def _backing_off(api: SimulatedAPI, items: int, at_once: int) -> tuple[list[Any], float]:
    slots = asyncio.Semaphore(at_once)

    async def one(item: int) -> int:
        for attempt in range(10_000):
            async with slots:
                try:
                    return await api.call(item)
                except Exception:
                    pass
            await asyncio.sleep(random.uniform(0, min(60.0, 2.0 ** min(attempt, 6))))
        raise AssertionError

    results = await asyncio.gather(*(one(item) for item in range(items)))
    return list(results), asyncio.get_running_loop().time()


def fixed(server: Server, seed: int) -> Result:
    """Run a batch through a semaphore of 20 with jittered exponential backoff."""
    random.seed(f"{server.name} {seed}")
    api = server.api(seed)
    results, ended = run_virtual(_backing_off(api, server.items, 20))
    return _result(server, seed, api, results, ended)


def _result(server: Server, seed: int, api: SimulatedAPI, results: list[Any], ended: float) -> Result:
    lost = sum(result != item for item, result in enumerate(results)) + abs(len(results) - server.items)
    speed, of_bound = (clairvoyant(server, seed, grows=grows) / ended for grows in (False, True))
    return Result(speed, of_bound, api.refused / (api.refused + api.served), lost, ended)


def _window(limit: int, seconds: float, algorithm: str = "sliding_window", **more: Any) -> dict[str, Any]:
    return {"max_per_window": limit, "window_seconds": seconds, "algorithm": algorithm, **more}


# The rule was tuned on these ...
SEEN = [
    Server("cap 8", 800, {"max_concurrent": 8}),
    Server("cap 16, network", 1500, {"max_concurrent": 16, "network_delay": 0.05}, latency=2.0, jitter=0.5),
    Server("cap 40, slow refusals", 3000, {"max_concurrent": 40, "refusal_latency": 0.4}),
    Server("cap 3, long answers", 300, {"max_concurrent": 3}, latency=8.0, sigma=0.6),
    Server("no limit", 3000),
    Server("no limit, network", 2500, {"network_delay": 0.1}, latency=3.0, jitter=1.0, sigma=0.6),
    Server("600 a minute", 2400, _window(600, 60.0)),
    Server("600 a minute, hints", 2400, _window(600, 60.0, retry_after=True)),
    Server("60 a minute, fixed window, hints", 300, _window(60, 60.0, "fixed_window", retry_after=True)),
    Server("60 a minute, fixed window", 300, _window(60, 60.0, "fixed_window")),
    Server("10 a second", 1500, _window(10, 1.0), latency=1.5),
    Server("50 in 37 s", 400, _window(50, 37.0), latency=2.0),
    Server("slow bucket, 5 + 0.5 a second", 200, _window(5, 10.0, "token_bucket"), latency=1.0),
    Server("fast bucket, 60 + 20 a second", 3000, _window(60, 3.0, "token_bucket"), latency=1.0),
    Server("bucket of a minute, 120", 600, _window(120, 60.0, "token_bucket", retry_after=True), latency=3.0),
    Server("cap 10 to 40", 2000, {"max_concurrent": step((0, 10), (60, 40))}),
    Server("cap 40 to 10", 2000, {"max_concurrent": step((0, 40), (30, 10))}),
    Server("cap 20 and 300 a minute", 1200, _window(300, 60.0, max_concurrent=20), latency=2.0),
    Server("cap 12 and bucket 8 a second", 1500, _window(80, 10.0, "token_bucket", max_concurrent=12), latency=1.2),
    Server("slow refusals, 200 in 20 s", 1200, _window(200, 20.0, refusal_latency=0.5), latency=1.5, sigma=0.5),
    Server("cap 25, heavy tail", 2000, {"max_concurrent": 25, "network_delay": 0.03}, latency=1.5, sigma=0.8, jitter=1.0),
    Server("cap 5", 500, {"max_concurrent": 5, "network_delay": 0.1, "refusal_latency": 0.1}, latency=3.0),
    Server("cap 60 to 20 to 60", 4000, {"max_concurrent": step((0, 60), (25, 20), (80, 60))}),
    Server("no limit, quick answers", 4000, {"network_delay": 0.01}, latency=0.3),
    Server("1000 a minute, network", 3000, _window(1000, 60.0, network_delay=0.08), latency=1.0, jitter=1.0),
    Server("90 in 45 s, fixed", 450, _window(90, 45.0, "fixed_window"), latency=1.0),
    Server("3 a second", 600, _window(3, 1.0, network_delay=0.05), latency=2.0, jitter=1.0),
    Server("bucket, 10 + 2 a second, network", 500, _window(10, 5.0, "token_bucket", network_delay=0.1), latency=2.0, jitter=1.0),
    Server("bucket, 100 + 10 a second, hints", 1500, _window(100, 10.0, "token_bucket", retry_after=True), latency=0.8),
    Server("cap 30 and 500 a minute, hints", 2000, _window(500, 60.0, max_concurrent=30, retry_after=True), latency=1.5),
    Server("cap 8, asks for a second", 800, {"max_concurrent": 8, "retry_after": 1.0}),
    Server("cap 12, asks for 5 s", 1500, {"max_concurrent": 12, "network_delay": 0.05, "retry_after": 5.0}, jitter=0.5),
    Server("25 in 7 s, asks for a second", 600, _window(25, 7.0, retry_after=1.0), latency=1.5),
]


def random_server(seed: int) -> Server:
    """Return a server of any kind, some of them odd; the same seed gives the same one."""
    chance = random.Random(f"server {seed}")
    kind = ("none", "cap", "moving cap", "window", "clock", "bucket", "cap and window", "cap and bucket")[seed % 8]
    latency = round(_spread(chance, 0.4, 8.0), 2)
    settings: dict[str, Any] = {"refusal_latency": round(_spread(chance, 0.05, 0.8), 2) if chance.random() < 0.3 else 0.0}
    if chance.random() < 0.6:
        settings["network_delay"] = round(_spread(chance, 0.005, 0.2), 3)
    at_once = AT_ONCE
    if "cap" in kind:
        at_once = cap = int(_spread(chance, 3, 80))
        other, then = max(2, min(95, int(cap * chance.choice([0.25, 0.5, 2, 4])))), chance.uniform(20, 90)
        settings["max_concurrent"] = step((0, cap), (then, other)) if kind == "moving cap" else cap
    speed = at_once / latency  # calls a second
    if kind not in ("none", "cap", "moving cap"):
        algorithm = {"clock": "fixed_window", "bucket": "token_bucket", "cap and bucket": "token_bucket"}.get(
            kind, "sliding_window"
        )
        seconds = chance.choice([1.0, 60.0, 60.0, round(_spread(chance, 3, 60), 1)])
        limit = max(2, int(speed * seconds * chance.uniform(0.2, 0.8)))
        settings.update(_window(limit, seconds, algorithm, retry_after=chance.choice([False, False, True, 1.0])))
        speed = min(speed, limit / seconds)
    items = int(min(4000, max(300, speed * chance.uniform(150, 400))))
    sigma, jitter = chance.choice([0.2, 0.3, 0.5, 0.8]), chance.choice([0.0, 0.5, 1.0])
    if "cap" in kind and chance.random() < 0.3:  # it asks for as long, whatever it limits
        settings.setdefault("retry_after", chance.choice([1.0, 3.0, 8.0]))
    return Server(f"{seed}: {kind}", items, settings, latency, sigma, jitter)


def _spread(chance: random.Random, least: float, most: float) -> float:
    return math.exp(chance.uniform(math.log(least), math.log(most)))


# ... and never on these.
UNSEEN = [random_server(seed) for seed in range(2020, 2040)]

"""What an adaptive batch makes of APIs whose limits nobody told it, each with ways of its own, in virtual time.

On one of PocketFlow's sources: what is found out of an API does not depend on it.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pocketflow_throttled import (
    AdaptiveThrottledNode,
    RateLimitHit,
    SimulatedAPI,
    run_virtual,
)
from pocketflow_throttled.simulation import SimulatedRateLimitError

from .test_adaptive import Adapting, run, seconds_for
from .test_nodes import now

# A long simulation runs the same lines many times, which shorter ones cover: traced, it takes four times as long.
is_long = pytest.mark.no_cover


@pytest.mark.parametrize(
    "api",
    [
        {"max_concurrent": 4},
        {"max_per_window": 30, "window_seconds": 60.0},
        {"max_per_window": 30, "window_seconds": 60.0, "retry_after": False},
        {"max_per_window": 20, "window_seconds": 10.0, "algorithm": "token_bucket", "retry_after": False},
        {"max_per_window": 20, "window_seconds": 10.0, "algorithm": "fixed_window"},
        {"max_concurrent": 6, "max_per_window": 60, "network_delay": 0.1, "refusal_latency": 0.2},
    ],
    ids=str,
)
def test_an_api_whose_limits_nobody_knows_loses_nothing_and_refuses_little(api: dict[str, Any]) -> None:
    server = SimulatedAPI(latency=1.0, **api)
    node = Adapting(server.call, max_concurrent=50)
    assert run(node, range(300)) == list(range(300))
    assert server.served == 300
    assert server.refused <= 24


def test_an_api_that_takes_one_at_a_time_refuses_few_of_the_first_calls() -> None:
    api = SimulatedAPI(max_concurrent=1, latency=1.0, network_delay=0.03, retry_after=False)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)
    run(node, range(300))
    assert api.refused <= 0.04 * 300


@pytest.mark.parametrize("started", [0.0, 23.0, 50.0])
def test_windows_by_the_servers_clock_are_followed_wherever_in_one_the_batch_starts(started: float) -> None:
    api = SimulatedAPI(max_per_window=60, window_seconds=60.0, algorithm="fixed_window", latency=1.0, retry_after=False)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    async def later() -> float:
        await api.call("its clock is counted from the first call")
        await asyncio.sleep(started)
        shared = {"items": range(400)}
        await node.run_async(shared)
        assert shared["results"] == list(range(400))
        return now()

    ended = run_virtual(later())
    assert api.refused <= 0.07 * 400
    assert ended <= 60.0 * 7 + 20  # the windows that it takes, and what finding out may cost


@is_long
@pytest.mark.parametrize("seed", range(3))
def test_a_rate_by_the_second_is_told_from_a_cap_by_two_refusals_though_calls_are_long(seed: int) -> None:
    """At most ten in any second, and calls of six seconds: ten of them are refused together as by a cap."""
    chance = random.Random(seed)
    random.seed(seed)
    api = SimulatedAPI(
        max_per_window=10,
        window_seconds=1.0,
        latency=lambda _: chance.lognormvariate(math.log(6), 0.3),
        network_delay=lambda: chance.uniform(0.02, 0.05),
        retry_after=False,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 2000) <= (2000 / 10 + 6) / 0.77
    assert api.refused <= 0.01 * 2000


def uneven(seed: int, latency: tuple[float, float], delay: tuple[float, float], **limits: Any) -> tuple[SimulatedAPI, "Adapting"]:
    """Return an API whose calls take between two times, and are between two times on their way, and a node that meets it."""
    chance = random.Random(seed)
    random.seed(seed)
    api = SimulatedAPI(
        **{"max_concurrent": None, **limits},
        latency=lambda _: chance.uniform(*latency),
        network_delay=lambda: chance.uniform(*delay),
    )
    return api, Adapting(api.call, initial_concurrent=10, max_concurrent=100)


class _Counting:
    """An API that allows so many calls in any minute, those that it refused included, and may tell how long to wait."""

    def __init__(self, limit: int, wait: Callable[[float], float | None]) -> None:
        self.limit, self.wait = limit, wait
        self.counted: deque[float] = deque(maxlen=limit)
        self.refused = 0

    async def call(self, item: int) -> int:
        await asyncio.sleep(random.uniform(0.02, 0.05))
        opens = self.counted[0] + 60.0 if len(self.counted) == self.limit else -math.inf
        self.counted.append(now())
        if now() < opens:
            self.refused += 1
            await asyncio.sleep(random.uniform(0.02, 0.05))
            raise RateLimitHit(retry_after=self.wait(self.counted[0] + 60.0 - now()))
        await asyncio.sleep(random.lognormvariate(1.0, 0.4))
        return item


@is_long
@pytest.mark.parametrize("limit", [60, 300])
@pytest.mark.parametrize(
    ("wait", "windows", "share"),
    [(lambda seconds: seconds, 5.6, 0.02), (math.ceil, 5.6, 0.02), (lambda _: None, 6.1, 0.05)],
    ids=["exact", "rounded", "none"],
)
def test_an_api_that_counts_the_calls_that_it_refuses_is_not_tried_beyond_its_minute(
    limit: int, wait: Callable[[float], float | None], windows: float, share: float
) -> None:
    """Held by what was admitted alone, it refuses a call for each that it has refused, again and again."""
    refused = 0
    for seed in range(3):
        random.seed(seed)
        api = _Counting(limit, wait)
        assert seconds_for(Adapting(api.call, initial_concurrent=10, max_concurrent=100), round(5.5 * limit)) <= 60 * windows
        refused += api.refused
    assert refused <= share * 3 * 5.5 * limit


@is_long
@pytest.mark.parametrize(
    ("fit", "seconds", "latency", "delay"), [(49, 20.0, (0.8, 1.6), (0.09, 0.26)), (36, 15.0, (0.3, 0.5), (0.03, 0.23))]
)
def test_a_window_is_found_out_though_calls_differ_on_their_way(
    fit: int, seconds: float, latency: tuple[float, float], delay: tuple[float, float]
) -> None:
    """Some that started after the first refused one arrived before it, and the next window begins as late as any arrives."""
    refused = 0
    for seed in range(6):
        api, node = uneven(seed, latency, delay, max_per_window=fit, window_seconds=seconds, retry_after=False)
        assert seconds_for(node, 400) < 400 / fit * seconds * 1.25
        refused += api.refused
    assert refused < 0.05 * 6 * 400


@is_long
def test_one_call_at_a_time_is_no_cap_where_the_first_calls_are_refused_in_another_order_than_they_started() -> None:
    """A bucket of one, that refills in two thirds of a second, and calls of three seconds: with a cap of one it takes hours."""
    bucket = {"max_per_window": 1, "window_seconds": 1 / 1.49, "algorithm": "token_bucket"}
    for seed in range(10):
        _, node = uneven(seed, (2.0, 4.0), (0.06, 0.28), **bucket)
        assert seconds_for(node, 200) < 200 / 1.49 * 1.5


@is_long
def test_what_was_admitted_before_a_cap_fell_is_not_tried_again_and_again() -> None:
    def cap(now: float) -> int:
        return 30 if now < 30 else 8

    for seed in range(6):
        api, node = uneven(seed, (0.5, 0.9), (0.07, 0.19), max_concurrent=cap, retry_after=1.0)
        run(node, range(1500))
        assert api.refused < 0.11 * 1500


@is_long
@pytest.mark.parametrize(("cap", "wait"), [(40, 10.0), (20, 10.0), (12, 5.0)])
def test_a_cap_of_calls_that_all_take_a_second_is_not_taken_for_a_rate_by_the_second(cap: int, wait: float) -> None:
    """It admits as many in any second as at once, and asks for a wait that no limit by the second need ask for."""
    took = []
    for seed in range(8):
        api, node = uneven(seed, (0.98, 1.02), (0.05, 0.075), max_concurrent=cap, retry_after=wait)
        took.append(seconds_for(node, 1500))
        assert api.refused <= 0.015 * 1500

    assert sum(took) / len(took) <= 1.2 * 1500 * 1.125 / cap + 4 * wait


@is_long
@pytest.mark.parametrize(("count", "latency", "wait"), [(10, 3.8, 5.0), (8, 0.75, 5.0), (4, 0.6, 10.0), (6, 2.0, 10.0)])
def test_a_limit_by_the_second_that_asks_for_a_long_wait_is_found_out(count: int, latency: float, wait: float) -> None:
    """It is no window of that wait, though all that it admits fits into one: a call in the midst of it is served."""
    took = []
    for seed in range(8):
        times = 0.5 * latency, 1.5 * latency
        api, node = uneven(seed, times, (0.0, 0.0), max_per_window=count, window_seconds=1.0, retry_after=wait)
        took.append(seconds_for(node, 200 * count))
        assert api.refused <= 0.015 * 200 * count

    assert sum(took) / len(took) <= 200 / 0.55


@is_long
@pytest.mark.parametrize("wait", [False, 2.0])
def test_quick_calls_to_an_api_that_takes_one_at_a_time_are_not_slowed_down(wait: Any) -> None:
    """The first calls are refused before any has told how long one takes: what few starts there were then is no pace."""
    for seed in range(2):
        api, node = uneven(seed, (0.12, 0.12), (0.0, 0.02), max_concurrent=1, retry_after=wait)
        assert seconds_for(node, 800) <= 800 * 0.14 / 0.85
        assert api.refused <= 0.025 * 800


@is_long
def test_refused_calls_that_are_under_way_for_long_do_not_count_for_what_was_admitted() -> None:
    """A refusal takes longer than a call; what else is under way then is no evidence that so many are admitted at once."""
    speeds = []
    for seed in range(2):
        slow = partial(random.Random(seed).uniform, 1.4, 2.6)
        api, node = uneven(seed, (0.7, 1.3), (0.02, 0.06), max_concurrent=66, refusal_latency=slow, retry_after=1.0)
        speeds.append(2500 * 1.08 / 66 / seconds_for(node, 2500))
        assert api.refused <= 0.03 * 2500

    assert sum(speeds) / len(speeds) >= 0.7, speeds


@is_long
def test_a_cap_that_is_raised_is_found_out_soon_though_each_refusal_asks_to_wait() -> None:
    """A refused probe costs a pause, so it is made rarely; but what a raised cap allows is missed for longer."""
    took = []
    for seed in range(4):
        api, node = uneven(seed, (0.5, 1.5), (0.0, 0.02), max_concurrent=lambda at: 6 if at < 40 else 20, retry_after=2.0)
        took.append(seconds_for(node, 1280))
        assert api.refused <= 0.015 * 1280

    assert sum(took) / len(took) <= (40 + (1280 - 6 * 40 / 1.02) / (20 / 1.02)) / 0.62


def test_a_few_starts_in_a_few_seconds_are_a_pace_and_no_window() -> None:
    """A bucket that saves nothing up: four calls start in the first five seconds, one fewer than are allowed."""
    for seed in range(8):
        limits = {"max_per_window": 1, "window_seconds": 1 / 0.85, "algorithm": "token_bucket", "retry_after": False}
        api, node = uneven(seed, (0.8, 2.6), (0.0, 0.0), refusal_latency=0.05, **limits)
        assert seconds_for(node, 300) <= 300 / 0.85 / 0.8
        assert api.refused <= 0.06 * 300


@is_long
def test_what_may_fit_into_a_window_is_tried_with_one_call_and_no_burst() -> None:
    refused = []
    for seed in range(4):
        limits = {"max_per_window": 227, "window_seconds": 28.8, "algorithm": "fixed_window", "retry_after": False}
        api, node = uneven(seed, (0.3, 0.9), (0.0, 0.0), refusal_latency=0.05, **limits)

        async def later(node: Adapting = node) -> None:
            await asyncio.sleep(19.1)
            await node.run_async({"items": range(600)})

        run_virtual(later())
        refused.append(api.refused)

    assert sum(refused) / len(refused) <= 0.062 * 600


@pytest.mark.parametrize("hint", [True, False])
def test_two_a_second_of_calls_that_all_take_15_seconds_are_not_taken_for_a_cap(hint: bool) -> None:
    """A few calls start together, so a few of them end together, and the next few are refused together."""
    random.seed(1)
    api = SimulatedAPI(max_per_window=2, window_seconds=1.0, latency=15.0, network_delay=0.02, retry_after=hint)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 900) <= (900 / 2 + 15) / 0.75
    assert api.refused <= 0.02 * 900


@is_long
def test_slots_are_filled_while_a_slow_refusal_of_a_probe_is_awaited() -> None:
    """A refusal takes as long as a call: if all starts waited for it whenever one goes beyond proven ground, none would run."""
    speeds = []
    for seed in range(3):
        chance = random.Random(seed)
        random.seed(seed)
        api = SimulatedAPI(
            max_concurrent=25,
            latency=partial(lambda chance, _: chance.lognormvariate(math.log(2), 0.4), chance),
            network_delay=partial(chance.uniform, 0.1, 0.5),
            refusal_latency=2.0,
            retry_after=False,
        )
        node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

        speeds.append(1500 * (2 * math.exp(0.08) + 0.6) / 25 / seconds_for(node, 1500))
    assert sum(speeds) / len(speeds) >= 0.85, speeds


def test_calls_that_may_yet_be_refused_are_not_taken_for_admitted() -> None:
    """A refusal takes a second: those under way when one is back may be refused as well."""
    chance = random.Random(0)
    random.seed(0)
    api = SimulatedAPI(
        max_concurrent=32,
        max_per_window=165,
        window_seconds=22.3,
        algorithm="fixed_window",
        latency=lambda _: chance.lognormvariate(math.log(0.55), 0.1),
        refusal_latency=1.0,
        retry_after=False,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)
    assert seconds_for(node, 5 * 165) <= 6 * 22.3
    assert api.refused <= 0.4 * 5 * 165


def test_a_cap_that_falls_is_not_taken_for_a_pace() -> None:
    chance = random.Random(3)
    random.seed(3)
    api = SimulatedAPI(
        max_concurrent=lambda time: 40 if time < 40 else 10,
        latency=lambda _: chance.lognormvariate(0.6, 0.4),
        network_delay=lambda: chance.uniform(0.015, 0.045),
        retry_after=False,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    ideal = 40 + (1500 - 40 * 40 / 2) * 2 / 10
    assert seconds_for(node, 1500) <= ideal / 0.75
    assert api.refused <= 0.03 * 1500


def test_an_api_that_is_nearly_down_for_a_while_is_used_again_soon() -> None:
    chance = random.Random(5)
    random.seed(5)
    api = SimulatedAPI(
        max_concurrent=lambda time: 2 if 20 <= time and (time - 20) % 60 < 8 else 30,
        latency=lambda _: chance.lognormvariate(0.6, 0.4),
        network_delay=lambda: chance.uniform(0.02, 0.06),
        retry_after=1.0,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 1500) <= 3 * (1500 * 2 / 30) / 0.87
    assert api.served == 1500


@pytest.mark.parametrize("hint", [None, 30.0])
@pytest.mark.parametrize("until", [303.0, 3603.0])
def test_an_outage_is_not_taken_for_a_window_for_long(until: float, hint: float | None) -> None:
    random.seed(1)

    async def call(item: int) -> int:
        if 3 <= now() < until:
            await asyncio.sleep(0.05)
            raise RateLimitHit("down", retry_after=hint)
        await asyncio.sleep(1)
        return item

    node = Adapting(call, rate_limit_timeout=10_000)

    assert seconds_for(node, 400) <= until + 65 + 3 * 400 / 20  # the longest wait for a try, and the rest of the batch


@is_long
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_calls_refused_at_random_slow_a_batch_but_never_without_end(share: float) -> None:
    chance = random.Random(7)
    random.seed(7)

    async def call(item: int) -> int:
        await asyncio.sleep(0.05)
        if chance.random() < share:
            raise RateLimitHit("no reason")
        await asyncio.sleep(2)
        return item

    node = Adapting(call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 1000) <= 1000 * 30


@is_long
def test_a_refusal_now_and_then_that_has_no_reason_slows_a_batch_little() -> None:
    speeds = []
    for seed in range(1, 4):
        chance = random.Random(seed)
        random.seed(seed)
        latency = partial(chance.lognormvariate, math.log(2), 0.3)
        api = SimulatedAPI(max_concurrent=28, latency=lambda _, latency=latency: latency(), retry_after=False)

        async def call(item: int, api: SimulatedAPI = api, chance: random.Random = chance) -> Any:
            if chance.random() < 0.01:
                await asyncio.sleep(0.05)
                raise RateLimitHit("no reason")
            return await api.call(item)

        speeds.append(2500 * 2.1 / 28 / seconds_for(Adapting(call, initial_concurrent=10, max_concurrent=100), 2500))
    assert sum(speeds) / len(speeds) >= 0.83


def test_a_long_wait_at_a_refused_probe_is_a_windows() -> None:
    """At most 6 at once and 60 in a minute: what is refused beyond six may be the window's to refuse."""
    api = SimulatedAPI(max_concurrent=6, max_per_window=60, latency=1.0, network_delay=0.1, refusal_latency=0.2)
    node = Adapting(api.call, max_concurrent=50)
    assert run(node, range(300)) == list(range(300))
    assert api.refused <= 0.06 * 300
    assert 6 <= node.current_concurrent <= 9


@is_long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hint", [3.0, 6.0])
def test_a_cap_that_asks_for_long_waits_is_not_taken_for_a_window_again_and_again(hint: float, seed: int) -> None:
    """A wait that is the same whenever it is asked for tells no window; each one costs what is under way in that time."""
    chance = random.Random(seed)
    random.seed(seed)
    api = SimulatedAPI(
        max_concurrent=12,
        latency=lambda _: chance.uniform(0.4, 1.2),
        network_delay=lambda: chance.uniform(0.03, 0.08),
        retry_after=hint,
    )
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 2000) <= 2000 * 0.91 / 12 / 0.75
    assert api.refused <= 0.02 * 2000


@pytest.mark.parametrize("cap", [1, 3, 8])
def test_a_cap_below_the_first_calls_at_once_that_asks_for_30_seconds_costs_a_few_of_these(cap: int) -> None:
    """All calls take as long, and none takes any time on its way: each refusal comes after as many calls as the one before."""
    random.seed(1)
    api = SimulatedAPI(max_concurrent=cap, latency=0.5, retry_after=30.0)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 120 * cap) <= 120 * 0.5 + 3 * 30
    assert api.refused <= 5


@pytest.mark.parametrize(("limit", "seconds", "more"), [(60, 60.0, {}), (37, 23.0, {}), (100, 10.0, {"max_concurrent": 20})])
def test_a_window_that_tells_when_the_first_place_is_free_is_not_taken_for_a_cap(
    limit: int, seconds: float, more: dict[str, Any]
) -> None:
    """The next wait is short, and tells nothing, as places become free one by one: the window of the first one holds."""
    random.seed(1)
    api = SimulatedAPI(max_per_window=limit, window_seconds=seconds, latency=1.0, retry_after=True, **more)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 5 * limit) <= 5.1 * seconds  # one place in it is lost: it may have been down, so it is asked again
    assert api.refused <= 7


def test_a_pace_of_one_call_in_five_seconds_is_found_out_by_two_cycles_of_tries() -> None:
    random.seed(1)
    api = SimulatedAPI(max_per_window=12, window_seconds=60.0, algorithm="token_bucket", latency=0.5, retry_after=False)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 200) <= (200 - 12) * 5 / 0.95
    assert api.refused <= 0.16 * 200


@pytest.mark.parametrize("algorithm", ["sliding_window", "fixed_window"])
def test_a_window_that_tells_when_it_ends_is_known_after_two_of_them(algorithm: Any) -> None:
    """The first refusal comes with more calls under way than ever, so that it might be meant for those."""
    api = SimulatedAPI(max_per_window=12, window_seconds=20.0, algorithm=algorithm, latency=4.0, retry_after=True)
    node = Adapting(api.call, initial_concurrent=20, max_concurrent=100)

    assert run(node, range(240)) == list(range(240))
    assert api.refused <= 0.06 * 240
    assert node.current_concurrent >= 12


@pytest.mark.parametrize("idle", [0, 60, 3600])
def test_hours_in_which_nobody_calls_are_not_taken_for_what_the_api_allows(idle: float) -> None:
    chance = random.Random(3)
    took: list[float] = []

    class Now(AdaptiveThrottledNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(10)

        async def exec_async(self, item: int) -> int:
            await asyncio.sleep(1)
            if chance.random() < 0.03:
                raise RateLimitHit("busy")
            return item

    async def main() -> None:
        node = Now(max_concurrent=5)
        for _ in range(100):
            began = asyncio.get_running_loop().time()
            await node.run_async({})
            took.append(asyncio.get_running_loop().time() - began)
            await asyncio.sleep(idle)

    run_virtual(main())
    assert max(took) < 30


class _Down(AdaptiveThrottledNode):
    """Calls take a second; from `since` to `until` all are refused."""

    max_concurrent = 20
    since, until = 2.0, math.inf
    cap = math.inf

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.under_way = 0

    async def prep_async(self, shared: Any) -> Any:
        return range(shared)

    async def exec_async(self, item: int) -> int:
        down = self.since <= now() < self.until or self.under_way >= self.cap
        if down:
            await asyncio.sleep(0.05)
            raise RateLimitHit("down")
        self.under_way += 1
        await asyncio.sleep(0.95 + item % 3 * 0.05)
        self.under_way -= 1
        return item

    async def exec_fallback_async(self, item: int, exc: Exception) -> None:
        return None


@is_long
@pytest.mark.parametrize("seconds", [5.0, 60.0, 400.0, 3000.0])
@pytest.mark.parametrize("since", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("cap", [4, math.inf])
def test_an_api_that_is_down_at_first_is_not_taken_for_one_that_allows_few_calls(
    cap: float, since: float, seconds: float
) -> None:
    async def main() -> float:
        node = _Down(rate_limit_timeout=1e5)
        node.cap = cap
        node.since, node.until = now() + since, now() + since + seconds
        await node.run_async(600)
        return now() - node.until

    assert run_virtual(main()) < 90 + 600 / min(cap, 20)


@is_long
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("since", "seconds"), [(5.0, 600.0), (30.0, 600.0), (5.0, 30.0)])
def test_an_api_that_was_down_is_not_taken_for_a_window_since_something_else_refused_a_call_then(
    since: float, seconds: float, seed: int
) -> None:
    """It allows ten calls a second, and so refuses the one that was to tell whether there is a window of that length."""
    chance = random.Random(seed)
    random.seed(seed)
    until = since + seconds
    api = SimulatedAPI(
        max_per_window=10, window_seconds=1.0, latency=lambda _: chance.uniform(0.9, 1.1), refusal_latency=0.05, retry_after=False
    )

    async def call(item: int) -> int:
        if since <= now() < until:
            await asyncio.sleep(0.05)
            raise RateLimitHit("down", retry_after=5.0)
        return await api.call(item)

    assert seconds_for(Adapting(call, rate_limit_timeout=1e5), 600) < until + 600 / 10 + max(60, 0.2 * seconds)


@pytest.mark.parametrize("until", [30.0, 120.0])
def test_an_api_that_refuses_half_of_the_calls_for_a_while_is_not_taken_for_one_that_allows_few(until: float) -> None:
    took = []
    for seed in range(6):
        chance = random.Random(seed)
        random.seed(seed)

        async def call(item: int, chance: random.Random = chance) -> int:
            if now() < until and chance.random() < 0.5:
                await asyncio.sleep(0.05)
                raise RateLimitHit("busy", retry_after=5.0)
            await asyncio.sleep(chance.uniform(0.9, 1.1))
            return item

        took.append(seconds_for(Adapting(call, rate_limit_timeout=1e5), 600) - until)
    assert sum(took) / len(took) < 450


@pytest.mark.parametrize("seed", range(3))
def test_an_api_that_refused_half_of_the_calls_for_long_is_used_again_when_it_does_not(seed: int) -> None:
    """In a quarter of an hour it asked to wait for a minute each time, and a call in 840 seconds was all that it admitted."""
    chance = random.Random(seed)
    random.seed(seed)

    async def call(item: int) -> int:
        if 1 < now() < 900 and chance.random() < 0.5:
            await asyncio.sleep(0.05)
            raise RateLimitHit("busy", retry_after=60.0)
        await asyncio.sleep(chance.uniform(0.9, 1.1))
        return item

    assert seconds_for(Adapting(call, rate_limit_timeout=1e5), 600) < 900 + 500


@pytest.mark.parametrize("since", [0.5, 5.0])
def test_one_long_wait_that_is_asked_for_early_does_not_hold_a_batch_back_for_long(since: float) -> None:
    async def call(item: int) -> int:
        if since <= now() < since + 1:
            await asyncio.sleep(0.05)
            raise RateLimitHit("down", retry_after=30.0)
        await asyncio.sleep(0.95 + item % 3 * 0.05)
        return item

    assert seconds_for(Adapting(call), 600) <= 30 + 80  # at the best 30 + 30


def test_a_batch_long_after_one_that_was_given_up_is_as_fast_as_any() -> None:
    async def main() -> float:
        node = _Down(rate_limit_timeout=100.0)
        node.since = now() + 2
        await node.run_async(60)
        await asyncio.sleep(3600)
        node.since, began = math.inf, now()
        await node.run_async(300)
        return now() - began

    assert run_virtual(main()) < 40


def test_a_window_of_the_users_own_that_holds_calls_back_is_no_time_in_which_nobody_calls() -> None:
    """Fifty in any minute of which the user allows sixty; asked to wait a second, whatever is left of the minute."""
    api = SimulatedAPI(max_concurrent=None, max_per_window=50, window_seconds=60.0, latency=1.0, retry_after=1.0)

    class Ask(AdaptiveThrottledNode):
        max_per_minute = 60

        async def prep_async(self, shared: Any) -> Any:
            return range(500)

        async def exec_async(self, item: int) -> int:
            return await api.call(item)

    run_virtual(Ask(rate_limit_timeout=1e4).run_async({}))
    assert api.refused < 50


@is_long
@pytest.mark.parametrize("hint", [None, 1.0, True])
@pytest.mark.parametrize("holds", [1, 2])
def test_a_bucket_that_holds_a_call_or_two_is_not_taken_for_a_cap_of_so_many(holds: int, hint: Any) -> None:
    """A second call right after the first is refused whatever a probe is meant to find out, and one between two is not."""
    for seed in range(4):
        bucket = {
            "max_per_window": holds,
            "window_seconds": holds / 10,
            "algorithm": "token_bucket",
            "retry_after": hint or False,
        }
        api, node = uneven(seed, (0.7, 1.3), (0.0, 0.0), refusal_latency=0.05, **bucket)
        assert seconds_for(node, 600) < 2.5 * 600 / 10
        assert api.refused < 0.04 * 600


@is_long
def test_a_cap_that_fell_far_and_asks_for_long_waits_is_not_taken_for_a_clock_for_ever() -> None:
    """Five in each wait, by a clock, would explain as much, and be refused once in a while for ever."""
    for seed in range(2):
        chance = random.Random(seed)
        random.seed(seed)
        cap = {"max_concurrent": lambda now: 22 if now < 60 else 5, "retry_after": 8.0}
        api = SimulatedAPI(latency=lambda _: chance.lognormvariate(-0.05, 0.2), **cap)  # noqa: B023  (called in this turn only)
        node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)
        assert seconds_for(node, 3800) < 1.5 * (60 + (3800 - 60 * 22) / 5)


@is_long
def test_a_cap_is_no_rate_since_refused_calls_seem_to_be_under_way_as_another_is_admitted() -> None:
    """Where a refusal takes longer than an answer: the client has more under way than the server, which has refused some."""
    for seed in range(4):
        limits = {"max_concurrent": 3, "max_per_window": 216, "window_seconds": 46.2, "retry_after": True}
        api, node = uneven(seed, (0.4, 0.56), (0.0, 0.0), refusal_latency=0.73, **limits)
        assert seconds_for(node, 885) < 4 * 46.2 / 0.93
        assert api.refused < 0.03 * 885


class _OverloadedError(Exception):
    """What Anthropic's client raises where the API has too much to do for anybody."""

    status_code = 529
    response: Any = None


@pytest.mark.parametrize(("since", "seconds"), [(12.0, 8.0), (20.0, 15.0), (20.0, 60.0), (60.0, 30.0)])
@pytest.mark.parametrize("cap", [20, math.inf])
def test_an_api_that_had_too_much_to_do_is_used_again_as_before_at_once(since: float, seconds: float, cap: float) -> None:
    """It tells by its status that no limit is the reason, so nothing is found out but when it takes calls again."""
    chance = random.Random(1)
    active = 0

    async def call(item: int) -> int:
        nonlocal active
        await asyncio.sleep(0.02)
        if active >= cap or since <= now() < since + seconds:
            raise _OverloadedError
        active += 1
        await asyncio.sleep(chance.lognormvariate(0.3, 0.5))
        active -= 1
        return item

    served_at: list[float] = []

    async def timed(item: int) -> int:
        result = await call(item)
        served_at.append(now())
        return result

    node = Adapting(timed, initial_concurrent=10, max_concurrent=100)
    items = range(1500 if cap == 20 else 9000)
    assert run(node, items) == list(items)
    again = since + 2 * seconds + 2.5  # at the latest, as it is tried after as long again
    usual = sum(since - 4.0 <= at < since for at in served_at)
    assert sum(again <= at < again + 4.0 for at in served_at) >= 0.75 * usual


@is_long
@pytest.mark.parametrize(
    "limit", [{"max_per_window": 60}, {"max_per_window": 20, "window_seconds": 2.0, "algorithm": "token_bucket"}]
)
def test_a_limit_that_is_told_by_the_status_of_an_overload_is_found_out_all_the_same(limit: dict[str, Any]) -> None:
    api, told = SimulatedAPI(latency=1.5, **limit), 0

    async def call(item: int) -> int:
        nonlocal told
        try:
            return await api.call(item)
        except SimulatedRateLimitError as refusal:
            told += 1
            error = _OverloadedError("Service Unavailable")
            error.status_code, error.response = 503, refusal.response
            raise error from None

    node = Adapting(call, initial_concurrent=10, max_concurrent=100)
    assert run(node, range(300)) == list(range(300))
    assert 0 < told <= 0.05 * 300


@is_long
@pytest.mark.parametrize("seed", range(4))
def test_two_short_outages_are_not_taken_for_a_window_of_the_servers_clock(seed: int) -> None:
    """It refuses all with 429 for five seconds, twice: each tells about when it was open, and no more."""
    chance = random.Random(seed)

    async def call(item: int) -> int:
        await asyncio.sleep(0.06)
        if 20.0 <= now() < 25.0 or 50.0 <= now() < 55.0:
            raise RateLimitHit(retry_after=2)
        await asyncio.sleep(chance.lognormvariate(0.3, 0.5))
        return item

    assert seconds_for(Adapting(call, initial_concurrent=10, max_concurrent=100), 4000) < 100.0


@is_long
def test_two_outages_of_an_api_with_a_cap_are_no_windows_though_its_cap_refuses_as_one_is_tried() -> None:
    """Eight seconds, twice, told by no status nor hint; 4,000 calls at 40 at once take 150 seconds, and the outages 16."""
    took = []
    for seed in range(6):
        chance = random.Random(seed)
        random.seed(seed)
        active = 0

        async def call(item: int, chance: random.Random = chance) -> int:
            nonlocal active
            await asyncio.sleep(chance.lognormvariate(-2.9, 0.5))
            if active >= 40 or 30.0 <= now() < 38.0 or 80.0 <= now() < 88.0:
                raise RateLimitHit
            active += 1
            await asyncio.sleep(chance.lognormvariate(0.3, 0.5))
            active -= 1
            return item

        took.append(seconds_for(Adapting(call, initial_concurrent=10, max_concurrent=100), 4000))
    assert sum(took) / len(took) < 215.0


def refused_in_storms(api: SimulatedAPI, items: int) -> int:
    """Return how many refused calls were sent while another was under way that was refused, too."""
    refused: list[tuple[float, float]] = []

    async def call(item: int) -> Any:
        sent = now()
        try:
            return await api.call(item)
        except SimulatedRateLimitError:
            refused.append((sent, now()))
            raise

    run(Adapting(call, initial_concurrent=10, max_concurrent=100), range(items))
    first, *others = sorted(refused)
    storms = 0
    for sent, ended in others:
        if sent < first[1]:
            storms += 1
        else:
            first = sent, ended
    return storms


@pytest.mark.parametrize(("holds", "latency", "items", "most"), [(300, 2.5, 900, 16), (30, 0.4, 150, 5)])
def test_calls_that_wait_for_a_bucket_to_refill_do_not_come_back_together(
    holds: int, latency: float, items: int, most: int
) -> None:
    storms = []
    for seed in range(4):
        chance = random.Random(seed)
        random.seed(seed)
        api = SimulatedAPI(
            max_per_window=holds,
            algorithm="token_bucket",
            latency=lambda _, chance=chance: chance.lognormvariate(math.log(latency), 0.4),
            network_delay=0.02,
            refusal_latency=0.02,
            retry_after=1.0,
        )
        storms.append(refused_in_storms(api, items))
    assert sum(storms) <= 4 * most

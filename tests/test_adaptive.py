"""What adaptive nodes, flows and limiters promise, in virtual time, on both of PocketFlow's sources."""

import asyncio
import logging
import math
import random
import threading
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketflow import AsyncNode

from pocketflow_throttled import (
    Adaptive,
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    FlowPresets,
    LimiterRegistry,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledParallelBatchNode,
    run_virtual,
    signals,
)
from pocketflow_throttled.aimd import AdaptiveRule
from pocketflow_throttled.simulation import SimulatedRateLimitError

from .test_nodes import Batch, now

pytestmark = pytest.mark.usefixtures("any_pocketflow")


class Adapting(Batch, AdaptiveThrottledNode):
    """Batch, on the adaptive class."""


def run(node: Any, items: Any) -> Any:
    shared = {"items": items}
    run_virtual(node.run_async(shared))
    return shared["results"]


# --- the rule


def serve(rule: AdaptiveRule, count: int, *, at: float = 1.0, clean: bool = True, in_use: bool = True) -> None:
    for _ in range(count):
        rule.succeeded(at, at - 0.5, rule.limit, in_use=in_use, clean=clean)


def seconds_for(node: Adapting, items: int) -> float:
    """Return the virtual seconds that a batch takes."""

    async def timed() -> float:
        await node.run_async({"items": range(items)})
        return now()

    return run_virtual(timed())


def test_32_at_once_of_which_16_are_refused_together_leave_16() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=32, max_concurrent=64))
    for level in range(1, 33):
        rule.started(0.0, level)
    for level in range(17, 33):
        rule.refused(0.1, 0.0, level)
    assert rule.limit == 16
    assert rule.refusals == 16


def test_what_was_served_together_with_what_was_refused_does_not_soften_the_cut() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=32, max_concurrent=64))
    for level in range(1, 33):
        rule.started(0.0, level)
    for level in range(1, 17):
        rule.succeeded(1.0, 0.0, level, in_use=True, clean=True)
    assert rule.limit == 38
    for level in range(17, 33):
        rule.refused(1.0, 0.0, level)
    assert rule.limit == 16


def test_a_limit_of_1_recovers_with_the_default_factors() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=1, max_concurrent=20))
    serve(rule, 10)
    assert rule.limit == 2
    serve(rule, 10)
    assert rule.limit == 3


def test_successes_in_a_row_raise_by_the_factor_and_never_above_the_maximum() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10, max_concurrent=13, recovery_threshold=4, recovery_factor=1.2))
    serve(rule, 3)
    assert rule.limit == 10
    serve(rule, 1)
    assert rule.limit == 12
    serve(rule, 4)
    assert rule.limit == 13


def test_only_a_limit_that_is_in_use_grows() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10))
    serve(rule, 100, in_use=False)
    assert rule.limit == 10
    assert rule.streak == 100


def test_every_call_that_ran_while_the_limit_was_full_counts_before_the_first_refusal() -> None:
    node = Adapting(lambda _: asyncio.sleep(1.0), initial_concurrent=10, max_concurrent=100)
    seconds_for(node, 10 + 12 + 14 + 16)  # each as many as the limit, all of which end together
    assert node.current_concurrent == 22  # 10, 12, 14, 16, 19, 22: one for each ten
    assert node.stats["consecutive_successes"] == 52


def test_calls_that_take_no_time_are_not_spaced_by_a_guess() -> None:
    node = Adapting(lambda _: asyncio.sleep(0), initial_concurrent=10, max_concurrent=100)
    assert seconds_for(node, 1000) < 0.01


def test_a_success_that_took_a_retry_is_no_evidence_of_room() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=10))
    serve(rule, 100, clean=False)
    assert rule.limit == 10


def test_the_limit_never_falls_below_the_minimum() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=8, min_concurrent=3))
    for time in range(1, 10):
        rule.started(float(time), 1)
        rule.refused(time + 0.5, float(time), 1)
    assert rule.limit == 3


def test_a_refusal_cuts_by_the_backoff_factor() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=20, backoff_factor=0.8))
    rule.started(0.0, 1)
    rule.refused(0.1, 0.0, 1)
    assert rule.limit == 16


def test_a_refused_probe_beyond_a_known_ceiling_only_ends_the_probe() -> None:
    rule = AdaptiveRule(Adaptive(initial_concurrent=9, max_concurrent=50))
    rule.started(0.0, 9)
    rule.refused(0.1, 0.0, 9)  # eight others were under way: the ceiling
    assert (rule.limit, rule.ceiling) == (4, 8)
    time = 1.0
    while rule.limit < 9:
        time += 0.1
        if rule.may_start(time, 1):
            rule.started(time, min(rule.limit, 8))
            rule.succeeded(time + 0.05, time, min(rule.limit, 8), in_use=True, clean=True)
        assert time < 100
    rule.started(time + 1, 9)
    rule.refused(time + 1.1, time + 1, 9)
    assert (rule.limit, rule.ceiling) == (8, 8)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 20), st.floats(0.05, 0.95), st.floats(1.01, 4))
def test_the_limit_stays_within_its_bounds_whatever_happens(seed: int, least: int, more: int, cut: float, growth: float) -> None:
    chance = random.Random(seed)
    rule = AdaptiveRule(Adaptive(None, least, least + more, cut, chance.randint(1, 5), growth))
    under_way: list[tuple[float, int]] = []
    time = 0.0
    for _ in range(300):
        time += chance.choice([0.0, 0.01, 1.0])
        if chance.random() < 0.5 and rule.may_start(time, len(under_way) + 1):
            under_way.append((time, len(under_way) + 1))
            rule.started(*under_way[-1])
        elif under_way:
            started, level = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() < 0.3:
                rule.refused(time, started, level, chance.choice([None, None, 0.0, 2.0]))
            elif chance.random() < 0.2:
                rule.unsent(started)
            else:
                rule.succeeded(time, started, level, in_use=chance.random() < 0.7, clean=chance.random() < 0.9)
        assert least <= rule.limit <= least + more
        assert math.isfinite(rule.opens_at) or rule.opens_at == -math.inf


# --- the node


def test_a_batch_of_500_on_an_api_that_takes_8_started_at_32_ends_in_order() -> None:
    api = SimulatedAPI(max_concurrent=8, latency=lambda item: 0.5 + item % 7 / 10)
    node = Adapting(api.call, initial_concurrent=32, max_concurrent=64)
    assert run(node, range(500)) == list(range(500))
    assert node.current_concurrent in (8, 9)
    assert node.stats["total_rate_limits"] == api.refused < 35
    assert node.stats["total_successes"] == 500


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
        await asyncio.sleep(started)
        shared = {"items": range(400)}
        await node.run_async(shared)
        assert shared["results"] == list(range(400))
        return now()

    ended = run_virtual(later())
    assert api.refused <= 0.06 * 400
    assert ended <= 60.0 * 7 + 20  # the windows that it takes, and what finding out may cost


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


@pytest.mark.parametrize(("cap", "wait"), [(40, 10.0), (20, 10.0), (12, 5.0)])
def test_a_cap_of_calls_that_all_take_a_second_is_not_taken_for_a_rate_by_the_second(cap: int, wait: float) -> None:
    """It admits as many in any second as at once, and asks for a wait that no limit by the second need ask for."""
    took = []
    for seed in range(4):
        api, node = uneven(seed, (0.98, 1.02), (0.05, 0.075), max_concurrent=cap, retry_after=wait)
        took.append(seconds_for(node, 1500))
        assert api.refused <= 0.015 * 1500

    assert sum(took) / len(took) <= 1.2 * 1500 * 1.125 / cap + 3 * wait


@pytest.mark.parametrize(("count", "latency", "wait"), [(10, 3.8, 5.0), (8, 0.75, 5.0), (4, 0.6, 10.0), (6, 2.0, 10.0)])
def test_a_limit_by_the_second_that_asks_for_a_long_wait_is_found_out(count: int, latency: float, wait: float) -> None:
    """It is no window of that wait, though all that it admits fits into one: a call in the midst of it is served."""
    took = []
    for seed in range(4):
        times = 0.5 * latency, 1.5 * latency
        api, node = uneven(seed, times, (0.0, 0.0), max_per_window=count, window_seconds=1.0, retry_after=wait)
        took.append(seconds_for(node, 200 * count))
        assert api.refused <= 0.015 * 200 * count

    assert sum(took) / len(took) <= 200 / 0.55


@pytest.mark.parametrize("wait", [False, 2.0])
def test_quick_calls_to_an_api_that_takes_one_at_a_time_are_not_slowed_down(wait: Any) -> None:
    """The first calls are refused before any has told how long one takes: what few starts there were then is no pace."""
    for seed in range(4):
        api, node = uneven(seed, (0.12, 0.12), (0.0, 0.02), max_concurrent=1, retry_after=wait)
        assert seconds_for(node, 800) <= 800 * 0.14 / 0.85
        assert api.refused <= 0.025 * 800


def test_refused_calls_that_are_under_way_for_long_do_not_count_for_what_was_admitted() -> None:
    """A refusal takes longer than a call; what else is under way then is no evidence that so many are admitted at once."""
    speeds = []
    for seed in range(2):
        slow = partial(random.Random(seed).uniform, 1.4, 2.6)
        api, node = uneven(seed, (0.7, 1.3), (0.02, 0.06), max_concurrent=66, refusal_latency=slow, retry_after=1.0)
        speeds.append(2500 * 1.08 / 66 / seconds_for(node, 2500))
        assert api.refused <= 0.03 * 2500

    assert sum(speeds) / len(speeds) >= 0.7, speeds


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


def test_the_limiter_follows_when_fewer_at_once_are_tried_after_a_long_wait(caplog: pytest.LogCaptureFixture) -> None:
    """At most 3 at once, of which 10 are tried: a cut leaves 5, and after the wait no more than were admitted are tried."""
    caplog.set_level(logging.INFO, "pocketflow_throttled")
    random.seed(1)
    api = SimulatedAPI(max_concurrent=3, latency=2.0, retry_after=30.0)
    most = 0

    async def call(item: int) -> Any:
        nonlocal most
        if now() > 30.5:  # the call that tries alone was admitted
            most = max(most, node.limiter.active)
            assert node.limiter.max_concurrent == node.current_concurrent <= 3
        return await api.call(item)

    node = Adapting(call, initial_concurrent=10, max_concurrent=100)
    assert run(node, range(12)) == list(range(12))
    assert most == 3
    assert [record.getMessage() for record in caplog.records if "as many as were admitted" in record.getMessage()] == [
        "Adapting: 3 at once, was 5 (as many as were admitted)"
    ]


def test_no_change_is_logged_under_the_lock_which_whoever_logs_a_limiter_takes(caplog: pytest.LogCaptureFixture) -> None:
    """Else two threads wait for each other: one shows the limiter while it holds the log, one logs a change of the limiter."""
    caplog.set_level(logging.INFO, "pocketflow_throttled")
    random.seed(1)
    free: list[tuple[str, bool]] = []
    limiter = RateLimiter(adaptive=Adaptive(initial_concurrent=10))
    api = SimulatedAPI(max_concurrent=3, latency=2.0, retry_after=30.0)

    def look(reason: str) -> None:
        free.append((reason, limiter._lock.acquire(blocking=False)))
        if free[-1][1]:
            limiter._lock.release()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            thread = threading.Thread(target=look, args=(record.args[-1],))
            thread.start()
            thread.join()

    handler, logger = Handler(), logging.getLogger("pocketflow_throttled")
    logger.addHandler(handler)
    try:
        run(Adapting(api.call, shared_limiter=limiter), range(12))
    finally:
        logger.removeHandler(handler)
    assert free[:2] == [("refused", True), ("as many as were admitted", True)]
    assert all(is_free for _, is_free in free)


@pytest.mark.parametrize(("limit", "seconds", "more"), [(60, 60.0, {}), (37, 23.0, {}), (100, 10.0, {"max_concurrent": 20})])
def test_a_window_that_tells_when_the_first_place_is_free_is_not_taken_for_a_cap(
    limit: int, seconds: float, more: dict[str, Any]
) -> None:
    """The next wait is short, and tells nothing, as places become free one by one: the window of the first one holds."""
    random.seed(1)
    api = SimulatedAPI(max_per_window=limit, window_seconds=seconds, latency=1.0, retry_after=True, **more)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)

    assert seconds_for(node, 5 * limit) <= 5.1 * seconds  # one place in it is lost: it may have been down, so it is asked again
    assert api.refused <= 6


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


def test_a_static_limit_on_top_is_never_exceeded() -> None:
    api = SimulatedAPI(max_per_window=30, latency=0.1)
    node = Adapting(api.call, max_concurrent=50, max_per_minute=30)
    assert run(node, range(90)) == list(range(90))
    assert api.refused == 0


def test_retry_after_pauses_the_limiter_and_the_limit_is_cut_once() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) <= 4:
            await asyncio.sleep(0.5)
            raise RateLimitHit("slow down", retry_after=20)
        return item

    node = Adapting(call, initial_concurrent=4)
    assert run(node, range(12)) == list(range(12))
    assert min(starts[4:]) >= 20
    assert [change.new for change in node.history][0] == 2


def test_other_errors_are_no_evidence_either_way() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(1)
        raise ValueError(item)

    node = Adapting(call, on_error="collect", initial_concurrent=8)
    run(node, range(100))
    assert node.current_concurrent == 8
    assert node.history == []


def test_an_item_refused_for_too_long_goes_to_the_fallback_and_a_warning_names_the_node_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refused(Adapting):
        async def exec_fallback_async(self, item: int, exc: Exception) -> str:
            return str(exc)

    async def call(_: int) -> None:
        raise RateLimitHit("no")

    with caplog.at_level(logging.WARNING):
        messages = run(Refused(call, rate_limit_timeout=100), range(5))
    assert all("refused" in message and "rate_limit_timeout is 100 s" in message for message in messages)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["Refused"]


def test_each_change_is_logged_and_kept_with_its_time_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    api = SimulatedAPI(max_concurrent=3, latency=1.0)
    node = Adapting(api.call, initial_concurrent=6)
    with caplog.at_level(logging.INFO):
        run(node, range(30))
    changes = node.history
    assert [change.new for change in changes] == [change.old for change in changes[1:]] + [node.current_concurrent]
    assert changes[0][1:] == (6, 3, "refused")
    assert len(caplog.records) == len(changes)


def test_stats_and_limit_can_be_read_on_the_users_own_node_while_it_runs() -> None:
    api = SimulatedAPI(max_concurrent=2, latency=1.0)
    node = Adapting(api.call, initial_concurrent=8)
    seen = []

    class Many(AdaptiveThrottledBatchFlow):
        async def prep_async(self, shared: Any) -> list[dict[str, int]]:
            return [{"number": 1}]

    async def main() -> None:
        task = asyncio.create_task(Many(start=node).run_async({"items": range(20)}))
        await asyncio.sleep(5)
        seen.append((node.current_concurrent, node.stats["total_successes"]))
        await task

    run_virtual(main())
    assert seen[0][0] <= 4
    assert 0 < seen[0][1] < 20
    assert node.stats["total_successes"] == 20


def test_the_rate_that_was_learned_can_be_read() -> None:
    api = SimulatedAPI(max_per_window=50, window_seconds=10.0, latency=1.0, retry_after=True)
    node = Adapting(api.call, initial_concurrent=10, max_concurrent=100)
    assert node.stats["learned_per_second"] is None
    run(node, range(400))
    assert node.stats["learned_per_second"] == pytest.approx(5, rel=0.1)
    assert "learned_per_second" in repr(node.limiter)
    assert "learned_per_second" not in RateLimiter().stats
    node.reset_adaptive_state()
    assert node.stats["learned_per_second"] is None


def test_reset_adaptive_state_begins_again() -> None:
    api = SimulatedAPI(max_concurrent=2, latency=1.0)
    node = Adapting(api.call, initial_concurrent=8)
    run(node, range(20))
    node.reset_adaptive_state()
    assert node.current_concurrent == 8
    stats = node.stats
    assert [stats[key] for key in ("total_successes", "total_rate_limits", "consecutive_successes")] == [0, 0, 0]


def test_a_default_start_is_brought_into_the_bounds_and_a_given_one_must_lie_within() -> None:
    async def call(_: Any) -> None: ...

    assert Adapting(call, max_concurrent=3).current_concurrent == 3
    assert Adapting(call, min_concurrent=7).current_concurrent == 7
    with pytest.raises(ValueError, match=r"initial_concurrent must be within 1\.\.3 .*got 4"):
        Adapting(call, initial_concurrent=4, max_concurrent=3)
    with pytest.raises(ValueError, match="initial_concurrent"):
        type("Bad", (Adapting,), {"initial_concurrent": 30})(call)
    with pytest.raises(ValueError, match=r"min_concurrent must be at most max_concurrent=20, got 21"):
        Adapting(call, min_concurrent=21)


COUNTS = [0, -1, 1.5, math.nan, math.inf, "5", True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("initial_concurrent", "min_concurrent", "recovery_threshold") for value in COUNTS],
        *[("min_concurrent", None), ("recovery_threshold", None)],
        *[("backoff_factor", value) for value in (0, 1, -0.5, 2, math.nan, math.inf, "0.5", True, None)],
        *[("recovery_factor", value) for value in (0, 1, 0.9, math.nan, math.inf, "1.2", True, None)],
        *[("propagate_rate_limit", value) for value in (1, "yes", None)],
    ],
)
def test_bad_settings_are_refused_with_name_and_value(name: str, value: Any) -> None:
    async def call(_: Any) -> None: ...

    with pytest.raises((TypeError, ValueError), match=name) as caught:
        Adapting(call, **{name: value})
    assert repr(value) in str(caught.value)
    if name.endswith("concurrent"):
        with pytest.raises((TypeError, ValueError), match=f"{name}_flows"):
            AdaptiveThrottledBatchFlow(**{f"{name}_flows": value})


# --- one rule per limiter


def test_a_shared_adaptive_limiter_moves_for_all_its_users() -> None:
    api = SimulatedAPI(max_concurrent=4, latency=1.0)
    limiter = LimiterRegistry.register("api", max_concurrent=20, adaptive=True)
    one, two = Adapting(api.call, shared_limiter="api"), Adapting(api.call, shared_limiter="api")

    async def main() -> None:
        await asyncio.gather(one.run_async({"items": range(60)}), two.run_async({"items": range(60)}))

    run_virtual(main())
    assert one.current_concurrent == two.current_concurrent == limiter.max_concurrent <= 5
    assert api.served == 120


def test_a_fixed_node_on_an_adaptive_limiter_moves_it_too() -> None:
    api = SimulatedAPI(max_concurrent=2, latency=1.0)
    limiter = RateLimiter(adaptive=Adaptive(initial_concurrent=8))

    class Fixed(Batch, ThrottledParallelBatchNode):
        pass

    assert run(Fixed(api.call, shared_limiter=limiter), range(30)) == list(range(30))
    assert limiter.max_concurrent <= 4


def test_an_adaptive_limiter_learns_from_the_permits_of_a_program_of_its_own() -> None:
    api = SimulatedAPI(max_concurrent=12, latency=1.0)
    limiter = RateLimiter(50, adaptive=True)

    async def call(item: int) -> int:
        while True:
            async with limiter.reserve() as permit:
                try:
                    return int(await api.call(item))
                except SimulatedRateLimitError as error:
                    permit.refused(signals.retry_after(error) or 1.0)

    async def main() -> list[int]:
        return await asyncio.gather(*(call(item) for item in range(400)))

    assert run_virtual(main()) == list(range(400))
    assert 10 <= limiter.max_concurrent <= 14
    assert (limiter.active, api.served) == (0, 400)
    assert api.refused < 20
    assert limiter._rule is not None
    assert (limiter._rule.successes, limiter._rule.refusals) == (400, api.refused)


def test_a_limit_is_in_use_when_calls_without_a_permit_fill_it() -> None:
    limiter = RateLimiter(adaptive=Adaptive(initial_concurrent=2, recovery_threshold=1))

    async def by_hand() -> None:
        await asyncio.sleep(0.2)
        async with limiter:
            await asyncio.sleep(0.2)

    async def main() -> None:
        async with limiter.reserve():
            await by_hand()
            await asyncio.sleep(1)

    run_virtual(main())
    assert limiter.max_concurrent == 3


def test_an_adaptive_node_on_a_fixed_limiter_is_an_error_that_says_so() -> None:
    LimiterRegistry.register("fixed")

    async def call(_: Any) -> None: ...

    with pytest.raises(ValueError, match=r"shared_limiter 'fixed' is fixed: register it with adaptive=True"):
        run(Adapting(call, shared_limiter="fixed"), [1])


def test_fixed_and_adaptive_under_one_name_is_an_error_that_says_so() -> None:
    LimiterRegistry.register("fixed")
    LimiterRegistry.register("moving", adaptive=True)
    with pytest.raises(ValueError, match="'fixed' exists and is fixed"):
        LimiterRegistry.get_or_create("fixed", adaptive=True)
    with pytest.raises(ValueError, match="'moving' exists and is adaptive"):
        LimiterRegistry.get_or_create("moving", adaptive=False)
    assert LimiterRegistry.get_or_create("moving", adaptive=True) is LimiterRegistry.get("moving")


def test_a_limiter_cannot_leave_the_bounds_of_its_rule() -> None:
    limiter = RateLimiter(max_concurrent=10, adaptive=True)
    limiter.max_concurrent = 10
    with pytest.raises(ValueError, match=r"within 1\.\.10"):
        limiter.max_concurrent = 11


# --- refusals that leave a node, and flows


class Propagating(Adapting):
    propagate_rate_limit = True
    on_error = "collect"

    async def exec_fallback_async(self, item: Any, exc: Exception) -> str:
        return "fallback"


def test_a_node_that_propagates_raises_at_the_first_refusal_past_on_error_and_the_fallback() -> None:
    class TooManyRequestsError(Exception):
        status_code = 429
        retry_after = 7.0

    error = TooManyRequestsError("slow down")

    async def call(_: int) -> None:
        raise error

    node = Propagating(call, 5, initial_concurrent=8)
    with pytest.raises(RateLimitHit) as caught:
        run(node, range(3))
    hit = caught.value
    assert (hit.retry_after, hit.source, hit.__cause__) == (7.0, "Propagating", error)
    assert node.current_concurrent == 4


class Instances(AdaptiveThrottledBatchFlow):
    count = 20

    async def prep_async(self, shared: Any) -> Any:
        return [{"number": number} for number in range(self.count)]

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
        shared["actions"] = exec_res_list


class Calls(AsyncNode):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    async def exec_async(self, _: Any) -> Any:
        return await self.call(self.params["number"])

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return exec_res


def test_a_flow_told_to_wait_30_seconds_starts_nothing_for_30_seconds_and_runs_the_instance_again() -> None:
    starts: list[float] = []

    async def call(number: int) -> str:
        starts.append(now())
        is_first = len(starts) == 5
        await asyncio.sleep(1)
        if is_first:
            raise RateLimitHit("slow down", retry_after=30)
        return f"done {number}"

    flow, shared = Instances(start=Calls(call), initial_concurrent_flows=5, max_flow_retries=1), {}
    run_virtual(flow.run_async(shared))
    assert shared["actions"] == [f"done {number}" for number in range(20)]
    assert [start for start in starts if 1.2 < start < 31] == []
    assert flow.stats["total_rate_limits"] == 1
    assert flow.stats["failed_flows"] == 0
    assert flow.history[0][1:3] == (5, 2)


def test_without_flow_retries_a_refused_instance_stands_in_the_list_as_it_was() -> None:
    hit = RateLimitHit("slow down", retry_after=3)

    async def call(number: int) -> int:
        if number == 4:
            raise hit
        return number

    flow, shared = Instances(start=Calls(call)), {}
    run_virtual(flow.run_async(shared))
    assert shared["actions"] == [0, 1, 2, 3, hit, *range(5, 20)]
    assert str(hit) == "slow down"
    stats = flow.stats
    assert (stats["completed_flows"], stats["failed_flows"], stats["total_rate_limits"]) == (19, 1, 1)


def test_a_propagating_node_drives_its_flow() -> None:
    api = SimulatedAPI(max_concurrent=3, latency=1.0)

    class Node(Propagating):
        async def prep_async(self, shared: Any) -> list[int]:
            return [self.params["number"]]

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> Any:
            return exec_res_list[0]

    flow, shared = Instances(start=Node(api.call), initial_concurrent_flows=10, max_flow_retries=20), {}
    run_virtual(flow.run_async(shared))
    assert shared["actions"] == list(range(20))
    assert flow.current_concurrent_flows <= 4


def test_an_adaptive_flow_adapts_and_shows_it() -> None:
    flow = Instances(start=Calls(SimulatedAPI(latency=1.0).call), **FlowPresets.ADAPTIVE_MODERATE)
    flow.count = 200
    shared: dict[str, Any] = {}
    run_virtual(flow.run_async(shared))
    assert shared["actions"] == list(range(200))
    assert flow.current_concurrent_flows == flow.stats["current_concurrent_flows"] == 20
    assert flow.stats["max_concurrent_flows"] == 20
    flow.reset_adaptive_state()
    assert flow.current_concurrent_flows == 5
    assert flow.stats["completed_flows"] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_leaks_whenever_an_adaptive_batch_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)

    async def call(item: int) -> int:
        await asyncio.sleep(chance.choice([0, 0.5, 2]))
        if chance.random() < 0.3:
            raise RateLimitHit(retry_after=chance.choice([None, None, 0, 3]))
        return item

    async def main() -> None:
        node = Adapting(call, initial_concurrent=4, max_concurrent=8, on_error="collect")
        task = asyncio.create_task(node.run_async({"items": range(40)}))
        await asyncio.sleep(chance.choice([0, 0, 1, 5, 20]))
        task.cancel()
        await asyncio.wait([task])
        assert len(asyncio.all_tasks()) == 1
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)
        assert await asyncio.wait_for(node.run_async({"items": []}), 1000) is None

    run_virtual(main())


class Down:
    """An API that refuses every call until a time, in seconds, and a node that says why it gave an item up."""

    def __init__(self, base: Any, until: float, hint: float | None) -> None:
        self.calls: list[float] = []

        class Node(base):
            async def exec_fallback_async(self, item: int, exc: Exception) -> str:
                return str(exc)

        async def call(item: int) -> int:
            self.calls.append(now())
            await asyncio.sleep(0.1)
            if now() < until:
                raise RateLimitHit("no", retry_after=hint)
            return item

        self.node = Node(call, rate_limit_timeout=600)


@pytest.mark.parametrize("hint", [None, 30.0])
@pytest.mark.parametrize("base", [Batch, Adapting])
def test_an_api_that_was_down_for_longer_than_the_timeout_costs_a_few_items_and_not_the_rest_of_the_batch(
    base: Any, hint: float | None
) -> None:
    down = Down(base, 900.0, hint)
    shared = {"items": range(500)}
    run_virtual(down.node.run_async(shared))
    lost = [result for result in shared["results"] if isinstance(result, str)]
    assert 1 <= len(lost) <= 5 * (2 + 300 / 30)
    assert all("rate_limit_timeout is 600 s" in reason for reason in lost)
    assert shared["results"][100:] == list(range(100, 500))


@pytest.mark.parametrize("base", [Batch, Adapting])
def test_an_api_that_asks_for_a_wait_is_left_alone_though_items_are_given_up(base: Any) -> None:
    down = Down(base, math.inf, 30.0)
    run_virtual(down.node.run_async({"items": range(40)}))
    tries = [at for at in sorted(down.calls) if at > 605]  # since the first were given up
    assert all(after - before >= 30 for before, after in pairwise(tries) if after - before > 1)
    assert max(sum(at <= other < at + 29 for other in tries) for at in tries) <= 5


@pytest.mark.parametrize("base", [Batch, Adapting])
def test_what_a_response_hook_sees_pauses_a_nodes_calls_for_no_longer_than_its_timeout(base: Any) -> None:
    class Response:
        status_code = 200
        headers = {"retry-after": "100000"}  # noqa: RUF012

    async def call(item: int) -> int:
        await node.limiter.observe_response(Response())
        return item

    node = base(call, rate_limit_timeout=5)
    assert seconds_for(node, 3) <= 3 * 5 + 1


@pytest.mark.parametrize("base", [Batch, Adapting])
def test_an_item_that_was_refused_once_is_not_said_to_have_been_refused_for_long(base: Any) -> None:
    down = Down(base, math.inf, 30.0)
    shared = {"items": range(20)}
    run_virtual(down.node.run_async(shared))
    assert "times in 600" in shared["results"][0]
    assert "refused once, and no call of the batch was served for " in shared["results"][-1]


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


@pytest.mark.parametrize("seconds", [5.0, 20.0, 60.0, 100.0, 400.0, 3000.0])
@pytest.mark.parametrize("since", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("cap", [4, 8, math.inf])
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


@pytest.mark.parametrize("seed", range(4))
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

"""What adaptive nodes, flows and limiters promise, in virtual time, on both of PocketFlow's sources."""

import asyncio
import logging
import math
import random
import threading
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
from pocketflow_throttled.timing import Timing

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
    assert (rule.limit, rule._ceiling.level) == (4, 8)
    time = 1.0
    while rule.limit < 9:
        time += 0.1
        if rule.may_start(time, 1):
            rule.started(time, min(rule.limit, 8))
            rule.succeeded(time + 0.05, time, min(rule.limit, 8), in_use=True, clean=True)
        assert time < 100
    rule.started(time + 1, 9)
    rule.refused(time + 1.1, time + 1, 9)
    assert (rule.limit, rule._ceiling.level) == (8, 8)


def test_what_waited_for_a_refusal_to_pass_starts_one_by_one_and_then_ever_closer() -> None:
    rule, refusal = AdaptiveRule(Adaptive(initial_concurrent=32, max_concurrent=32)), 0.1
    for level in range(1, 33):
        rule.started(0.0, level)
    for level in range(1, 33):
        rule.succeeded(4.0, 0.0, level, in_use=True, clean=True)
    rule.started(4.0, 32)
    rule.refused(4.0 + refusal, 4.0, 32, hint=1.0)
    assert rule.limit == 16
    now, starts = 4.0, []
    for level in range(1, 17):
        while not rule.may_start(now, level):
            now += 0.001
        rule.started(now, level)
        starts.append(now)
    tries, second, third, *others = (after - start for start, after in pairwise(starts))
    assert starts[0] == pytest.approx(4.0 + refusal + 1.0, abs=0.01)
    assert min(tries, second) >= refusal
    assert refusal / 2 <= third <= 0.6 * refusal
    assert sum(others) <= 13 * third


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


def test_the_most_at_once_of_a_shared_limiter_is_shown_where_it_counts() -> None:
    limiter = RateLimiter(max_concurrent=50, adaptive=True)
    node = Adapting(lambda _: asyncio.sleep(0), shared_limiter=limiter)
    assert (node.stats["max_concurrent"], node.stats["current_concurrent"]) == (50, 5)


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
    assert limiter._rule.refusals == api.refused


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


def test_a_node_that_propagates_does_so_however_little_it_would_wait_itself() -> None:
    async def call(_: int) -> None:
        raise RateLimitHit("slow down", retry_after=7.0)

    node = Propagating(call, 5, rate_limit_timeout=0)
    with pytest.raises(RateLimitHit) as caught:
        run(node, range(3))
    assert (str(caught.value), caught.value.retry_after, caught.value.source) == ("slow down", 7.0, "Propagating")


def test_what_a_node_within_an_item_propagates_is_an_error_of_that_item_like_any_other() -> None:
    async def refuse(_: int) -> None:
        raise RateLimitHit("slow down", retry_after=5.0)

    async def call(item: int) -> int:
        if item == 1:
            await Propagating(refuse).run_async({"items": range(1)})
        return item

    first, hit, last = run(Adapting(call, on_error="collect", rate_limit_timeout=20), range(3))
    assert (first, last) == (0, 2)
    assert (type(hit), hit.source) == (RateLimitHit, "Propagating")


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


# --- an API that says that it has too much to do


def proven(at_once: int) -> AdaptiveRule:
    """Return a rule that knows of so many calls at once, each of ten seconds, and of refusals that take a tenth of one."""
    rule = AdaptiveRule(Adaptive(initial_concurrent=at_once, max_concurrent=at_once))
    for level in range(1, at_once + 1):
        rule.started(0.0, level)
    for level in range(1, at_once + 1):
        rule.succeeded(10.0, 0.0, level, in_use=True, clean=True)
    return rule


def close(rule: AdaptiveRule, now: float, *refused: tuple[int, bool], admitted: int = 1) -> float:
    """Let calls be refused, each with so many under way, for a limit or not; return when one is known to be admitted."""
    for level, is_of_limits in refused:
        now = max(now, rule.opens_at)
        rule.may_start(now, level)
        rule.started(now, level)
        rule.refused(now + 0.1, now, level, is_of_limits=is_of_limits)
    now = rule.opens_at
    rule.may_start(now, admitted)
    rule.started(now, admitted)
    now = rule.opens_at
    rule.may_start(now, admitted + 1)
    return now


@pytest.mark.parametrize(
    ("refused", "admitted", "was_down"),
    [
        (((40, False), (1, False)), 1, True),
        (((40, False), (12, False)), 3, True),  # with far fewer than before, though others are still under way
        (((40, False), (30, False)), 29, False),  # that may be a cap
        (((40, True), (1, False)), 1, True),  # a limit refused as it went down
        (((40, False), (1, True)), 1, False),
    ],
)
def test_an_api_was_down_if_it_says_so_last_and_refuses_what_was_never_too_much(
    refused: tuple[tuple[int, bool], ...], admitted: int, was_down: bool
) -> None:
    rule = proven(40)
    close(rule, 10.0, *refused, admitted=admitted)
    assert (rule.reason == "it was down") == was_down
    assert (rule.limit == 40) or not was_down


def test_an_api_that_says_so_again_after_a_moment_has_a_limit() -> None:
    rule = proven(40)
    now = close(rule, 10.0, (40, False), *[(1, False)] * 5)
    assert rule.reason == "it was down"
    close(rule, now + 0.5, (20, False), (1, False))
    assert rule.reason != "it was down"


def test_starts_beyond_proven_ground_are_spaced_though_calls_take_no_time() -> None:
    timing = Timing()
    timing.served(0.0)
    timing.refused(0.1)
    assert timing.beyond(0, limit=10) == pytest.approx(0.1)
    assert timing.beyond(4, limit=10) == pytest.approx(0.02)


def test_calls_that_all_started_at_one_moment_tell_no_pace_that_stats_could_show() -> None:
    calls: dict[int, int] = {}

    class Calls(AdaptiveThrottledNode):
        propagate_rate_limit = True

        async def prep_async(self, shared: Any) -> Any:
            return [0]

        async def exec_async(self, item: int) -> int:
            user = self.params["user"]
            calls[user] = calls.get(user, 0) + 1
            await asyncio.sleep(0.1)
            if calls[user] == 1:
                raise RateLimitHit("slow down")
            return item

    class Users(AdaptiveThrottledBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"user": user} for user in range(5)]

    flow = Users(start=Calls(), max_flow_retries=3)
    run_virtual(flow.run_async({}))
    assert flow.stats["completed_flows"] == 5
    learned = flow.stats["learned_per_second"]
    assert learned is None or learned < 1000


@pytest.mark.parametrize("tokens", [300_000, 600_000])
def test_a_cap_is_not_taken_for_fewer_tokens_than_are_allowed_in_less_time(tokens: int) -> None:
    def took(max_tokens_per_minute: int | None) -> list[float]:
        chance = random.Random(1)
        took: list[float] = []
        under_way = 0

        async def call(item: int) -> Any:
            nonlocal under_way
            await asyncio.sleep(0.05)
            if under_way >= 12:
                raise RateLimitHit("too many at once")
            under_way += 1
            await asyncio.sleep(chance.uniform(0.5, 3.0))
            under_way -= 1
            return {"usage": {"total_tokens": item}}

        class Exact(Adapting):
            def estimate_tokens(self, item: int) -> int:
                return item

        async def main() -> None:
            node = Exact(call, max_concurrent=40, max_tokens_per_minute=max_tokens_per_minute)
            for _ in range(4):
                began = now()
                await node.run_async({"items": [chance.randint(200, 1800) for _ in range(150)]})
                took.append(now() - began)
                await asyncio.sleep(90)

        random.seed(1)
        run_virtual(main())
        return took

    assert took(tokens) == took(None)


@pytest.mark.parametrize(("initial", "most"), [(5, 80.0), (1, 90.0)])
def test_an_outage_near_the_start_is_no_window_for_good_where_calls_at_once_are_limited(initial: int, most: float) -> None:
    """It may look like one until more is admitted in its length than two of them would hold."""
    under_way = 0

    async def call(item: int) -> int:
        nonlocal under_way
        if 1 <= now() < 11 or under_way >= 15:
            raise RateLimitHit("down, or too many at once")
        under_way += 1
        await asyncio.sleep(0.3)
        under_way -= 1
        return item

    async def main() -> float:
        node = Adapting(call, initial_concurrent=initial, max_concurrent=20)
        await node.run_async({"items": range(2000)})
        return now()

    assert run_virtual(main()) <= most

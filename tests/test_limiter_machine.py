"""A limiter driven by Hypothesis through everything that can happen to it, beside a model that knows only what is promised.

After each step: never over the slots, nor over any window; first come, first served; counts are what was used; nobody is left
waiting while there is room. At the end: nothing leaked.
"""

import asyncio
import math
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pocketflow_throttled import RateLimiter, VirtualTimeLoop

WINDOW = 8.0
LATE = 5e-6  # seconds that a timer may be late
COSTS = st.sampled_from([0, 1, 3, 5, 12, 30])
LIMITS = st.integers(1, 4)
RARELY = st.sampled_from([False, False, True])  # so that there is something to upset
TOKENS = st.none() | st.sampled_from([4, 10, 20])
STEPS = st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.75, 4.0, 7.75, 8.0, 20.0])


class Entry:
    """Tokens in the model's window."""

    def __init__(self, time: float, cost: int) -> None:
        self.time, self.cost = time, cost


class Request:
    def __init__(self, limiter: RateLimiter, cost: int, *, plain: bool = False) -> None:
        self.permit = limiter.reserve(cost)
        self.plain = plain and not cost  # `async with limiter`, which has no permit to be seen
        self.cost = cost
        self.ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.granted_at = math.nan
        self.entry: Entry | None = None


class Limits(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 6), requests=st.none() | LIMITS, tokens=TOKENS, burst=st.none() | st.integers(1, 2))
    def make(self, slots: int, requests: int | None, tokens: int | None, burst: int | None) -> None:
        self.loop = VirtualTimeLoop()
        self.burst = None if requests is None else burst
        self.limiter = RateLimiter(slots, requests, WINDOW, max_tokens_per_window=tokens, max_burst=self.burst)
        self.waiting: list[Request] = []
        self.holding: list[Request] = []
        self.starts: list[float] = []  # of requests, while they were limited
        self.every_start: list[float] = []
        self.starts_at_this_rate: list[float] = []
        self.spent: list[Entry] = []
        self.paused_until = -math.inf

    # --- the model

    def fits(self, now: float, cost: int, starts: list[float]) -> bool:
        """Whether the promises allow one more start; `starts` are those that count for the burst."""
        limiter = self.limiter
        if len(self.holding) >= limiter.max_concurrent or now < self.paused_until:
            return False
        if limiter.max_per_window is not None:
            if self.requests_used(now) >= limiter.max_per_window:
                return False
            if self.burst is not None:
                share = WINDOW * self.burst / limiter.max_per_window
                if sum(start + share > now for start in starts) >= self.burst:
                    return False
        most = limiter.max_tokens_per_window
        return most is None or cost == 0 or self.tokens_used(now) + min(cost, most) <= most

    def requests_used(self, now: float) -> int:
        return sum(start + WINDOW > now for start in self.starts)

    def tokens_used(self, now: float) -> int:
        return sum(entry.cost for entry in self.spent if entry.time + WINDOW > now)

    def book(self, request: Request) -> None:
        now = self.loop.time()
        most = self.limiter.max_per_window
        remembered = most is None or self.burst is None or self.burst <= most  # a share no longer than the window
        assert self.fits(now, request.cost, self.starts if remembered else self.starts_at_this_rate), "over a limit"
        request.granted_at = now
        self.holding.append(request)
        if self.limiter.max_per_window is not None:  # what was started without a limit is not counted later
            self.starts.append(now)
            self.starts_at_this_rate.append(now)
            self.every_start.append(now)
        if self.limiter.max_tokens_per_window is not None and request.cost:
            request.entry = Entry(now, request.cost)
            self.spent.append(request.entry)

    # --- what drives it

    def do(self, action: Any = None, *, seconds: float = 0.0) -> None:
        """Run an action in the loop, pass the time, and let everything run that is due."""

        async def step() -> None:
            if action is not None:
                action()
            for delay in (0, 0, seconds, 0, 0, 0, 0):
                await asyncio.sleep(delay)

        self.loop.run_until_complete(step())

    async def serve(self, request: Request) -> None:
        async with self.limiter if request.plain else request.permit:
            assert self.waiting[0] is request, "first come, first served"
            self.waiting.pop(0)
            self.book(request)
            try:
                await request.ended.wait()
            finally:
                self.holding.remove(request)

    def arrive(self, cost: int, *, plain: bool) -> None:
        request = Request(self.limiter, cost, plain=plain)
        self.waiting.append(request)
        request.task = self.loop.create_task(self.serve(request))

    def cancel(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
            assert request.task is not None
            request.task.cancel()

    @rule(costs=st.lists(COSTS, min_size=1, max_size=4), plain=st.booleans())
    def requests_arrive(self, costs: list[int], *, plain: bool) -> None:
        self.do(lambda: [self.arrive(cost, plain=plain) for cost in costs])

    @rule(cost=COSTS)
    def somebody_tries(self, cost: int) -> None:
        def attempt() -> None:
            now = self.loop.time()
            request = Request(self.limiter, cost)
            if request.permit.take():
                assert not self.waiting, "overtook those who wait"
                self.book(request)
            else:
                assert self.waiting or not self.fits(now - LATE, cost, self.every_start), "refused while there was room"

        self.do(attempt)

    @rule(cost=COSTS, timeout=STEPS)
    def somebody_waits_so_long_at_most(self, cost: int, timeout: float) -> None:
        async def wait() -> None:
            try:
                async with asyncio.timeout(timeout):
                    await self.serve(request)
            except TimeoutError:
                if request in self.waiting:
                    self.waiting.remove(request)

        request = Request(self.limiter, cost)
        self.waiting.append(request)
        request.task = self.loop.create_task(wait())
        self.do()

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def a_request_ends(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.holding))
        if request.task is None:
            self.holding.remove(request)
            self.do(request.permit.release)
        else:
            self.do(request.ended.set)

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def a_request_is_cancelled_while_it_runs(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.holding))
        if request.task is not None:
            self.do(request.task.cancel)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), later=STEPS)
    def a_waiter_is_cancelled(self, data: st.DataObject, later: float) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.do(lambda: self.loop.call_later(later, self.cancel, request))

    @precondition(lambda self: self.holding and self.waiting)
    @rule(data=st.data(), count=st.integers(1, 3))
    def waiters_are_cancelled_in_the_tick_of_their_grant(self, data: st.DataObject, count: int) -> None:
        request = data.draw(st.sampled_from(self.holding))

        def release_and_cancel() -> None:
            if request.task is None:
                self.holding.remove(request)
                request.permit.release()
            else:
                request.ended.set()
            self.loop.call_soon(cancel, count)

        def cancel(left: int) -> None:
            granted = len(self.waiting) - self.limiter.waiting  # the first so many, though they do not know yet
            for waiter in self.waiting[: min(left, granted)]:
                self.cancel(waiter)
                left -= 1
            if left:
                self.loop.call_soon(cancel, left - 1)

        self.do(release_and_cancel)

    @rule(slots=st.integers(1, 6))
    def the_slots_change(self, slots: int) -> None:
        self.do(lambda: setattr(self.limiter, "max_concurrent", slots))

    @rule(requests=st.none() | LIMITS, rarely=RARELY)
    def the_window_of_requests_changes(self, requests: int | None, *, rarely: bool) -> None:
        if not rarely or (requests is None and self.burst is not None):
            return

        def change() -> None:
            if requests != self.limiter.max_per_window:
                self.starts_at_this_rate.clear()
            self.limiter.max_per_window = requests

        self.do(change)

    @rule(tokens=TOKENS, rarely=RARELY)
    def the_window_of_tokens_changes(self, tokens: int | None, *, rarely: bool) -> None:
        if not rarely:
            return
        self.do(lambda: setattr(self.limiter, "max_tokens_per_window", tokens))

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), tokens=COSTS)
    def a_request_tells_what_it_cost(self, data: st.DataObject, tokens: int) -> None:
        request = data.draw(st.sampled_from(self.holding))
        if request.plain:
            return

        def settle() -> None:
            if request.entry is None and self.limiter.max_tokens_per_window is not None:
                request.entry = Entry(request.granted_at, 0)
                self.spent.append(request.entry)
            if request.entry is not None and request.entry.time + WINDOW > self.loop.time():
                request.entry.cost = tokens
            request.permit.settle(tokens)

        self.do(settle)

    @rule(seconds=STEPS)
    def a_pause(self, seconds: float) -> None:
        def pause() -> None:
            self.paused_until = max(self.paused_until, self.loop.time() + seconds)
            self.limiter.pause(seconds)

        self.do(pause)

    @precondition(lambda self: self.waiting)
    @rule(rarely=RARELY)
    def all_is_forgotten(self, *, rarely: bool) -> None:
        if not rarely:
            return

        def reset() -> None:
            for log in (self.starts, self.every_start, self.starts_at_this_rate, self.spent):
                log.clear()
            self.paused_until = -math.inf
            self.limiter.reset()

        self.do(reset)

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.do(seconds=seconds)

    # --- what holds after each step

    @invariant()
    def the_counts_are_what_was_used(self) -> None:
        now, limiter = self.loop.time(), self.limiter
        assert (limiter.active, limiter.waiting) == (len(self.holding), len(self.waiting))
        assert limiter.current_window_count == (0 if limiter.max_per_window is None else self.requests_used(now))
        assert limiter.stats["current_window_tokens"] == (0 if limiter.max_tokens_per_window is None else self.tokens_used(now))

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if self.waiting:
            assert not self.fits(self.loop.time() - LATE, self.waiting[0].cost, self.every_start)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for request in [*self.waiting, *self.holding]:
            if request.task is None:
                request.permit.release()
            else:
                request.task.cancel()
        self.do()
        assert (self.limiter.active, self.limiter.waiting) == (0, 0)
        assert asyncio.all_tasks(self.loop) == set()
        self.loop.close()


TestTheLimiterKeepsItsPromises = Limits.TestCase
TestTheLimiterKeepsItsPromises.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

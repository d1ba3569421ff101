"""How a limiter waits, in virtual time: at the grant, with one timer, without polling, and without holding anything meanwhile."""

import asyncio
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pocketflow_throttled import (
    Adaptive,
    AdaptiveThrottledNode,
    RateLimiter,
    RateLimitHit,
    ThrottledParallelBatchNode,
    VirtualTimeLoop,
    run_virtual,
)
from pocketflow_throttled.aimd import AdaptiveRule
from pocketflow_throttled.budget import Budget

from .test_rate_limiter import BAD_COUNTS, settle_down, starts


class CountingLoop(VirtualTimeLoop):
    """Counts its iterations."""

    iterations = 0

    def _run_once(self) -> None:
        self.iterations += 1
        super()._run_once()  # type: ignore[misc]


def run(main: Any) -> int:
    """Run a coroutine and return how often the loop went round."""
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main)
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        return loop.iterations


def test_a_start_is_stamped_when_it_is_granted_not_when_it_was_asked_for() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(1, 2, 10.0)
        await limiter.acquire()
        asyncio.get_running_loop().call_later(7, limiter.release)
        return await starts(limiter, 4)  # all asked for at 0

    assert run_virtual(main()) == pytest.approx([7, 10, 17, 20])


def test_a_request_that_was_sent_is_never_refunded_its_stamp() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 3, max_tokens_per_window=30)
        with pytest.raises(KeyError):
            async with limiter.reserve(10):
                raise KeyError
        cancelled = asyncio.create_task(starts(limiter, 1, hold=100, tokens=10))
        await settle_down()
        cancelled.cancel()
        await settle_down()
        await limiter.acquire(tokens=10, timeout=0)
        limiter.release()
        assert (limiter.active, limiter.current_window_count, limiter.stats["current_window_tokens"]) == (0, 3, 30)

    run_virtual(main())


@pytest.mark.parametrize("blocked_by", ["tokens", "requests", "pause"])
def test_who_waits_holds_no_slot(blocked_by: str) -> None:
    async def main() -> None:
        limiter = RateLimiter(2, 1 if blocked_by == "requests" else None, max_tokens_per_window=10)
        await limiter.acquire(tokens=10 if blocked_by == "tokens" else 0)
        if blocked_by == "pause":
            limiter.pause(60)
        waiter = asyncio.create_task(limiter.acquire(tokens=5))
        await settle_down()
        assert (limiter.active, limiter.waiting) == (1, 1)
        await asyncio.sleep(61)
        assert waiter.done()

    run_virtual(main())


def test_there_is_one_timer_however_many_wait() -> None:
    async def main() -> None:
        limiter = RateLimiter(100, 1, 60.0)
        task = asyncio.create_task(starts(limiter, 500))
        await settle_down()
        assert limiter.waiting == 499
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert len([timer for timer in timers if not timer.cancelled()]) == 1
        task.cancel()

    run_virtual(main())


@pytest.mark.parametrize("waiters", [10, 1000])
def test_nobody_polls_however_long_and_however_many_wait(waiters: int) -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 1, 86_400.0)
        await limiter.acquire()
        limiter.release()
        others = [asyncio.create_task(limiter.acquire()) for _ in range(waiters)]
        await others[0]
        for other in others:
            other.cancel()

    assert run(main()) < 15


def test_a_grant_wakes_one_waiter_and_no_other() -> None:
    woken: list[int] = []

    async def main() -> None:
        limiter = RateLimiter(1)
        await limiter.acquire()

        async def one(number: int) -> None:
            await limiter.acquire()
            woken.append(number)

        waiters = [asyncio.create_task(one(number)) for number in range(100)]
        await settle_down()
        waked = limiter._grant
        asked = 0

        def counted(*args: Any) -> bool:
            nonlocal asked
            asked += 1
            return waked(*args)

        limiter._grant = counted  # type: ignore[method-assign]
        for _ in range(3):
            limiter.release()
            await settle_down()
        assert woken == [0, 1, 2]
        assert asked <= 6
        for waiter in waiters:
            waiter.cancel()

    run_virtual(main())


@pytest.mark.parametrize("seconds", [0.1, 1 / 3, 0.7, 60.0, 1e-3])
@pytest.mark.parametrize("began_at", [0.0, 0.1, 1e5 + 1 / 3])
def test_waking_on_the_boundary_does_not_spin_nor_come_too_early(seconds: float, began_at: float) -> None:
    limiter = RateLimiter(1, 1, seconds)
    began: list[float] = []

    async def main() -> None:
        await asyncio.sleep(began_at)
        began.extend(await starts(limiter, 50))

    assert run(main()) < 8 * 50
    gaps = [after - before for before, after in zip(began, began[1:], strict=False)]
    assert min(gaps) >= seconds * (1 - 1e-9)
    assert max(gaps) < seconds + 1e-5


def test_a_cancelled_acquire_is_cancelled_and_not_as_if_it_had_been_granted() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        await limiter.acquire()
        went_on = []

        async def work() -> None:
            await limiter.acquire()
            went_on.append(True)

        task = asyncio.create_task(work())
        await settle_down()
        limiter.release()  # granted ...
        task.cancel()  # ... and cancelled before it knows
        with pytest.raises(asyncio.CancelledError):
            await task
        assert went_on == []
        assert (limiter.active, limiter.waiting) == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize("is_granted", [False, True])
def test_who_is_cancelled_in_async_with_leaves_no_trace_and_the_next_goes_on(is_granted: bool) -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 2)
        await limiter.acquire()
        first, second = (asyncio.create_task(enter(limiter)) for _ in range(2))
        await settle_down()
        if is_granted:
            limiter.release()
        first.cancel()
        if not is_granted:
            limiter.release()
        await settle_down()
        assert (first.cancelled(), second.done()) == (True, True)
        assert (limiter.active, limiter.waiting, limiter.current_window_count) == (0, 0, 2)

    async def enter(limiter: RateLimiter) -> None:
        async with limiter:
            pass

    run_virtual(main())


def test_raising_a_burst_wakes_at_once_those_for_whom_there_is_room() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(9, 60, 60.0, max_burst=1)
        task = asyncio.create_task(starts(limiter, 3))
        await asyncio.sleep(1.5)
        limiter.max_burst = 3
        return await task

    assert run_virtual(main()) == pytest.approx([0, 1, 1.5])


@pytest.mark.parametrize(("name", "value"), [("max_burst", 6), ("max_per_window", 20)])
def test_a_share_that_grows_in_use_counts_the_starts_that_had_left_the_shorter_one(name: str, value: int) -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(99, 60, 60.0, max_burst=5)
        await starts(limiter, 3)
        await asyncio.sleep(5.5)
        await starts(limiter, 3)  # the third has the first three forgotten
        setattr(limiter, name, value)  # at 5.5: at most 6 in 6 seconds, or 5 in 15
        return await starts(limiter, 1)

    assert run_virtual(main()) == pytest.approx([6.0 if name == "max_burst" else 15.0])


def test_a_burst_set_in_use_counts_the_starts_before_it() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(99, 60, 60.0)
        await starts(limiter, 3)
        limiter.max_burst = 2
        return await starts(limiter, 2)

    assert run_virtual(main()) == pytest.approx([2, 2])


def test_loops_in_several_threads_share_one_window_and_none_is_forgotten() -> None:
    limiter = RateLimiter(10, 5, 0.01)
    counts: list[int] = []

    async def crowd() -> None:
        async def one() -> None:
            async with limiter:
                counts.append(limiter.current_window_count)

        await asyncio.gather(*(one() for _ in range(15)))

    threads = [threading.Thread(target=asyncio.run, args=(crowd(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == 45
    assert max(counts) <= 5
    assert (limiter.active, limiter.waiting) == (0, 0)


def test_lowering_the_limit_interrupts_nothing_and_holds_for_the_next() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(3)
        running = asyncio.create_task(starts(limiter, 3, hold=10))
        await settle_down()
        limiter.max_concurrent = 1
        began = await starts(limiter, 2, hold=1)
        assert await running == [0, 0, 0]
        return began

    assert run_virtual(main()) == [10, 11]


@pytest.mark.parametrize("value", BAD_COUNTS)
@pytest.mark.parametrize("name", ["max_per_window", "max_tokens_per_window", "max_burst"])
def test_a_limit_in_use_is_not_set_to_nonsense(name: str, value: Any) -> None:
    limiter = RateLimiter(3, 10, max_tokens_per_window=100, max_burst=5)
    before = limiter.stats
    with pytest.raises((TypeError, ValueError), match=f"{name} must be") as caught:
        setattr(limiter, name, value)
    assert repr(value) in str(caught.value)
    assert limiter.stats == before


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True])
def test_a_bad_timeout_is_refused_and_takes_nothing(value: Any) -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        with pytest.raises((TypeError, ValueError), match="timeout must be") as caught:
            await limiter.acquire(timeout=value)
        assert repr(value) in str(caught.value)
        assert (limiter.active, limiter.waiting) == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize("value", [-1, 1.5, math.nan, "5", True, None])
def test_bad_tokens_are_refused_wherever_they_are_given(value: Any) -> None:
    async def main() -> None:
        limiter = RateLimiter(1, max_tokens_per_window=10)
        permit = limiter.reserve(1)
        with pytest.raises((TypeError, ValueError), match="tokens must be"):
            await limiter.acquire(tokens=value)
        for use in (limiter.reserve, permit.settle, lambda tokens: limiter.try_acquire(tokens=tokens)):
            with pytest.raises((TypeError, ValueError), match="tokens must be") as caught:
                use(value)
            assert repr(value) in str(caught.value)
        assert limiter.active == 0

    run_virtual(main())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, VirtualTimeLoop])
def test_what_was_counted_before_any_loop_ran_still_counts_in_the_first(loop_factory: Any) -> None:
    paused, full = RateLimiter(2), RateLimiter(5, 3, 60.0)
    paused.pause(30.0)
    assert [full.try_acquire() for _ in range(4)] == [True, True, True, False]

    async def main() -> None:
        assert 29.0 < paused.paused_for <= 30.0
        assert not paused.try_acquire()
        assert full.current_window_count == 3
        assert not full.try_acquire()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_the_settings_of_a_rule_are_not_set_to_nonsense() -> None:
    with pytest.raises(TypeError, match="adaptive must be an Adaptive, got None"):
        RateLimiter(5, adaptive=True).adaptive = None  # type: ignore[assignment]


# --- errors of our own: they are told to whoever they keep from going on, and nobody hangs


class Fault(Exception):  # noqa: N818
    """A defect in what decides when a request may start."""


@contextmanager
def fault(owner: type, name: str, after: int, *, again: bool) -> Iterator[None]:
    """Have a method raise after so many calls, once or from then on."""
    method, calls = getattr(owner, name), 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after + 1 or (again and calls > after):
            raise Fault
        return method(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, broken)
        yield


@pytest.mark.parametrize("again", [False, True])
def test_who_waits_for_a_timer_gets_the_error_in_it_and_the_next_goes_on(again: bool) -> None:
    async def main() -> list[BaseException | None]:
        limiter = RateLimiter(5, 1, 60.0)
        await limiter.acquire()
        limiter.release()
        waiters = [asyncio.create_task(starts(limiter, 1)) for _ in range(3)]
        await settle_down()
        with fault(Budget, "admit", 0, again=again):
            await asyncio.wait(waiters, timeout=1000)
        assert all(waiter.done() for waiter in waiters)
        assert (limiter.active, limiter.waiting) == (0, 0)
        return [waiter.exception() for waiter in waiters]

    first, *others = run_virtual(main())
    assert isinstance(first, Fault)
    assert all(isinstance(error, Fault) is again for error in others)


def test_a_waiter_in_another_thread_gets_the_error_in_its_own_loop() -> None:
    limiter = RateLimiter(1)
    is_waiting = threading.Event()

    async def other() -> None:
        task = asyncio.create_task(starts(limiter, 1))
        await settle_down()
        is_waiting.set()
        await asyncio.wait_for(task, 30)

    async def main() -> BaseException | None:
        await limiter.acquire()
        thread = asyncio.create_task(asyncio.to_thread(asyncio.run, other()))
        await asyncio.to_thread(is_waiting.wait, 30)
        with fault(RateLimiter, "_grant", 0, again=False):
            limiter.release()
        await asyncio.wait([thread])
        return thread.exception()

    assert isinstance(asyncio.run(main()), Fault)
    assert (limiter.active, limiter.waiting) == (0, 0)


BUDGET = ["fits", "admit", "opens_at", "book", "take_back", "settle", "correct", "refused", "space", "served", "timed"]
RULE = ["may_start", "opens_for", "started", "unsent", "succeeded", "refused"]
DEFECTS = [(Budget, name) for name in BUDGET] + [(AdaptiveRule, name) for name in RULE]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("owner", "name"), DEFECTS, ids=lambda value: getattr(value, "__name__", value))
def test_no_error_of_our_own_makes_a_batch_hang_or_leaks_a_slot(owner: type, name: str, again: bool) -> None:
    class Fixed(ThrottledParallelBatchNode):
        max_per_minute: int | None = 6
        max_tokens_per_minute: int | None = 100
        max_concurrent = 3

        async def prep_async(self, shared: Any) -> Any:
            return range(12)

        def estimate_tokens(self, item: int) -> int:
            return 10 * (item % 2)

        async def exec_async(self, item: int) -> dict[str, Any]:
            self.limiter.observe({"x-ratelimit-remaining-requests": "5"})
            await asyncio.sleep(item % 3)
            if random.random() < 0.3:
                raise RateLimitHit("slow down", retry_after=1.0)
            return {"usage": {"total_tokens": 9 * (item % 2)}}

    class Adaptive(Fixed, AdaptiveThrottledNode):
        max_per_minute = max_tokens_per_minute = None

    async def outcome(work: Any) -> BaseException | None:
        task = asyncio.ensure_future(work)
        await asyncio.wait([task], timeout=10_000)
        assert task.done()
        return task.exception()

    async def main(cls: type[ThrottledParallelBatchNode], after: int, on_error: str) -> None:
        node = cls(on_error=on_error)
        random.seed(after)
        with fault(owner, name, after, again=again):
            beside = (outcome(starts(node.limiter, 1, hold=1, tokens=10)) for _ in range(5))
            errors = await asyncio.gather(outcome(node.run_async({})), *beside)
        assert all(error is None or isinstance(error, Fault) for error in errors)
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    for cls in (Fixed, Adaptive):
        for after in (0, 1, 3, 8):
            for on_error in ("raise", "collect"):
                run_virtual(main(cls, after, on_error))


@pytest.mark.parametrize("pause", [None, 5.0])
def test_nobody_polls_while_a_call_tries_and_all_slots_are_full(pause: float | None) -> None:
    """More slots may be free once it was not refused: that is looked at then, or when the pause ends, and not before."""
    started: list[float] = []

    async def main() -> None:
        limiter = RateLimiter(adaptive=Adaptive(initial_concurrent=4, max_concurrent=4))
        loop = asyncio.get_running_loop()

        async def call(seconds: float, *, is_refused: bool = False) -> None:
            async with limiter.reserve() as permit:
                started.append(loop.time())
                await asyncio.sleep(seconds)
                if is_refused:
                    permit.refused(0, hinted=False)

        await call(0.05)
        long = [asyncio.create_task(call(100.0))]
        await asyncio.sleep(1.0)
        await call(0.2, is_refused=True)
        long.append(asyncio.create_task(call(100.0)))
        await asyncio.sleep(0.1)
        assert limiter.active == limiter.max_concurrent
        waits = asyncio.create_task(call(1.0))
        await asyncio.sleep(0.01)
        if pause is not None:
            limiter.pause(pause)
        await waits
        for task in long:
            task.cancel()

    assert run(main()) < 60
    assert started[-1] - started[-2] < 1.0 + (pause or 0.0)

"""What RateLimiter promises, in virtual time."""

import asyncio
import concurrent.futures
import copy
import gc
import math
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from pocketflow_throttled import Adaptive, RateLimiter, ThrottledParallelBatchNode, VirtualTimeLoop, run_virtual


async def starts(limiter: RateLimiter, count: int, *, hold: float = 0.0, tokens: int = 0) -> list[float]:
    """Run `count` requests at once and return when each was granted, in order."""
    began: list[float] = []

    async def one() -> None:
        async with limiter.reserve(tokens):
            began.append(asyncio.get_running_loop().time())
            await asyncio.sleep(hold)

    await asyncio.gather(*(one() for _ in range(count)))
    return began


async def settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_never_more_than_max_concurrent_at_once() -> None:
    began = run_virtual(starts(RateLimiter(2), 6, hold=1.0))
    assert began == [0, 0, 1, 1, 2, 2]


def test_never_more_than_max_per_window_in_any_window() -> None:
    began = run_virtual(starts(RateLimiter(100, 3, 10.0), 10))
    assert began == pytest.approx([0, 0, 0, 10, 10, 10, 20, 20, 20, 30])


def test_a_limit_under_one_a_second_holds() -> None:
    assert run_virtual(starts(RateLimiter(5, 1, 60.0), 3)) == pytest.approx([0, 60, 120])


def test_the_window_moves_so_the_boundary_of_a_minute_does_not_double_it() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(100, 10, 60.0)
        await asyncio.sleep(59)
        return await starts(limiter, 20)

    assert run_virtual(main()) == pytest.approx([59] * 10 + [119] * 10)


def test_max_burst_spaces_the_starts() -> None:
    began = run_virtual(starts(RateLimiter(100, 60, 60.0, max_burst=2), 6))
    assert began == pytest.approx([0, 0, 2, 2, 4, 4])


def test_slot_request_and_tokens_are_taken_together_or_not_at_all() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, 5, max_tokens_per_window=100)
        assert limiter.try_acquire(tokens=80)
        assert not limiter.try_acquire(tokens=30)
        assert (limiter.active, limiter.current_window_count) == (1, 1)
        assert limiter.stats["current_window_tokens"] == 80

    run_virtual(main())


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        await limiter.acquire(tokens=80)
        large = asyncio.create_task(limiter.acquire(tokens=50))
        await settle_down()
        small = asyncio.create_task(limiter.acquire(tokens=10))
        await settle_down()
        assert not limiter.try_acquire(tokens=1)
        await asyncio.sleep(59)
        assert not large.done()
        assert not small.done()
        await asyncio.sleep(2)
        assert large.done()
        assert small.done()

    run_virtual(main())


def test_a_request_over_the_whole_token_window_runs_alone() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        await limiter.acquire(tokens=10)
        times = [*(await starts(limiter, 1, tokens=5000)), *(await starts(limiter, 1, tokens=1))]
        assert limiter.active == 1
        return times

    assert run_virtual(main()) == pytest.approx([60, 120])


def test_settling_frees_tokens_at_once_and_books_debt() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        async with limiter.reserve(tokens=90) as permit:
            waiter = asyncio.create_task(limiter.acquire(tokens=50))
            await settle_down()
            assert not waiter.done()
            permit.settle(tokens=20)
            await settle_down()
            assert waiter.done()
            permit.settle(tokens=300)
            assert not limiter.try_acquire(tokens=1)
        await asyncio.sleep(60)
        assert limiter.try_acquire(tokens=100)

    run_virtual(main())


def test_starts_of_before_a_limit_was_dropped_count_when_it_is_set_again_and_those_made_meanwhile_do_not() -> None:
    async def main() -> None:
        limiter = RateLimiter(20, 5, max_burst=5)
        for _ in range(3):
            await limiter.acquire()
        limiter.max_burst = limiter.max_per_window = None
        assert limiter.current_window_count == 0
        for _ in range(4):
            await limiter.acquire()
        await asyncio.sleep(10)
        limiter.max_per_window = 5
        assert limiter.current_window_count == 3
        assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
        limiter.max_per_window = None
        await asyncio.sleep(51)  # the first three have left the window
        limiter.max_per_window = 5
        assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]

    run_virtual(main())


def test_a_waiter_is_granted_when_what_a_limit_counted_before_it_was_dropped_has_left_the_window() -> None:
    async def main() -> float:
        limiter = RateLimiter(5, 1)
        await limiter.acquire()
        limiter.max_per_window = None
        await asyncio.sleep(10)
        limiter.max_per_window = 1
        await limiter.acquire()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(60, abs=1e-3)


def test_tokens_of_before_a_limit_was_dropped_count_when_it_is_set_again_also_of_requests_under_way() -> None:
    async def main() -> None:
        limiter = RateLimiter(9, max_tokens_per_window=100)
        first, second, unsent = (limiter.reserve(tokens=tokens) for tokens in (50, 30, 20))
        assert [permit.take() for permit in (first, second, unsent)] == [True] * 3
        limiter.max_tokens_per_window = None
        assert limiter.try_acquire(tokens=1000)
        first.settle(tokens=10)
        unsent._give_back_unsent()
        limiter.max_tokens_per_window = 200
        assert limiter.stats["current_window_tokens"] == 40
        second.settle(tokens=190)
        assert limiter.stats["current_window_tokens"] == 200
        assert not limiter.try_acquire(tokens=1)
        await asyncio.sleep(60)
        assert limiter.try_acquire(tokens=200)
        assert not limiter.try_acquire(tokens=1)

    run_virtual(main())


def test_a_request_that_settles_long_after_its_token_limit_was_dropped_owes_nothing_to_the_next_one() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        permit, other = limiter.reserve(tokens=60), limiter.reserve(tokens=40)
        assert permit.take()
        assert other.take()
        limiter.max_tokens_per_window = None
        await asyncio.sleep(61)
        permit.settle(tokens=10)
        limiter.max_tokens_per_window = 100
        other.settle(tokens=10)
        assert limiter.stats["current_window_tokens"] == 0
        assert limiter.try_acquire(tokens=100)
        assert not limiter.try_acquire(tokens=1)

    run_virtual(main())


def test_a_reset_forgets_what_was_counted_before_a_limit_was_dropped() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, 1, max_tokens_per_window=100)
        permit = limiter.reserve(tokens=100)
        assert permit.take()
        limiter.max_per_window = limiter.max_tokens_per_window = None
        limiter.reset()
        limiter.max_per_window, limiter.max_tokens_per_window = 1, 100
        permit.settle(tokens=10)
        assert limiter.stats["current_window_tokens"] == 0
        assert limiter.try_acquire(tokens=100)
        assert not limiter.try_acquire()

    run_virtual(main())


def test_tokens_told_late_leave_the_window_with_their_own_request() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        first = limiter.reserve()
        assert first.take()
        await asyncio.sleep(30)
        assert limiter.try_acquire(tokens=50)
        first.settle(tokens=50)
        assert not limiter.try_acquire(tokens=50)
        await asyncio.sleep(30)
        assert limiter.stats["current_window_tokens"] == 50
        assert limiter.try_acquire(tokens=50)

    run_virtual(main())


@pytest.mark.parametrize("tokens", [0, 40])
def test_settling_a_permit_that_was_cancelled_after_its_grant_books_nothing(tokens: int) -> None:
    async def main() -> None:
        limiter = RateLimiter(1, max_tokens_per_window=100)
        await limiter.acquire()
        permit = limiter.reserve(tokens)
        waiter = asyncio.create_task(permit.__aenter__())
        await settle_down()
        limiter.release()
        assert permit.held
        waiter.cancel()
        await settle_down()
        assert not permit.held
        permit.settle(30)
        assert limiter.stats["current_window_tokens"] == 0
        with pytest.raises(RuntimeError, match="good for one request"):
            await permit.__aenter__()

    run_virtual(main())


def test_a_permit_is_good_for_one_request() -> None:
    async def main() -> None:
        permit = RateLimiter().reserve(3)
        async with permit:
            assert permit.held
        with pytest.raises(RuntimeError, match="one request"):
            async with permit:
                pass

    run_virtual(main())


def test_a_waiter_cancelled_before_its_grant_leaves_no_trace() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 10)
        await limiter.acquire()
        waiters = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await settle_down()
        waiters[0].cancel()
        await settle_down()
        assert (limiter.waiting, limiter.active, limiter.current_window_count) == (2, 1, 1)
        limiter.release()
        await settle_down()
        assert waiters[1].done()
        assert not waiters[2].done()
        waiters[2].cancel()

    run_virtual(main())


def test_cancelled_waiter_gives_its_grant_back_and_wakes_the_next() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, 2, max_tokens_per_window=100)
        await limiter.acquire(tokens=10)
        first = asyncio.create_task(limiter.acquire(tokens=60))
        second = asyncio.create_task(limiter.acquire(tokens=30))
        await settle_down()
        limiter.release()  # grants the first, which is cancelled before it runs
        first.cancel()
        await settle_down()
        assert first.cancelled()
        assert second.done()
        assert (limiter.active, limiter.current_window_count, limiter.stats["current_window_tokens"]) == (1, 2, 40)

    run_virtual(main())


def test_a_cancelled_head_makes_room_for_the_one_behind_it() -> None:
    async def main() -> None:
        limiter = RateLimiter(5, max_tokens_per_window=100)
        await limiter.acquire(tokens=60)
        large = asyncio.create_task(limiter.acquire(tokens=90))
        small = asyncio.create_task(limiter.acquire(tokens=10))
        await settle_down()
        large.cancel()
        await settle_down()
        assert small.done()

    run_virtual(main())


def test_the_one_behind_a_cancelled_head_starts_as_soon_as_it_fits_itself() -> None:
    async def main() -> float:
        limiter = RateLimiter(5, 1, 10.0, max_tokens_per_window=100)
        assert limiter.try_acquire()
        await asyncio.sleep(10)
        assert limiter.try_acquire(tokens=60)
        large = asyncio.create_task(limiter.acquire(tokens=90))  # fits at 20 ...
        await settle_down()
        limiter.max_per_window = 2
        limiter.pause(3)
        small = asyncio.create_task(limiter.acquire(tokens=10))  # ... this one at 13
        await settle_down()
        large.cancel()
        await small
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(13)


def test_raising_the_limit_wakes_as_many_as_there_is_room_for() -> None:
    async def main() -> None:
        limiter = RateLimiter(4)
        for _ in range(4):
            await limiter.acquire()
        limiter.max_concurrent = 1
        waiters = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
        await settle_down()
        limiter.max_concurrent = 3  # fewer than are active: nobody may start
        await settle_down()
        assert limiter.active == 4
        limiter.max_concurrent = 6
        await settle_down()
        assert (limiter.active, limiter.waiting) == (6, 3)
        for waiter in waiters:
            waiter.cancel()

    run_virtual(main())


def test_raising_or_dropping_a_window_wakes_waiters() -> None:
    async def main() -> None:
        limiter = RateLimiter(9, 1, max_tokens_per_window=1)
        await limiter.acquire(tokens=1)
        waiter = asyncio.create_task(limiter.acquire(tokens=1))
        await settle_down()
        limiter.max_per_window = 2
        await settle_down()
        assert not waiter.done()
        limiter.max_tokens_per_window = 2
        await settle_down()
        assert waiter.done()
        limiter.max_per_window = None
        limiter.max_tokens_per_window = None
        assert limiter.try_acquire(tokens=10)

    run_virtual(main())


def test_a_pause_can_be_extended_never_shortened() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(5)
        limiter.pause(10)
        limiter.pause(30)
        limiter.pause(1)
        assert limiter.paused_for == pytest.approx(30)
        return await starts(limiter, 2)

    assert run_virtual(main()) == pytest.approx([30, 30])


def test_a_pause_set_while_somebody_waits_holds() -> None:
    async def main() -> list[float]:
        limiter = RateLimiter(5, 1, 10.0)
        task = asyncio.create_task(starts(limiter, 2))
        await asyncio.sleep(5)
        limiter.pause(20)
        return await task

    assert run_virtual(main()) == pytest.approx([0, 25])


def test_reset_forgets_windows_and_pause_but_not_held_slots() -> None:
    async def main() -> None:
        limiter = RateLimiter(2, 1, max_tokens_per_window=5, max_burst=1)
        await limiter.acquire(tokens=5)
        limiter.pause(100)
        limiter.reset()
        assert (limiter.active, limiter.current_window_count, limiter.paused_for) == (1, 0, 0.0)
        assert limiter.try_acquire(tokens=5)
        limiter.reset()
        assert not limiter.try_acquire()

    run_virtual(main())


def test_acquire_times_out_and_takes_nothing() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        await limiter.acquire()
        with pytest.raises(TimeoutError, match="no room within 5 s"):
            await limiter.acquire(timeout=5)
        assert (limiter.active, limiter.waiting) == (1, 0)
        limiter.release()
        await limiter.acquire(timeout=0)

    run_virtual(main())


def test_release_without_a_grant_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without a grant"):
        RateLimiter().release()


@pytest.mark.parametrize("reserved", [False, True])
async def test_release_gives_back_no_slot_that_another_gives_back_itself(reserved: bool) -> None:
    limiter = RateLimiter(3)
    async with limiter.reserve() if reserved else limiter:
        with pytest.raises(RuntimeError, match=r"without a grant: .* `async with` gives its slot back itself"):
            limiter.release()
        await limiter.acquire()
        assert limiter.try_acquire()
        assert limiter.active == 3
        limiter.release()
        limiter.release()
        with pytest.raises(RuntimeError, match="without a grant"):
            limiter.release()
        assert limiter.active == 1
    assert limiter.active == 0


def test_reading_never_evicts_and_works_outside_a_loop() -> None:
    limiter = RateLimiter(5, 3, 10.0)

    async def main() -> None:
        await starts(limiter, 2)
        await asyncio.sleep(5)

    run_virtual(main())
    assert limiter.current_window_count == 2
    assert limiter.stats["current_window_count"] == 2
    assert "max_concurrent=5" in repr(limiter)


def test_copies_are_the_same_limiter() -> None:
    limiter = RateLimiter()
    assert copy.copy(limiter) is limiter
    assert copy.deepcopy({"limiter": limiter})["limiter"] is limiter


def test_a_limiter_cannot_be_sent_to_another_process_and_says_what_would_do() -> None:
    with pytest.raises(TypeError, match=r"lives in one process.*LimiterRegistry.register.*shared_limiter='name'"):
        pickle.dumps(RateLimiter(3))
    with pytest.raises(TypeError, match="lives in one process"):
        pickle.dumps(ThrottledParallelBatchNode(shared_limiter=RateLimiter(3)))
    assert pickle.loads(pickle.dumps(ThrottledParallelBatchNode(shared_limiter="name"))).shared_limiter == "name"


def test_one_limiter_serves_loop_after_loop_and_keeps_its_window() -> None:
    limiter = RateLimiter(1, 2, 60.0)
    assert run_virtual(starts(limiter, 2)) == [0, 0]
    assert run_virtual(starts(limiter, 1)) == pytest.approx([60])
    assert limiter.active == 0


def test_a_loop_that_comes_back_after_one_of_another_time_goes_on_from_there() -> None:
    limiter = RateLimiter(1)
    session = VirtualTimeLoop()

    async def use(seconds: float) -> float:
        async with limiter:
            await asyncio.sleep(seconds)
            return limiter._now()

    async def pause() -> None:
        await asyncio.sleep(0)
        limiter.pause(1)

    try:
        before = session.run_until_complete(use(1))
        after = run_virtual(use(3600))
        assert after == pytest.approx(before + 3600, abs=2)
        run_virtual(pause())
        began = session.time()
        assert session.run_until_complete(use(0)) == pytest.approx(after + 1, abs=2)
        assert session.time() - began == pytest.approx(1, abs=2)
    finally:
        session.close()


def test_waiters_of_a_closed_loop_do_not_keep_others_waiting() -> None:
    limiter = RateLimiter(1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(limiter.acquire())
    abandoned = loop.create_task(limiter.acquire())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert limiter.waiting == 1
    limiter.release()
    run_virtual(limiter.acquire(timeout=1))
    assert limiter.active == 1
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
    del abandoned
    gc.collect()
    assert (limiter.active, limiter.waiting) == (1, 0)


@pytest.mark.parametrize("trying", [True, False])
def test_the_window_opens_for_others_though_a_waiter_of_a_closed_loop_is_ahead(trying: bool) -> None:
    limiter = RateLimiter(5, 1, 0.02)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(limiter.acquire())
    abandoned = loop.create_task(limiter.acquire())
    loop.run_until_complete(asyncio.sleep(0))
    limiter._timer = None  # as if another thread had asked for an earlier one, which its loop did not come to set
    loop.close()
    assert limiter.waiting == 1

    async def main() -> None:
        if trying:
            assert limiter.current_window_count == 1  # from here on this loop's clock counts
            await asyncio.sleep(100)
            assert limiter.try_acquire()
        else:
            async with asyncio.timeout(100):
                await limiter.__aenter__()

    run_virtual(main())
    assert (limiter.active, limiter.waiting) == (2, 0)
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_window_opens_for_a_waiter_whose_head_is_of_a_loop_that_is_closed_meanwhile(ahead: int) -> None:
    limiter = RateLimiter(5, 1, 60)
    loop = VirtualTimeLoop()
    loop.run_until_complete(limiter.acquire())
    abandoned = [loop.create_task(limiter.acquire()) for _ in range(ahead)]
    loop.run_until_complete(asyncio.sleep(1))

    async def main() -> None:
        waiter = asyncio.create_task(limiter.acquire(timeout=100))
        await asyncio.sleep(1)
        assert limiter.waiting == ahead + 1
        loop.close()
        await waiter
        assert 50 < asyncio.get_running_loop().time() < 61

    run_virtual(main())
    assert (limiter.active, limiter.waiting) == (2, 0)
    for task in abandoned:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_an_abandoned_holder_gives_its_slot_back() -> None:
    limiter = RateLimiter(1)

    async def hold() -> None:
        async with limiter:
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        coroutine: Coroutine[Any, Any, None] = hold()
        coroutine.send(None)
        assert limiter.active == 1
        coroutine.close()
        assert limiter.active == 0

    run_virtual(main())


def test_loops_in_several_threads_together_never_exceed_it() -> None:
    limiter = RateLimiter(3)
    inside = peak = 0
    lock = threading.Lock()
    done: list[int] = []

    async def worker() -> None:
        nonlocal inside, peak
        for _ in range(40):
            async with limiter:
                with lock:
                    inside += 1
                    peak = max(peak, inside)
                await asyncio.sleep(0)
                with lock:
                    inside -= 1
        done.append(1)

    async def crowd() -> None:
        await asyncio.gather(*(worker() for _ in range(10)))

    threads = [threading.Thread(target=asyncio.run, args=(crowd(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 30
    assert 1 <= peak <= 3
    assert (limiter.active, limiter.waiting) == (0, 0)


def test_a_waiter_of_another_thread_is_woken_in_its_own_loop() -> None:
    limiter = RateLimiter(1)
    assert limiter.try_acquire() is True
    granted = threading.Event()

    async def wait() -> None:
        await limiter.acquire(timeout=30)
        granted.set()

    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    while not limiter.waiting:
        time.sleep(0)
    limiter.release()
    assert granted.wait(30)
    thread.join(30)


def test_a_waiter_woken_from_outside_any_loop_is_stamped_by_the_clock_of_its_own() -> None:
    limiter = RateLimiter(1, 2, 0.01)
    counted: list[int] = []

    async def main() -> None:
        assert limiter.try_acquire()
        await asyncio.sleep(1000)
        waiter = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(limiter.release).result()
        await waiter
        counted.append(limiter.current_window_count)

    run_virtual(main())
    assert counted == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # with the threads of whatever test ran before
@pytest.mark.parametrize("settings", [{}, {"max_per_window": 1, "window_seconds": 0.01}])
def test_a_process_forked_in_a_loop_has_a_limiter_of_its_own(settings: dict[str, Any]) -> None:
    limiter = RateLimiter(1, **settings)

    async def one_after_the_other() -> None:
        async def call() -> None:
            async with limiter:
                await asyncio.sleep(0)

        async with asyncio.timeout(10):
            await asyncio.gather(call(), call(), call())

    async def main() -> None:
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        child = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(one_after_the_other()))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert (limiter.active, limiter.waiting) == (1, 1)
        limiter.release()
        await waiting

    asyncio.run(main())


@pytest.mark.parametrize("limit", [1, 4])
def test_it_works_under_uvloop(limit: int) -> None:
    limiter = RateLimiter(limit, 20, 0.02, max_tokens_per_window=1000, max_burst=10)
    loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        began = runner.run(starts(limiter, 40, tokens=10))
    assert len(began) == 40
    assert (limiter.active, limiter.waiting) == (0, 0)


BAD_COUNTS = [0, -1, 1.5, math.nan, math.inf, "5", True, [], 10.0]


@pytest.mark.parametrize("value", [*BAD_COUNTS, None])
def test_bad_max_concurrent_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_concurrent must be") as caught:
        RateLimiter(value)
    assert repr(value) in str(caught.value)
    with pytest.raises((TypeError, ValueError), match="max_concurrent must be"):
        RateLimiter().max_concurrent = value


@pytest.mark.parametrize("value", BAD_COUNTS)
@pytest.mark.parametrize("name", ["max_per_window", "max_tokens_per_window", "max_burst"])
def test_bad_windows_are_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} must be") as caught:
        RateLimiter(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "60", True, None])
def test_bad_window_seconds_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="window_seconds must be positive"):
        RateLimiter(1, 1, value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_bad_pauses_and_tokens_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        RateLimiter().pause(value)
    with pytest.raises((TypeError, ValueError), match="tokens must be"):
        RateLimiter().reserve(value)


def test_a_number_that_no_float_can_hold_is_refused_as_an_endless_one() -> None:
    with pytest.raises(ValueError, match="window_seconds must be positive"):
        RateLimiter(1, 1, 10**400)
    with pytest.raises(ValueError, match="seconds must be zero or more"):
        RateLimiter().pause(10**400)
    with pytest.raises(ValueError, match="recovery_factor must be above 1"):
        RateLimiter(adaptive=Adaptive(recovery_factor=10**400))
    with pytest.raises(ValueError, match="max_per_window must be a number that a float can hold, got one of 1329 bits"):
        RateLimiter(1, 10**400)


@pytest.mark.parametrize("adaptive", [None, True])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "3", None, True])
def test_a_refusal_with_a_pause_that_is_none_is_refused_before_anything_learns_from_it(value: Any, adaptive: bool | None) -> None:
    limiter = RateLimiter(5, adaptive=adaptive)

    async def main() -> None:
        async with limiter.reserve() as permit:
            with pytest.raises((TypeError, ValueError), match=rf"pause must .* got {value!r}"):
                permit.refused(value)
        assert (limiter.max_concurrent, limiter.paused_for) == (5, 0)
        await limiter.acquire(timeout=0)

    run_virtual(main())


def test_a_burst_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="max_burst"):
        RateLimiter(max_burst=2)
    limiter = RateLimiter(5, 10, max_burst=2)
    with pytest.raises(ValueError, match="max_per_window"):
        limiter.max_per_window = None


def test_a_loop_whose_timers_cannot_be_referred_to_weakly_will_do() -> None:
    """Some loops of other languages have such."""

    class Timer:
        __slots__ = ("cancel",)

        def __init__(self, handle: asyncio.TimerHandle) -> None:
            self.cancel = handle.cancel

    async def main() -> float:
        loop = asyncio.get_running_loop()
        call_at = loop.call_at
        loop.call_at = lambda when, call, *args, **more: Timer(call_at(when, call, *args, **more))  # type: ignore[method-assign, assignment]
        limiter = RateLimiter(max_per_window=1)
        for _ in range(3):
            await limiter.acquire()
            limiter.release()
        return loop.time()

    assert run_virtual(main()) == pytest.approx(120.0)

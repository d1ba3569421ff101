"""What the batch runner promises when things go wrong at the worst moment, in virtual time."""

import asyncio
import contextvars
import dataclasses
import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketflow_throttled import AdaptiveThrottledNode, RateLimiter, RateLimitHit, ThrottledParallelBatchNode, run_virtual

from .test_nodes import Batch, echo, now, slow


def idle(limiter: RateLimiter) -> bool:
    return (limiter.active, limiter.waiting) == (0, 0)


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def source_of(kind: str, items: Any) -> Any:
    async def awaited() -> AsyncIterator[Any]:
        for item in items:
            yield item

    async def slow() -> AsyncIterator[Any]:
        for item in items:
            await asyncio.sleep(0)
            yield item

    return {"list": list(items), "generator": (item for item in items), "async": awaited(), "slow": slow()}[kind]


SOURCES = ["list", "generator", "async", "slow"]


@pytest.mark.parametrize("where", ["the call", "the fallback", "the source", "the async source"])
def test_a_generator_exit_of_the_users_ends_the_batch_as_any_other_error_does(where: str) -> None:
    """It is also what a coroutine gets that nobody runs any more, and that must not wait."""
    stopped = GeneratorExit(where)
    ended = 0

    def items() -> Iterator[int]:
        yield from range(3)
        raise stopped

    async def items_async() -> AsyncIterator[int]:
        for item in items():
            yield item

    async def call(item: int) -> None:
        nonlocal ended
        try:
            await asyncio.sleep(1 + item)
            raise stopped if where == "the call" else ValueError(item)
        finally:
            await asyncio.sleep(0.1)
            ended += 1

    class Asked(Batch):
        async def exec_fallback_async(self, _: Any, exc: Exception) -> Any:
            raise stopped if where == "the fallback" else exc

    async def main() -> None:
        node = Asked(call)
        source = {"the source": items(), "the async source": items_async()}.get(where, range(3))
        with pytest.raises(GeneratorExit) as caught:
            await asyncio.wait_for(node.run_async({"items": source}), timeout=100)
        assert caught.value is stopped
        assert caught.value.__notes__ == ["while item 3 was read" if "source" in where else "in item 0: 0"]
        assert ended == 3
        assert idle(node.limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("pace", [None, 0, 1])
def test_cancelled_at_any_tick_it_gives_everything_back(kind: str, pace: int | None) -> None:
    """Slots, queue and tasks, and the stamps of calls that were never made."""

    async def cancelled_after(count: int) -> bool:
        calls = 0

        async def call(_: int) -> None:
            nonlocal calls
            calls += 1
            if pace is not None:
                await asyncio.sleep(pace)

        limiter = RateLimiter(3, 1000)
        holder = asyncio.create_task(hold(limiter))
        node = Batch(call, shared_limiter=limiter)
        task = asyncio.create_task(node.run_async({"items": source_of(kind, range(8))}))
        await ticks(count)
        was_done = task.done()
        task.cancel()
        await asyncio.wait([task, holder])
        assert idle(limiter)
        assert limiter.current_window_count == calls + 1
        assert len(asyncio.all_tasks()) == 1
        return was_done

    async def hold(limiter: RateLimiter) -> None:
        async with limiter:
            await ticks(4)

    async def main() -> None:
        count = 0
        while not await cancelled_after(count) and count < 60:
            count += 1
        assert count > 4

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("failing", range(6))
@pytest.mark.parametrize("pause", [None, 0])
def test_the_first_error_starts_not_one_more_call(kind: str, failing: int, pause: int | None) -> None:
    after: list[int] = []
    failed = False

    async def call(item: int) -> None:
        nonlocal failed
        if failed:
            after.append(item)
        if pause is not None:
            await asyncio.sleep(pause)
        if item == failing:
            failed = True
            raise ValueError(item)

    async def main() -> None:
        node = Batch(call, max_concurrent=2)
        with pytest.raises(ValueError, match=str(failing)) as caught:
            await node.run_async({"items": source_of(kind, range(20))})
        assert caught.value.__notes__ == [f"in item {failing}: {failing}"]
        assert after == []
        assert idle(node.limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("victim", range(7))
def test_a_task_cancelled_before_its_first_step_ends_the_batch_and_leaks_nothing(kind: str, victim: int) -> None:
    calls = 0

    async def call(_: int) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[asyncio.Task[Any]] = []

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
            if "_handle" in getattr(coro, "__qualname__", ""):
                made.append(task)
                if len(made) == victim + 1:
                    task.cancel()
            return task

        loop.set_task_factory(factory)
        node = Batch(call, max_concurrent=3, max_per_minute=100)
        with pytest.raises(asyncio.CancelledError):
            await node.run_async({"items": source_of(kind, range(7))})
        assert len(made) >= victim + 1
        assert idle(node.limiter)
        assert node.limiter.current_window_count == calls
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
def test_a_run_that_is_abandoned_gives_everything_back(kind: str) -> None:
    async def main() -> None:
        limiter = RateLimiter(2, 100)
        for count in range(12):
            node = Batch(lambda _: asyncio.sleep(5), shared_limiter=limiter)
            run = node._exec(source_of(kind, range(6)))
            run.send(None)
            await ticks(count)
            run.close()
            await ticks(6)
            assert idle(limiter)
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("count", range(8))
def test_a_loop_closed_with_a_batch_in_it_keeps_no_slot(kind: str, count: int) -> None:
    limiter = RateLimiter(2)
    loop = asyncio.new_event_loop()
    run = loop.create_task(Batch(lambda _: asyncio.sleep(5), shared_limiter=limiter)._exec(source_of(kind, range(6))))
    loop.run_until_complete(ticks(count))
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del run, task, loop
    gc.collect()

    async def main() -> None:
        async with asyncio.timeout(1):
            assert await Batch(echo, shared_limiter=limiter)._exec(range(10)) == list(range(10))
        assert idle(limiter)

    run_virtual(main())


def test_a_call_that_outlives_its_cancellation_is_cancelled_anew_with_the_run() -> None:
    async def call(_: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(50)

    async def main() -> None:
        node = Batch(call)
        task = asyncio.create_task(node._exec(range(20)))
        for _ in range(2):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() == 2
        assert idle(node.limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.parametrize("error", [ConnectionError, RateLimitHit])
@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_a_call_that_answers_its_cancellation_with_an_error_is_not_sent_again(error: type[Exception], on_error: str) -> None:
    starts: list[float] = []

    async def call(item: int) -> None:
        starts.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise error from None

    class Own(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> None:
            starts.append(now())

    async def main() -> None:
        node = Own(call, max_concurrent=3, max_retries=3, wait=1, on_error=on_error)
        task = asyncio.create_task(node._exec(range(20)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() == 1
        assert starts == [0, 0, 0]
        assert idle(node.limiter)

    run_virtual(main())


def test_a_success_after_a_retry_is_no_evidence_of_room() -> None:
    class Adapting(AdaptiveThrottledNode):
        async def exec_async(self, item: int) -> int:
            if self.cur_retry == 0 and item == 2:
                raise ValueError("again")
            return item

    node = Adapting(2, initial_concurrent=1)
    assert run_virtual(node._exec(range(3))) == [0, 1, 2]
    assert node.stats["total_successes"] == 3
    assert node.stats["consecutive_successes"] == 2
    assert node.limiter._rule is not None
    assert node.limiter._rule._earned == 2


def test_a_source_that_swallows_its_cancellation_starts_no_call() -> None:
    calls: list[int] = []

    async def stubborn() -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            yield 1
        yield 2

    async def call(item: int) -> None:
        calls.append(item)
        await asyncio.sleep(1)
        raise ValueError("no")

    async def main() -> None:
        node = Batch(call)
        with pytest.raises(ValueError, match="no"):
            await node.run_async({"items": stubborn()})
        assert now() == 1
        assert calls == [0]
        assert idle(node.limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.parametrize("ending", ["error", "cancelled", "fallback"])
def test_a_generator_that_is_not_read_to_its_end_is_closed_in_its_own_context(ending: str) -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="outside")
    closed: list[str] = []

    def source() -> Iterator[int]:
        mark.set("source")
        try:
            yield from range(100)
        finally:
            closed.append(mark.get())
            raise KeyError("what came first counts")

    async def call(item: int) -> None:
        mark.set("item")
        await asyncio.sleep(1)
        if ending != "cancelled":
            raise ValueError("no")

    class Falling(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> None:
            raise (ValueError("no") if ending == "fallback" else exc)

    async def main() -> None:
        task = asyncio.create_task(Falling(call, max_concurrent=2).run_async({"items": source()}))
        await asyncio.sleep(0.5)
        if ending == "cancelled":
            task.cancel()
        with pytest.raises(asyncio.CancelledError if ending == "cancelled" else ValueError):
            await task
        assert mark.get() == "outside"
        assert closed == ["source"]

    run_virtual(main())


def test_items_see_the_context_of_the_run_and_not_each_others() -> None:
    mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark")
    read_in: list[Any] = []

    def source() -> Iterator[int]:
        for item in range(20):
            read_in.append((mark.get(), asyncio.current_task()))
            yield item

    async def call(item: int) -> int:
        seen = mark.get()
        mark.set(item)
        return seen

    async def main() -> list[int]:
        mark.set(-1)
        return await Batch(call, max_concurrent=3)._exec(source())

    assert run_virtual(main()) == [-1] * 20
    assert {mark for mark, _ in read_in} == {-1}
    assert {task for _, task in read_in} == {None}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_batch_within_an_item_counts_its_own_retries(kind: str) -> None:
    seen: list[tuple[str, int]] = []
    outer: Batch
    inner: Batch

    async def call_inner(_: int) -> None:
        seen.append(("inner", inner.cur_retry))

    async def call_outer(_: int) -> None:
        seen.append(("outer", outer.cur_retry))
        await inner._exec(source_of(kind, [0]))
        assert outer.cur_retry == len(seen) // 2 - 1
        if outer.cur_retry < 2:
            raise ValueError("again")

    inner, outer = Batch(call_inner), Batch(call_outer, 3)
    run_virtual(outer._exec([0]))
    assert seen == [("outer", 0), ("inner", 0), ("outer", 1), ("inner", 0), ("outer", 2), ("inner", 0)]


def test_the_fallback_sees_the_last_error_as_the_current_one_and_it_blames_no_other() -> None:
    attempts = 0

    async def call(_: int) -> None:
        nonlocal attempts
        attempts += 1
        raise ValueError(attempts)

    class Falling(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> Any:
            assert sys.exc_info()[1] is exc
            return exc.args[0], exc.__context__

    assert run_virtual(Falling(call, 4)._exec([0])) == [(4, None)]


def test_batches_and_others_on_one_limiter_take_turns() -> None:
    order: list[str] = []

    async def main() -> None:
        limiter = RateLimiter(1)

        def named(name: str) -> Callable[[int], Awaitable[None]]:
            async def call(_: int) -> None:
                order.append(name)
                await asyncio.sleep(1)

            return call

        async def user() -> None:
            async with limiter:
                order.append("c")
                await asyncio.sleep(1)

        async def users() -> None:
            for _ in range(4):
                await user()

        a, b = (Batch(named(name), shared_limiter=limiter)._exec(range(4)) for name in "ab")
        await asyncio.gather(a, b, users())

    run_virtual(main())
    assert len(order) == 12
    assert all(set(order[at : at + 3]) == {"a", "b", "c"} for at in range(0, 12, 3))


def test_instant_batches_on_one_limiter_take_turns() -> None:
    order: list[str] = []

    async def main() -> None:
        limiter = RateLimiter(2)

        def named(name: str) -> Callable[[int], Awaitable[None]]:
            async def call(_: int) -> None:
                order.append(name)

            return call

        await asyncio.gather(*(Batch(named(name), shared_limiter=limiter)._exec(range(50)) for name in "ab"))
        assert idle(limiter)

    run_virtual(main())
    assert min(order[:50].count(name) for name in "ab") >= 20


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("kind", SOURCES)
def test_it_works_with_eager_tasks(kind: str) -> None:
    calls: list[int] = []

    async def call(item: int) -> int:
        calls.append(item)
        if item % 3 == 0:
            await asyncio.sleep(1)
        if item == 2500:
            raise ValueError("no")
        return item

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        node = Batch(call, max_concurrent=4)
        assert await node._exec(source_of(kind, range(2000))) == list(range(2000))
        assert calls == list(range(2000))
        calls.clear()
        with pytest.raises(ValueError, match="no"):
            await node._exec(source_of(kind, range(3000)))
        assert calls == list(range(2501))
        assert idle(node.limiter)

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
def test_it_works_with_tasks_of_another_factory(kind: str) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, call, **given: asyncio.Task(call, loop=loop, **given))
        node = Batch(slow, max_concurrent=3)
        assert await node._exec(source_of(kind, range(20))) == list(range(20))
        run = asyncio.create_task(node._exec(source_of(kind, range(20))))
        await asyncio.sleep(2.5)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert idle(node.limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_call_that_fails_ends_the_batch_at_once_while_the_source_is_slow() -> None:
    async def fail(_: int) -> None:
        raise ValueError("no")

    async def source() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(1000)
        yield 1

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="no"):
            await Batch(fail)._exec(source())
        assert now() == 0

    run_virtual(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_call_that_waits_for_a_slot_of_its_own_is_told_so_and_does_not_hang() -> None:
    limiter = RateLimiter(1)
    inner = Batch(echo, shared_limiter=limiter)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="of which its own caller holds one"):
            async with asyncio.timeout(1):
                await Batch(lambda item: inner._exec([item]), shared_limiter=limiter)._exec([0])
        assert idle(limiter)

    run_virtual(main())


@pytest.mark.parametrize("kind", SOURCES)
def test_it_works_under_uvloop(kind: str) -> None:
    async def main() -> None:
        node = Batch(echo, max_concurrent=3, max_per_minute=10**6)
        assert await node._exec(source_of(kind, range(200))) == list(range(200))
        assert idle(node.limiter)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_batches_of_several_threads_together_never_exceed_one_limiter() -> None:
    limiter = RateLimiter(3)
    lock = threading.Lock()
    inside = peak = 0
    results: list[Any] = []

    async def call(item: int) -> int:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        await asyncio.sleep(0)
        with lock:
            inside -= 1
        return item

    def work() -> None:
        results.append(asyncio.run(Batch(call, shared_limiter=limiter)._exec(range(100))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [list(range(100))] * 4
    assert 1 <= peak <= 3
    assert idle(limiter)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_fails_or_is_cancelled_nothing_leaks_and_nothing_is_lost(data: st.DataObject) -> None:
    """Batches and plain users on one limiter, on which anything goes wrong."""
    kinds = data.draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3))
    limits = data.draw(st.integers(1, 3)), data.draw(st.none() | st.integers(2, 30))
    holds = data.draw(st.lists(st.sampled_from([None, 0, 0.5]), min_size=5, max_size=5))
    failing = data.draw(st.none() | st.integers(0, 11))
    flaky, rest = data.draw(st.sets(st.integers(0, 11))), data.draw(st.sampled_from([0, 0.5, 20]))
    cancels = data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=4))

    async def main() -> None:
        limiter = RateLimiter(limits[0], limits[1], 5.0)
        inside = 0

        async def call(item: int, *, of: int = 0) -> int:
            nonlocal inside
            inside += 1
            try:
                assert inside <= limits[0]
                hold = holds[item % 5]
                if hold is not None:
                    await asyncio.sleep(hold)
                if item == failing or (item in flaky and nodes[of].cur_retry == 0):
                    raise ValueError("no")
                return item
            finally:
                inside -= 1

        async def user() -> None:
            for _ in range(5):
                async with limiter:
                    await call(-1)

        nodes: list[ThrottledParallelBatchNode] = [
            Batch(partial(call, of=number), 2, rest, shared_limiter=limiter) for number in range(len(kinds))
        ]
        tasks = [asyncio.create_task(node._exec(source_of(kind, range(12)))) for node, kind in zip(nodes, kinds, strict=True)]
        tasks.append(asyncio.create_task(user()))
        for wait, victim in cancels:
            await ticks(wait)
            tasks[victim % len(tasks)].cancel()
        for task in tasks[:-1]:
            try:
                assert await task == list(range(12))
            except ValueError:
                assert failing is not None
            except asyncio.CancelledError:
                assert cancels
        await asyncio.wait(tasks)
        assert idle(limiter)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Takes no note, as any exception that is a frozen dataclass."""

    code: str


def test_an_error_that_takes_no_note_ends_the_batch_as_it_was() -> None:
    async def call(_: int) -> None:
        raise error

    for error in (FrozenError("x"), FrozenError("429 insufficient_quota")):
        node = Batch(call, max_concurrent=2)
        with pytest.raises(FrozenError) as caught:
            run_virtual(asyncio.wait_for(node.run_async({"items": range(5)}), 10))
        assert caught.value is error
        assert idle(node.limiter)


def test_what_one_node_sets_as_its_attempt_is_none_of_anothers() -> None:
    node, other = (ThrottledParallelBatchNode() for _ in range(2))
    node.cur_retry = 3
    assert (node.cur_retry, other.cur_retry) == (3, 0)
    seen: list[int] = []

    class Inner(Batch):
        async def prep_async(self, shared: Any) -> Any:
            seen.append(self.cur_retry)
            return [1]

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> None:
            seen.append(self.cur_retry)

    async def call(_item: int) -> int:
        await Inner(echo).run_async({})
        if outer.cur_retry < 2:
            raise ValueError
        return outer.cur_retry

    outer, shared = Batch(call, max_retries=3), {"items": [0]}
    run_virtual(outer.run_async(shared))
    assert (seen, shared["results"]) == ([0] * 6, [2])


@pytest.mark.parametrize("first", [ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
def test_a_call_that_ends_the_program_as_it_is_cancelled_does_so_whatever_failed_first(
    first: type[BaseException], exit_: type[BaseException]
) -> None:
    async def call(item: int) -> None:
        if item == 0:
            await asyncio.sleep(1)
            raise first
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise (exit_ if item == 1 else ValueError)(f"of {item}") from None

    node = Batch(call, max_concurrent=3)
    with pytest.raises(exit_) as raised:
        run_virtual(node.run_async({"items": range(3)}))
    assert str(raised.value) == "of 1"
    assert idle(node.limiter)


@pytest.mark.parametrize("cancels", [0, 1, 2])
def test_the_first_exit_counts_and_is_raised_as_it_was_however_often_the_run_is_cancelled_meanwhile(cancels: int) -> None:
    async def call(item: int) -> None:
        if item == 0:
            await asyncio.sleep(0.05)
            raise ValueError("first")
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            while True:
                try:
                    await asyncio.sleep(item)
                except asyncio.CancelledError:
                    continue
                raise SystemExit(item) from KeyError("mine")

    async def main() -> None:
        running = asyncio.ensure_future(node.run_async({"items": range(3)}))
        for _ in range(cancels):
            await asyncio.sleep(0.1)
            running.cancel()
        await running

    node = Batch(call, max_concurrent=3)
    with pytest.raises(SystemExit) as raised:
        run_virtual(main())
    assert (raised.value.code, repr(raised.value.__cause__)) == (1, "KeyError('mine')")
    assert idle(node.limiter)


def test_a_call_that_ends_the_program_as_the_run_is_cancelled_does_so() -> None:
    async def call(_item: int) -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise SystemExit(3) from None

    async def main() -> None:
        running = asyncio.ensure_future(Batch(call, max_concurrent=3).run_async({"items": range(3)}))
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(SystemExit):
            await running

    with pytest.raises(SystemExit):  # asyncio raises it out of the loop, too
        run_virtual(main())

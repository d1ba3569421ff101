"""What ThrottledParallelBatchNode promises, in virtual time, on both of PocketFlow's sources."""

import asyncio
import copy
import math
import random
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocketflow import AsyncFlow, AsyncNode, AsyncParallelBatchFlow

from pocketflow_throttled import LimiterRegistry, RateLimiter, RateLimitHit, SimulatedAPI, ThrottledParallelBatchNode, run_virtual
from pocketflow_throttled.budget import Budget

pytestmark = pytest.mark.usefixtures("any_pocketflow")


def now() -> float:
    return asyncio.get_running_loop().time()


class Batch(ThrottledParallelBatchNode):
    """Runs `call` on the items of shared["items"] and keeps the results."""

    def __init__(self, call: Callable[[Any], Any], *args: Any, **kwargs: Any) -> None:
        self.call = call  # before super().__init__(), as programs do
        super().__init__(*args, **kwargs)

    async def prep_async(self, shared: dict[str, Any]) -> Any:
        return shared["items"]

    async def exec_async(self, item: Any) -> Any:
        return await self.call(item)

    async def post_async(self, shared: dict[str, Any], prep_res: Any, exec_res_list: Any) -> None:
        shared["prep"], shared["results"] = prep_res, exec_res_list


def run(node: Batch, items: Any) -> Any:
    shared = {"items": items}
    run_virtual(node.run_async(shared))
    assert shared["prep"] is items
    return shared["results"]


async def echo(item: Any) -> Any:
    return item


async def slow(item: Any) -> Any:
    await asyncio.sleep(1)
    return item


def test_results_are_in_input_order_whatever_ends_first() -> None:
    chance = random.Random(1)

    async def call(item: int) -> int:
        await asyncio.sleep(chance.random())
        return item

    assert run(Batch(call, max_concurrent=7), list(range(100))) == list(range(100))


@pytest.mark.parametrize("items", [None, [], (), iter(())])
def test_nothing_to_do_is_an_empty_list(items: Any) -> None:
    assert run(Batch(echo), items) == []


def test_none_is_a_result() -> None:
    async def call(_: Any) -> None:
        return None

    assert run(Batch(call), [1, 2]) == [None, None]


class Rows:
    """A sequence of the old kind: without `__iter__`."""

    def __getitem__(self, index: int) -> int:
        return (1, 2, 3)[index]


@pytest.mark.parametrize("items", [(1, 2, 3), {1: "a", 2: "b", 3: "c"}, range(1, 4), Rows()])
def test_any_iterable_will_do(items: Any) -> None:
    assert run(Batch(echo), items) == [1, 2, 3]


def test_what_cannot_be_iterated_is_refused() -> None:
    with pytest.raises(TypeError, match=r"iterable.*got 5"):
        run(Batch(echo), 5)


def test_a_source_is_read_as_it_is_used_and_live_tasks_are_bounded() -> None:
    read = done = 0
    most_ahead = most_tasks = 0

    def source() -> Iterator[int]:
        nonlocal read
        for item in range(500):
            read += 1
            yield item

    async def call(item: int) -> int:
        nonlocal done, most_ahead, most_tasks
        most_tasks = max(most_tasks, len(asyncio.all_tasks()))
        await asyncio.sleep(1)
        most_ahead = max(most_ahead, read - done)
        done += 1
        if item % 3 == 0:
            raise ValueError(item)
        return item

    node = Batch(call, 2, max_concurrent=4, on_error="collect")
    assert len(run(node, source())) == 500
    assert most_ahead <= 2 * 4 + 1
    assert most_tasks <= 2 * 4 + 3


@pytest.mark.parametrize("max_concurrent", [1, 5, 20])
def test_items_that_rest_between_two_attempts_leave_no_slot_idle(max_concurrent: int) -> None:
    started: list[int] = []
    node: Batch

    async def call(item: int) -> int:
        if node.cur_retry == 0:
            started.append(item)
        await asyncio.sleep(1)
        if node.cur_retry == 0 and item % 2:
            raise ValueError("no")
        return item

    async def main() -> float:
        assert await node._exec(iter(range(1000))) == list(range(1000))
        return now()

    node = Batch(call, 3, 60, max_concurrent=max_concurrent)
    assert run_virtual(main()) <= 1500 / max_concurrent + 61
    assert started == list(range(1000))


def test_items_that_rest_are_bounded_by_the_slots_and_what_is_queued_goes_first() -> None:
    attempts: list[tuple[float, int]] = []
    most_tasks = most_waiting = 0
    node: Batch

    async def call(_: int) -> None:
        nonlocal most_tasks, most_waiting
        most_tasks = max(most_tasks, len(asyncio.all_tasks()))
        most_waiting = max(most_waiting, node.limiter.waiting)
        attempts.append((now(), node.cur_retry))
        await asyncio.sleep(0.01)
        raise ValueError("no")

    node = Batch(call, 2, 60, max_concurrent=4, on_error="collect")
    assert len(run_virtual(node._exec(iter(range(500))))) == 500
    assert 32 * 4 <= most_tasks <= 34 * 4 + 3
    assert most_waiting <= 34 * 4
    first, second = ([when for when, retry in attempts if retry == which] for which in (0, 1))
    assert sum(when < 59 for when in first) <= 34 * 4
    assert all(again - when <= 62 for when, again in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_no_slot_is_idle_while_there_are_items_to_begin_and_most_calls_fail(seed: int) -> None:
    chance = random.Random(seed)
    starts: list[float] = []
    begun: dict[int, float] = {}

    async def call(item: int) -> None:
        begun.setdefault(item, now())
        starts.append(now())
        await asyncio.sleep(1)
        if chance.random() < 0.8:
            raise ValueError("no")

    run(Batch(call, 6, 10, max_concurrent=1, on_error="collect"), range(60))
    busy = [start for start in starts if start <= max(begun.values())]
    assert busy == [float(second) for second in range(len(busy))]


def test_fallbacks_hold_no_slot_and_are_bounded_by_them() -> None:
    under_way: list[int] = []
    most = 0

    async def call(_: int) -> None:
        raise ValueError("no")

    class Falling(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> int:
            nonlocal most
            under_way.append(item)
            most = max(most, len(under_way))
            await asyncio.sleep(30)
            assert self.limiter.active == 0
            under_way.remove(item)
            return item

    assert run(Falling(call, max_concurrent=3), iter(range(50))) == list(range(50))
    assert most == 2 * 3


def test_a_refusal_after_a_retry_is_waited_for_as_it_asks_and_no_longer() -> None:
    errors = [ValueError("no"), RateLimitHit(retry_after=1)]
    starts: list[float] = []

    async def call(_: int) -> None:
        starts.append(now())
        if errors:
            raise errors.pop(0)

    run(Batch(call, 3, 50), [0])
    assert starts == [0, 50, 51]


@pytest.mark.parametrize("ending", ["error", "cancelled"])
def test_a_batch_that_ends_while_items_rest_ends_at_once(ending: str) -> None:
    async def call(item: int) -> None:
        await asyncio.sleep(1)
        if item == 20:
            raise asyncio.CancelledError
        raise ValueError("no")

    async def main() -> None:
        node = Batch(call, 2, 1000, max_concurrent=2)
        task = asyncio.create_task(node._exec(range(100 if ending == "error" else 20)))
        await asyncio.sleep(10.5)
        if ending == "cancelled":
            assert (node.limiter.active, len(asyncio.all_tasks())) == (0, 22)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() == (11 if ending == "error" else 10.5)
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_an_item_that_rests_keeps_nothing_of_the_call_that_failed() -> None:
    class Answer:
        """What a call has in hand when it fails."""

    answers: list[weakref.ref[Answer]] = []

    async def call(_: int) -> None:
        answer = Answer()
        answers.append(weakref.ref(answer))
        raise ValueError("no")

    async def main() -> None:
        task = asyncio.create_task(Batch(call, 2, 60, on_error="collect")._exec(range(10)))
        await asyncio.sleep(1)
        assert len(answers) == 10
        assert [answer() for answer in answers] == [None] * 10
        await task

    run_virtual(main())


def test_an_async_source_works_and_is_closed() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for item in range(10):
                await asyncio.sleep(1)
                yield item
        finally:
            closed.append(True)

    assert run(Batch(echo), source()) == list(range(10))
    assert closed == [True]


def test_an_error_ends_the_batch_at_once_while_the_source_is_slow() -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(1000)
        yield 1

    async def call(_: int) -> None:
        await asyncio.sleep(5)
        raise ValueError("no")

    async def main() -> float:
        with pytest.raises(ValueError, match="no"):
            await Batch(call).run_async({"items": source()})
        return now()

    assert run_virtual(main()) == 5


def test_an_error_ends_the_batch_at_once_while_the_window_is_slow() -> None:
    async def call(_: int) -> None:
        await asyncio.sleep(5)
        raise ValueError("no")

    async def main() -> float:
        with pytest.raises(ValueError, match="no"):
            await Batch(call, max_per_minute=1).run_async({"items": [1, 2, 3]})
        return now()

    assert run_virtual(main()) == 5


def test_an_error_of_the_source_is_raised_and_says_where() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("source")

    with pytest.raises(KeyError) as caught:
        run(Batch(slow), source())
    assert "item 1" in caught.value.__notes__[0]


def test_every_item_has_its_own_retries() -> None:
    seen: dict[int, list[int]] = {}
    node: Batch

    async def call(item: int) -> int:
        seen.setdefault(item, []).append(node.cur_retry)
        await asyncio.sleep(random.random())
        if node.cur_retry < 2:
            raise ValueError(item)
        return item

    node = Batch(call, 3)
    assert run(node, list(range(50))) == list(range(50))
    assert all(retries == [0, 1, 2] for retries in seen.values())


def test_200_failing_items_fall_back_after_all_their_retries_and_never_as_a_silent_none() -> None:
    calls: dict[int, int] = {}

    class Failing(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> str:
            assert self.cur_retry == 2
            return f"{item}: {exc}"

    async def call(item: int) -> None:
        calls[item] = calls.get(item, 0) + 1
        await asyncio.sleep(0.1)
        raise ValueError("no")

    assert run(Failing(call, 3, max_concurrent=10), range(200)) == [f"{item}: no" for item in range(200)]
    assert set(calls.values()) == {3}


def test_a_refusal_is_no_retry_and_pauses_the_whole_limiter() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) == 1:
            raise RateLimitHit("slow down", retry_after=30)
        await asyncio.sleep(1)
        return item

    node = Batch(call, max_concurrent=1)
    assert run(node, [0, 1, 2]) == [0, 1, 2]
    assert starts[0] == 0
    assert min(starts[1:]) == pytest.approx(30)
    assert node.stats["refused"] == 1


def test_without_a_hint_the_wait_grows() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) < 6:
            raise RateLimitHit
        return item

    assert run(Batch(call), [7]) == [7]
    waits = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert waits == sorted(waits)
    assert waits[0] <= 1
    assert waits[-1] >= 8


@pytest.mark.parametrize("where", ["error", "hook"])
def test_a_wait_may_be_told_as_the_text_of_a_header(where: str) -> None:
    class Told(Batch):
        if where == "hook":

            @staticmethod
            def retry_after(exc: BaseException) -> Any:
                return "30"

    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) == 1:
            raise RateLimitHit("slow down", retry_after="30" if where == "error" else None)  # type: ignore[arg-type]
        return item

    assert run(Told(call), [7]) == [7]
    assert starts == [0, 30]


def test_a_key_that_is_missing_is_no_refusal_whatever_it_is_called() -> None:
    calls = 0

    async def call(item: dict[str, str]) -> str:
        nonlocal calls
        calls += 1
        return item["rate_limit"]

    with pytest.raises(KeyError):
        run(Batch(call), [{"text": "hello"}])
    assert calls == 1


def test_each_run_that_gives_up_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    async def call(_: int) -> None:
        raise RateLimitHit("no", retry_after=20)

    node = Batch(call, rate_limit_timeout=70, on_error="collect")
    for runs in (1, 2):
        run(node, range(5))
        assert [record.message for record in caplog.records if "gave up" in record.message] == [
            "Batch gave up: refused for 70.0 s"
        ] * runs


def test_once_an_api_is_back_an_item_that_is_refused_has_its_whole_time_again() -> None:
    refused = 0

    async def call(item: int) -> int:
        nonlocal refused
        await asyncio.sleep(0.1)
        if now() < 20:
            raise RateLimitHit("down", retry_after=1)
        if item == 25 and not refused:
            refused += 1
            raise RateLimitHit("slow down", retry_after=1)
        return item

    results = run(Batch(call, max_concurrent=1, rate_limit_timeout=10, on_error="collect"), range(30))
    assert results[25:] == list(range(25, 30))
    assert refused == 1


def test_an_item_refused_for_too_long_goes_to_the_fallback_which_says_so() -> None:
    class Refused(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> Any:
            return now(), str(exc)

    async def call(_: int) -> None:
        raise RateLimitHit("no", retry_after=20)

    [(gave_up_at, message)] = run(Refused(call, rate_limit_timeout=70), [1])
    assert gave_up_at == pytest.approx(70)
    assert "refused 5 times in 70.0 s" in message


class FullError(Exception):
    status_code = 429


class TerseError(FullError):
    def __str__(self) -> str:
        return "full"


@pytest.mark.parametrize(("kind", "args"), [(FullError, ["no"]), (FullError, []), (FullError, [429, "no"]), (TerseError, ["no"])])
def test_why_an_item_is_given_up_is_said_once(kind: type[FullError], args: list[Any]) -> None:
    async def call(_: int) -> None:
        raise kind(*args)

    with pytest.raises(FullError) as caught:
        run(Batch(call, rate_limit_timeout=0), [1])
    assert "".join(traceback.format_exception_only(caught.value)).count("refused once") == 1


def test_an_item_that_is_given_up_leaves_its_pause_to_the_others() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if now() < 80:
            raise RateLimitHit("no", retry_after=20)
        return item

    first, second = run(Batch(call, max_concurrent=1, rate_limit_timeout=70, on_error="collect"), [1, 2])
    assert isinstance(first, RateLimitHit)
    assert second == 2
    assert starts == pytest.approx([0, 20, 40, 60, 70, 90])


def test_an_endless_retry_after_waits_no_longer_than_the_timeout() -> None:
    async def call(_: int) -> None:
        raise RateLimitHit("no", retry_after=1e9)

    async def main() -> float:
        with pytest.raises(RateLimitHit):
            await Batch(call, rate_limit_timeout=50).run_async({"items": [1]})
        return now()

    assert run_virtual(main()) == pytest.approx(50)


def test_a_final_refusal_is_not_sent_again() -> None:
    calls = 0

    class NoCreditError(Exception):
        status_code = 429
        code = "insufficient_quota"

    async def call(_: int) -> None:
        nonlocal calls
        calls += 1
        raise NoCreditError("You exceeded your current quota")

    with pytest.raises(NoCreditError, match="not sent again: insufficient_quota"):
        run(Batch(call, 5), [1])
    assert calls == 1


def test_a_batch_on_an_api_with_the_same_limits_is_never_refused() -> None:
    api = SimulatedAPI(max_concurrent=4, max_per_window=30, latency=lambda item: item % 5)
    assert run(Batch(api.call, max_concurrent=4, max_per_minute=30), range(200)) == list(range(200))
    assert api.refused == 0
    assert api.worst_window == 30


def test_an_api_tighter_than_the_settings_loses_nothing() -> None:
    api = SimulatedAPI(max_concurrent=2, max_per_window=20, latency=1.0)
    assert run(Batch(api.call, max_concurrent=8), range(60)) == list(range(60))
    assert api.served == 60


def test_the_first_error_cancels_the_rest_waits_for_it_and_is_raised_as_it_was() -> None:
    error = ValueError("bad item")
    ended: list[int] = []

    async def call(item: int) -> None:
        try:
            await asyncio.sleep(1 if item == 3 else 100)
            raise error
        finally:
            ended.append(item)

    async def main() -> None:
        node = Batch(call, max_concurrent=5)
        with pytest.raises(ValueError, match="bad item") as caught:
            await node.run_async({"items": range(50)})
        assert caught.value is error
        assert caught.value.__notes__ == ["in item 3: 3"]
        assert sorted(ended) == [0, 1, 2, 3, 4]
        assert len(asyncio.all_tasks()) == 1
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    run_virtual(main())


def test_collect_puts_the_exception_in_its_items_place() -> None:
    async def call(item: int) -> int:
        if item % 2:
            raise ValueError(item)
        return item

    results = run(Batch(call, on_error="collect"), range(6))
    assert [type(result) for result in results] == [int, ValueError] * 3


def test_base_exceptions_are_neither_retried_nor_collected() -> None:
    class Stop(BaseException):
        pass

    calls = 0

    async def call(_: int) -> None:
        nonlocal calls
        calls += 1
        raise Stop

    with pytest.raises(Stop):
        run(Batch(call, 5, on_error="collect", max_concurrent=1), range(6))
    assert calls == 1


def test_a_call_that_cancels_itself_ends_the_batch_and_is_no_none() -> None:
    async def call(_: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(Batch(call, on_error="collect"), range(3))


def test_cancelling_the_run_cancels_every_call_and_waits_for_it() -> None:
    ended = 0

    async def call(_: int) -> None:
        nonlocal ended
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)
            ended += 1

    async def main() -> None:
        node = Batch(call, max_concurrent=3)
        task = asyncio.create_task(node.run_async({"items": range(50)}))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == 3
        assert now() == 3
        assert len(asyncio.all_tasks()) == 1
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    run_virtual(main())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_slot_or_task_leaks_whenever_it_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)

    async def call(item: int) -> int:
        await asyncio.sleep(chance.choice([0, 0, 1, 3]))
        if chance.random() < 0.2:
            raise chance.choice([ValueError(item), RateLimitHit(retry_after=chance.choice([None, 0, 2]))])
        return item

    async def main() -> None:
        node = Batch(call, 3, 1, max_concurrent=3, max_per_minute=40, on_error="collect")
        task = asyncio.create_task(node.run_async({"items": range(30)}))
        for _ in range(chance.randint(0, 30)):
            await asyncio.sleep(chance.choice([0, 0, 0, 1]))
            if chance.random() < 0.1 and len(asyncio.all_tasks()) > 2:
                chance.choice(sorted(asyncio.all_tasks() - {asyncio.current_task(), task}, key=lambda t: t.get_name())).cancel()
        task.cancel()
        await asyncio.wait([task])
        assert len(asyncio.all_tasks()) == 1
        assert (node.limiter.active, node.limiter.waiting) == (0, 0)

    run_virtual(main())


def test_all_copies_of_a_node_share_one_limiter_and_its_counts() -> None:
    async def call(item: int) -> int:
        return item

    async def main() -> float:
        node = Batch(call, max_per_minute=5)
        flow = AsyncFlow(start=node)
        for _ in range(3):
            await flow.run_async({"items": range(5)})
        assert node.stats["completed"] == 15
        return now()

    assert run_virtual(main()) == pytest.approx(120)


def test_a_deepcopied_node_shares_its_limiter() -> None:
    node = Batch(echo)
    assert copy.deepcopy(node).limiter is node.limiter


def test_a_shared_limiter_works_across_levels() -> None:
    api = SimulatedAPI(max_concurrent=4, latency=1.0)
    LimiterRegistry.register("api", max_concurrent=4)

    class Users(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> list[dict[str, int]]:
            return [{"user": user} for user in range(5)]

    node = Batch(api.call, shared_limiter="api")
    run_virtual(Users(start=node).run_async({"items": range(8)}))
    assert (api.served, api.refused, api.peak_concurrent) == (40, 0, 4)
    assert node.limiter is LimiterRegistry.get("api")


def test_an_unknown_shared_limiter_lists_the_known() -> None:
    LimiterRegistry.register("known")
    with pytest.raises(KeyError, match=r"nope.*'known'"):
        run(Batch(echo, shared_limiter="nope"), [1])


def test_tracers_may_replace_the_method_on_the_instance() -> None:
    node = Batch(echo)

    async def traced(item: int) -> str:
        return f"traced {item}"

    node.exec_async = traced  # type: ignore[method-assign]
    assert run(node, [1]) == ["traced 1"]


def test_items_start_in_order_so_one_may_wait_for_an_earlier_one() -> None:
    done: dict[int, asyncio.Event] = {}

    async def call(item: int) -> int:
        done[item] = asyncio.Event()
        if item:
            await done[item - 1].wait()
        await asyncio.sleep(0.1)
        done[item].set()
        return item

    assert run(Batch(call, max_concurrent=3), range(20)) == list(range(20))


def test_a_node_is_a_node_like_any_other() -> None:
    class Next(AsyncNode):
        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["next"] = True

    node = Batch(echo)
    node >> Next()
    shared: dict[str, Any] = {"items": [1]}
    run_virtual(AsyncFlow(start=node).run_async(shared))
    assert shared["next"] is True


def test_settings_changed_on_the_instance_hold_in_the_next_run() -> None:
    node = Batch(slow, max_concurrent=1)
    run(node, [1])
    node.max_concurrent = 0
    with pytest.raises(ValueError, match="max_concurrent must be at least 1, got 0"):
        run(node, [1])
    node.max_concurrent = 3
    run(node, [1])
    assert node.limiter.max_concurrent == 3


COUNTS = [0, -1, 1.5, math.nan, math.inf, "5", True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_concurrent", value) for value in [*COUNTS, None]],
        *[("max_per_minute", value) for value in COUNTS],
        *[("max_burst", value) for value in COUNTS],
        *[("rate_limit_timeout", value) for value in [-1, math.nan, math.inf, "5", True, None]],
        *[("on_error", value) for value in ["ignore", None, True, 1]],
        *[("shared_limiter", value) for value in [5, True]],
        *[("max_retries", value) for value in [*COUNTS, None]],
        *[("wait", value) for value in [-1, math.nan, math.inf, "5", True, None]],
    ],
)
def test_bad_settings_are_refused_before_any_call_with_name_and_value(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name) as caught:
        Batch(echo, **{name: value})
    assert repr(value) in str(caught.value)
    if name not in {"max_retries", "wait"}:
        bad = type("Bad", (Batch,), {name: value})
        with pytest.raises((TypeError, ValueError), match=name):
            bad(echo)


def test_an_unknown_setting_lists_the_known() -> None:
    with pytest.raises(TypeError, match=r"no setting 'max_concurent'.*max_concurrent"):
        Batch(echo, max_concurent=3)


def test_reset_limiter_forgets_window_and_counts() -> None:
    node = Batch(echo, max_per_minute=5)
    run(node, range(5))
    node.reset_limiter()
    assert node.stats["completed"] == 0
    assert node.limiter.current_window_count == 0


def test_calls_that_take_much_the_same_time_are_not_each_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[float] = []
    timed = Budget.timed

    def spy(self: Budget, now: float, seconds: float) -> None:
        learned.append(round(seconds, 3))
        timed(self, now, seconds)

    monkeypatch.setattr(Budget, "timed", spy)
    spread = {40: -0.2, 60: 0.2}
    node = Batch(lambda item: asyncio.sleep(1 + item * 1e-6 + spread.get(item, 0.0)), max_concurrent=1, max_per_minute=1000)
    run_virtual(node.run_async({"items": range(90)}))
    assert learned == [1.0] * 5 + [0.8, 1.2]  # the first five tell by how much they differ


def test_a_limiter_object_may_be_shared() -> None:
    limiter = RateLimiter(2)
    assert Batch(echo, shared_limiter=limiter).limiter is limiter


@pytest.mark.parametrize("start", [34.400393446470055, 54.525092400701915, *(number / 7 for number in range(60))])
def test_a_refused_item_is_given_up_whatever_floats_make_of_the_time_that_is_left(start: float) -> None:
    calls = 0

    class Ask(ThrottledParallelBatchNode):
        rate_limit_timeout = 1.0

        async def prep_async(self, shared: object) -> list[int]:
            return [1]

        async def exec_async(self, item: int) -> None:
            nonlocal calls
            calls += 1
            if calls > 100:
                raise AssertionError("it would go on for ever")
            raise RateLimitHit("no", retry_after=0.3)

    async def main() -> None:
        await asyncio.sleep(start)
        with pytest.raises(RateLimitHit):
            await Ask().run_async({})

    run_virtual(main())


@pytest.mark.parametrize("is_hooked", [False, True])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"code": "insufficient_quota"}}),
        (413, {"error": {"code": "rate_limit_exceeded", "message": "Request too large"}}),
    ],
)
def test_a_final_refusal_holds_nobody_else_back_whatever_its_headers_ask_for(status: int, body: object, is_hooked: bool) -> None:
    class RefusedError(Exception):
        def __init__(self) -> None:
            super().__init__("no")
            self.status_code, self.body = status, body
            self.headers = {"retry-after": "600"}

    class Ask(ThrottledParallelBatchNode):
        max_concurrent = 2
        on_error = "collect"

        async def prep_async(self, shared: object) -> range:
            return range(6)

        async def exec_async(self, item: int) -> int:
            if item == 1:
                if is_hooked:
                    await self.limiter.observe_response(RefusedError())
                raise RefusedError
            await asyncio.sleep(1)
            return item

    async def timed() -> float:
        await Ask().run_async({})
        return asyncio.get_running_loop().time()

    assert run_virtual(timed()) <= 5


def test_a_final_refusal_does_not_end_a_pause_that_was_asked_for_otherwise() -> None:
    class NoCreditError(Exception):
        status_code, code = 429, "insufficient_quota"
        headers: ClassVar = {"retry-after": "600"}

    started: list[float] = []

    async def call(item: int) -> None:
        started.append(now())
        if item == 0:
            node.limiter.pause(30)
            await node.limiter.observe_response(NoCreditError())
            raise NoCreditError

    node = Batch(call, max_concurrent=1, on_error="collect")
    run(node, range(2))
    assert started == [0, 30]


class TooLargeError(Exception):
    status_code, code = 413, "rate_limit_exceeded"


class OverloadedError(Exception):
    status_code, response = 529, SimpleNamespace(headers={"retry-after": "0.1"})


@pytest.mark.parametrize("share", [1, 3, 5])
def test_what_is_refused_for_good_tells_nothing_of_how_closely_calls_may_start(share: int) -> None:
    async def call(item: int) -> None:
        await asyncio.sleep(1)
        if item % share == 0:
            raise TooLargeError

    node = Batch(call, max_concurrent=10, max_per_minute=60, on_error="collect")
    shared: dict[str, Any] = {"items": range(60)}

    async def timed() -> float:
        await node.run_async(shared)
        return now()

    assert run_virtual(timed()) == 6


@pytest.mark.parametrize("error", [TooLargeError(), OverloadedError()])
def test_what_no_limit_refused_does_not_add_to_what_one_did(error: Exception) -> None:
    """A fifth of the items is refused for another reason, and one, once, as a limit is reached."""
    refused = set[int]()

    async def call(item: int) -> None:
        await asyncio.sleep(1)
        if item % 5 == 0 and item not in refused:
            refused.add(item)
            raise error
        if item == 33 and item not in refused:
            refused.add(item)
            raise RateLimitHit(retry_after=0.1)

    node = Batch(call, max_concurrent=10, max_per_minute=100, on_error="collect")
    shared: dict[str, Any] = {"items": range(60)}

    async def timed() -> float:
        await node.run_async(shared)
        return now()

    assert run_virtual(timed()) < 10


def test_a_burst_of_which_nothing_was_served_is_not_made_smaller_for_one_that_is_refused_for_good() -> None:
    started, refused = list[float](), set[int]()

    async def call(item: int) -> None:
        started.append(now())
        if item == 0:
            raise TooLargeError
        if item == 1 and item not in refused:
            refused.add(item)
            raise RateLimitHit(retry_after=0.1)

    run(Batch(call, max_per_minute=60, max_burst=2, on_error="collect"), range(7))
    assert [started.count(time) for time in dict.fromkeys(started)] == [2, 2, 2, 2]

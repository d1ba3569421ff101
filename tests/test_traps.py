"""Traps of PocketFlow's and mistakes of others, each with what holds here instead, on both of PocketFlow's sources."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode, AsyncParallelBatchFlow, AsyncParallelBatchNode, BatchFlow, BatchNode, Flow, Node

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    RateLimiter,
    RateLimitHit,
    SimulatedAPI,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

from .test_flows import Leaf, Many
from .test_nodes import Batch, echo, now, run

pytestmark = pytest.mark.usefixtures("any_pocketflow")

CLASSES = [ThrottledParallelBatchNode, AdaptiveThrottledNode, ThrottledAsyncParallelBatchFlow, AdaptiveThrottledBatchFlow]


# --- what a node and a flow are to PocketFlow


@pytest.mark.parametrize("cls", CLASSES)
def test_a_node_is_true_since_pocketflow_asks_if_not_next(cls: Any) -> None:
    assert not hasattr(cls, "__len__")
    assert not hasattr(cls, "__bool__")
    assert cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_node_stands_where_pocketflows_own_stands(cls: Any) -> None:
    own = AsyncParallelBatchFlow if issubclass(cls, AsyncFlow) else AsyncParallelBatchNode
    assert [base for base in cls.__mro__ if base.__module__ == "pocketflow"] == list(own.__mro__[:-1])
    assert issubclass(cls, AsyncNode)
    assert issubclass(cls, (BatchFlow, Flow) if own is AsyncParallelBatchFlow else (BatchNode, Node))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("prep", lambda self, shared: []),
        ("exec", lambda self, item: item),
        ("exec_fallback", lambda self, item, exc: None),
        ("post", lambda self, shared, prep_res, exec_res: None),
    ],
)
def test_a_method_that_was_not_made_async_is_told_of_as_it_is_never_called(cls: type, name: str, method: Any) -> None:
    async def method_async(self: Any, *_: Any) -> None: ...

    with pytest.warns(UserWarning, match=f"Ported.{name} is never called.*async def {name}_async") as told:
        ported = type("Ported", (cls,), {name: method})
    assert told[0].filename == __file__
    both = type("Both", (cls,), {name: method, f"{name}_async": method_async})  # any warning is an error in these tests
    type("Helped", (both,), {name: method})
    type("Own", (cls,), {name: lambda self, url, payload, timeout, headers: None})
    assert ported()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_prep_that_yields_is_refused_with_what_would_do(cls: type) -> None:
    async def items_async(self: Any, shared: Any) -> AsyncIterator[int]:
        yield 1

    def items(self: Any, shared: Any) -> Iterator[int]:
        yield 1

    for prep in (items_async, items):
        with pytest.raises(TypeError, match=r"Yields.prep_async must return its items, and yields them"):
            type("Yields", (cls,), {"prep_async": prep})


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("hook", ["is_rate_limit_error", "retry_after"])
def test_a_hook_that_would_have_to_be_awaited_is_refused_with_what_would_do(cls: type, hook: str) -> None:
    async def own(self: Any, exc: BaseException) -> bool:
        return False

    async def static(exc: BaseException) -> bool:
        return False

    for method in (own, staticmethod(static)):
        with pytest.raises(TypeError, match=rf"Awaits.{hook} is called without await, and is async: make it `def {hook}`"):
            type("Awaits", (cls,), {hook: method})


@pytest.mark.parametrize("cls", [ThrottledParallelBatchNode, AdaptiveThrottledNode])
@pytest.mark.parametrize("hook", ["estimate_tokens", "count_tokens"])
def test_a_hook_for_tokens_that_would_have_to_be_awaited_is_told_of_where_one_is_asked(cls: type, hook: str) -> None:
    async def own(self: Any, *args: Any) -> int:
        return 3

    with pytest.warns(UserWarning, match=rf"Awaits.{hook} is called without await, and is async: make it `def {hook}`") as told:
        type("Awaits", (cls,), {hook: own})
    assert told[0].filename == __file__
    type("Flow", (AdaptiveThrottledBatchFlow,), {hook: own})  # any warning is an error in these tests


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", ["exec_async", "exec_fallback_async", "post_async"])
def test_a_method_that_is_awaited_and_yields_is_refused_with_what_would_do(cls: type, name: str) -> None:
    async def parts_async(self: Any, *args: Any) -> AsyncIterator[int]:
        yield 1

    def parts(self: Any, *args: Any) -> Iterator[int]:
        yield 1

    for method in (parts_async, parts):
        with pytest.raises(TypeError, match=rf"Yields.{name} must return its \w+, and yields: collect what it yields"):
            type("Yields", (cls,), {name: method})


@pytest.mark.parametrize(
    ("cls", "name", "own"),
    [
        (ThrottledAsyncParallelBatchFlow, "max_concurrent", "max_concurrent_flows"),
        (ThrottledAsyncParallelBatchFlow, "max_per_minute", "max_flows_per_minute"),
        (AdaptiveThrottledBatchFlow, "min_concurrent", "min_concurrent_flows"),
        (AdaptiveThrottledBatchFlow, "initial_concurrent", "initial_concurrent_flows"),
        (ThrottledParallelBatchNode, "max_concurrent_flows", "max_concurrent"),
        (AdaptiveThrottledNode, "max_flows_per_minute", "max_per_minute"),
    ],
)
def test_a_limit_by_the_name_of_the_other_kind_is_told_of_as_it_limits_nothing(cls: type, name: str, own: str) -> None:
    with pytest.warns(UserWarning, match=f"Limited.{name} limits nothing, .* is called {own} there") as told:
        limited = type("Limited", (cls,), {name: 3})
    assert told[0].filename == __file__
    type("Both", (cls,), {name: 3, own: 3})  # any warning is an error in these tests
    type("Later", (limited,), {"other": 3})
    type("Own", (cls,), {name: property(lambda self: 3)})
    assert limited()


def test_one_node_serves_one_event_loop_after_another_and_several_at_once() -> None:
    api = SimulatedAPI()
    node = Batch(api.call, max_concurrent=2)
    for _ in range(3):
        assert run(node, range(10)) == list(range(10))  # contended each time
    results: list[Any] = []

    async def slow(item: int) -> int:
        await asyncio.sleep(0.001)
        return item

    shared_by_threads = Batch(slow, max_concurrent=2)

    def work() -> None:
        shared = {"items": range(20)}
        asyncio.run(shared_by_threads.run_async(shared))
        results.append(shared["results"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [list(range(20))] * 4
    assert (shared_by_threads.limiter.active, shared_by_threads.limiter.waiting) == (0, 0)


def test_post_gets_the_very_object_that_prep_returned() -> None:
    generator = (number for number in range(3))
    assert run(Batch(echo), generator) == [0, 1, 2]  # run() checks that it is the same


@pytest.mark.parametrize(
    "method", ["exec_async", "exec_fallback_async", "estimate_tokens", "count_tokens", "is_rate_limit_error"]
)
def test_every_method_is_called_on_the_instance_where_tracers_replace_it(method: str) -> None:
    calls: list[str] = []
    tried: list[int] = []

    async def fails_once_refused_once(item: int) -> int:
        tried.append(item)
        if len(tried) == 1:
            raise RateLimitHit(retry_after=0)
        if item == 1:
            raise ValueError(item)
        return item

    class Recovers(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> str:
            return "fallback"

    node = Recovers(fails_once_refused_once, max_tokens_per_minute=100)
    original: Callable[..., Any] = getattr(node, method)

    def traced(*args: Any) -> Any:
        calls.append(method)
        return original(*args)

    setattr(node, method, traced)
    assert run(node, range(3)) == [0, "fallback", 2]
    assert calls


# --- retries and refusals


def test_a_retry_waits_behind_one_item_and_not_behind_the_batch() -> None:
    starts: list[tuple[int, float]] = []

    async def call(item: int) -> int:
        starts.append((item, now()))
        await asyncio.sleep(1)
        if item == 0 and len(starts) == 1:
            raise ValueError("again")
        return item

    assert run(Batch(call, 2, max_concurrent=1), range(50)) == list(range(50))
    assert [item for item, _ in starts[:4]] == [0, 1, 0, 2]


def test_no_slot_is_held_while_a_retry_waits() -> None:
    ended: list[float] = []

    async def call(item: int) -> int:
        if item == 0 and not ended:
            raise ValueError("again")
        await asyncio.sleep(1)
        ended.append(now())
        return item

    assert run(Batch(call, 2, 10, max_concurrent=1), range(4)) == [0, 1, 2, 3]
    assert ended == [1, 2, 3, 11]


def test_an_item_that_its_fallback_saves_is_completed_and_one_that_it_does_not_is_failed() -> None:
    class Saves(Batch):
        async def exec_fallback_async(self, item: int, exc: Exception) -> str:
            if item == 2:
                raise exc
            return "saved"

    async def call(item: int) -> int:
        if item:
            raise ValueError(item)
        return item

    node = Saves(call, on_error="collect")
    results = run(node, range(4))
    assert results[:2] + results[3:] == [0, "saved", "saved"]
    assert (node.stats["completed"], node.stats["failed"]) == (3, 1)


@pytest.mark.parametrize("hook", ["is_rate_limit_error", "retry_after", "estimate_tokens", "count_tokens"])
def test_an_item_for_which_a_hook_raises_is_failed_and_not_completed(hook: str) -> None:
    async def call(item: int) -> int:
        if hook in ("is_rate_limit_error", "retry_after"):
            raise RateLimitHit
        return item

    def broken(*_: Any) -> None:
        raise ValueError(hook)

    node = Batch(call, on_error="collect", max_tokens_per_minute=1000)
    setattr(node, hook, broken)
    assert [str(result) for result in run(node, range(3))] == [hook] * 3
    assert (node.stats["completed"], node.stats["failed"]) == (0, 3)


def test_an_attempt_that_failed_has_used_up_its_start() -> None:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) < 4:
            raise ValueError("again")
        return item

    assert run(Batch(call, 5, max_per_minute=2), [7]) == [7]
    assert starts == pytest.approx([0, 0, 60, 60], abs=1e-3)


def test_who_catches_the_refusal_itself_may_pause_the_limiter() -> None:
    starts: list[float] = []
    node: Batch

    async def call(item: int) -> str:
        starts.append(now())
        if item == 0:
            node.limiter.pause(30)
            return "refused, caught and told"
        return "served"

    node = Batch(call, max_concurrent=1)
    assert run(node, range(3)) == ["refused, caught and told", "served", "served"]
    assert starts == pytest.approx([0, 30, 30], abs=1e-3)


@pytest.mark.parametrize("static", [True, False])
def test_a_program_may_say_itself_what_a_refusal_is_and_how_long_it_lasts(static: bool) -> None:
    def is_busy(exc: BaseException) -> bool:
        return "BUSY" in str(exc)

    def after(exc: BaseException) -> float:
        return float(str(exc).split()[-1])

    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(now())
        if len(starts) == 1:
            raise OSError("BUSY for 25")
        return item

    methods: dict[str, Any] = {"is_rate_limit_error": staticmethod(is_busy), "retry_after": staticmethod(after)}
    if not static:
        methods = {"is_rate_limit_error": lambda self, exc: is_busy(exc), "retry_after": lambda self, exc: after(exc)}
    dialect = type("Dialect", (Batch,), methods)
    assert run(dialect(call), [7]) == [7]
    assert starts == [0, 25]


def test_each_item_knows_its_own_retry_also_in_the_fallback_and_in_a_batch_within_it() -> None:
    inner_retries: list[int] = []
    inner: Batch
    outer: Batch

    async def inner_call(item: int) -> int:
        inner_retries.append(inner.cur_retry)
        return item

    async def call(item: int) -> int:
        if outer.cur_retry < 2:
            raise ValueError("again")
        await inner.run_async({"items": [1]})
        assert outer.cur_retry == 2
        return item

    inner, outer = Batch(inner_call), Batch(call, 3)
    assert run(outer, range(4)) == [0, 1, 2, 3]
    assert inner_retries == [0] * 4


def test_a_timeout_of_zero_gives_a_refused_item_up_at_once() -> None:
    calls = []

    async def call(item: int) -> None:
        calls.append(item)
        raise RateLimitHit("no", retry_after=5)

    with pytest.raises(RateLimitHit, match=r"refused once in 0\.0 s"):
        run(Batch(call, rate_limit_timeout=0), [1])
    assert calls == [1]


# --- flows


def test_a_refused_instance_is_run_again_no_longer_than_the_timeout() -> None:
    starts: list[float] = []

    async def call(number: int) -> int:
        starts.append(now())
        raise RateLimitHit("no", retry_after=20)

    flow = Many(Leaf(call), max_flow_retries=100, rate_limit_timeout=70, on_error="raise")
    with pytest.raises(RateLimitHit, match=r"refused 5 times in 70\.0 s"):
        run_virtual(flow.run_async({"numbers": range(1)}))
    assert starts == pytest.approx([0, 20, 40, 60, 70], abs=1e-3)


def test_cancelling_a_flow_cancels_every_instance_and_waits_for_it() -> None:
    ended = []

    async def call(number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)
            ended.append(number)

    async def main() -> None:
        flow = Many(Leaf(call), max_concurrent_flows=3)
        task = asyncio.create_task(flow.run_async({"numbers": range(50)}))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (sorted(ended), now()) == ([0, 1, 2], 3)
        assert (flow.flow_limiter.active, flow.flow_limiter.waiting) == (0, 0)

    run_virtual(main())


def test_an_error_that_ends_a_flow_names_its_parameter_set() -> None:
    async def call(number: int) -> None:
        if number == 3:
            raise ValueError("bad user")

    with pytest.raises(ValueError, match="bad user") as caught:
        run_virtual(Many(Leaf(call), on_error="raise").run_async({"numbers": range(5)}))
    assert caught.value.__notes__ == ["in item 3: {'number': 3}"]


def test_what_is_no_exception_ends_a_flow_and_is_not_collected() -> None:
    class Stop(BaseException):
        pass

    async def call(number: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        run_virtual(Many(Leaf(call)).run_async({"numbers": range(3)}))


def test_parameter_sets_may_be_whatever_pocketflow_merges() -> None:
    class Row:
        """As sqlite3.Row: it has keys, and is no dict."""

        def keys(self) -> list[str]:
            return ["number"]

        def __getitem__(self, key: str) -> int:
            return 7

    async def main() -> Any:
        shared: dict[str, Any] = {"numbers": [Row()]}
        await Many(Leaf(echo)).run_async(shared)
        return shared["actions"]

    assert run_virtual(main()) == [7]


class Limits:
    """Limits for several classes, as programs keep them."""

    max_concurrent = max_concurrent_flows = 3
    max_per_minute = max_flows_per_minute = 60


class LimitedNode(ThrottledParallelBatchNode):
    max_concurrent, max_per_minute = 3, 60


class LimitedFlow(ThrottledAsyncParallelBatchFlow):
    max_concurrent_flows, max_flows_per_minute = 3, 60


@pytest.mark.parametrize(
    ("default", "limited", "hidden"),
    [
        (AdaptiveThrottledNode, LimitedNode, {"max_concurrent": 20}),
        (AdaptiveThrottledBatchFlow, LimitedFlow, {"max_concurrent_flows": 20}),
        (ThrottledParallelBatchNode, Limits, {"max_concurrent": 5, "max_per_minute": None}),
        (ThrottledAsyncParallelBatchFlow, Limits, {"max_concurrent_flows": 5, "max_flows_per_minute": None}),
    ],
)
def test_a_limit_that_a_default_hides_is_told_of_as_the_class_is_made(
    default: type, limited: type, hidden: dict[str, int | None]
) -> None:
    with pytest.warns(UserWarning, match="the default of") as told:
        both = type("Both", (default, limited), {})
    assert [str(warning.message) for warning in told] == [
        f"Both.{name} is {value}, the default of {default.__name__}, which comes before {limited.__name__} with "
        f"{vars(limited)[name]}: name {limited.__name__} first, or set {name} in Both"
        for name, value in hidden.items()
    ]
    assert told[0].filename == __file__
    type("Later", (both,), {})  # any warning is an error in these tests
    type("Set", (default, limited), dict.fromkeys(hidden, 4))
    type("Plain", (default, type("Same", (limited,), hidden)), {})
    first: Any = type("First", (limited, default), {})
    assert {name: getattr(first, name) for name in hidden} == {name: vars(limited)[name] for name in hidden}


def test_what_a_program_sets_first_counts_of_an_adaptive_and_a_fixed_class() -> None:
    class Adaptive(AdaptiveThrottledNode):
        max_concurrent, initial_concurrent = 50, 8

    class AdaptiveFirst(Adaptive, LimitedNode):
        pass

    class FixedFirst(LimitedNode, Adaptive):
        pass

    limiter = AdaptiveFirst().limiter
    assert (limiter.max_concurrent, limiter.adaptive and limiter.adaptive.max_concurrent, limiter.max_per_window) == (8, 50, 60)
    limiter = FixedFirst(initial_concurrent=2).limiter
    assert (limiter.max_concurrent, limiter.adaptive and limiter.adaptive.max_concurrent, limiter.max_per_window) == (2, 3, 60)
    with pytest.raises(ValueError, match=r"initial_concurrent must be within 1\.\.3 .*, got 8"):
        FixedFirst()


def test_arguments_that_a_programs_own_init_has_defaults_for_keep_them_behind_an_adaptive_class() -> None:
    class Ask(ThrottledParallelBatchNode):
        def __init__(self, max_retries: int = 3, wait: float = 2, **settings: Any) -> None:
            super().__init__(max_retries, wait, **settings)

    class AdaptiveAsk(AdaptiveThrottledNode, Ask):
        pass

    class AskAll(ThrottledAsyncParallelBatchFlow):
        def __init__(self, start: Any = None, **settings: Any) -> None:
            super().__init__(start or AsyncNode(), **settings)

    class Fixed(AskAll):
        def __init__(self, **settings: Any) -> None:
            super().__init__(AsyncNode(), **settings)

    class AdaptiveAskAll(AdaptiveThrottledBatchFlow, AskAll):
        pass

    class AdaptiveFixed(AdaptiveThrottledBatchFlow, Fixed):
        pass

    assert [(node.max_retries, node.wait) for node in (AdaptiveAsk(), AdaptiveAsk(5), AdaptiveAsk(wait=1))] == [
        (3, 2),
        (5, 2),
        (3, 1),
    ]
    own = AsyncNode()
    assert AdaptiveAskAll(own).start_node is own
    assert isinstance(AdaptiveAskAll().start_node, AsyncNode)
    assert isinstance(AdaptiveFixed(max_concurrent_flows=7).start_node, AsyncNode)


def test_a_limiter_that_is_set_where_one_is_looked_at_is_told_of_as_it_limits_nothing() -> None:
    class Ask(Batch):
        limiter: Any = RateLimiter(1)

    class AskAll(ThrottledAsyncParallelBatchFlow):
        flow_limiter: Any = RateLimiter(1)

    api = SimulatedAPI()
    node = Batch(api.call)
    run(node, range(2))  # any warning is an error in these tests
    node.limiter = RateLimiter(3)
    for cls, told in ((node, "Batch"), (Ask(api.call), "Ask")):
        with pytest.warns(UserWarning, match=rf"{told}.limiter was set to .*{told} does not keep to: set shared_limiter instead"):
            assert run(cls, range(2)) == [0, 1]
    with pytest.warns(UserWarning, match=r"AskAll.flow_limiter .*: set max_concurrent_flows and max_flows_per_minute instead"):
        run_virtual(AskAll(start=AsyncNode()).run_async({}))
    node.shared_limiter = node.limiter
    run(node, range(2))


@pytest.mark.parametrize(
    ("cls", "name", "meant"),
    [
        (ThrottledParallelBatchNode, "max_per_min", "max_per_minute"),
        (ThrottledParallelBatchNode, "max_concurrency", "max_concurrent"),
        (ThrottledParallelBatchNode, "max_token_per_minute", "max_tokens_per_minute"),
        (AdaptiveThrottledNode, "initial_concurrency", "initial_concurrent"),
        (ThrottledAsyncParallelBatchFlow, "max_flow_per_minute", "max_flows_per_minute"),
        (AdaptiveThrottledBatchFlow, "on_errors", "on_error"),
    ],
)
def test_a_misspelt_setting_of_a_class_is_told_of(cls: type, name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=rf"Ask.{name} is no setting: did you mean {meant}\?") as told:
        type("Ask", (cls,), {name: 3})
    assert told[0].filename == __file__
    assert len(told) == 1
    type("Both", (cls,), {name: 3, meant: "raise" if meant == "on_error" else 3})  # any warning is an error in these tests
    type("Own", (cls,), {name: lambda self: 3, "max_tokens": 100, "max_input_tokens": 9, "waits": 0, "_max_per_min": 3})


@pytest.mark.parametrize("cls", [ThrottledParallelBatchNode, ThrottledAsyncParallelBatchFlow])
@pytest.mark.parametrize("name", ["propagate_rate_limit", "backoff_factor", "initial_concurrent", "min_concurrent_flows"])
def test_a_setting_of_an_adaptive_class_on_a_fixed_one_is_told_of_as_it_does_nothing(cls: type, name: str) -> None:
    with pytest.warns(UserWarning, match=f"Ask.{name} does nothing: only adaptive nodes and flows have it") as told:
        type("Ask", (cls,), {name: 0.5})
    assert len(told) == 1

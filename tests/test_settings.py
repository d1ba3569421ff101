"""Every setting of nodes and flows, wrong in every way: refused with its name and value before any call."""

import copy
import math
from typing import Any

import pytest
from pocketflow import AsyncNode, AsyncParallelBatchFlow, AsyncParallelBatchNode

from pocketflow_throttled import (
    AdaptiveThrottledBatchFlow,
    AdaptiveThrottledNode,
    LimiterRegistry,
    ThrottledAsyncParallelBatchFlow,
    ThrottledParallelBatchNode,
    run_virtual,
)

_NUMBERS = [-1, math.nan, math.inf, -math.inf, "5", True, [5], {}]
_COUNTS = [*_NUMBERS, 0, 1.5, 5.0]
_OF_ANY_NODE = {
    "max_concurrent": [*_COUNTS, None],
    "max_per_minute": _COUNTS,
    "max_tokens_per_minute": _COUNTS,
    "max_output_tokens": [*_NUMBERS, 1.5, None],
    "max_burst": _COUNTS,
    "rate_limit_timeout": [*_NUMBERS, None],
    "on_error": ["ignore", "RAISE", None, True, 1, ["raise"]],
    "shared_limiter": [5, True, b"api", ["api"]],
}
_OF_ANY_FLOW = {
    "max_concurrent_flows": [*_COUNTS, None],
    "max_flows_per_minute": _COUNTS,
    "max_flow_retries": [*_NUMBERS, 1.5, None],
    "rate_limit_timeout": [*_NUMBERS, None],
    "on_error": ["ignore", "COLLECT", None, True, 1, ["collect"]],
}
_OF_THE_RULE = {
    "backoff_factor": [*_NUMBERS, 0, 1, 1.5, None],
    "recovery_threshold": [*_COUNTS, None],
    "recovery_factor": [*_NUMBERS, 0, 1, 0.5, None],
}
_CALLS: list[Any] = []


class Node(ThrottledParallelBatchNode):
    async def prep_async(self, shared: Any) -> Any:
        return range(3)

    async def exec_async(self, item: Any) -> None:
        _CALLS.append(item)


class AdaptiveNode(Node, AdaptiveThrottledNode):
    pass


class Leaf(AsyncNode):
    async def exec_async(self, _: Any) -> None:
        _CALLS.append(_)


class Flow(ThrottledAsyncParallelBatchFlow):
    async def prep_async(self, shared: Any) -> Any:
        return [{}] * 3

    def __init__(self, **settings: Any) -> None:
        super().__init__(Leaf(), **settings)


class AdaptiveFlow(Flow, AdaptiveThrottledBatchFlow):
    pass


_SETTINGS: dict[type[Any], dict[str, list[Any]]] = {
    Node: _OF_ANY_NODE,
    AdaptiveNode: {
        **_OF_ANY_NODE,
        **_OF_THE_RULE,
        "min_concurrent": [*_COUNTS, None],
        "propagate_rate_limit": [1, 0, "yes", None],
    },
    Flow: _OF_ANY_FLOW,
    AdaptiveFlow: {**_OF_ANY_FLOW, **_OF_THE_RULE, "min_concurrent_flows": [*_COUNTS, None]},
}
_INITIAL = {AdaptiveNode: "initial_concurrent", AdaptiveFlow: "initial_concurrent_flows"}
CASES = [
    *((cls, name, value) for cls, settings in _SETTINGS.items() for name, values in settings.items() for value in values),
    *((cls, name, value) for cls, name in _INITIAL.items() for value in _COUNTS),
]
_OF_THE_LIMITER = {
    "max_concurrent",
    "max_per_minute",
    "max_tokens_per_minute",
    "max_burst",
    "shared_limiter",
    "max_concurrent_flows",
    "max_flows_per_minute",
}
_REFUSED = (TypeError, ValueError)


@pytest.fixture(autouse=True)
def _no_call_yet() -> None:
    _CALLS.clear()


def says(caught: pytest.ExceptionInfo[BaseException], name: str, value: Any) -> bool:
    """Whether an error names a setting, as a whole word, and its value."""
    message = str(caught.value)
    return message.split(maxsplit=1)[0] == name and repr(value) in message


@pytest.mark.parametrize(("cls", "name", "value"), CASES)
def test_a_bad_keyword_is_refused_with_its_name_and_value(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(_REFUSED) as caught:
        cls(**{name: value})
    assert says(caught, name, value)


@pytest.mark.parametrize(("cls", "name", "value"), CASES)
def test_a_bad_class_attribute_is_refused_as_a_keyword_is(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(_REFUSED) as caught:
        type("Bad", (cls,), {name: value})()
    assert says(caught, name, value)


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize(("cls", "name", "value"), CASES)
def test_a_setting_changed_to_nonsense_is_refused_before_any_call(cls: Any, name: str, value: Any, *, has_run: bool) -> None:
    runnable = cls()
    if has_run:
        run_virtual(runnable.run_async({}))
        _CALLS.clear()
    setattr(runnable, name, value)
    with pytest.raises(_REFUSED) as caught:
        run_virtual(runnable.run_async({}))
    assert says(caught, name, value)
    assert _CALLS == []


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize(("cls", "name", "value"), [case for case in CASES if case[1] in _OF_THE_LIMITER])
def test_stats_and_limiter_name_the_setting_that_was_changed_to_nonsense(
    cls: Any, name: str, value: Any, *, has_run: bool
) -> None:
    runnable = cls()
    if has_run:
        run_virtual(runnable.run_async({}))
    setattr(runnable, name, value)
    for attribute in ("stats", "flow_limiter" if isinstance(runnable, Flow) else "limiter"):
        with pytest.raises(_REFUSED) as caught:
            getattr(runnable, attribute)
        assert says(caught, name, value)


@pytest.mark.parametrize("name", ["max_retries", "wait"])
@pytest.mark.parametrize("value", [*_NUMBERS, None])
def test_the_arguments_that_pocketflow_has_are_checked_too(name: str, value: Any) -> None:
    for make in (lambda: Node(**{name: value}), lambda: AdaptiveNode(**{name: value})):
        with pytest.raises(_REFUSED) as caught:
            make()
        assert says(caught, name, value)


@pytest.mark.parametrize("value", [0, 1.5])
def test_no_attempt_at_all_is_refused_where_pocketflow_gives_a_silent_none(value: Any) -> None:
    with pytest.raises(_REFUSED, match="max_retries must be"):
        Node(max_retries=value)


@pytest.mark.parametrize(
    ("cls", "suffix"), [(AdaptiveNode, "_concurrent"), (AdaptiveFlow, "_concurrent_flows")], ids=["node", "flow"]
)
def test_bounds_that_contradict_each_other_are_refused_by_the_names_the_user_gave(cls: Any, suffix: str) -> None:
    with pytest.raises(ValueError, match=rf"^min{suffix} must be at most max{suffix}=3, got 7$"):
        cls(**{f"min{suffix}": 7, f"max{suffix}": 3})
    for initial in (1, 9):
        with pytest.raises(ValueError, match=rf"^initial{suffix} must be within 2\.\.8 \(min\.\.max{suffix}\), got {initial}$"):
            cls(**{f"initial{suffix}": initial, f"min{suffix}": 2, f"max{suffix}": 8})


@pytest.mark.parametrize("cls", [Node, AdaptiveNode])
def test_a_burst_without_a_rate_is_refused_by_the_names_the_user_gave(cls: Any) -> None:
    message = (
        r"^max_burst needs max_per_minute, got max_burst=2 and max_per_minute=None: set max_per_minute, or leave max_burst out$"
    )
    with pytest.raises(ValueError, match=message):
        cls(max_burst=2)
    node = cls(max_burst=2, max_per_minute=60)
    node.max_per_minute = None
    for use in (lambda: node.limiter, lambda: node.stats, lambda: run_virtual(node.run_async({}))):
        with pytest.raises(ValueError, match=r"^max_burst needs max_per_minute"):
            use()


def test_what_the_limiter_refuses_is_refused_as_often_as_it_is_used() -> None:
    node = Node(max_per_minute=60)
    node.limiter.max_burst = 2
    node.max_per_minute = None
    for use in (lambda: node.limiter, lambda: node.stats, lambda: run_virtual(node.run_async({}))):
        with pytest.raises(ValueError, match=r"^max_burst needs max_per_window"):
            use()
    node.max_per_minute = 30
    assert (node.limiter.max_per_window, node.limiter.max_burst) == (30, 2)


def test_a_burst_and_its_rate_may_come_and_go_together() -> None:
    node = Node(max_burst=2, max_per_minute=60)
    assert (node.limiter.max_burst, node.limiter.max_per_window) == (2, 60)
    node.max_burst = node.max_per_minute = None
    assert (node.limiter.max_burst, node.limiter.max_per_window) == (None, None)
    node.max_burst, node.max_per_minute = 3, 30
    assert (node.limiter.max_burst, node.limiter.max_per_window) == (3, 30)


@pytest.mark.parametrize(
    ("cls", "bad", "known"),
    [
        (Node, "max_concurent", "max_concurrent, max_output_tokens"),
        (Node, "initial_concurrent", "max_concurrent"),
        (AdaptiveNode, "max_concurrency", "initial_concurrent"),
        (Flow, "max_concurrent", "max_concurrent_flows, max_flow_retries"),
        (Flow, "min_concurrent_flows", "max_concurrent_flows"),
        (AdaptiveFlow, "min_flows", "initial_concurrent_flows"),
    ],
)
def test_an_unknown_setting_lists_the_known(cls: Any, bad: str, known: str) -> None:
    with pytest.raises(TypeError, match=rf"{cls.__name__} has no setting '{bad}'; it has: .*{known}"):
        cls(**{bad: 3})


@pytest.mark.parametrize("cls", [Flow, AdaptiveFlow])
@pytest.mark.parametrize("name", ["max_retries", "wait", "shared_limiter", "max_per_minute"])
def test_a_flow_has_no_settings_of_nodes(cls: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"has no setting '{name}'"):
        cls(**{name: 1})


def test_an_instance_runs_once_whatever_attributes_pocketflow_gives_a_flow() -> None:
    class Fails(AsyncNode):
        async def exec_async(self, _: Any) -> None:
            _CALLS.append(_)
            raise ValueError("no")

    flow = ThrottledAsyncParallelBatchFlow(Fails())
    flow.prep_async = lambda shared: Flow.prep_async(flow, shared)  # type: ignore[method-assign, arg-type]
    flow.max_retries = 3  # of no effect in PocketFlow either
    run_virtual(flow.run_async({}))
    assert len(_CALLS) == 3


def test_an_unknown_shared_limiter_lists_the_known_before_any_call() -> None:
    LimiterRegistry.register("known")
    node = Node(shared_limiter="nope")
    for use in (lambda: node.limiter, lambda: node.stats, lambda: run_virtual(node.run_async({}))):
        with pytest.raises(KeyError, match="'nope' not found; registered: 'known'"):
            use()
    assert _CALLS == []
    LimiterRegistry.register("nope")  # a name may be registered after the node is made
    run_virtual(node.run_async({}))
    assert len(_CALLS) == 3


@pytest.mark.parametrize(
    ("cls", "limits"),
    [
        (Node, {"max_concurrent": 3}),
        (Node, {"max_per_minute": 60, "max_tokens_per_minute": 9, "max_burst": 1}),
        (AdaptiveNode, {"initial_concurrent": 3, "max_concurrent": 9}),
    ],
)
def test_limits_beside_a_shared_limiter_are_told_of_as_they_are_not_applied(cls: Any, limits: dict[str, int]) -> None:
    class Ask(cls):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)

    limited = type("Ask", (cls,), limits)
    for make in (lambda: Ask(shared_limiter="api", **limits), lambda: limited(shared_limiter="api")):
        with pytest.warns(UserWarning, match=f"Ask keeps to its shared_limiter 'api'; {limits} is not applied: set it there"):
            make()
    assert Ask(shared_limiter="api", max_per_minute=None, on_error="collect")  # any warning is an error in these tests
    assert limited()


# --- where a setting may stand


def test_a_keyword_wins_over_a_class_attribute_which_wins_over_the_default() -> None:
    class Ask(Node):
        max_concurrent = 7
        max_per_minute = 70

    node = Ask(max_per_minute=80)
    assert (node.max_concurrent, node.max_per_minute, node.max_tokens_per_minute) == (7, 80, None)
    assert (Ask.max_concurrent, Ask.max_per_minute) == (7, 70)


@pytest.mark.parametrize("cls", [Node, AdaptiveNode])
def test_retries_and_wait_may_be_class_attributes_which_pocketflow_ignores(cls: Any) -> None:
    ask = type("Ask", (cls,), {"max_retries": 3, "wait": 2})
    assert (ask().max_retries, ask().wait) == (3, 2)
    assert (ask(1, 0).max_retries, ask(1, 0).wait) == (1, 0)
    assert (ask(wait=0).max_retries, ask(wait=0).wait) == (3, 0)
    for name, value in (("max_retries", 0), ("wait", -1)):
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            type("Bad", (cls,), {name: value})()


def test_attributes_set_before_super_init_are_kept() -> None:
    class Ask(Node):
        def __init__(self) -> None:
            self.max_concurrent = 7
            self.on_error = "collect"
            super().__init__(max_retries=3)

    node = Ask()
    assert (node.limiter.max_concurrent, node.on_error, node.max_retries, node.wait) == (7, "collect", 3, 0)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Node, {"max_concurrent": 2, "max_per_minute": 3, "max_tokens_per_minute": 4, "max_burst": 1}),
        (AdaptiveNode, {"max_concurrent": 9, "max_per_minute": 3, "max_tokens_per_minute": 4, "max_burst": 1}),
        (Flow, {"max_concurrent_flows": 2, "max_flows_per_minute": 3}),
        (AdaptiveFlow, {"max_concurrent_flows": 9, "max_flows_per_minute": 3}),
    ],
)
def test_limits_set_on_the_instance_hold_at_once_and_for_all_copies(cls: Any, settings: dict[str, int]) -> None:
    runnable = cls()
    run_virtual(runnable.run_async({}))
    for name, value in settings.items():
        setattr(runnable, name, value)
    limiter = copy.copy(runnable)._throttled_limiter()
    assert limiter is runnable._throttled_limiter()
    assert limiter.max_per_window == 3
    if limiter.adaptive is None:
        assert limiter.max_concurrent == 2
    else:
        assert limiter.adaptive.max_concurrent == 9


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AdaptiveThrottledNode, AsyncParallelBatchNode),
        (ThrottledParallelBatchNode, AsyncParallelBatchNode),
        (AdaptiveThrottledBatchFlow, AsyncParallelBatchFlow),
        (ThrottledAsyncParallelBatchFlow, AsyncParallelBatchFlow),
    ],
)
def test_no_private_name_is_one_that_a_program_is_likely_to_have(ours: Any, theirs: Any) -> None:
    names = (set(dir(ours)) | set(vars(ours()))) - set(dir(theirs)) - set(vars(theirs()))
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert private
    assert {name for name in private if "_" not in name[1:]} == set()

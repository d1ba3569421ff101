"""What LimiterRegistry promises."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pocketflow_throttled import (
    Adaptive,
    LimiterRegistry,
    Presets,
    RateLimiter,
    ThrottledParallelBatchNode,
    mixins,
    run_virtual,
)


def test_a_registered_limiter_is_the_same_wherever_it_is_named() -> None:
    limiter = LimiterRegistry.register("api", 3, 100, 30.0, max_tokens_per_window=5000, max_burst=2)
    assert LimiterRegistry.get("api") is limiter
    assert ThrottledParallelBatchNode(shared_limiter="api").limiter is limiter
    assert LimiterRegistry.exists("api")
    assert LimiterRegistry.list_names() == ["api"]
    settings = LimiterRegistry.list_all()["api"]
    assert settings == {
        "max_concurrent": 3,
        "max_per_window": 100,
        "window_seconds": 30.0,
        "max_tokens_per_window": 5000,
        "max_burst": 2,
        "adaptive": None,
    }
    stats = LimiterRegistry.stats("api")
    assert {"max_concurrent", "max_per_window", "window_seconds", "current_window_count"} <= set(stats)


def test_a_name_is_taken_once_unless_replaced() -> None:
    first = LimiterRegistry.register("api")
    with pytest.raises(ValueError, match="Limiter 'api' already exists"):
        LimiterRegistry.register("api")
    assert LimiterRegistry.register("api", 9, replace=True) is not first
    assert LimiterRegistry.get("api").max_concurrent == 9


def test_a_replaced_limiter_is_kept_by_who_holds_it_and_a_name_finds_the_new_one() -> None:
    by_name = ThrottledParallelBatchNode(shared_limiter="api")
    first = LimiterRegistry.register("api", 2)
    by_object = ThrottledParallelBatchNode(shared_limiter=first)
    assert by_name.limiter is first
    second = LimiterRegistry.register("api", 3, replace=True)
    assert by_name.limiter is second
    assert by_object.limiter is first
    assert LimiterRegistry.remove("api")
    assert by_object.limiter is first


def test_an_unknown_name_lists_the_registered() -> None:
    with pytest.raises(KeyError, match="'nope' not found; registered: none"):
        LimiterRegistry.get("nope")
    LimiterRegistry.register("known")
    for ask in (LimiterRegistry.get, LimiterRegistry.stats):
        with pytest.raises(KeyError, match="'nope' not found; registered: 'known'"):
            ask("nope")


def test_get_or_create_returns_the_existing_and_warns_when_settings_differ() -> None:
    limiter = LimiterRegistry.get_or_create("api", 3, max_per_window=10)
    assert LimiterRegistry.get_or_create("api") is limiter
    assert LimiterRegistry.get_or_create("api", max_concurrent=3) is limiter
    with pytest.warns(UserWarning, match=r"'api' exists with \{'max_concurrent': 3\}; \{'max_concurrent': 4\} is not applied"):
        assert LimiterRegistry.get_or_create("api", 4) is limiter


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"max_per_windw": 10}, r"unexpected keyword argument 'max_per_windw'"),
        ({"replace": True}, r"unexpected keyword argument 'replace'"),
        ({"max_concurrent": 0}, r"max_concurrent must be at least 1, got 0"),
        ({"max_concurrent": "3"}, r"max_concurrent must be an int of at least 1, got '3'"),
        ({"max_per_window": 1.5}, r"max_per_window must be an int of at least 1, got 1\.5"),
        ({"window_seconds": None}, r"window_seconds must be positive, a number of seconds, got None"),
        ({"max_tokens_per_window": True}, r"max_tokens_per_window must be an int of at least 1, got True"),
        ({"max_burst": 2}, r"max_burst needs max_per_window, got max_burst=2 and max_per_window=None"),
        ({"adaptive": "yes"}, r"adaptive must be True, an Adaptive or None, got 'yes'"),
    ],
)
def test_get_or_create_refuses_what_register_refuses_whether_it_exists_or_not(
    bad: dict[str, Any], error: str, *, exists: bool
) -> None:
    if exists:
        LimiterRegistry.register("api", 3)
    with pytest.raises((TypeError, ValueError), match=error):
        LimiterRegistry.get_or_create("api", **bad)
    assert LimiterRegistry.exists("api") is exists
    if "replace" not in bad:
        with pytest.raises((TypeError, ValueError), match=error):
            LimiterRegistry.register("api", **bad, replace=True)
    for name in ("", None):
        with pytest.raises((TypeError, ValueError), match="name must"):
            LimiterRegistry.get_or_create(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(Presets.CONFIGS))
def test_a_limiter_takes_a_preset_as_a_node_does(name: str) -> None:
    preset = Presets.get(name)
    of_a_node = ThrottledParallelBatchNode(**preset).limiter.stats
    limiter = LimiterRegistry.register("api", **preset)
    assert limiter.stats == RateLimiter(**preset).stats == of_a_node
    assert LimiterRegistry.get_or_create("api", **preset) is limiter
    assert LimiterRegistry.get_or_create("other", **preset).stats == of_a_node
    assert LimiterRegistry.register("adaptive", **preset, adaptive=True).adaptive == Adaptive(
        max_concurrent=preset["max_concurrent"]
    )


def test_get_or_create_warns_of_a_preset_that_is_not_applied() -> None:
    LimiterRegistry.register("api", **Presets.MODERATE)
    message = r"with \{'max_concurrent': 5, 'max_per_window': 60\}; \{'max_concurrent': 2, 'max_per_window': 20\} is not applied"
    with pytest.warns(UserWarning, match=message):
        LimiterRegistry.get_or_create("api", **Presets.CONSERVATIVE)
    with pytest.warns(UserWarning, match=r"\{'max_per_window': None\} is not applied"):
        LimiterRegistry.get_or_create("api", max_per_minute=None)


@pytest.mark.parametrize("make", [RateLimiter, lambda **settings: LimiterRegistry.register("api", **settings)])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (
            {"max_per_minute": 10, "max_per_window": 20},
            r"max_per_minute is max_per_window by another name, got max_per_minute=10 and max_per_window=20: set one of them",
        ),
        (
            {"max_tokens_per_minute": 10, "window_seconds": 30},
            r"of 60 s, got max_tokens_per_minute=10 and window_seconds=30\.0: set max_tokens_per_window",
        ),
        ({"max_per_minute": 0}, r"max_per_minute must be at least 1, got 0"),
        ({"max_tokens_per_minute": "5"}, r"max_tokens_per_minute must be an int of at least 1, got '5'"),
    ],
)
def test_a_limit_of_a_minute_that_contradicts_the_window_is_refused(make: Any, bad: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make(**bad)
    assert LimiterRegistry.list_names() == []


def test_get_or_create_takes_no_more_positions_than_register() -> None:
    LimiterRegistry.register("api", 3)
    with pytest.raises(TypeError, match="positional arguments"):
        LimiterRegistry.get_or_create("api", 3, 10, 60.0, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_concurrent": 3, "max_per_window": 10, "window_seconds": 30, "max_tokens_per_window": 5, "max_burst": 2},
        {"max_per_window": None, "adaptive": False},
        {"max_concurrent": 50, "adaptive": True},
        {"max_concurrent": 5, "adaptive": Adaptive(max_concurrent=20)},
    ],
)
def test_asking_twice_for_the_same_warns_of_nothing(settings: dict[str, Any]) -> None:
    limiter = LimiterRegistry.get_or_create("api", **settings)
    assert LimiterRegistry.get_or_create("api", **settings) is limiter
    assert LimiterRegistry.get_or_create(name="api", **settings) is limiter


def test_the_settings_of_an_adaptive_limiter_are_told_as_they_were_given() -> None:
    limiter = LimiterRegistry.register("api", 9, 100, adaptive=True)
    assert LimiterRegistry.list_all()["api"] == {
        "max_concurrent": 9,
        "max_per_window": 100,
        "window_seconds": 60.0,
        "max_tokens_per_window": None,
        "max_burst": None,
        "adaptive": Adaptive(max_concurrent=9),
    }
    assert limiter.stats["max_concurrent"] == 5  # what it is now


@pytest.mark.parametrize("make", [LimiterRegistry.register, LimiterRegistry.get_or_create])
def test_the_log_names_a_limiter_as_it_is_registered(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    limiter = make("api", adaptive=True)

    async def refused() -> None:
        async with limiter.reserve() as permit:
            permit.refused(1)

    with caplog.at_level("INFO"):
        run_virtual(refused())
    assert [record.message for record in caplog.records] == ["api: 2 at once, was 5 (refused)"]


@pytest.mark.parametrize(
    ("kept", "asked", "kind", "other"), [(None, True, "fixed", "adaptive"), (True, False, "adaptive", "fixed")]
)
def test_a_limiter_is_either_fixed_or_adaptive(kept: bool | None, asked: bool, kind: str, other: str) -> None:
    LimiterRegistry.register("api", adaptive=kept)
    with pytest.raises(ValueError, match=f"'api' exists and is {kind}, so it cannot be {other} too"):
        LimiterRegistry.get_or_create("api", adaptive=asked)


def test_any_rule_will_do_for_who_asks_for_an_adaptive_limiter() -> None:
    limiter = LimiterRegistry.register("api", adaptive=Adaptive(max_concurrent=9, backoff_factor=0.7))
    assert LimiterRegistry.get_or_create("api", adaptive=True) is limiter
    assert LimiterRegistry.get_or_create("api", 9, adaptive=True) is limiter


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ({"max_per_window": 10}, {"max_per_window": None}),
        ({"window_seconds": 60.0}, {"window_seconds": 1}),
        ({"max_burst": None}, {"max_burst": 2, "max_per_window": 10}),
        ({"max_concurrent": 20, "adaptive": True}, {"max_concurrent": 50}),
        ({"max_concurrent": 20, "adaptive": True}, {"max_concurrent": 50, "adaptive": True}),
        ({"adaptive": Adaptive(max_concurrent=9)}, {"adaptive": Adaptive(max_concurrent=8)}),
    ],
)
def test_get_or_create_warns_of_every_setting_that_is_not_applied(kept: dict[str, Any], asked: dict[str, Any]) -> None:
    limiter = LimiterRegistry.register("api", **{"max_per_window": 10, **kept})
    before = LimiterRegistry.list_all()
    with pytest.warns(UserWarning, match="'api' exists with .*is not applied") as caught:
        assert LimiterRegistry.get_or_create("api", **asked) is limiter
    assert caught[0].filename == __file__
    assert LimiterRegistry.list_all() == before


def test_remove_tells_whether_it_was_there_and_reset_forgets_one_or_all() -> None:
    for name in "abc":
        LimiterRegistry.register(name)
    assert LimiterRegistry.remove("a") is True
    assert LimiterRegistry.remove("a") is False
    LimiterRegistry.reset("b")
    assert LimiterRegistry.list_names() == ["c"]
    LimiterRegistry.reset()
    assert LimiterRegistry.list_all() == {}


@pytest.mark.parametrize("name", [None, 5, b"x"])
def test_a_name_is_a_str(name: Any) -> None:
    with pytest.raises(TypeError, match="name must be a str"):
        LimiterRegistry.register(name)
    with pytest.raises(ValueError, match="name must not be empty"):
        LimiterRegistry.register("")


def test_bad_settings_register_nothing() -> None:
    with pytest.raises(ValueError, match="max_concurrent must be at least 1, got 0"):
        LimiterRegistry.register("api", 0)
    assert not LimiterRegistry.exists("api")


def test_threads_that_create_one_name_get_one_limiter() -> None:
    got: list[RateLimiter] = []
    start = threading.Barrier(20)

    def work() -> None:
        start.wait()
        got.append(LimiterRegistry.get_or_create("api", 7))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, got))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_forked_while_a_thread_uses_the_registry_or_a_node_may_use_both() -> None:
    LimiterRegistry.register("api")
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with LimiterRegistry._lock, mixins._choosing:
            held.set()
            forked.wait()

    def use() -> None:
        assert LimiterRegistry.get("api").max_concurrent == ThrottledParallelBatchNode().limiter.max_concurrent

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join(10)
    child.kill()
    child.join()
    forked.set()
    holder.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("make", [LimiterRegistry.register, LimiterRegistry.get_or_create])
def test_settings_of_the_adaptive_rule_are_told_where_they_belong(make: Callable[..., RateLimiter]) -> None:
    with pytest.raises(TypeError, match=r"adaptive=Adaptive\(initial_concurrent=10, backoff_factor=0.7"):
        make("llm", max_concurrent=50, adaptive=True, initial_concurrent=10, backoff_factor=0.7)
    assert not LimiterRegistry.exists("llm")

"""Mistakes: what a class of a program gets wrong and no error tells, methods, limits and names, found as the class is made."""

from __future__ import annotations

import inspect
import warnings
from difflib import get_close_matches

# What an async node never calls, and how many arguments it takes: a program may have a method of its own that posts by HTTP.
_NEVER_CALLED = {"prep": 2, "exec": 2, "exec_fallback": 3, "post": 4}
_NEVER_AWAITED = ("is_rate_limit_error", "retry_after")
_NEVER_AWAITED_TOKENS = ("estimate_tokens", "count_tokens")  # which a program may have of its own, as nobody asks without a limit
_AWAITED = {"exec_async": "result", "exec_fallback_async": "result", "post_async": "action"}
# What a limit of a node is called in a flow.
_IN_FLOWS = {
    "max_concurrent": "max_concurrent_flows",
    "max_per_minute": "max_flows_per_minute",
    "initial_concurrent": "initial_concurrent_flows",
    "min_concurrent": "min_concurrent_flows",
}
# What only those that adapt have.
_OF_ADAPTIVE = (
    "initial_concurrent",
    "min_concurrent",
    "initial_concurrent_flows",
    "min_concurrent_flows",
    "backoff_factor",
    "recovery_threshold",
    "recovery_factor",
    "propagate_rate_limit",
)
_MISSPELT = 0.88  # how like the name of a setting: `max_per_min` and `max_concurrency` are, `max_tokens` is another thing
_SHORT = 4  # letters, of which a name with one more may well be another
_LIBRARIES = ("pocketflow", __package__)


def check_methods(cls: type) -> None:
    """Warn of a method that an async node never calls, as one has it that was synchronous, and refuse one that yields.

    Raises:
        TypeError: `prep_async` or another is a generator, which cannot be awaited, or a hook is async, which nobody awaits.

    Warns:
        UserWarning: a method lacks the `_async` in its name, or a hook that is asked under a limit of tokens is async.
    """
    if _is_of_library(cls):
        return
    for name, arguments in _NEVER_CALLED.items():
        method = vars(cls).get(name)
        if inspect.isfunction(method) and method.__code__.co_argcount == arguments and not _has(cls, f"{name}_async"):
            warnings.warn(
                f"{cls.__name__}.{name} is never called, as {cls.__name__} is async: make it `async def {name}_async`",
                stacklevel=3,
            )
    if _yields(vars(cls).get("prep_async")):
        raise TypeError(
            f"{cls.__name__}.prep_async must return its items, and yields them: let another method yield them, and return "
            "what that gives, a generator or an async generator"
        )
    for name, what in _AWAITED.items():
        if _yields(vars(cls).get(name)):
            raise TypeError(f"{cls.__name__}.{name} must return its {what}, and yields: collect what it yields, and return that")
    for name in (*_NEVER_AWAITED, *_NEVER_AWAITED_TOKENS):
        hook = vars(cls).get(name)
        is_async = inspect.iscoroutinefunction(hook.__func__ if isinstance(hook, staticmethod) else hook)
        if is_async and any(name in vars(base) for base in cls.__mro__ if _is_of_library(base)):
            told = f"{cls.__name__}.{name} is called without await, and is async: make it `def {name}`"
            if name in _NEVER_AWAITED:
                raise TypeError(told)
            warnings.warn(told, stacklevel=3)


def check_limits(cls: type, settings: tuple[str, ...]) -> None:
    """Warn of a limit of a flow that has the name of a node's, or the other way round: it limits nothing.

    Args:
        cls: the class as it is made.
        settings: the names that it has for settings.

    Warns:
        UserWarning: a number has the name of a limit of the other kind, and the class has none by its own name.
    """
    for node, flow in _IN_FLOWS.items():
        kind, name, own = ("flow", node, flow) if flow in settings else ("node", flow, node)
        if own in settings and isinstance(vars(cls).get(name), int) and own not in vars(cls):
            warnings.warn(
                f"{cls.__name__}.{name} limits nothing, as {cls.__name__} is a {kind}: it is called {own} there", stacklevel=3
            )


def check_names(cls: type, settings: tuple[str, ...]) -> None:
    """Warn of what a class has that looks like a setting and is none: it does nothing.

    Args:
        cls: the class as it is made.
        settings: the names that it has for settings.

    Warns:
        UserWarning: the name is nearly that of a setting, or that of one which only adaptive classes have.
    """
    if _is_of_library(cls):
        return
    adapts = any(name in settings for name in _OF_ADAPTIVE)
    for name, value in list(vars(cls).items()):
        if not isinstance(value, int | float | str) or name in settings or name.startswith("_"):
            continue
        if name in _OF_ADAPTIVE and not adapts:
            warnings.warn(f"{cls.__name__}.{name} does nothing: only adaptive nodes and flows have it", stacklevel=3)
            continue
        meant = [each for each in get_close_matches(name, settings, cutoff=_MISSPELT) if len(each) > _SHORT]
        if meant and meant[0] not in vars(cls):
            warnings.warn(f"{cls.__name__}.{name} is no setting: did you mean {meant[0]}?", stacklevel=3)


def check_bases(cls: type, settings: tuple[str, ...]) -> None:
    """Warn of a setting of a program's class that a default hides, as the class of this library which has it comes first.

    Args:
        cls: the class as it is made.
        settings: the names that it has for settings.

    Warns:
        UserWarning: so many calls at once are allowed, say, as the default is, though a class further on has fewer.
    """
    for name in settings:
        found = _hidden(cls, name)
        if found is None or any(_hidden(base, name) == found for base in cls.__bases__):
            continue
        default, hidden = found
        warnings.warn(
            f"{cls.__name__}.{name} is {vars(default)[name]!r}, the default of {default.__name__}, which comes before "
            f"{hidden.__name__} with {vars(hidden)[name]!r}: name {hidden.__name__} first, or set {name} in {cls.__name__}",
            stacklevel=3,
        )


def _hidden(cls: type, name: str) -> tuple[type, type] | None:
    """Return the class of this library whose default a class has for a setting, and that of a program which it hides."""
    first, *others = (base for base in cls.__mro__ if name in vars(base))
    if not _is_of_library(first):
        return None
    hidden = next((base for base in others if not _is_of_library(base)), first)
    value = vars(hidden)[name]
    return (first, hidden) if isinstance(value, int | float | str) and value != vars(first)[name] else None


def _yields(method: object) -> bool:
    return inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method)


def _is_of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _LIBRARIES


def _has(cls: type, name: str) -> bool:
    """Return whether a program has given the class a method of that name."""
    return any(name in vars(base) for base in cls.__mro__ if not _is_of_library(base))

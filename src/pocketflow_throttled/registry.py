"""LimiterRegistry: named limiters that nodes, flows and plain code share."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from .adaptivity import Adaptive
from .forked import Lock
from .rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Mapping


class LimiterSettings(TypedDict, total=False):
    """The settings of a limiter that has a name."""

    max_tokens_per_window: int | None
    max_burst: int | None
    adaptive: Adaptive | bool | None
    max_per_minute: int | None
    max_tokens_per_minute: int | None


# What is of a minute, by the names of nodes and presets, and what it is in a limiter.
_OF_A_MINUTE = {"max_per_minute": "max_per_window", "max_tokens_per_minute": "max_tokens_per_window"}
_OF_THE_RULE = {field.name for field in fields(Adaptive)} - {"max_concurrent"}


class _LimiterRegistry:
    """Limiters by name, for the whole process; safe to use from any thread.

    Example:
        >>> limiter = LimiterRegistry.register("docs", max_concurrent=3, max_per_window=60)
        >>> LimiterRegistry.get("docs") is limiter
        True
        >>> LimiterRegistry.remove("docs")
        True
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._limiters: dict[str, RateLimiter] = {}

    def register(
        self,
        name: str,
        max_concurrent: int = 5,
        max_per_window: int | None = None,
        window_seconds: float = 60.0,
        *,
        replace: bool = False,
        **settings: Unpack[LimiterSettings],
    ) -> RateLimiter:
        """Make a limiter under a new name and return it; the settings are those of `RateLimiter`.

        Args:
            name: what it is called.
            max_concurrent: requests at once.
            max_per_window: starts in any window.
            window_seconds: length of the window in seconds.
            replace: take the place of one that exists; whoever holds that one keeps it.
            settings: the keywords of `RateLimiter`, also as a preset has them: `**Presets.OPENAI_TIER1`.

        Raises:
            ValueError: the name is taken or empty, or a setting is out of range.
            TypeError: the name is no str, or a setting is unknown or of another type.
        """
        _check_name(name)
        _check_no_rule(settings)
        limiter = RateLimiter(max_concurrent, max_per_window, window_seconds, **settings)
        limiter.name = name
        with self._lock:
            if name in self._limiters and not replace:
                raise ValueError(f"Limiter {name!r} already exists; pass replace=True, use get_or_create, or remove it first")
            self._limiters[name] = limiter
        return limiter

    def get(self, name: str) -> RateLimiter:
        """Return the limiter of that name.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        with self._lock:
            if name not in self._limiters:
                known = ", ".join(map(repr, sorted(self._limiters))) or "none"
                raise KeyError(f"Limiter {name!r} not found; registered: {known}")
            return self._limiters[name]

    def get_or_create(self, name: str, *args: Any, **settings: Any) -> RateLimiter:
        """Return the limiter of that name, made with these settings, as `register` takes them, if there is none.

        Raises:
            ValueError: the name is empty, a setting is out of range, or the limiter exists and is fixed where an adaptive one is
                asked for, or the other way round.
            TypeError: the name is no str, or a setting is unknown or of another type.

        Warns:
            UserWarning: it exists, and a setting that was given differs from its own.
        """
        _check_name(name)
        _check_no_rule(settings)
        asked = RateLimiter(*args, **settings)  # refuses what `register` does, whether the name is taken or not
        asked.name = name
        with self._lock:
            limiter = self._limiters.setdefault(name, asked)
        if limiter is asked:
            return limiter
        if settings.get("adaptive") is not None and (asked.adaptive is None) != (limiter.adaptive is None):
            is_, is_not = ("fixed", "adaptive") if asked.adaptive else ("adaptive", "fixed")
            raise ValueError(
                f"Limiter {name!r} exists and is {is_}, so it cannot be {is_not} too; use another name or replace it"
            )
        own, wanted = limiter._settings, asked._settings
        given = dict.fromkeys((*list(wanted)[: len(args)], *(_OF_A_MINUTE.get(key, key) for key in settings)))
        if asked.adaptive is not None and settings["adaptive"] is True:
            del given["adaptive"]  # any rule will do
        differ = {key: wanted[key] for key in given if own[key] != wanted[key]}
        if differ:
            kept = {key: own[key] for key in differ}
            warnings.warn(f"Limiter {name!r} exists with {kept}; {differ} is not applied", stacklevel=2)
        return limiter

    def exists(self, name: str) -> bool:
        """Return whether a limiter has that name."""
        return name in self._limiters

    def remove(self, name: str) -> bool:
        """Unregister one; return whether it was there. Whoever holds it keeps it."""
        with self._lock:
            return self._limiters.pop(name, None) is not None

    def reset(self, name: str | None = None) -> None:
        """Unregister one, or all of them."""
        with self._lock:
            if name is None:
                self._limiters.clear()
            else:
                self._limiters.pop(name, None)

    def list_names(self) -> list[str]:
        """Return the names, in the order they were registered."""
        with self._lock:
            return list(self._limiters)

    def list_all(self) -> dict[str, dict[str, Any]]:
        """Return the settings of every limiter, by name, as they were given: for what they are now, ask for its `stats`."""
        with self._lock:
            return {name: limiter._settings for name, limiter in self._limiters.items()}

    def stats(self, name: str) -> dict[str, Any]:
        """Return the settings and the live numbers of one limiter. Raises KeyError as `get` does."""
        return self.get(name).stats


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not name:
        raise ValueError("name must not be empty, got ''")


def _check_no_rule(settings: Mapping[str, object]) -> None:
    """Raise if settings of the adaptive rule are given as if they were the limiter's."""
    of_the_rule = {name: value for name, value in settings.items() if name in _OF_THE_RULE}
    if of_the_rule:
        given = ", ".join(f"{name}={value!r}" for name, value in of_the_rule.items())
        raise TypeError(f"{given}: settings of the adaptive rule are given as adaptive=Adaptive({given}, max_concurrent=...)")


LimiterRegistry = _LimiterRegistry()

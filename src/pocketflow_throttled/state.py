"""What all copies of one node or flow share, and what each instance of a throttled flow has of its own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from .correction import Correction
from .validation import check_burst

if TYPE_CHECKING:
    from .correction import Estimate
    from .rate_limiter import RateLimiter


class Own:
    """A limiter of a node's own, and what it has from the node.

    Attributes:
        limiter: the limiter.
        runs: those of the node that are under way and keep to it.
        waiting: names of settings, as the limiter has them, that were set between runs and do not fit with the others yet.
    """

    __slots__ = ("__weakref__", "_has_run", "_settings", "limiter", "runs", "waiting")

    def __init__(self, limiter: RateLimiter, settings: dict[str, Any]) -> None:
        self.limiter = limiter
        self.runs: WeakSet[object] = WeakSet()  # no count: one whose loop was closed never ends, and is no longer there
        self.waiting: frozenset[str] = frozenset()
        self._settings = settings
        self._has_run = False

    def begin(self, run: object) -> None:
        """Let a run be one of those under way."""
        self._has_run = True
        self.runs.add(run)

    def take(self, settings: dict[str, Any]) -> None:
        """Set on the limiter what has changed or was set; what was not holds there, also if it was set on the limiter itself."""
        changed = {name: value for name, value in settings.items() if name in self.waiting or value != self._settings[name]}
        is_new = not self._has_run and not self.limiter.history
        if "max_burst" in changed:
            self.limiter.max_burst = None  # the window cannot go before it
        for name, value in changed.items():
            setattr(self.limiter, name, value)
        if "adaptive" in changed and is_new:
            self.limiter.reset_adaptive()  # to the initial limit that is set now: it was only looked at before
        self._settings = {**self._settings, **settings}  # only now: what the limiter refuses, it refuses again
        self.waiting = frozenset()

    def check(self, settings: dict[str, Any]) -> None:
        """Raise ValueError if the limiter refuses what waits of these settings."""
        names = ("max_burst", "max_per_window")
        burst, limit = (settings[name] if name in self.waiting else getattr(self.limiter, name) for name in names)
        check_burst(burst, "max_per_window", limit)


class State:
    """What all copies of one node share: PocketFlow copies a node each time a flow runs it."""

    __slots__ = (
        "completed",
        "correction",
        "failed",
        "gave_up",
        "latest",
        "of_instances",
        "own",
        "refused",
        "streak",
        "tokens_estimated",
        "tokens_used",
    )

    def __init__(self) -> None:
        self.own: Own | None = None
        self.latest: RateLimiter | None = None  # in use in the last run, perhaps that of a flow's instance
        self.of_instances: WeakSet[Own] = WeakSet()  # the limiters that flows' instances have of their own
        self.gave_up = False
        self.correction = Correction()  # of token estimates
        self.reset_counts()

    def learn_tokens(self, estimated: int, used: int, told: Estimate | None) -> None:
        """Count what a call cost, and learn by how much estimates are wrong."""
        self.tokens_estimated += estimated
        self.tokens_used += used
        self.correction.learn(estimated, used, told)

    def reset_counts(self) -> None:
        """Set every count to zero."""
        self.completed = self.failed = self.refused = self.streak = 0
        self.tokens_estimated = self.tokens_used = 0

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()  # a node that is sent to another process has limits of its own there


# What the nodes in one instance of a throttled batch flow have of their own, by their state; None outside of one.
scope: ContextVar[dict[State, Own] | None] = ContextVar("scope", default=None)

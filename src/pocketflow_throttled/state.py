"""What all copies of one node or flow share, and what each instance of a throttled flow has of its own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from .correction import Correction

if TYPE_CHECKING:
    from .correction import Estimate
    from .rate_limiter import RateLimiter

    Own = tuple[RateLimiter, dict[str, Any]]  # a limiter, and the settings that it has from its node


class State:
    """What all copies of one node share: PocketFlow copies a node each time a flow runs it."""

    __slots__ = (
        "completed",
        "correction",
        "failed",
        "gave_up",
        "latest",
        "own",
        "refused",
        "streak",
        "tokens_estimated",
        "tokens_used",
    )

    def __init__(self) -> None:
        self.own: Own | None = None
        self.latest: RateLimiter | None = None  # in use in the last run, perhaps that of a flow's instance
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

"""Calling: what a batch asks of whoever makes the calls for its items, and weighs their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .permit import Permit


class Calls(Protocol):
    """The calls for the items of one batch.

    Attributes:
        check: refuses an item, given with its index, by raising; None: any will do.
        call: makes a call for an item.
        tokens: what a call for an item, given with its index, will cost.
        collects: whether an error stands in its item's place, instead of ending the batch.
    """

    check: Callable[[int, Any], None] | None
    call: Callable[[Any], Coroutine[Any, Any, Any]]
    tokens: Callable[[int, Any], int]
    collects: Callable[[Exception], bool]

    def served(self, item: Any, result: Any, permit: Permit) -> None:
        """Count a call that returned a result."""

    def trouble(self, permit: Permit) -> Trouble:
        """Return what weighs the errors of one item."""

    async def give_up(self, item: Any, error: Exception) -> Any:
        """Return a result for an item that is not called again, or raise."""

    def failed(self) -> None:
        """Count an item that ends with an error."""


class Trouble(Protocol):
    """What the calls of one item have met with, and what it leads to.

    Attributes:
        rest: seconds to wait, without a permit, before the item queues again.
    """

    rest: float

    def weigh(self, error: Exception) -> Exception | None:
        """Give the permit back and return what to give up with; None: rest, and call again."""

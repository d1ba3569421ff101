"""Work: what a batch needs to be told of its items, and of what their calls meet with. `attempts` tells it for PocketFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .permit import Permit


class Trouble(Protocol):
    """What the calls of one item have met with."""

    async def weigh(self, error: Exception, /) -> Exception | None:
        """Give the permit back, wait if need be, and return what to give up with; None: call again."""


class Work(Protocol):
    """What a batch does with its items."""

    @property
    def check(self) -> Callable[[int, Any], None] | None:
        """Refuse an item, given with its index, by raising as it is read; None: any will do."""

    @property
    def tokens(self) -> Callable[[int, Any], int]:
        """Tell what an item, given with its index, costs. Asked when the limiter counts tokens."""

    @property
    def call(self) -> Callable[[Any], Coroutine[Any, Any, Any]]:
        """Handle an item."""

    def served(self, item: Any, result: Any, permit: Permit, /) -> None:
        """Take note of a call that returned."""

    def trouble(self, permit: Permit, /) -> Trouble:
        """Return what weighs the errors of an item, once its first call has raised."""

    @property
    def give_up(self) -> Callable[[Any, Exception], Coroutine[Any, Any, Any]]:
        """Return a result for an item that is not called again, or raise."""

    @property
    def collects(self) -> Callable[[Exception], bool]:
        """Tell whether an exception takes its item's place; else it ends the batch."""

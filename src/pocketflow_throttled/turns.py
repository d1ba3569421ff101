"""Turns: a batch's places in the limiter's queue, for its next item and for one more call of those that were refused.

A call that is under way is kept by its loop, and keeps its batch. If the queue kept that as well, the slots of a batch whose loop
was closed would never come back. If the queue kept none, nobody would keep a batch that only waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    import asyncio


class Fed(Protocol):
    """A batch that waits for its next item's turn."""

    def _feed_soon(self) -> None: ...

    def _fail_soon(self, error: BaseException) -> None: ...


class Anchor:
    """What the places of a batch keep of it.

    Attributes:
        batch: the batch, while no call of it is under way; else None.
    """

    __slots__ = ("batch",)

    def __init__(self) -> None:
        self.batch: Fed | None = None


class Turn:
    """The place for the next item: where a future would wake a task, this has the batch feed on.

    Args:
        batch: whose it is.
        anchor: the batch's.
    """

    __slots__ = ("_anchor", "_batch")

    def __init__(self, batch: Fed, anchor: Anchor) -> None:
        self._batch = ref(batch)
        self._anchor = anchor

    def done(self) -> bool:
        """Return whether nobody waits any more."""
        return self._batch() is None

    def set_result(self, _: None, /) -> None:
        """Feed on: the permit is granted."""
        batch = self._batch()
        if batch is not None:
            batch._feed_soon()

    def set_exception(self, error: Exception, /) -> None:
        """End the batch."""
        batch = self._batch()
        if batch is not None:
            batch._fail_soon(error)


class Again:
    """The place for one more call of an item.

    Args:
        granted: what the item's task waits for.
        anchor: the batch's.
    """

    __slots__ = ("_anchor", "_granted")

    def __init__(self, granted: asyncio.Future[None], anchor: Anchor) -> None:
        self._granted = ref(granted)
        self._anchor = anchor

    def done(self) -> bool:
        """Return whether nobody waits any more."""
        granted = self._granted()
        return granted is None or granted.done()

    def set_result(self, _: None, /) -> None:
        """Have the task go on: the permit is granted."""
        granted = self._granted()
        if granted is not None:
            granted.set_result(None)

    def set_exception(self, error: Exception, /) -> None:
        """End the task's wait with an error."""
        granted = self._granted()
        if granted is not None:
            granted.set_exception(error)

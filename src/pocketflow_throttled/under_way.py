"""Under way: what a batch has begun, and its end, by the last item, the first error or a cancellation. Nothing stays behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from .notes import noted

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Context

    from .permit import Permit

_EXITS = (SystemExit, KeyboardInterrupt)  # as asyncio has it: they end the program, whatever else is raised


class UnderWay:
    """What of a batch is under way.

    Args:
        context: in which the source is read, and of which every item gets a copy.

    Attributes:
        live: the items under way, by their index: the task of each, and its permit.
    """

    _loop: asyncio.AbstractEventLoop
    _finished: asyncio.Future[None]

    def __init__(self, context: Context) -> None:
        self._context = context
        self.live: dict[int, tuple[asyncio.Task[None], Permit]] = {}
        self._next: Permit | None = None  # in the limiter's queue, for the next item
        self._feeder: Generator[None, None, None] | None = None  # feeds from an iterable
        self._reader: asyncio.Task[None] | None = None  # feeds from an async source
        self._error: BaseException | None = None
        self._is_closing = False

    def _fail(self, error: BaseException, note: str) -> None:
        """End with the first error. Those that follow, as calls are cancelled, tell nothing new, unless they end the program."""
        if self._is_closing and (isinstance(self._error, _EXITS) or not isinstance(error, _EXITS)):
            return
        noted(error, note)
        self._error = error
        if not self._is_closing:
            try:
                self._cancel()
            finally:
                self._finish()

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    async def _until_finished(self) -> None:
        """Wait for the end, and raise the error that it came with; whatever ends this, nothing is under way any more."""
        exit_: BaseException | None = None
        try:
            await self._finished
            if self._error is not None:
                raise self._error
        except BaseException as error:
            try:
                await self._end(error)
            except asyncio.CancelledError:
                if not isinstance(self._error, _EXITS):
                    raise
            if self._error is error or not isinstance(self._error, _EXITS):
                raise
            exit_ = self._error
        finally:
            self._error = None  # no cycle through the traceback
        if exit_ is not None:
            try:
                raise exit_
            finally:
                del exit_  # no more than above

    async def _end(self, error: BaseException) -> None:
        """Leave nothing under way, as an error ends the batch, of an item or of whoever waits for it."""
        if not isinstance(error, GeneratorExit) or error is self._error:
            await self._close()
        elif self._loop.is_closed():  # nobody runs this coroutine any more, so it cannot wait
            self._give_back_unsent()
        else:
            self._cancel()

    def _cancel(self) -> None:
        self._is_closing = True
        for task in self._tasks():
            task.cancel()
        self._give_back_unsent()

    def _give_back_unsent(self) -> None:
        """Give back what no task has begun to use; the rest is given back as the tasks end."""
        if self._next is not None:
            self._next._give_back_unsent()
        for _, permit in self.live.values():
            if not permit.sent:
                permit._give_back_unsent()

    async def _close(self) -> None:
        """Cancel everything under way and wait until all of it has ended, however often this is cancelled meanwhile."""
        if not self._is_closing:
            self._cancel()
        cancelled: asyncio.CancelledError | None = None
        while tasks := self._tasks():
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as again:
                cancelled = again
                self._cancel()
        if self._feeder is not None:
            with suppress(Exception):  # what came first counts
                self._context.run(self._feeder.close)
        if cancelled is not None:
            raise cancelled

    def _tasks(self) -> list[asyncio.Task[None]]:
        reading = [] if self._reader is None else [self._reader]
        return [task for task in (*reading, *(task for task, _ in self.live.values())) if not task.done()]

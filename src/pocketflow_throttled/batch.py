"""The batch runner: any source of items, one task each, as many as permits allow, results in order.

It knows permits and calls, neither PocketFlow nor refusals. A feeder takes an item, waits for its permit and only then makes
the task that owns it: so items start in order, one at most waits for its first permit, and the source is read as it is used.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .rate_limiter import Permit

_SHOWN = 200


def shown(value: object) -> str:
    """Return the start of a value's repr, for an error message; never raises."""
    try:
        return f"{value!r:.{_SHOWN}}"
    except Exception:  # noqa: BLE001  (a broken __repr__ must not hide the error that is being told)
        return f"<{type(value).__name__}>"


class Batch:
    """One run over a source of items.

    Args:
        source: an iterable or async iterable of items, read lazily; None: no items.
        reserve: makes the permit, not yet taken, of an item.
        call: handles an item and releases its permit.
        max_live: tells how many items may be under way, those that wait for a retry included.
        collect: whether an exception takes its item's place; else the first one ends the batch.

    Raises:
        TypeError: the source cannot be iterated.
    """

    def __init__(
        self,
        source: Iterable[Any] | AsyncIterable[Any] | None,
        *,
        reserve: Callable[[int, Any], Permit],
        call: Callable[[Any, Permit], Coroutine[Any, Any, Any]],
        max_live: Callable[[], int],
        collect: bool,
    ) -> None:
        source = () if source is None else source
        if not isinstance(source, Iterable | AsyncIterable) and not hasattr(source, "__getitem__"):
            raise TypeError(f"prep must return a list, an iterable, an async iterable or None, got {shown(source)}")
        self._source = source
        self._reserve = reserve
        self._call = call
        self._max_live = max_live
        self._collect = collect
        self._results: list[Any] = []
        self._live: set[asyncio.Task[Any]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._closing = False

    async def run(self) -> list[Any]:
        """Run every item and return the results in the order of the items.

        Raises:
            BaseException: the first error of an item or of the source, as it was, with a note that names the item. All other
                calls have been cancelled and have ended by then, also when the run itself is cancelled.
        """
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        self._feeder = loop.create_task(self._feed())
        self._feeder.add_done_callback(self._fed)
        try:
            await self._finished
        except GeneratorExit:  # nobody runs this coroutine any more, so it cannot wait
            self._cancel()
            raise
        except BaseException:
            await self._close()
            raise
        if self._error is not None:
            await self._close()
            try:
                raise self._error
            finally:
                self._error = None  # no cycle through the traceback
        return self._results

    async def _feed(self) -> None:
        source = self._source
        if isinstance(source, AsyncIterable):
            items = aiter(source)
            try:
                async for item in items:
                    await self._start(item)
            finally:
                if inspect.isasyncgen(items):
                    await items.aclose()
        else:
            iterator = iter(source)
            try:
                for item in iterator:
                    await self._start(item)
            finally:
                if inspect.isgenerator(iterator):
                    iterator.close()

    async def _start(self, item: Any) -> None:
        index = len(self._results)
        permit = self._reserve(index, item)
        while len(self._live) >= self._max_live():
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if not permit.take():
            await permit.wait()
        if self._closing:  # the source swallowed the cancellation
            permit.give_back_unsent()
            raise asyncio.CancelledError
        self._results.append(None)
        task = asyncio.create_task(self._call(item, permit))
        self._live.add(task)
        task.add_done_callback(partial(self._ended, index, item, permit))

    def _ended(self, index: int, item: Any, permit: Permit, task: asyncio.Task[Any]) -> None:
        self._live.discard(task)
        if permit.held:  # cancelled before its first step: its own `finally` never ran
            permit.give_back_unsent()
        error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._results[index] = task.result()
        elif self._collect and isinstance(error, Exception):
            self._results[index] = error
        else:
            self._fail(error, f"in item {index}: {shown(item)}")
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._finish_if_done()

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        error: BaseException | None = asyncio.CancelledError() if feeder.cancelled() else feeder.exception()
        if error is not None:
            self._fail(error, f"while item {len(self._results)} was read")
        self._finish_if_done()

    def _fail(self, error: BaseException, note: str) -> None:
        if self._error is None and not self._closing:
            error.add_note(note)
            self._error = error
            self._finish()

    def _finish_if_done(self) -> None:
        if not self._live and self._feeder is not None and self._feeder.done():
            self._finish()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _cancel(self) -> list[asyncio.Task[Any]]:
        self._closing = True
        tasks = [task for task in (self._feeder, *self._live) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        return tasks

    async def _close(self) -> None:
        """Cancel everything under way and wait until all of it has ended, however often this is cancelled meanwhile."""
        tasks = self._cancel()
        cancelled: asyncio.CancelledError | None = None
        while tasks:
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as again:
                cancelled = again
                self._cancel()
            tasks = [task for task in (self._feeder, *self._live) if task is not None and not task.done()]
        if cancelled is not None:
            raise cancelled

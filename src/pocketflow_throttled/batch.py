"""The batch runner: any source of items, one task each, as many as permits allow, results in order.

It knows permits and calls, neither PocketFlow nor refusals. A feeder takes an item, waits for its permit and only then makes
the task that owns it: so items start in order, one at most waits for its first permit, and the source is read as it is used.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from .permit import Permit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .rate_limiter import RateLimiter

_SHOWN = 200
# Items under way for each slot: those that wait for a retry hold none, and are bounded too.
_LIVE_PER_SLOT = 2


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
        limiter: whose permits the items need.
        tokens: tells what an item, given with its index, costs; it may refuse one by raising.
        call: handles an item with its permit, and says `permit.sent = True` before anything is sent. The permit may be given
            back and taken anew meanwhile; at the end the batch gives it back.
        collect: tells whether an exception takes its item's place; else it ends the batch.

    Raises:
        TypeError: the source cannot be iterated.
    """

    def __init__(
        self,
        source: Iterable[Any] | AsyncIterable[Any] | None,
        *,
        limiter: RateLimiter,
        tokens: Callable[[int, Any], int],
        call: Callable[[Any, Permit], Coroutine[Any, Any, Any]],
        collect: Callable[[Exception], bool],
    ) -> None:
        source = () if source is None else source
        if not isinstance(source, Iterable | AsyncIterable) and not hasattr(source, "__getitem__"):
            raise TypeError(f"prep must return a list, an iterable, an async iterable or None, got {shown(source)}")
        self._source = source
        self._limiter = limiter
        self._tokens = tokens
        self._call = call
        self._collect = collect
        self._results: list[Any] = []
        self._live: dict[int, tuple[asyncio.Task[Any], Permit]] = {}  # by the index of the item
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
        self._feeder = loop.create_task(self._feed(loop))
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

    async def _feed(self, loop: asyncio.AbstractEventLoop) -> None:
        source, limiter, tokens, live, results = self._source, self._limiter, self._tokens, self._live, self._results
        if isinstance(source, AsyncIterable):
            items = aiter(source)
            try:
                async for item in items:
                    permit = Permit(limiter, tokens(len(results), item))
                    await self._admit(permit)
                    self._launch(loop, item, permit)
            finally:
                if inspect.isasyncgen(items):
                    await items.aclose()
        else:
            iterator = iter(source)
            try:
                for item in iterator:
                    permit = Permit(limiter, tokens(len(results), item))
                    if len(live) >= _LIVE_PER_SLOT * limiter._max_concurrent:
                        await self._admit(permit)
                    elif not permit.take():
                        await permit.wait()
                    self._launch(loop, item, permit)
            finally:
                if inspect.isgenerator(iterator):
                    iterator.close()

    async def _admit(self, permit: Permit) -> None:
        while len(self._live) >= _LIVE_PER_SLOT * self._limiter.max_concurrent:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if not permit.take():
            await permit.wait()

    def _launch(self, loop: asyncio.AbstractEventLoop, item: Any, permit: Permit) -> None:
        if self._closing:  # the source swallowed the cancellation
            permit.give_back_unsent()
            raise asyncio.CancelledError
        index = len(self._results)
        self._results.append(None)
        task = loop.create_task(self._run_item(index, item, permit))
        self._live[index] = (task, permit)
        task.add_done_callback(self._never_ran)

    async def _run_item(self, index: int, item: Any, permit: Permit) -> None:
        # From here on this coroutine keeps the books itself: a callback for each item is a tenth of what an item costs.
        self._live[index][0].remove_done_callback(self._never_ran)
        try:
            self._results[index] = await self._call(item, permit)
        except Exception as error:  # noqa: BLE001  (what becomes of it is the batch's to say)
            if self._collect(error):
                self._results[index] = error
            else:
                self._fail(error, f"in item {index}: {shown(item)}")
        except GeneratorExit:  # nobody runs this coroutine any more
            permit.release()
            raise
        except BaseException as error:  # noqa: BLE001  (it ends the batch, not this task)
            self._fail(error, f"in item {index}: {shown(item)}")
        self._ended(index, permit)

    def _never_ran(self, task: asyncio.Task[Any]) -> None:
        """Take back a task that was cancelled before its first step."""
        index, permit = next((index, permit) for index, (live, permit) in self._live.items() if live is task)
        permit.give_back_unsent()
        self._fail(asyncio.CancelledError(), f"in item {index}, before its first step")
        self._ended(index, permit)

    def _ended(self, index: int, permit: Permit) -> None:
        del self._live[index]
        # Only now, when an error has cancelled the rest: whom this wakes would start one call more.
        if permit.held:
            permit.release()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if not self._live:
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
            self._cancel()
            self._finish()

    def _finish_if_done(self) -> None:
        if not self._live and self._feeder is not None and self._feeder.done():
            self._finish()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _cancel(self) -> list[asyncio.Task[Any]]:
        self._closing = True
        tasks = self._under_way()
        for task in tasks:
            task.cancel()
        return tasks

    async def _close(self) -> None:
        """Cancel everything under way and wait until all of it has ended, however often this is cancelled meanwhile."""
        tasks = self._under_way() if self._closing else self._cancel()
        cancelled: asyncio.CancelledError | None = None
        while tasks:
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as again:
                cancelled = again
                self._cancel()
            tasks = self._under_way()
        if cancelled is not None:
            raise cancelled

    def _under_way(self) -> list[asyncio.Task[Any]]:
        feeding = [] if self._feeder is None or self._feeder.done() else [self._feeder]
        return [*feeding, *(task for task, _ in self._live.values())]

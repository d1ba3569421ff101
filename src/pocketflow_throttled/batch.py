"""The batch runner: any source of items, one task each, as many as permits allow, results in order.

It knows permits and calls, neither PocketFlow nor refusals. An item is given its permit, and only then the task that owns it:
so items start in order, one at most waits for its first permit, and the source is read as it is used.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import ref

from .notes import noted, shown
from .permit import Permit

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Context

    from .attempts import Attempts, Trouble
    from .rate_limiter import RateLimiter

# Items under way for each slot: those that queue for a retry, or fall back, hold none, and are bounded too.
_LIVE_PER_SLOT = 2
# Beside them, items that rest between two attempts. So many leave no slot idle, even where half of the calls fail and a rest is
# as long as sixty calls; a batch of which every call fails begins no more before it tries again.
_RESTING_PER_SLOT = 32
_EXHAUSTED = object()


class Batch:
    """One run over a source of items.

    Args:
        source: an iterable or async iterable of items, read lazily; None: no items.
        limiter: whose permits the items need.
        attempts: what to do with an item, and when its call fails.
        context: in which the source is read, and of which every item gets a copy.

    Attributes:
        live: the items under way, by their index: the task of each, and its permit.

    Raises:
        TypeError: the source cannot be iterated.
    """

    def __init__(
        self, source: Iterable[Any] | AsyncIterable[Any] | None, *, limiter: RateLimiter, attempts: Attempts, context: Context
    ) -> None:
        source = () if source is None else source
        if not isinstance(source, Iterable | AsyncIterable) and not hasattr(source, "__getitem__"):
            raise TypeError(f"prep must return a list, an iterable, an async iterable or None, got {shown(source)}")
        self._source = source
        self._limiter = limiter
        self._attempts = attempts
        self._context = context
        self._results: list[Any] = []
        self.live: dict[int, tuple[asyncio.Task[None], Permit]] = {}
        self._begun = 0  # items whose tasks have had their first step; where there are more, `_feed_on` is scheduled behind it
        self._to_begin = 0  # items whose tasks will have had it by then
        self._resting = 0  # items under way that wait between two attempts
        self._next: Permit | None = None  # in the limiter's queue, for the next item
        self._turn = _Turn(self)
        self._reader: asyncio.Task[None] | None = None  # feeds from an async source
        self._room: asyncio.Future[None] | None = None  # that the reader waits for
        self._error: BaseException | None = None
        self._is_scheduled = self._is_exhausted = self._is_closing = False

    async def run(self) -> list[Any]:
        """Run every item and return the results in the order of the items.

        Raises:
            BaseException: the first error of an item or of the source, as it was, with a note that names the item. All other
                calls have been cancelled and have ended by then, also when the run itself is cancelled.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = loop.create_future()
        self._feeder: Generator[None, None, None] | None = None
        self._may_be_eager = loop.get_task_factory() is not None
        if isinstance(self._source, AsyncIterable):
            self._reader = loop.create_task(self._read(self._source), context=self._context)
            self._reader.add_done_callback(self._was_read)
        else:
            self._feeder = self._feed(self._source)
            self._feed_soon()
        try:
            await self._finished
            if self._error is not None:
                raise self._error
        except BaseException as error:
            if not isinstance(error, GeneratorExit) or error is self._error:
                await self._close()
            elif loop.is_closed():  # nobody runs this coroutine any more, so it cannot wait
                self._give_back_unsent()
            else:
                self._cancel()
            raise
        finally:
            self._error = None  # no cycle through the traceback
        return self._results

    # --- feeding: by a callback, or, since its items must be awaited, from an async source by a task

    def _feed(self, source: Iterable[Any]) -> Generator[None, None, None]:
        """Launch item after item; yield whenever there is no room."""
        # Local names, for what is needed for every item.
        limiter, budget, attempts, turn, loop = self._limiter, self._limiter._budget, self._attempts, self._turn, self._loop
        results, live, check, create_task = self._results, self.live, attempts.check, loop.create_task
        handle = self._handle_known if self._may_be_eager else self._handle
        iterator = iter(source)
        try:
            for item in iterator:
                index = len(results)
                if check is not None:
                    check(index, item)
                try:
                    permit = Permit(limiter, 0 if budget.tokens is None else attempts.tokens(index, item))
                except Exception as error:
                    attempts.failed()
                    if not attempts.collects(error):
                        raise
                    results.append(error)
                    continue
                while len(live) >= _LIVE_PER_SLOT * limiter._max_concurrent and self._is_full():
                    yield
                if index > self._begun and limiter._active >= limiter._max_concurrent:
                    yield  # some have yet to begin, and instant calls make room as they do: it need not queue before that
                if not permit.take(turn, loop):
                    self._next = permit
                    while not permit.held:
                        yield
                    self._next = None
                results.append(None)
                task = create_task(handle(index, item, permit))
                if not task.done():
                    live[index] = (task, permit)
                elif self._is_closing:  # an eager task has failed
                    return
        finally:
            if inspect.isgenerator(iterator):
                iterator.close()

    def _is_full(self) -> bool:
        """Return whether as many items are under way as may be."""
        slots, resting = self._limiter._max_concurrent, self._resting
        return len(self.live) - resting >= _LIVE_PER_SLOT * slots or resting >= _RESTING_PER_SLOT * slots

    async def _read(self, source: AsyncIterable[Any]) -> None:
        self._reader = asyncio.current_task()  # an eager one begins before `run` has it
        iterator = aiter(source)
        try:
            async for item in iterator:
                if self._is_closing:  # the source swallowed the cancellation
                    raise asyncio.CancelledError
                for _ in self._feed((item,)):
                    self._room = self._loop.create_future()
                    await self._room
                self._feed_soon()
        finally:
            if inspect.isasyncgen(iterator):
                await iterator.aclose()

    def _was_read(self, reader: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if reader.cancelled() else reader.exception()
        if error is not None:
            self._fail(error, f"while item {len(self._results)} was read")
        self._is_exhausted = True
        self._feed_soon()

    def _feed_soon(self) -> None:
        """Feed on, behind all that is about to run: the room that many make is filled at one go."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._to_begin = len(self._results)
            self._loop.call_soon(self._feed_on, context=self._context)

    def _feed_on(self) -> None:
        self._is_scheduled = False
        launched, self._begun = self._begun, self._to_begin
        try:
            if self.live:
                self._take_back(range(launched, self._begun))
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
            if self._feeder is not None and not self._is_exhausted and not self._is_closing:
                self._is_exhausted = next(self._feeder, _EXHAUSTED) is _EXHAUSTED
        except BaseException as error:  # noqa: BLE001  (it ends the batch)
            self._fail_soon(error)
        if len(self._results) > self._begun:
            self._feed_soon()
        elif self._is_exhausted and not self.live:
            self._finish()

    def _take_back(self, launched: range) -> None:
        """Take back the items whose tasks were cancelled before their first step: nothing in them can do it."""
        for index in launched:
            if index in self.live and self.live[index][0].done():
                _, permit = self.live.pop(index)
                self._fail(asyncio.CancelledError(), f"in item {index}, before its first step")
                permit.give_back_unsent()

    # --- one item

    async def _handle_known(self, index: int, item: Any, permit: Permit) -> None:
        """Do the same as `_handle`, in a task that may be eager: it begins before `_feed` has it."""
        task = asyncio.current_task()
        assert task is not None
        self.live[index] = (task, permit)
        await self._handle(index, item, permit)

    async def _handle(self, index: int, item: Any, permit: Permit) -> None:
        attempts = self._attempts
        trouble: Trouble | None = None
        is_served = False
        try:
            while True:
                permit.sent = True
                if permit.limiter._is_told:
                    permit.limiter._mark()
                try:
                    result = await attempts.call(item)
                except Exception as error:  # whatever the call raised
                    if self._is_closing:  # it answered its cancellation with an error of its own: nothing is sent any more
                        raise
                    trouble = trouble or attempts.trouble(permit)
                    final = trouble.weigh(error)
                    if final is not None:
                        result = await attempts.give_up(item, final)
                        break
                else:
                    attempts.served(item, result, permit)
                    is_served = True
                    break
                # Only here, where the error is no more, which keeps all that the call had in hand.
                await self._queue_again(index, item, permit, trouble.rest)
            self._results[index] = result
        except Exception as error:  # noqa: BLE001  (what becomes of it is the batch's to say)
            attempts.failed()
            if attempts.collects(error):
                self._results[index] = error
            else:
                self._fail(error, f"in item {index}: {shown(item)}")
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not self._is_running(index):  # nobody runs this coroutine any more
                (permit.release if permit.sent else permit.give_back_unsent)()
                raise
            self._fail(error, f"in item {index}: {shown(item)}")  # it ends the batch, not this task
        self.live.pop(index, None)
        # Only now, when an error has cancelled the rest: whom this wakes would start one call more.
        try:
            if permit.sent:
                permit.release(is_served, self._loop)
            else:
                permit.give_back_unsent()
        except Exception as error:  # noqa: BLE001  (a task that nobody awaits must not keep it)
            self._fail(error, f"after item {index}: {shown(item)}")
        self._make_room()

    async def _queue_again(self, index: int, item: Any, permit: Permit, rest: float) -> None:
        """Wait for the permit of one more call of an item, after a rest in which others may be under way instead."""
        if rest > 0:
            self._resting += 1
            self._make_room()
            try:
                await asyncio.sleep(rest)
            finally:
                self._resting -= 1
        if not permit.tokens and permit.limiter._budget.tokens is not None:  # a limit that was told meanwhile
            permit.tokens = self._attempts.tokens(index, item)
        permit.renew()
        if not permit.take():
            await permit.wait()

    def _make_room(self) -> None:
        if self._next is None and not self._is_scheduled:  # what comes next waits for an item to end or rest, not for a permit
            self._feed_soon()

    def _is_running(self, index: int) -> bool:
        """Return whether the item's task runs: it does not when a GeneratorExit ends its coroutine from outside."""
        return index in self.live and self.live[index][0] is asyncio.current_task(self._loop)

    # --- ending

    def _fail(self, error: BaseException, note: str) -> None:
        if not self._is_closing:
            noted(error, note)
            self._error = error
            try:
                self._cancel()
            finally:
                self._finish()

    def _fail_soon(self, error: BaseException) -> None:
        """End with an error of the feeder: those that were launched begin first, and one of theirs is the first."""
        self._loop.call_soon(self._fail, error, f"while item {len(self._results)} was read")

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    def _cancel(self) -> None:
        self._is_closing = True
        for task in self._under_way():
            task.cancel()
        self._give_back_unsent()

    def _give_back_unsent(self) -> None:
        """Give back what no task has begun to use; the rest is given back as the tasks end."""
        if self._next is not None:
            self._next.give_back_unsent()
        for _, permit in self.live.values():
            if not permit.sent:
                permit.give_back_unsent()

    async def _close(self) -> None:
        """Cancel everything under way and wait until all of it has ended, however often this is cancelled meanwhile."""
        if not self._is_closing:
            self._cancel()
        cancelled: asyncio.CancelledError | None = None
        while tasks := self._under_way():
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

    def _under_way(self) -> list[asyncio.Task[None]]:
        reading = [] if self._reader is None else [self._reader]
        return [task for task in (*reading, *(task for task, _ in self.live.values())) if not task.done()]


class _Turn:
    """A batch's place in the limiter's queue: where a future would wake a task, this has the batch feed on."""

    __slots__ = ("_batch",)

    def __init__(self, batch: Batch) -> None:
        self._batch = ref(batch)  # or the queue would keep a batch, and its slots, whose loop was closed

    def done(self) -> bool:
        return self._batch() is None

    def set_result(self, _: None, /) -> None:
        batch = self._batch()
        if batch is not None:
            batch._feed_soon()

    def set_exception(self, error: Exception, /) -> None:
        batch = self._batch()
        if batch is not None:
            batch._fail_soon(error)

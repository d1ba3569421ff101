"""Feeding: a batch reads its source as there is room, and gives each item its permit, and only then the task that owns it.

So items start in order, and one at most waits for its first permit. A callback in the loop feeds, or, since its items must be
awaited, from an async source a task.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .notes import shown
from .permit import Permit
from .turns import Anchor, Turn
from .under_way import UnderWay

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Context

    from .calling import Calls
    from .rate_limiter import RateLimiter

# Items under way for each slot: those that queue for a retry, or fall back, hold none, and are bounded too.
_LIVE_PER_SLOT = 2
# Beside them, items that rest between two attempts. So many leave no slot idle, even where half of the calls fail and a rest is
# as long as sixty calls; a batch of which every call fails begins no more before it tries again.
_RESTING_PER_SLOT = 32
_EXHAUSTED = object()


class Feeding(UnderWay):
    """A batch that reads its source and launches the items.

    Args:
        source: an iterable or async iterable of items, read lazily; None: no items.
        limiter: whose permits the items need.
        calls: what to do with an item.
        context: in which the source is read, and of which every item gets a copy.

    Raises:
        TypeError: the source cannot be iterated.
    """

    def __init__(
        self, source: Iterable[Any] | AsyncIterable[Any] | None, *, limiter: RateLimiter, calls: Calls, context: Context
    ) -> None:
        source = () if source is None else source
        if not isinstance(source, Iterable | AsyncIterable) and not hasattr(source, "__getitem__"):
            raise TypeError(f"prep must return a list, an iterable, an async iterable or None, got {shown(source)}")
        super().__init__(context)
        self._source = source
        self._limiter = limiter
        self._calls = calls
        self._results: list[Any] = []
        self._begun = 0  # items whose tasks have had their first step; where there are more, `_feed_on` is scheduled behind it
        self._to_begin = 0  # items whose tasks will have had it by then
        self._resting = 0  # items under way that wait between two attempts
        self._queued = 0  # items under way that wait in the limiter's queue for one more call
        self._anchor = Anchor()
        self._turn = Turn(self, self._anchor)
        self._room: asyncio.Future[None] | None = None  # that the reader waits for
        self._is_scheduled = self._is_exhausted = False

    async def _handle(self, index: int, item: Any, permit: Permit) -> None:
        """Do all that is to be done for an item that has its permit."""
        raise NotImplementedError

    def _start_feeding(self) -> None:
        self._may_be_eager = self._loop.get_task_factory() is not None
        if isinstance(self._source, AsyncIterable):
            self._reader = self._loop.create_task(self._read(self._source), context=self._context)
            self._reader.add_done_callback(self._was_read)
        else:
            self._feeder = self._feed(self._source)
            self._feed_soon()

    def _feed(self, source: Iterable[Any]) -> Generator[None, None, None]:
        """Launch item after item; yield whenever there is no room."""
        # Local names, for what is needed for every item.
        limiter, budget, calls, turn, loop = self._limiter, self._limiter._budget, self._calls, self._turn, self._loop
        results, live, check, create_task = self._results, self.live, calls.check, loop.create_task
        handle = self._handle_known if self._may_be_eager else self._handle
        iterator = iter(source)
        try:
            for item in iterator:
                index = len(results)
                if check is not None:
                    check(index, item)
                while len(live) >= _LIVE_PER_SLOT * limiter._max_concurrent and self._is_full():
                    yield
                if index > self._begun and limiter._active >= limiter._max_concurrent:
                    yield  # some have yet to begin, and instant calls make room as they do: it need not queue before that
                try:
                    permit = Permit(limiter, 0 if budget.tokens is None else calls.tokens(index, item))
                except Exception as error:
                    calls.failed()
                    if not calls.collects(error):
                        raise
                    results.append(error)
                    continue
                if not permit.take(turn, loop):
                    self._next = permit
                    self._hold_on()
                    while not permit.held:
                        yield
                    self._charge(index, item, permit)
                    self._next = self._anchor.batch = None
                results.append(None)
                task = create_task(handle(index, item, permit))
                if not task.done():
                    live[index] = (task, permit)
                elif self._is_closing:  # an eager task has failed
                    return
        finally:
            if inspect.isgenerator(iterator):
                iterator.close()

    def _charge(self, index: int, item: Any, permit: Permit) -> None:
        """Take the tokens of an item whose permit was granted, if there was no limit of them when it began to queue."""
        if not permit.tokens and permit.limiter._budget.tokens is not None:
            with suppress(Exception):  # what this raises, it raises again as the call tells its cost
                permit._charge(self._calls.tokens(index, item))

    def _is_full(self) -> bool:
        """Return whether as many items are under way as may be."""
        slots, resting = self._limiter._max_concurrent, self._resting
        return len(self.live) - resting >= _LIVE_PER_SLOT * slots or resting >= _RESTING_PER_SLOT * slots

    async def _handle_known(self, index: int, item: Any, permit: Permit) -> None:
        """Do the same as `_handle`, in a task that may be eager: it begins before `_feed` has it."""
        task = asyncio.current_task()
        assert task is not None
        self.live[index] = (task, permit)
        await self._handle(index, item, permit)

    async def _read(self, source: AsyncIterable[Any]) -> None:
        self._reader = asyncio.current_task()  # an eager one begins before `_start_feeding` has it
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

    def _make_room(self) -> None:
        self._hold_on()
        if self._next is None and not self._is_scheduled:  # what comes next waits for an item to end or rest, not for a permit
            self._feed_soon()

    def _hold_on(self) -> None:
        """Have the queue keep the batch that waits in it, where no call is under way that does."""
        if len(self.live) == self._queued and (self._queued or self._next is not None):
            self._anchor.batch = self

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
                permit._give_back_unsent()

    def _fail_soon(self, error: BaseException) -> None:
        """End with an error of the feeder: those that were launched begin first, and one of theirs is the first."""
        self._loop.call_soon(self._fail, error, f"while item {len(self._results)} was read")

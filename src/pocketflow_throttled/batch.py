"""The batch runner: any source of items, one task each, as many as permits allow, results in order.

It knows permits and calls, neither PocketFlow nor refusals.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .feeding import Feeding
from .notes import shown
from .turns import Again

if TYPE_CHECKING:
    from .calling import Trouble
    from .permit import Permit


class Batch(Feeding):
    """One run over a source of items."""

    async def run(self) -> list[Any]:
        """Run every item and return the results in the order of the items.

        Raises:
            BaseException: the first error of an item or of the source, as it was, with a note that names the item. All other
                calls have been cancelled and have ended by then, also when the run itself is cancelled.
        """
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        self._start_feeding()
        try:
            await self._until_finished()
        finally:
            self._anchor.batch = None
        return self._results

    async def _handle(self, index: int, item: Any, permit: Permit) -> None:
        calls = self._calls
        trouble: Trouble | None = None
        is_served = False
        try:
            while True:
                permit.sent = True
                if permit.limiter._is_told:
                    permit.limiter._mark()
                try:
                    result = await calls.call(item)
                except Exception as error:  # whatever the call raised
                    if self._is_closing:  # it answered its cancellation with an error of its own: nothing is sent any more
                        raise
                    trouble = trouble or calls.trouble(permit)
                    final = trouble.weigh(error)
                    if final is not None:
                        result = await calls.give_up(item, final)
                        break
                else:
                    calls.served(item, result, permit)
                    is_served = True
                    break
                # Only here, where the error is no more, which keeps all that the call had in hand.
                await self._queue_again(index, item, permit, trouble.rest)
            self._results[index] = result
        except Exception as error:  # noqa: BLE001  (what becomes of it is the batch's to say)
            calls.failed()
            if calls.collects(error):
                self._results[index] = error
            else:
                self._fail(error, f"in item {index}: {shown(item)}")
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not self._is_running(index):  # nobody runs this coroutine any more
                (permit.release if permit.sent else permit._give_back_unsent)()
                raise
            self._fail(error, f"in item {index}: {shown(item)}")  # it ends the batch, not this task
        self.live.pop(index, None)
        # Only now, when an error has cancelled the rest: whom this wakes would start one call more.
        try:
            if permit.sent:
                permit.release(is_served, self._loop)
            else:
                permit._give_back_unsent()
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
            permit.tokens = self._calls.tokens(index, item)
        permit._renew()
        granted = self._loop.create_future()
        if not permit.take(Again(granted, self._anchor), self._loop):
            self._queued += 1
            self._hold_on()
            try:
                await granted
            finally:
                self._queued -= 1
                self._anchor.batch = None
            self._charge(index, item, permit)

    def _is_running(self, index: int) -> bool:
        """Return whether the item's task runs: it does not when a GeneratorExit ends its coroutine from outside."""
        return index in self.live and self.live[index][0] is asyncio.current_task(self._loop)

"""Clock: the time of whichever event loop runs, or ran last, as one time that never goes back by more than skew."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

# Clocks of loops in one process agree to a few milliseconds; one that is further behind starts from another zero.
_CLOCK_SKEW = 1.0


class Clock:
    """The loop that runs in this thread, and its time, for what outlives loops and is used from several.

    Whoever reads `_clock` has first made sure that it is the running loop's.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._clock: Callable[[], float] = _no_clock
        self._offsets: WeakKeyDictionary[asyncio.AbstractEventLoop, float] = WeakKeyDictionary()

    def _start_clock(self) -> None:
        """Have a time to count from, where something is counted before any loop has run."""
        if self._running_loop() is None and self._clock is _no_clock:
            self._clock = time.monotonic  # as loops of real time do

    def _now(self) -> float:
        self._running_loop()  # outside a loop: the time of the last one
        return self._clock()

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that runs in this thread, if any, and read its clock from now on.

        The last one is remembered with its thread, since asking asyncio costs as much as all the rest of a request.

        Loops of real time share a clock. One whose clock lies behind by more than skew (a virtual one, say) counts on from
        the latest time seen, so that what was granted stays in its window.
        """
        loop = self._loop
        if loop is not None and self._thread == get_ident() and loop.is_running():
            return loop
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        offset = self._offsets.get(loop, 0.0)
        behind = self._clock() - (loop.time() + offset)  # a loop that comes back may be behind those that ran meanwhile
        if behind > _CLOCK_SKEW:
            offset += behind
        self._offsets[loop] = offset
        self._loop, self._thread = loop, get_ident()
        self._clock = loop.time if offset == 0.0 else partial(_shifted, loop, offset)
        return loop


def _no_clock() -> float:
    return 0.0


def _shifted(loop: asyncio.AbstractEventLoop, offset: float) -> float:
    return loop.time() + offset

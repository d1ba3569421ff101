"""A clock that does not wait: an hour of a batch in a moment, for tests, demos and dry runs."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")
_A_DAY = 86400.0
_RESOLUTION = 1e-9


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0.0 and jumps to the next timer instead of waiting for it.

    Threads and sockets take real time, in which the clock does not wait for them if a timer is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def select_at_once(timeout: float | None = None) -> Any:
            if timeout is None:  # nothing is due: only another thread or a socket can go on
                return select(None)
            events = select(0)
            if not events:
                timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
                # asyncio asks for a day at the most, however far the next timer is.
                then = timers[0].when() if timers and timeout >= _A_DAY else self._now + max(timeout, 0.0)
                # After some weeks a float no longer tells what is due from what is a nanosecond away.
                self._now = then if then + _RESOLUTION > then else math.nextafter(then, math.inf)
            return events

        selector.select = select_at_once

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Wait for the threads of `asyncio.to_thread`, however long: a time-out would be over at once."""
        await super().shutdown_default_executor()


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine as `asyncio.run` does, in virtual time, and return its result.

    Raises:
        RuntimeError: an event loop runs in this thread, as it does in a notebook.

    Example:
        >>> async def a_day() -> float:
        ...     await asyncio.sleep(86400)
        ...     return asyncio.get_running_loop().time()
        >>> run_virtual(a_day())
        86400.0
    """
    if asyncio._get_running_loop() is not None:
        if asyncio.iscoroutine(main):
            main.close()
        raise RuntimeError(
            "run_virtual() has an event loop of its own, and one runs in this thread already, as in a notebook: "
            "use `await asyncio.to_thread(run_virtual, ...)`"
        )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)

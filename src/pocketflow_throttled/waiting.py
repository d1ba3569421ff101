"""Waiting: the queue in front of a limiter. All waiting happens here.

Whoever gives room back books it for the head of the queue, and only then wakes it, so nobody is woken in vain and nobody
overtakes. A request that the API refused has its place by when it first was granted: those that wait came later. One timer, on
the loop of the waiter at the head, covers what only time can open; a loop that is closed drops it, which wakes the next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from .granting import Granting

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .aimd import AdaptiveRule
    from .budget import Budget
    from .permit import Permit

# A timer may fire a rounding error early. A server that counts as exactly would refuse, so this much later is early enough.
_ROUNDING = 1e-6
# One that fires earlier than that (uvloop counts in milliseconds) is set again no closer than this, so it does not spin.
_TICK = 1e-3


class Waiter(Protocol):
    """Who waits for a permit: a future, or what answers like one."""

    def done(self) -> bool:
        """Return whether it waits no more."""

    def set_result(self, result: None, /) -> None:
        """Go on, the permit is granted. Called in the loop it waits in, perhaps under the limiter's lock."""

    def set_exception(self, error: Exception, /) -> None:
        """Give up, there was an error as its turn came. Called as `set_result` is."""


class Waiting(Granting):
    """Permits that wait for their grant, first come, first served."""

    def __init__(self, max_concurrent: int, budget: Budget, rule: AdaptiveRule | None) -> None:
        super().__init__(max_concurrent, budget, rule)
        self._queue: OrderedDict[Permit, None] = OrderedDict()
        self._waking = False
        self._wake_again = False
        self._timer: tuple[Callable[[], asyncio.TimerHandle | None], asyncio.AbstractEventLoop, float] | None = None

    def _begin_anew(self) -> None:
        """Let nobody hold or wait for a slot: in a child process, whoever does so does it in the parent."""
        self._lock = RLock()  # another thread of the parent may have held it
        self._thread = 0  # no thread's: the parent's loop looks as if it ran here too
        self._queue.clear()
        self._active = self._acquired = 0
        self._timer, self._waking = None, False

    def _pause_no_longer_than_sure(self) -> None:
        """End the pause that a refusal asked for, as that turned out to say nothing of other calls."""
        with self._lock:
            self._paused_until = self._surely_paused_until
            self._wake()

    def _end_unasked_pause(self) -> None:
        """End the pause that the rule has found for itself; who asked for one is kept to."""
        with self._lock:
            if self._rule is not None:
                self._rule.end_pause(self._now())
                self._wake()

    def _learn(
        self,
        permit: Permit,
        served: bool,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        hint: float | None = None,
        at_most: float = math.inf,
        is_of_limits: bool = True,
    ) -> None:
        """Tell the rule what became of a request; one that was served gives its slot back."""
        rule, stamp = self._rule, permit._stamp
        if rule is None or stamp is None:
            return
        lock = self._lock
        lock.acquire()
        try:
            if loop is None or loop is not self._loop:
                self._running_loop()
            now = self._clock()
            old = self._max_concurrent
            try:
                if served:
                    in_use = self._active >= old or self._last_full >= stamp
                    permit.held = False
                    self._active -= 1
                    rule.succeeded(now, stamp, permit._level, in_use=in_use, clean=not permit.renewed)
                else:
                    rule.refused(now, stamp, permit._level, hint, at_most, is_of_limits=is_of_limits)
                new = rule.limit
                if new != old:
                    self._changes.append((new, old, rule.reason))
                    self._max_concurrent = new
                    if new > old and rule.refusals:
                        self._last_full = -math.inf  # near what was refused, it is in use only when filled again
            finally:
                if self._queue:
                    self._wake(now)
        finally:
            lock.release()
        if self._changes:
            self._log_changes()

    def _enqueue(self, permit: Permit, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        """Let `waiter` wait for the permit in the running loop."""
        if self._loop is not loop:
            self._running_loop()  # whoever wakes it may have no clock
        permit._waiter = waiter
        permit._loop = loop
        queue = self._queue
        if permit._place == math.inf:
            queue[permit] = None
        else:
            self._put_in_place(permit)
        rule = self._rule
        if self._active < self._max_concurrent or (rule is not None and rule.trial is not None):  # else a release will wake
            head = next(iter(queue))
            # A head of this loop has its timer here. Any other may be new, or its loop closed.
            if head is permit or head._loop is not loop:
                self._wake()

    def _put_in_place(self, permit: Permit) -> None:
        """Queue a permit that was refused: it came before all that were not, and behind those that came earlier still."""
        queue, place = self._queue, permit._place
        earlier: list[Permit] = []
        later: list[Permit] = []
        for first, last in zip(queue, reversed(queue), strict=True):  # whichever are fewer, as many may be refused at a time
            if first._place > place:
                queue[permit] = None
                for each in (permit, *reversed(earlier)):
                    queue.move_to_end(each, last=False)
                return
            if last._place <= place:
                break
            earlier.append(first)
            later.append(last)
        queue[permit] = None
        for each in reversed(later):
            queue.move_to_end(each)

    def _wake(self, now: float | None = None) -> None:
        """Book room for the head of the queue and wake it, as long as there is any; else see to its timer.

        An error is the head's, whose room cannot be told: who gives room back is not to blame, and a timer has nobody to tell.
        """
        if self._waking:  # called by the garbage collector, from within the loop below
            self._wake_again = True
            return
        queue, rule = self._queue, self._rule
        if not queue or (self._active >= self._max_concurrent and (rule is None or rule.trial is None)):
            return
        self._waking = True
        try:
            here = self._loop
            if self._thread != get_ident() or here is None or not here.is_running():
                here = self._running_loop()
            if now is None:
                now = self._clock()
            while queue and (self._active < self._max_concurrent or (rule is not None and rule.trial is not None)):
                head = next(iter(queue))
                waiter, loop = head._waiter, head._loop
                assert waiter is not None
                if waiter.done() or (loop is not here and loop.is_closed()):
                    queue.pop(head, None)
                    continue
                try:
                    if head.tokens:
                        head._estimate_again()  # it may have been estimated before much was known
                    if self._grant(head, now):
                        queue.pop(head, None)
                        if loop is here:
                            waiter.set_result(None)
                        elif not _call_in(loop, _deliver, waiter):
                            self._take_back(head)
                    elif self._wake_again:
                        self._wake_again = False
                    else:
                        self._set_timer(now, loop, here)
                        break
                except Exception as error:  # noqa: BLE001  (whatever it is, it is told to who waits)
                    queue.pop(head, None)
                    if loop is here:
                        waiter.set_exception(error)
                    else:
                        _call_in(loop, _deliver, waiter, error)
        finally:
            self._waking = False

    def _has_let_all_in(self) -> bool:
        """Whether nobody waits and a slot is free: waiters of a loop that was closed must not be in the way."""
        self._wake()
        return not self._queue and self._active < self._max_concurrent

    def _set_timer(self, now: float, loop: asyncio.AbstractEventLoop, here: asyncio.AbstractEventLoop | None) -> None:
        when = self._opens_at(now)
        if when is None:
            return
        if self._timer is not None:
            its_handle, its_loop, its_when = self._timer
            if its_loop is loop and its_when <= when:
                return
            if its_loop is here and (handle := its_handle()) is not None:
                handle.cancel()
            self._timer = None
        if loop is not here:
            _call_in(loop, self._on_timer, -math.inf)  # a timer is set in the thread of its loop
            return
        self._call_at(when, loop, when)

    def _call_at(self, time: float, loop: asyncio.AbstractEventLoop, when: float) -> None:
        handle = loop.call_at(time - self._offsets.get(loop, 0.0), self._on_timer, when)
        try:
            self._timer = (ref(handle, self._on_lost_timer), loop, when)
        except TypeError:  # some loops' timers cannot be referred to weakly: there, the next who comes wakes the next
            self._timer = (lambda: handle), loop, when

    def _on_lost_timer(self, handle: ref[asyncio.TimerHandle]) -> None:
        """Wake who waits behind the head: its loop was closed, and has dropped the timer."""
        with self._lock:
            if self._timer is not None and self._timer[0] is handle:
                self._timer = None
                self._wake()

    def _on_timer(self, when: float) -> None:
        with self._lock:
            loop = self._running_loop()
            if loop is None:
                return
            if self._timer is not None and self._timer[1:] == (loop, when):
                self._timer = None
            now = self._clock()
            if now < when and self._timer is None:
                late = when + _ROUNDING if when <= now + _ROUNDING else now + max(when - now, _TICK)
                self._call_at(late, loop, when)
                return
            self._wake(now)


def _deliver(waiter: Waiter, error: Exception | None = None) -> None:
    if waiter.done():
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> bool:
    """Run `callback(*arguments)` in another thread's loop; False if that loop is closed."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return False
    return True

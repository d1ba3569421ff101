"""Permit: one request's share of a limiter, from its reservation to what became of it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

from .correction import Estimate
from .validation import check_seconds, check_tokens

if TYPE_CHECKING:
    from .rate_limiter import RateLimiter
    from .token_window import Spend
    from .waiting import Waiter


class Permit:
    """One request's share of a limiter: a slot, a stamp and its tokens. Made by `RateLimiter.reserve`.

    Use it with `async with`; it is good for one request. Giving it back twice is harmless.

    Attributes:
        limiter: whose it is.
        tokens: what the request costs; `settle` corrects it.
        held: whether it holds a slot now.
        sent: whether its request was sent, so that stamp and tokens stay spent.
        renewed: whether it was given back before and taken again.
    """

    __slots__ = (
        "_level",
        "_loop",
        "_place",
        "_spend",
        "_stamp",
        "_untold",
        "_waiter",
        "held",
        "limiter",
        "renewed",
        "sent",
        "tokens",
    )

    _level: int  # how many were under way when it was granted, itself included; known then, if there is a rule
    _loop: asyncio.AbstractEventLoop  # in which its waiter waits; known while there is one

    def __init__(self, limiter: RateLimiter, tokens: int) -> None:
        self.limiter = limiter
        self.tokens = tokens
        self.held = self.sent = self.renewed = False
        self._stamp: float | None = None  # when it was granted
        self._place = math.inf  # when it was granted for the first time, if it was refused: whoever waits came later
        self._spend: Spend | None = None
        self._untold: tuple[Spend, ...] = ()  # tokens of its requests that were refused or failed: what these cost, nobody told
        self._waiter: Waiter | None = None  # who waits for it in the queue

    async def __aenter__(self) -> Self:
        if self._stamp is not None or self._waiter is not None:
            raise RuntimeError("a permit is good for one request: call reserve() again")
        if not self.take():
            await self.wait()
        self.sent = True
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.release(served=exc_type is None and self._place == math.inf)

    def _renew(self) -> None:
        """Make a permit that was given back good for one request more."""
        self.sent = False
        self.renewed = True
        self._stamp = self._spend = self._waiter = None
        with self.limiter._lock:
            self._estimate_again()

    def take(self, waiter: Waiter | None = None, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """Take the permit if nobody waits and there is room now. Never waits.

        Args:
            waiter: waits for the permit in the queue, if it cannot be had now.
            loop: the running one, which must be given with a waiter, and else spares asking for it.
        """
        limiter = self.limiter
        lock = limiter._lock
        lock.acquire()
        try:
            if limiter._active < limiter._max_concurrent and (not limiter._queue or limiter._has_let_all_in()):
                if loop is None or loop is not limiter._loop:
                    limiter._start_clock()
                now = limiter._clock()
                if limiter._rule is not None and not limiter._active:
                    limiter._rule.called(now)
                if limiter._grant(self, now):
                    return True
            if waiter is not None and loop is not None:
                limiter._enqueue(self, waiter, loop)
            return False
        finally:
            lock.release()

    async def wait(self) -> None:
        """Wait in the limiter's queue for the permit. When cancelled, nothing of it stays behind."""
        limiter = self.limiter
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with limiter._lock:
            limiter._enqueue(self, future, loop)
        try:
            await future
        except BaseException:
            self._give_back_unsent()
            raise

    def release(self, served: bool = False, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Give the slot back after the request was sent; its stamp and tokens stay in their windows.

        Args:
            served: whether the API served the request, for an adaptive limiter to learn from.
            loop: the running one, if it is at hand, which spares asking for it.
        """
        if not self.held:
            return
        limiter = self.limiter
        if served and limiter._rule is not None:
            limiter._learn(self, True, loop)
            return
        lock = limiter._lock
        lock.acquire()
        try:
            self.held = False
            limiter._active -= 1
            try:
                if self._spend is not None and isinstance(self.tokens, Estimate):
                    self._untold = (*(spend for spend in self._untold if spend.in_window), self._spend)
                    self._estimate_again()
            finally:
                if limiter._queue:
                    limiter._wake()
        finally:
            lock.release()

    def _give_back_unsent(self) -> None:
        """Give back slot, stamp and tokens of a request that was never sent, or leave the queue."""
        limiter = self.limiter
        with limiter._lock:
            limiter._queue.pop(self, None)
            try:
                if self.held:
                    limiter._take_back(self)
            finally:
                limiter._wake()

    def _charge(self, tokens: int) -> None:
        """Book the tokens of a request that is about to be sent, and took none as there was no limit when it queued."""
        limiter, stamp = self.limiter, self._stamp
        assert stamp is not None
        with limiter._lock:
            if not limiter._budget.was_under_way(stamp):
                self.tokens = tokens
                self._spend = limiter._budget.book_tokens(limiter._now(), tokens)

    def settle(self, tokens: int) -> None:
        """Correct the tokens: too many are given back at once, too few become debt in the window.

        Args:
            tokens: what the request really cost; more than 10^12 counts as so many, as broken answers may tell anything.
        """
        tokens = check_tokens("tokens", tokens)
        limiter = self.limiter
        with limiter._lock:
            self.tokens = tokens
            if self._stamp is not None:
                self._spend = limiter._budget.settle(self._stamp, self._spend, tokens, limiter._now())
                self._correct_untold()
                limiter._wake()

    def _measured(self, estimated: int) -> int | None:
        """Return what the API counts of a request that is estimated at so much, by its answers, if that is known."""
        with self.limiter._lock:
            return self.limiter._budget.measured(estimated)

    def _held_for(self) -> float:
        """Return the seconds since the permit was granted."""
        limiter = self.limiter
        with limiter._lock:
            return 0.0 if self._stamp is None else limiter._now() - self._stamp

    def _estimate_again(self) -> None:
        """Cost what is known by now, where the tokens are an estimate of a request that is not under way."""
        if isinstance(self.tokens, Estimate):
            self.tokens = self.tokens.again()
            self._correct_untold()

    def _correct_untold(self) -> None:
        """Book requests that told no cost at what is known by now, or at what that of their item cost which was served."""
        for spend in self._untold:
            self.limiter._budget.correct(spend, self.tokens)

    def _took(self) -> None:
        """Let the limiter learn how long the request took, now that its answer is there, if that is out of the ordinary."""
        limiter, stamp = self.limiter, self._stamp
        with limiter._lock:
            now = limiter._now()
            if stamp is not None and now >= stamp:  # else it was granted in a loop whose clock is ahead of this one's
                limiter._budget.timed(now, now - stamp)

    def _wrote(self, tokens: int | None) -> None:
        """Let the limiter learn what the answer took of a limit of output tokens; None: it does not tell."""
        limiter, stamp = self.limiter, self._stamp
        if stamp is not None:
            with limiter._lock:
                limiter._outputs.ended(limiter._now(), stamp, tokens)

    def _not_served(self, *, is_of_limits: bool = True, is_down: bool = False) -> None:
        """Let the limiter know that the API does not count the request, which it refused.

        Args:
            is_of_limits: whether that may tell of its limits: not where it has too much to do, or refuses the request for good.
            is_down: whether the API refuses every call for a while: then that tells nothing of how closely they may start.
        """
        limiter = self.limiter
        if self._stamp is not None:
            with limiter._lock:
                now, budget = limiter._now(), limiter._budget
                budget.refused(self._stamp, self._spend, is_of_limits=is_of_limits)
                if not is_of_limits:
                    return
                limiter._told_limits.doubt_length(now, self._stamp)
                if is_down or budget.is_filled_by_others(now):
                    return
                if limiter._rule is None or budget.is_single:
                    budget.space(now, self._stamp)
                elif limiter._rule.rate.held is not None:  # else calls at once may be the reason; the pace is the rule's to find
                    budget.slice_tokens(now)

    def refused(self, pause: float, *, hinted: bool = True, at_most: float = math.inf) -> None:
        """Tell the limiter that the API refused the request, which is still to be released.

        Args:
            pause: seconds for which the limiter grants nothing.
            hinted: whether the API asked for that pause. If not, an adaptive limiter finds the time for itself ...
            at_most: ... of so many seconds.

        Raises:
            TypeError, ValueError: the pause is no number of seconds, negative or endless.
        """
        check_seconds("pause", pause, positive=False)
        self._not_served()
        self._hold_back(pause, hinted=hinted, at_most=at_most)

    def _hold_back(self, pause: float, *, hinted: bool, at_most: float, is_of_limits: bool = True) -> None:
        """Let the limiter pause, or its rule learn, from a refusal that is known to be no call the API counts."""
        limiter = self.limiter
        if self._stamp is not None:
            self._place = min(self._place, self._stamp)
        if limiter._rule is not None:
            limiter._learn(self, False, hint=pause if hinted else None, at_most=at_most, is_of_limits=is_of_limits)
        if hinted or limiter._rule is None:
            limiter.pause(pause)

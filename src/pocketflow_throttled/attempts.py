"""Attempts: what the items of a batch go through. One is one call and takes one permit.

A refusal (429 and its kin) is not one of the user's retries: the limiter pauses, and the item queues again, where its turn was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from .signals import is_overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .mixins import Throttled
    from .permit import Permit

# Without a hint the wait doubles from a second to a minute.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0


def growing_wait(refusals: int) -> float:
    """Return the seconds to wait at most after so many refusals of an item, if the API does not say how long."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(refusals - 1, 30))


class SoFar(NamedTuple):
    """What the calls of an item, and of its batch, have met with.

    Attributes:
        times: how often the item was refused.
        seconds: for how long; time in our own queue is none of it.
        drought: for how many seconds an item was refused while none of the batch was served.
        given_up: how many were given up since one was served.
    """

    times: int
    seconds: float
    drought: float
    given_up: int


class Attempts:
    """The attempts of a node or a flow at the items of one batch.

    Args:
        node: whose settings and hooks count.
        call: makes a call for an item.
        tokens: tells what an item, given with its index, costs.
        check: refuses an item, given with its index, by raising; None: any will do.
    """

    def __init__(
        self,
        node: Throttled,
        call: Callable[[Any], Coroutine[Any, Any, Any]],
        tokens: Callable[[int, Any], int],
        check: Callable[[int, Any], None] | None,
    ) -> None:
        self.node = node
        self.call = call
        self.tokens = tokens
        self.check = check
        self.give_up = node._fall_back
        self.collects = node._collects_error
        # An API that is down is not waited for by each item anew: a few are given up at each try, until it is back.
        self.drought = 0.0
        self.given_up = 0
        self._state = node._throttled_state

    def served(self, item: Any, result: Any, permit: Permit) -> None:
        """Count a call that returned a result."""
        state = self._state
        state.completed += 1
        if not permit.renewed:
            state.streak += 1
        self.drought, self.given_up = 0.0, 0
        limiter = permit.limiter
        budget = limiter._budget
        if budget.requests is None and budget.tokens is None:
            return
        # The clock may be another thread's loop's, as this takes no lock for every call; what is learned from it is not.
        if not budget.usual_least <= limiter._clock() - (permit._stamp or 0.0) <= budget.usual_most:
            permit.took()
        if budget.tokens is not None:
            self.node._settle_tokens(item, result, permit)

    def trouble(self, permit: Permit) -> Trouble:
        """Return what weighs the errors of one item."""
        return Trouble(self, permit)


class Trouble:
    """What the calls of one item have met with."""

    def __init__(self, attempts: Attempts, permit: Permit) -> None:
        self._attempts = attempts
        self._permit = permit
        self._retries = self._refusals = 0
        self._refused_at = self._refused_for = 0.0
        self._asked = 0.0  # seconds to wait, after the last refusal

    async def weigh(self, error: Exception) -> Exception | None:
        """Give the permit back, wait if need be, and return what to give up with; None: call again."""
        attempts, permit = self._attempts, self._permit
        node = attempts.node
        if node.is_rate_limit_error(error):
            now = asyncio.get_running_loop().time()
            if self._refusals:
                # Time in our own queue, beyond the wait that was asked for, is none in which the API refused.
                took = permit.held_for()
                self._refused_for += min(now - self._refused_at, self._asked + took)
            self._refused_at = now
            self._refusals += 1
            permit.not_served(is_down=attempts.drought > 0 or is_overload(error))
            attempts.drought = max(attempts.drought, self._refused_for)
            so_far = SoFar(self._refusals, self._refused_for, attempts.drought, attempts.given_up)
            final = node._weigh_refusal(permit, error, so_far)
            attempts.given_up += final is not None and node._is_too_long(attempts.drought)
            limiter = permit.limiter
            self._asked = max(limiter.paused_for, limiter._held_for(), limiter._told_wait(), growing_wait(self._refusals))
            # Only after the limiter paused, or the next call would start into the refusal.
            permit.release()
            return final
        permit.release()
        self._retries += 1
        if self._retries >= node._most_attempts():
            return error
        node.cur_retry = self._retries
        if node.wait > 0:
            await asyncio.sleep(node.wait)
        return None

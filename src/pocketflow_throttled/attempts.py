"""Attempts: what the items of a batch go through. One is one call and takes one permit.

A refusal (429 and its kin) is not one of the user's retries: the limiter pauses, and the item queues again.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .mixins import Throttled
    from .permit import Permit


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
        self.collects = node._collects
        # Since when there was nothing but refusals: an API that is down is not waited for by each item anew.
        self.drought = math.inf
        self._state = node._state

    def served(self, item: Any, result: Any, permit: Permit) -> None:
        """Count a call that returned a result."""
        state = self._state
        state.completed += 1
        if not permit.renewed:
            state.streak += 1
        self.drought = math.inf
        permit.took()
        if permit.limiter._budget.tokens is not None:
            self.node._settle(item, result, permit)

    def trouble(self, permit: Permit) -> Trouble:
        """Return what weighs the errors of one item."""
        return Trouble(self, permit)


class Trouble:
    """What the calls of one item have met with."""

    def __init__(self, attempts: Attempts, permit: Permit) -> None:
        self._attempts = attempts
        self._permit = permit
        self._retries = self._refusals = 0
        self._first_refused = math.inf

    async def weigh(self, error: Exception) -> Exception | None:
        """Give the permit back, wait if need be, and return what to give up with; None: call again."""
        attempts, permit = self._attempts, self._permit
        node = attempts.node
        if node.is_rate_limit_error(error):
            now = asyncio.get_running_loop().time()
            self._refusals += 1
            self._first_refused = min(self._first_refused, now)
            attempts.drought = min(attempts.drought, now)
            final = node._refused(permit, error, self._refusals, now - min(self._first_refused, attempts.drought))
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

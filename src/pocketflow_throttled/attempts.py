"""Attempts: what the items of a batch go through. One is one call and takes one permit.

A refusal (429 and its kin) is not one of the user's retries: the limiter pauses, and the item queues again, where its turn was.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import TYPE_CHECKING, Any

from . import signals
from .correction import Estimate
from .exceptions import RateLimitHit
from .headers import never_fits
from .notes import explained
from .tokens import written

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .mixins import Throttled
    from .permit import Permit

logger = logging.getLogger("pocketflow_throttled")

# Without a hint the wait doubles from a second to a minute.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0

# A server that says "at once" again and again is asked more and more slowly, up to once a second.
_SHORTEST_WAIT, _SLOW_ENOUGH = 0.001, 1.0

# An item that is thought to be more than a whole limit may be less: so many refusals in a row, with all of the limit left, tell.
_NEVER_FITS = 3

# What is left of the time may be too little to move the clock on, and the item would be refused at the same moment for ever.
_ROUNDING = 1e-6


class Attempts:
    """The attempts of a node or a flow at the items of one batch.

    Args:
        node: whose settings and hooks count.
        call: makes a call for an item.
        check: refuses an item, given with its index, by raising; None: any will do.
    """

    def __init__(
        self,
        node: Throttled,
        call: Callable[[Any], Coroutine[Any, Any, Any]],
        check: Callable[[int, Any], None] | None,
    ) -> None:
        self.node = node
        self.call = call
        self.check = check
        self.tokens: Callable[[int, Any], int] = node._tokens_of
        self.collects: Callable[[Exception], bool] = node._collects_error
        # An API that is down is not waited for by each item anew: a few are given up at each try, until it is back.
        self.drought = 0.0  # seconds for which an item was refused while none of the batch was served, ...
        self.down_since = -math.inf  # ... and when that was known first
        self.given_up = 0  # items since one was served
        self.state = node._throttled_state

    def served(self, item: Any, result: Any, permit: Permit) -> None:
        """Count a call that returned a result."""
        self.drought, self.given_up = 0.0, 0
        limiter = permit.limiter
        budget = limiter._budget
        if budget.requests is not None or budget.tokens is not None:
            # The clock may be another thread's loop's, as this takes no lock for every call; what is learned from it is not.
            if not budget.usual_least <= limiter._clock() - (permit._stamp or 0.0) <= budget.usual_most:
                permit._took()
            if budget.tokens is not None:
                self.node._settle_tokens(item, result, permit)
        if limiter._outputs.limit:
            permit._wrote(written(result))
        state = self.state
        state.completed += 1
        if not permit.renewed:
            state.streak += 1

    def trouble(self, permit: Permit) -> Trouble:
        """Return what weighs the errors of one item."""
        return Trouble(self, permit)

    async def give_up(self, item: Any, error: Exception) -> Any:
        """Return a result for an item that is not called again, or raise."""
        result = await self.node._give_up(item, error)
        self.state.completed += 1
        return result

    def failed(self) -> None:
        """Count an item that ends with an error."""
        self.state.failed += 1


class Trouble:
    """What the calls of one item have met with, and what it leads to.

    Attributes:
        rest: seconds to wait, without a permit, before the item queues again.
    """

    def __init__(self, attempts: Attempts, permit: Permit) -> None:
        self._attempts = attempts
        self._permit = permit
        self.rest = 0.0
        self._retries = self._refusals = 0
        self._too_large = 0  # refusals in a row with all of a limit left that it would take more than
        self._refused_at = 0.0
        self._refused_for = 0.0  # seconds; time in our own queue is none of it
        self._asked = 0.0  # seconds to wait, after the last refusal

    def weigh(self, error: Exception) -> Exception | None:
        """Give the permit back and return what to give up with; None: rest, and call again."""
        self.rest = 0.0
        node, permit = self._attempts.node, self._permit
        if node.is_rate_limit_error(error):
            final = self._refused(error)
            permit.release()  # only after the limiter paused, or the next call would start into the refusal
            return final
        permit.limiter._observe_failure(signals.headers_of(error))
        permit.release()
        self._retries += 1
        if self._retries >= node._most_attempts():
            return error
        node.cur_retry = self._retries
        self.rest = node.wait
        return None

    def _refused(self, error: Exception) -> Exception | None:
        """Count, let the limiter pause, and return what to give up with; None: send the item again."""
        attempts, permit = self._attempts, self._permit
        limiter = permit.limiter
        now = asyncio.get_running_loop().time()
        if self._refusals:
            # Time in our own queue, beyond the wait that was asked for, is none in which the API refused.
            self._refused_for += min(now - self._refused_at, self._asked + permit._held_for())
        self._refused_at = now
        self._refusals += 1
        refusal = signals.read_error(error)  # None: only the user's hook takes it for one
        is_of_limits = refusal is None or not (refusal.overloaded or refusal.final)
        # Calls that had started by then, together with the first of these, tell as much as if it were served.
        is_down = attempts.drought > 0 and now - permit._held_for() > attempts.down_since
        permit._not_served(is_of_limits=is_of_limits, is_down=is_down)
        if attempts.drought == 0:
            attempts.down_since = now
        attempts.drought = max(attempts.drought, self._refused_for)
        attempts.state.refused += 1
        attempts.state.streak = 0
        reason = self._hold_back(error, refusal, is_of_limits=is_of_limits)
        final = attempts.node._as_final(error, self._refusals) if reason is None else explained(error, reason)
        attempts.given_up += final is not None and self._is_too_long(attempts.drought)
        self._asked = max(limiter.paused_for, limiter._held_for(), limiter._told_wait(), _growing_wait(self._refusals))
        return final

    def _hold_back(self, error: Exception, refusal: signals.Refusal | None, *, is_of_limits: bool) -> str | None:
        """Let the limiter pause for a refusal, unless it is final, and return why to give the item up; None: do not."""
        attempts, permit = self._attempts, self._permit
        node, limiter = attempts.node, permit.limiter
        left = max(0.0, node.rate_limit_timeout - self._refused_for)
        told = signals.headers_of(error)
        final = refusal.reason if refusal is not None and refusal.final else None  # such a one says nothing of the other items
        if final is None and self._never_fits(told):
            final = "the request can never fit the limit of tokens"
        at_most = left if final is None else 0.0
        knows_better = limiter._observe(told, at_most, is_refused=True, is_of_limits=is_of_limits)
        if final is not None:
            limiter._pause_no_longer_than_sure()
            return f"not sent again: {final}"
        hint = node._wait_of(error)
        if knows_better and refusal is not None and refusal.by_reset and hint == refusal.retry_after:
            hint = None
        reason = self._too_long(left) if node._sends_again() else None
        at_most = left if reason is None else node.rate_limit_timeout  # a pause is the others' then
        pause = _pause(hint, max(self._refusals, attempts.given_up), at_most)
        permit._hold_back(pause, hinted=hint is not None, at_most=at_most, is_of_limits=is_of_limits)
        if isinstance(error, RateLimitHit) and error._held_for > 0:
            limiter.pause(min(error._held_for, at_most))  # or the instance would wait within, and hold its slot
        return reason

    def _never_fits(self, told: dict[str, str]) -> bool:
        tokens = self._permit.tokens
        if isinstance(tokens, Estimate) and not tokens.by_line:  # too few have told how far estimates are off
            tokens = min(tokens, tokens.estimated)
        self._too_large = self._too_large + 1 if never_fits(told, tokens) else 0
        return self._too_large >= _NEVER_FITS

    def _too_long(self, left: float) -> str | None:
        """Return why it was refused for too long, or will be in the seconds that are left, if so."""
        node, state, drought = self._attempts.node, self._attempts.state, self._attempts.drought
        if not self._is_too_long(drought):
            wait = self._permit.limiter._told_wait()
            if wait <= left:
                return None
            return (
                f"by what the API tells, it admits no call for {wait:.1f} s; rate_limit_timeout is {node.rate_limit_timeout:g} s"
            )
        if not state.gave_up:
            state.gave_up = True
            logger.warning("%s gave up: refused for %.1f s", type(node).__name__, drought)
        times = "once" if self._refusals == 1 else f"{self._refusals} times"
        if self._is_too_long(self._refused_for):
            met = f"refused {times} in {self._refused_for:.1f} s"
        else:
            met = f"refused {times}, and no call of the batch was served for {drought:.1f} s"
        return f"{met}; rate_limit_timeout is {node.rate_limit_timeout:g} s"

    def _is_too_long(self, seconds: float) -> bool:
        return seconds >= self._attempts.node.rate_limit_timeout - _ROUNDING


def _growing_wait(refusals: int) -> float:
    """Return the seconds to wait at most after so many refusals of an item, if the API does not say how long."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(refusals - 1, 30))


def _pause(hint: float | None, refusals: int, at_most: float) -> float:
    if hint is None:
        pause = _growing_wait(refusals) * random.uniform(0.5, 1.0)  # so that refused items do not come back together
    else:
        pause = max(hint, min(_SLOW_ENOUGH, _SHORTEST_WAIT * 2.0 ** min(refusals - 1, 30)))
    return max(0.0, min(pause, at_most))

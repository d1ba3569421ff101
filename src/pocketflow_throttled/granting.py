"""Granting: whether one more call may start, and what it takes: a slot, a stamp and its tokens, all of them or none.

Nobody waits here, and nothing here knows who waits.
"""

from __future__ import annotations

import logging
import math
from threading import RLock
from typing import TYPE_CHECKING

from .clock import Clock
from .outputs import Outputs

if TYPE_CHECKING:
    from .aimd import AdaptiveRule
    from .budget import Budget
    from .permit import Permit

logger = logging.getLogger("pocketflow_throttled")


class Granting(Clock):
    """Slots, windows, a pause and a rule, all of which must let a call start.

    Args:
        max_concurrent: slots.
        budget: the windows.
        rule: what moves the slots with what an API refuses and serves; None: nothing does.
    """

    def __init__(self, max_concurrent: int, budget: Budget, rule: AdaptiveRule | None) -> None:
        super().__init__()
        self.name: str | None = None  # for the log
        self._max_concurrent = max_concurrent if rule is None else rule.limit
        self._budget = budget
        self._outputs = Outputs()
        self._rule = rule
        self._lock = RLock()  # re-entrant: a collected coroutine may release inside a locked section
        self._active = 0
        self._acquired = 0  # of these, by hand: whoever has them gives them back by hand
        self._paused_until = self._surely_paused_until = -math.inf
        self._last_full = -math.inf  # when the last slot was taken
        self._changes: list[tuple[int, int, str]] = []  # of the slots, by the rule, that are yet to be logged

    def _grant(self, permit: Permit, now: float) -> bool:
        """Book slot, stamp and tokens for a permit when a slot is free, if all of it is to be had `now`; else nothing."""
        if now < self._paused_until:
            return False
        rule, budget, tokens = self._rule, self._budget, permit.tokens
        if (
            rule is not None
            and (now < rule.opens_at or now < rule.beyond_at or rule.trial is not None)
            and not self._lets_start(rule, now)
        ):
            return False
        outputs = self._outputs
        if outputs.is_enforced and outputs.opens_at(now, self._active) > now:
            return False
        if tokens:
            if not budget.fits(now, tokens):
                return False
            permit._spend = budget.book(now, tokens)
        elif budget.requests is not None and not budget.admit(now):
            return False
        if rule is not None:
            permit._level = level = self._active + 1
            if level >= self._max_concurrent:
                self._last_full = now
            rule.started(now, level)
        if outputs.is_enforced:
            outputs.started(now)
        self._active += 1  # at the end: an error before it has taken no slot
        permit.held = True
        permit._stamp = now
        return True

    def _lets_start(self, rule: AdaptiveRule, now: float) -> bool:
        """Return whether the rule lets one more start, as it learns by the time alone that calls are admitted again."""
        may_start = rule.may_start(now, self._active + 1)
        if rule.limit != self._max_concurrent:  # it has just found out whether calls at once are to blame
            self._changes.append((rule.limit, self._max_concurrent, rule.reason))
            self._max_concurrent = rule.limit
            self._last_full = -math.inf
        return may_start and self._active < self._max_concurrent

    def _log_changes(self) -> None:
        """Log what the rule has changed; not under the lock, which another thread may take to show the limiter as it logs."""
        with self._lock:
            changes, self._changes = self._changes, []
        for new, old, reason in changes:
            logger.info("%s: %d at once, was %d (%s)", self.name or "RateLimiter", new, old, reason)

    def _take_back(self, permit: Permit) -> None:
        """Take slot, stamp and tokens back from a permit whose request was never sent."""
        stamp = permit._stamp
        assert stamp is not None
        permit.held = False
        self._active -= 1
        spend, permit._stamp, permit._spend = permit._spend, None, None  # whoever settles it now books nothing
        self._budget.take_back(stamp, spend)
        if self._rule is not None:
            self._rule.unsent(stamp)

    def _pause_until(self, when: float, *, is_sure: bool = True) -> None:
        """Grant nothing until then; not surely, where a refusal asks for it of which nobody has read what it refuses."""
        self._paused_until = max(self._paused_until, when)
        if is_sure:
            self._surely_paused_until = max(self._surely_paused_until, when)

    def _expect_times(self) -> None:
        """Take calls to tell how long they take, as those of a batch do."""
        with self._lock:
            self._budget.expect_times()

    def _held_for(self) -> float:
        """Return for how many seconds the rule lets no call start."""
        with self._lock:
            return 0.0 if self._rule is None else max(0.0, self._rule.opens_at - self._now())

    def _opens_at(self, now: float) -> float | None:
        """When time alone may let one more start, or None if it must wait for a slot."""
        rule = self._rule
        if self._active >= self._max_concurrent:  # more may be free once a call that tries was not refused
            return None if rule is None or rule.trial is None else max(rule.opens_at, self._paused_until)
        if now < self._paused_until:
            return self._paused_until
        if rule is not None and now < (opens := rule.opens_for(self._active + 1)):
            return opens
        opens = self._outputs.opens_at(now, self._active)
        if opens > now:
            return opens
        return self._budget.opens_at(now)

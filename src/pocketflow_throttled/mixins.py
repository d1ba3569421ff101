"""What nodes and flows share: settings from class attributes, the limiter, the counts, and what a refusal leads to."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from contextvars import ContextVar, copy_context
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

from . import signals
from .attempts import Attempts, growing_wait
from .batch import Batch, noted
from .callers import be_around_the_calls_of, is_held_by_a_caller
from .headers import parse_wait
from .observing import UNMARKED, longest_pause, sent
from .rate_limiter import RateLimiter
from .registry import LimiterRegistry
from .state import State, scope
from .validation import check_count, check_optional_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .attempts import SoFar
    from .permit import Permit

logger = logging.getLogger("pocketflow_throttled")

# A server that says "at once" again and again is asked more and more slowly, up to once a second.
_SHORTEST_WAIT, _SLOW_ENOUGH = 0.001, 1.0

# What is left of the time may be too little to move the clock on, and the item would be refused at the same moment for ever.
_ROUNDING = 1e-6

_retry: ContextVar[int] = ContextVar("cur_retry", default=0)
_choosing = RLock()  # re-entrant, as garbage collection can run anything within it


def check_setting(name: str, value: Any) -> None:
    """Raise TypeError or ValueError, naming setting and value, if a setting of a node or a flow is out of range."""
    if name == "on_error":
        if value not in ("raise", "collect"):
            raise ValueError(f"on_error must be 'raise' or 'collect', got {value!r}")
    elif name == "shared_limiter":
        if value is not None and not isinstance(value, str | RateLimiter):
            raise TypeError(f"shared_limiter must be a registered name, a RateLimiter or None, got {value!r}")
    elif name in ("rate_limit_timeout", "wait"):
        check_seconds(name, value, positive=False)
    elif name in ("max_flow_retries", "max_output_tokens"):
        check_count(name, value, least=0)
    elif name in ("max_per_minute", "max_tokens_per_minute", "max_burst", "max_flows_per_minute"):
        check_optional_count(name, value)
    elif name == "propagate_rate_limit":
        if not isinstance(value, bool):
            raise TypeError(f"propagate_rate_limit must be True or False, got {value!r}")
    elif name not in ("backoff_factor", "recovery_factor"):  # checked with the bounds
        check_count(name, value)


class Throttled:
    """The machinery under nodes and flows. A subclass names its settings and what decides when an item failed."""

    wait: float
    on_error: str
    shared_limiter: str | RateLimiter | None = None
    rate_limit_timeout: float = 600.0

    _setting_names: tuple[str, ...]
    _throttled_state: State

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make one with a state, whichever `__init__` a program calls."""
        self = super().__new__(cls)
        self._throttled_state = State()
        return self

    def _take_settings(self, settings: dict[str, Any]) -> None:
        """Take keyword settings over the class attributes, and refuse what is out of range."""
        for name, value in settings.items():
            if name not in self._setting_names:
                known = ", ".join(sorted(self._setting_names))
                raise TypeError(f"{type(self).__name__} has no setting {name!r}; it has: {known}")
            setattr(self, name, value)
        self._check_settings()

    def _check_settings(self) -> None:
        for name in self._setting_names:
            check_setting(name, getattr(self, name))

    # --- to be said by the subclass

    def _limiter_settings(self) -> dict[str, Any]:
        """Return the settings as RateLimiter takes them."""
        raise NotImplementedError

    def _most_attempts(self) -> int:
        """Return how often an item is tried whose call fails; refusals do not count."""
        raise NotImplementedError

    async def _give_up(self, item: Any, error: Exception) -> Any:
        raise NotImplementedError

    # --- refusals: hooks that a program may override

    @staticmethod
    def is_rate_limit_error(exc: BaseException) -> bool:
        """Return whether an exception says "slow down" (429 and its kin). Override it for an API with a dialect of its own."""
        return signals.is_rate_limit_error(exc)

    @staticmethod
    def retry_after(exc: BaseException) -> float | None:
        """Return the seconds that an exception asks to wait, or None if it does not say."""
        return signals.retry_after(exc)

    # --- the limiter

    def _throttled_limiter(self) -> RateLimiter:
        self._check_settings()  # they may have changed, and the limiter would refuse them by names of its own
        if self.shared_limiter is not None:
            shared = self.shared_limiter
            return LimiterRegistry.get(shared) if isinstance(shared, str) else shared
        limits = self._limiter_settings()
        limiters = scope.get()
        with _choosing:  # threads that use a node for the first time must not make a limiter each
            own = self._throttled_state.own if limiters is None else limiters.get(self._throttled_state)
            if own is None:
                limiter, before = RateLimiter(**limits), limits
                limiter.name = type(self).__name__
            else:
                limiter, before = own
            if limiters is None:
                self._throttled_state.own = limiter, limits
            else:
                limiters[self._throttled_state] = limiter, limits
        if limits != before:  # what did not change here holds, also if it was set on the limiter itself
            changed = {name: value for name, value in limits.items() if value != before[name]}
            if "max_burst" in changed:
                limiter.max_burst = None  # the window cannot go before it
            for name, value in changed.items():
                setattr(limiter, name, value)
        return limiter

    # --- a batch

    async def _run_batch(
        self,
        items: Any,
        *,
        call: Callable[[Any], Coroutine[Any, Any, Any]],
        check: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Run `call` for every item under the limiter, and return the results in order; `check` may refuse an item."""
        self._throttled_state.latest = limiter = self._throttled_limiter()
        if scope.get() is None:  # else each instance would warn of the same
            self._throttled_state.gave_up = False
        if is_held_by_a_caller(limiter):
            raise RuntimeError(
                f"{type(self).__name__} waits for a slot of a limiter of which its own caller holds one: when all are held so, "
                "nothing can go on. Give it a limiter of its own, or run it after the call"
            )
        with limiter._lock:  # it may be in use in other threads
            limiter._budget.expect_times()
        context = copy_context()
        context.run(_retry.set, 0)  # an item whose call runs this batch has its own
        context.run(sent.set, UNMARKED)
        context.run(longest_pause.set, min(longest_pause.get(), self.rate_limit_timeout))
        batch = Batch(items, limiter=limiter, work=Attempts(self, call, self._tokens_of, check), context=context)
        context.run(be_around_the_calls_of, batch._live, limiter)
        return await batch.run()

    def _tokens_of(self, index: int, item: Any) -> int:  # noqa: ARG002  (for those that count tokens)
        return 0

    def _collects_error(self, error: Exception) -> bool:  # noqa: ARG002  (for those that tell one error from another)
        return self.on_error == "collect"

    def _settle_tokens(self, item: Any, result: Any, permit: Permit) -> None:
        """Correct what a call was thought to cost; for those that count tokens."""

    def _weigh_refusal(self, permit: Permit, exc: Exception, so_far: SoFar) -> Exception | None:
        """Pause and count; return what to give up with, or None to send the item again."""
        self._throttled_state.refused += 1
        self._throttled_state.streak = 0
        refusal = signals.read_error(exc)
        left = max(0.0, self.rate_limit_timeout - so_far.seconds)
        final = refusal if refusal is not None and refusal.final else None  # such a one says nothing of the other items
        knows_better = permit.limiter._observe(signals.headers_of(exc), left if final is None else 0.0, is_refused=True)
        if final is not None:
            permit.limiter._pause_no_longer_than_sure()
            return _explained(exc, f"not sent again: {final.reason}")
        hint = self._wait_of(exc)
        if knows_better and refusal is not None and refusal.by_reset and hint == refusal.retry_after:
            hint = None
        known = hint is not None
        reason = self._reason_to_give_up(so_far)
        told = permit.limiter._told_wait()
        if reason is None and told > left:
            reason = (
                f"by what the API tells, it admits no call for {told:.1f} s; rate_limit_timeout is {self.rate_limit_timeout:g} s"
            )
        at_most = left if reason is None else self.rate_limit_timeout  # a pause is the others' then
        refusals = max(so_far.times, so_far.given_up)
        permit.hold_back(_pause(hint, refusals, at_most), hinted=known, at_most=at_most)
        return None if reason is None else _explained(exc, reason)

    def _wait_of(self, exc: BaseException) -> float | None:
        return parse_wait(self.retry_after(exc))  # which may be a program's own, and return a header as it came

    def _is_too_long(self, seconds: float) -> bool:
        return seconds >= self.rate_limit_timeout - _ROUNDING

    def _reason_to_give_up(self, so_far: SoFar) -> str | None:
        if not self._is_too_long(so_far.drought):
            return None
        if not self._throttled_state.gave_up:
            self._throttled_state.gave_up = True
            logger.warning("%s gave up: refused for %.1f s", type(self).__name__, so_far.drought)
        times = "once" if so_far.times == 1 else f"{so_far.times} times"
        if self._is_too_long(so_far.seconds):
            met = f"refused {times} in {so_far.seconds:.1f} s"
        else:
            met = f"refused {times}, and no call of the batch was served for {so_far.drought:.1f} s"
        return f"{met}; rate_limit_timeout is {self.rate_limit_timeout:g} s"

    async def _fall_back(self, item: Any, error: Exception) -> Any:
        try:
            result = await self._give_up(item, error)
        except BaseException:
            self._throttled_state.failed += 1
            raise
        self._throttled_state.completed += 1
        return result

    @property
    def cur_retry(self) -> int:
        """Which attempt of the current item this is, from 0; each item has its own, refusals do not count."""
        return _retry.get()

    @cur_retry.setter
    def cur_retry(self, value: int) -> None:
        _retry.set(value)


def _pause(hint: float | None, refusals: int, at_most: float) -> float:
    if hint is None:
        pause = growing_wait(refusals) * random.uniform(0.5, 1.0)  # so that refused items do not come back together
    else:
        pause = max(hint, min(_SLOW_ENOUGH, _SHORTEST_WAIT * 2.0 ** min(refusals - 1, 30)))
    return max(0.0, min(pause, at_most))


def _explained(exc: Exception, reason: str) -> Exception:
    """Say in the exception itself, whatever its type, why the item is not sent again."""
    noted(exc, reason)
    with suppress(Exception):  # it may be frozen
        if len(exc.args) == 1 and isinstance(exc.args[0], str) and reason not in exc.args[0]:
            exc.args = (f"{exc.args[0]} ({reason})",)
    return exc

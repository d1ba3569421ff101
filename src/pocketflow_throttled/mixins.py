"""What nodes and flows share: settings from class attributes, the limiter and the counts."""

from __future__ import annotations

import warnings
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Self

from . import signals
from .answers import UNMARKED
from .attempts import Attempts
from .batch import Batch
from .callers import be_around_the_calls_of, is_held_by_a_caller
from .forked import Lock
from .mistakes import check_bases, check_limits, check_methods, check_names
from .observing import LONGEST_PAUSE, longest_pause, sent
from .rate_limiter import RateLimiter
from .registry import LimiterRegistry
from .state import Own, State, scope
from .told_times import parse_wait
from .validation import check_count, check_optional_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .permit import Permit

_LIVE = ("active", "waiting", "current_window_count", "current_window_tokens")  # of a limiter's stats
_retry: ContextVar[tuple[State | None, int]] = ContextVar("cur_retry", default=(None, 0))  # and of which node
_choosing = Lock()  # re-entrant, as garbage collection can run anything within it


def _check_setting(name: str, value: Any) -> None:
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

    _setting_names: tuple[str, ...] = ()
    _limiter_has: Mapping[str, str] = {}  # which of them, and by which names
    _limiter_name: str  # by which the limiter in use may be looked at ...
    _set_instead: str  # ... and what to set, to have another
    _limit_names: tuple[str, ...] = ()  # of those that are for a limiter of one's own
    _throttled_state: State

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Check the methods, the limits and the bases of a class as it is made."""
        super().__init_subclass__(**arguments)
        check_methods(cls)
        check_limits(cls, cls._setting_names)
        check_names(cls, cls._setting_names)
        check_bases(cls, cls._setting_names)

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
        self._tell_of_unused_limits()

    def _tell_of_unused_limits(self) -> None:
        given = {name: getattr(self, name) for name in self._limit_names if self._is_given(name)}
        unused = {name: value for name, value in given.items() if value is not None}
        if self.shared_limiter is not None and unused:
            keeps_to = f"{type(self).__name__} keeps to its shared_limiter {self.shared_limiter!r}"
            warnings.warn(f"{keeps_to}; {unused} is not applied: set it there", stacklevel=4)

    def _tell_of_unused_limiter(self, limiter: RateLimiter) -> None:
        own = vars(self).get(self._limiter_name, getattr(type(self), self._limiter_name))
        if isinstance(own, RateLimiter) and own is not limiter:
            name = type(self).__name__
            told = (
                f"{name}.{self._limiter_name} was set to {own!r}, which {name} does not keep to: set {self._set_instead} instead"
            )
            warnings.warn(told, stacklevel=2)

    def _is_given(self, name: str) -> bool:
        """Whether a setting is the user's, and no default."""
        if name in vars(self):
            return True
        return not next(cls for cls in type(self).__mro__ if name in vars(cls)).__module__.startswith(f"{__package__}.")

    def _check_settings(self) -> None:
        for name in self._setting_names:
            _check_setting(name, getattr(self, name))

    def _most_attempts(self) -> int:
        """Return how often an item is tried whose call fails; refusals do not count."""
        raise NotImplementedError

    def _sends_again(self) -> bool:
        """Whether a refused item is waited out here, for `rate_limit_timeout`; if not, whoever hears of it does so."""
        return True

    def _as_final(self, error: Exception, refusals: int) -> Exception | None:  # noqa: ARG002  (for those that do)
        """Return what to give up with for an item that was refused so often, though time is left; None: send it again."""
        return None

    async def _give_up(self, item: Any, error: Exception) -> Any:
        """Return a result for an item that is not called again, or raise."""
        raise NotImplementedError

    @staticmethod
    def is_rate_limit_error(exc: BaseException) -> bool:
        """Return whether an exception says "slow down" (429 and its kin). Override it for an API with a dialect of its own."""
        return signals.is_rate_limit_error(exc)

    @staticmethod
    def retry_after(exc: BaseException) -> float | None:
        """Return the seconds that an exception asks to wait, or None if it does not say."""
        return signals.retry_after(exc)

    def _throttled_limiter(self, *, for_a_run: bool = False) -> RateLimiter:
        """Return the limiter to look at, which changes nothing; or that for a run, with the settings of the copy that runs."""
        self._check_settings()  # they may have changed, and the limiter would refuse them by names of its own
        if self.shared_limiter is not None:
            shared = self.shared_limiter
            return LimiterRegistry.get(shared) if isinstance(shared, str) else shared
        settings = self._limiter_settings()
        with _choosing:  # threads that use a node for the first time must not make a limiter each
            own = self._own_limiter() or self._make_limiter(settings)
        if for_a_run:
            own.take(settings)
        else:
            own.check(settings)
        return own.limiter

    def _limiter_settings(self) -> dict[str, Any]:
        """Return the settings as RateLimiter takes them."""
        return {theirs: getattr(self, ours) for ours, theirs in self._limiter_has.items()}

    def _own_limiter(self) -> Own | None:
        limiters = scope.get()
        return self._throttled_state.own if limiters is None else limiters.get(self._throttled_state)

    def _make_limiter(self, settings: dict[str, Any]) -> Own:
        own, limiters = Own(RateLimiter(**settings), settings), scope.get()
        own.limiter.name = type(self).__name__
        if limiters is None:
            self._throttled_state.own = own
        else:
            limiters[self._throttled_state] = own
            self._throttled_state.of_instances.add(own)
        return own

    def _limiter_stats(self) -> dict[str, Any]:
        """Return the stats of the limiter; outside of flows' instances, what is live adds up over those in which it runs."""
        stats = self._throttled_limiter().stats
        with _choosing:
            owns = list(self._throttled_state.of_instances) if scope.get() is None and self.shared_limiter is None else []
        for others in (own.limiter.stats for own in owns if own.runs):
            stats |= {name: stats[name] + others[name] for name in _LIVE}
        return stats

    if not TYPE_CHECKING:  # else any attribute could be set, for all that a type checker knows

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name in self._setting_names:
                self._set_on_limiter(self._limiter_has.get(name))

    def _set_on_limiter(self, name: str | None) -> None:
        """Let the limiter take a setting that has just been set, unless a run is under way: then the next one takes it."""
        own = self._own_limiter()
        if own is None or own.runs:
            return
        if name is not None:
            own.waiting |= {name}
        if not own.waiting:
            return
        with suppress(Exception):  # told of when it is used, if what it goes with is not set by then
            self._check_settings()
            settings = self._limiter_settings()
            own.take({each: value for each, value in settings.items() if each in own.waiting})

    async def _run_batch(
        self,
        items: Any,
        *,
        call: Callable[[Any], Coroutine[Any, Any, Any]],
        check: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Run `call` for every item under the limiter, and return the results in order; `check` may refuse an item."""
        self._throttled_state.latest = limiter = self._throttled_limiter(for_a_run=True)
        self._tell_of_unused_limiter(limiter)
        if scope.get() is None:  # else each instance would warn of the same
            self._throttled_state.gave_up = False
        if is_held_by_a_caller(limiter):
            raise RuntimeError(
                f"{type(self).__name__} needs slots of a limiter of which its own caller holds one. That is refused, however "
                "many are free now: when all are held so, nothing can go on. "
                "Give it a limiter of its own, or run it after the call"
            )
        limiter._expect_times()
        context = copy_context()
        context.run(_retry.set, (None, 0))  # an item whose call runs this batch has its own
        context.run(sent.set, UNMARKED)
        context.run(longest_pause.set, min(LONGEST_PAUSE, self.rate_limit_timeout))
        batch = Batch(items, limiter=limiter, calls=Attempts(self, call, check), context=context)
        context.run(be_around_the_calls_of, batch.live, limiter)
        own = self._own_limiter()
        if own is not None:
            own.begin(batch)
        try:
            return await batch.run()
        finally:
            if own is not None:
                own.runs.discard(batch)

    def _tokens_of(self, index: int, item: Any) -> int:  # noqa: ARG002  (for those that count tokens)
        return 0

    def _collects_error(self, error: Exception) -> bool:  # noqa: ARG002  (for those that tell one error from another)
        return self.on_error == "collect"

    def _settle_tokens(self, item: Any, result: Any, permit: Permit) -> None:
        """Correct what a call was thought to cost; for those that count tokens."""

    def _wait_of(self, exc: BaseException) -> float | None:
        return parse_wait(self.retry_after(exc))  # which may be a program's own, and return a header as it came

    @property
    def cur_retry(self) -> int:
        """Which attempt of the current item this is, from 0; each item has its own, refusals do not count."""
        owner, attempt = _retry.get()
        return attempt if owner is self._throttled_state else 0

    @cur_retry.setter
    def cur_retry(self, value: int) -> None:
        _retry.set((self._throttled_state, value))

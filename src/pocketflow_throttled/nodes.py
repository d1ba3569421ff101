"""Batch nodes that fire as fast as the API allows and no faster. Drop-ins for PocketFlow's AsyncParallelBatchNode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pocketflow import AsyncParallelBatchNode

from . import tokens
from .adaptive import AdaptiveThrottled, of_the_rule
from .carried import name_of
from .correction import Estimate
from .coverable import coverable
from .exceptions import RateLimitHit
from .mixins import Throttled
from .notes import noted, shown
from .validation import check_burst, check_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from .permit import Permit
    from .rate_limiter import RateLimiter


_CLASS_ATTRIBUTE: Any = object()  # as a default, since 1 may be meant


class NodeSettings(TypedDict, total=False):
    """The settings of a throttled node, each a class attribute and a keyword."""

    max_concurrent: int
    max_per_minute: int | None
    max_tokens_per_minute: int | None
    max_output_tokens: int
    max_burst: int | None
    shared_limiter: str | RateLimiter | None
    on_error: str
    rate_limit_timeout: float


@coverable
class ThrottledParallelBatchNode(Throttled, AsyncParallelBatchNode):
    """PocketFlow's parallel batch node, under a rate limit, losing nothing. Each setting may be a class attribute.

    Args:
        max_retries: attempts of an item whose call fails, by default 1; refusals do not count.
        wait: seconds between two attempts, by default 0; no slot is held meanwhile, and up to 32 items for each slot wait so.
        max_concurrent: calls at once.
        max_per_minute: calls in any 60 seconds; None: no limit.
        max_tokens_per_minute: tokens in any 60 seconds, by `estimate_tokens` before a call and `count_tokens` after it; None: no
            limit. An item larger than that runs alone.
        max_output_tokens: tokens that an answer may have, added to the estimate.
        max_burst: also space the calls: at most so many in any `max_burst / max_per_minute` minutes.
        shared_limiter: a registered name or a RateLimiter to use instead of one's own.
        on_error: "raise": the first error cancels the rest and is raised; "collect": it takes its item's place.
        rate_limit_timeout: seconds for which a refused item is sent again, before `exec_fallback_async` decides.

    Raises:
        TypeError, ValueError: a setting is unknown or out of range; the message names it and its value.

    Example:
        >>> import asyncio
        >>> class Square(ThrottledParallelBatchNode):
        ...     max_concurrent = 3
        ...     async def prep_async(self, shared):
        ...         return shared["numbers"]
        ...     async def exec_async(self, number):
        ...         return number * number
        ...     async def post_async(self, shared, prep_res, exec_res_list):
        ...         shared["squares"] = exec_res_list
        >>> shared = {"numbers": [1, 2, 3]}
        >>> asyncio.run(Square().run_async(shared))
        >>> shared["squares"]
        [1, 4, 9]
    """

    max_retries: int = 1
    wait: float = 0
    max_concurrent: int = 5
    max_per_minute: int | None = None
    max_tokens_per_minute: int | None = None
    max_output_tokens: int = 0
    max_burst: int | None = None
    on_error = "raise"

    _setting_names = ("max_retries", "wait", *NodeSettings.__annotations__)
    _limiter_has: Mapping[str, str] = {
        "max_concurrent": "max_concurrent",
        "max_per_minute": "max_per_window",
        "max_tokens_per_minute": "max_tokens_per_window",
        "max_burst": "max_burst",
    }
    _limiter_name, _set_instead = "limiter", "shared_limiter"
    _limit_names: tuple[str, ...] = ("max_concurrent", "max_per_minute", "max_tokens_per_minute", "max_burst")

    def __init__(
        self, max_retries: int = _CLASS_ATTRIBUTE, wait: float = _CLASS_ATTRIBUTE, **settings: Unpack[NodeSettings]
    ) -> None:
        super().__init__(
            self.max_retries if max_retries is _CLASS_ATTRIBUTE else max_retries,
            self.wait if wait is _CLASS_ATTRIBUTE else wait,
        )
        self._take_settings(dict(settings))

    @property
    def limiter(self) -> RateLimiter:
        """The limiter in use: the shared one, that of the flow instance which runs this node, or the node's own."""
        return self._throttled_limiter()

    def reset_limiter(self) -> None:
        """Forget the windows and the pause of the limiter, and set the counts to zero."""
        self._throttled_limiter().reset()
        self._throttled_state.reset_counts()

    @property
    def stats(self) -> dict[str, Any]:
        """The counts over all copies and runs of this node, and the live numbers of its limiter.

        On the node that a throttled batch flow copies for its instances, the live numbers are those of all that are under way.
        """
        state = self._throttled_state
        counts = {"completed": state.completed, "failed": state.failed, "refused": state.refused}
        spent = {"tokens_estimated": state.tokens_estimated, "tokens_used": state.tokens_used}
        return {**self._limiter_stats(), "max_per_minute": self.max_per_minute, **counts, **spent}

    def _check_settings(self) -> None:
        super()._check_settings()
        check_burst(self.max_burst, "max_per_minute", self.max_per_minute)

    def estimate_tokens(self, item: Any) -> int:
        """Return what an item will cost in tokens. Override it for items of another kind.

        By default 4 characters are a token, in a str, a chat message or a list of these, and `max_output_tokens` is added.
        Estimates that are wrong by a factor, or by what is added to each, are corrected as calls tell what they cost.
        """
        return tokens.estimate(item) + self.max_output_tokens

    def count_tokens(self, item: Any, result: Any) -> int | None:  # noqa: ARG002  (for those that override it)
        """Return what a call has cost in tokens; None: nobody knows. Override it if `exec_async` returns no `usage`.

        Where nobody knows, the estimate stands, or less of it, if the headers of answers have told that the API counts less.

        By default the `usage` of an OpenAI, Anthropic or Gemini answer is read, and counted as that provider does.
        """
        return tokens.used(result)

    def _tokens_of(self, index: int, item: Any) -> int:
        try:
            estimated = check_tokens("estimate_tokens", self.estimate_tokens(item))
        except Exception as error:
            noted(error, f"for item {index}: {shown(item)}")
            raise
        return self._throttled_state.correction.apply(estimated)

    def _settle_tokens(self, item: Any, result: Any, permit: Permit) -> None:
        told = permit.tokens if isinstance(permit.tokens, Estimate) else None
        # The call may have changed the item.
        estimated = check_tokens("estimate_tokens", self.estimate_tokens(item)) if told is None else told.estimated
        counted = self.count_tokens(item, result)
        if counted is None:
            counted = permit._measured(estimated)
        counted = estimated if counted is None else check_tokens("count_tokens", counted)
        self._throttled_state.learn_tokens(estimated, counted, told)
        permit.settle(counted)

    def _most_attempts(self) -> int:
        return self.max_retries

    async def _give_up(self, item: Any, error: Exception) -> Any:
        return await self.exec_fallback_async(item, error)

    async def _exec(self, items: Iterable[Any] | AsyncIterable[Any] | None) -> list[Any]:
        def call(item: Any) -> Any:
            return self.exec_async(item)  # looked up for every item: tracers replace it on the instance

        return await self._run_batch(items, call=call)


class AdaptiveNodeSettings(NodeSettings, total=False):
    """The settings of an adaptive node, each a class attribute and a keyword."""

    initial_concurrent: int
    min_concurrent: int
    backoff_factor: float
    recovery_threshold: int
    recovery_factor: float
    propagate_rate_limit: bool


@coverable
class AdaptiveThrottledNode(AdaptiveThrottled, ThrottledParallelBatchNode):
    """A throttled node that finds out what an API allows while the batch runs: calls at once, and calls in a time.

    Args:
        max_retries: attempts of an item whose call fails, by default 1; refusals do not count.
        wait: seconds between two attempts, by default 0.
        initial_concurrent: calls at once to start with; the default is brought into min..max.
        min_concurrent: the fewest calls at once.
        max_concurrent: the most calls at once.
        backoff_factor: what a refusal multiplies the limit by, once per congestion event; between 0 and 1.
        recovery_threshold: successes in a row, while the limit is in use, that raise it.
        recovery_factor: what they multiply it by, above 1; they add at least 1.
        propagate_rate_limit: raise `RateLimitHit` at the first refusal, past `on_error` and the fallback, for a flow to handle.
        settings: those of `ThrottledParallelBatchNode`. A `shared_limiter` must be adaptive too; its rule then counts.

    Raises:
        TypeError, ValueError: a setting is unknown or out of range; the message names it and its value.

    Guarantees: as ThrottledParallelBatchNode; the limit stays within min and max, and no item is lost when it moves.

    Example:
        >>> from pocketflow_throttled import SimulatedAPI, run_virtual
        >>> api = SimulatedAPI(max_concurrent=8, latency=1.0)
        >>> class Ask(AdaptiveThrottledNode):
        ...     async def prep_async(self, shared):
        ...         return range(500)
        ...     async def exec_async(self, question):
        ...         return await api.call(question)
        ...     async def post_async(self, shared, prep_res, exec_res_list):
        ...         shared["answers"] = exec_res_list
        >>> node, shared = Ask(), {}
        >>> run_virtual(node.run_async(shared))
        >>> shared["answers"] == list(range(500)), 7 <= node.current_concurrent <= 9, api.refused < 15
        (True, True, True)
    """

    initial_concurrent: int = 5
    min_concurrent: int = 1
    max_concurrent: int = 20
    propagate_rate_limit: bool = False

    _setting_names = ("max_retries", "wait", *AdaptiveNodeSettings.__annotations__)
    _bound_names = ("initial_concurrent", "min_concurrent", "max_concurrent")
    _limiter_has: Mapping[str, str] = {**ThrottledParallelBatchNode._limiter_has, **of_the_rule(*_bound_names)}
    _limit_names = ("initial_concurrent", "min_concurrent", *ThrottledParallelBatchNode._limit_names)

    def __init__(
        self, max_retries: int = _CLASS_ATTRIBUTE, wait: float = _CLASS_ATTRIBUTE, **settings: Unpack[AdaptiveNodeSettings]
    ) -> None:
        arguments: dict[str, Any] = {"max_retries": max_retries, "wait": wait}
        given = {name: value for name, value in arguments.items() if value is not _CLASS_ATTRIBUTE}
        super().__init__(**given, **settings)  # type: ignore[misc]  # the next class may be one with defaults of its own

    @property
    def current_concurrent(self) -> int:
        """Calls at once that are allowed now."""
        return self._current_limit()

    @property
    def stats(self) -> dict[str, Any]:
        """The counts over all copies and runs of this node, and the live numbers of its limiter."""
        state = self._throttled_state
        return {
            **super().stats,
            "max_concurrent": (self._throttled_limiter().adaptive or self).max_concurrent,
            "current_concurrent": self.current_concurrent,
            "total_successes": state.completed,
            "total_rate_limits": state.refused,
            "consecutive_successes": state.streak,
        }

    def _sends_again(self) -> bool:
        return not self.propagate_rate_limit

    def _as_final(self, error: Exception, refusals: int) -> Exception | None:
        if not self.propagate_rate_limit:
            return super()._as_final(error, refusals)
        source = type(self).__name__
        hit = RateLimitHit(name_of(error), retry_after=self._wait_of(error), source=source)
        hit.propagated = True
        if self.shared_limiter is not None:
            limiter = self._throttled_limiter()
            hit._held_for = max(limiter.paused_for, limiter._held_for())
        raise hit from error

    def _collects_error(self, error: Exception) -> bool:
        is_propagated = self.propagate_rate_limit and isinstance(error, RateLimitHit) and error.propagated
        return super()._collects_error(error) and not is_propagated

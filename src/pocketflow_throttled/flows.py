"""A parallel batch flow that starts its instances under a limit. Drop-in for PocketFlow's AsyncParallelBatchFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pocketflow import AsyncParallelBatchFlow

from .adaptive import AdaptiveThrottled
from .batch import shown
from .mixins import Throttled, logger, scope

if TYPE_CHECKING:
    from .permit import Permit
    from .rate_limiter import RateLimiter


class FlowSettings(TypedDict, total=False):
    """The settings of a throttled flow, each a class attribute and a keyword."""

    max_concurrent_flows: int
    max_flows_per_minute: int | None
    max_flow_retries: int
    on_error: str


class ThrottledAsyncParallelBatchFlow(Throttled, AsyncParallelBatchFlow):
    """PocketFlow's parallel batch flow, so many instances at once and a minute, of which one may fail without the others.

    Args:
        start: the first node.
        max_concurrent_flows: instances at once.
        max_flows_per_minute: starts of instances in any 60 seconds; None: no limit.
        max_flow_retries: how often a refused instance is run again from its start; its earlier nodes run again too.
        on_error: "collect": a failed instance is counted and logged, and its exception stands in the list; "raise": the
            first error cancels the rest and is raised.

    Raises:
        TypeError, ValueError: a setting is unknown or out of range; the message names it and its value.

    Guarantees: each instance has limiters of its own for the nodes it runs, unless they name a `shared_limiter`. `post_async`
    gets the list of the instances' last actions, in order.

    Example:
        >>> import asyncio
        >>> from pocketflow import AsyncNode
        >>> class Greet(AsyncNode):
        ...     async def post_async(self, shared, prep_res, exec_res):
        ...         shared["greeted"].append(self.params["user"])
        >>> class GreetAll(ThrottledAsyncParallelBatchFlow):
        ...     async def prep_async(self, shared):
        ...         return [{"user": "Ann"}, {"user": "Bo"}]
        >>> shared = {"greeted": []}
        >>> asyncio.run(GreetAll(start=Greet()).run_async(shared))
        >>> shared["greeted"]
        ['Ann', 'Bo']
    """

    max_concurrent_flows: int = 5
    max_flows_per_minute: int | None = None
    max_flow_retries: int = 0
    on_error = "collect"

    _settings = (*Throttled._settings, *FlowSettings.__annotations__)

    def __init__(self, start: Any = None, **settings: Unpack[FlowSettings]) -> None:
        super().__init__(start)
        self._configure(dict(settings))

    @property
    def flow_limiter(self) -> RateLimiter:
        """The limiter of the instances."""
        return self._limiter_in_use()

    def reset_flow_limiter(self) -> None:
        """Forget the windows and the pause of the limiter, and set the counts to zero."""
        self._limiter().reset()
        self._state.reset_counts()

    @property
    def stats(self) -> dict[str, Any]:
        """The settings, the counts over all copies and runs of this flow, and the live numbers of its limiter."""
        return {
            **self._limiter_in_use().stats,
            "max_concurrent_flows": self.max_concurrent_flows,
            "max_flows_per_minute": self.max_flows_per_minute,
            "completed_flows": self._state.completed,
            "failed_flows": self._state.failed,
            "total_rate_limits": self._state.refused,
        }

    def _limits(self) -> dict[str, Any]:
        return {
            "max_concurrent": self.max_concurrent_flows,
            "max_per_window": self.max_flows_per_minute,
            "max_tokens_per_window": None,
            "max_burst": None,
        }

    async def _run_async(self, shared: Any) -> Any:
        params_list = await self.prep_async(shared)
        if params_list is None:
            params_list = []
        own = {**self.params}

        def call(params: dict[str, Any]) -> Any:
            scope.set({})  # called in the instance's own task, and so in its own context
            return self._orch_async(shared, {**own, **params})

        actions = await self._run_batch(params_list, call=call, check=_check_params)
        return await self.post_async(shared, params_list, actions)

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> Any:
        """Override it to use the list of last actions; it stays silent, so that a batch flow works as a node of another flow."""

    def _refused(self, permit: Permit, exc: Exception, refusals: int, refused_for: float) -> Exception | None:
        error = super()._refused(permit, exc, refusals, refused_for)
        return exc if error is None and refusals > self.max_flow_retries else error

    async def _give_up(self, item: Any, error: Exception) -> Any:
        if self.on_error == "collect":
            logger.error("%s: instance %s failed: %r", type(self).__name__, shown(item), error)
        raise error


class AdaptiveFlowSettings(FlowSettings, total=False):
    """The settings of an adaptive flow, each a class attribute and a keyword."""

    initial_concurrent_flows: int
    min_concurrent_flows: int
    backoff_factor: float
    recovery_threshold: int
    recovery_factor: float


class AdaptiveThrottledBatchFlow(AdaptiveThrottled, ThrottledAsyncParallelBatchFlow):
    """A throttled flow that finds out how many instances an API bears, from the `RateLimitHit` that leave them.

    Args:
        start: the first node.
        initial_concurrent_flows: instances at once to start with; the default is brought into min..max.
        min_concurrent_flows: the fewest at once.
        max_concurrent_flows: the most at once.
        backoff_factor: what a refusal multiplies the limit by, once per congestion event; between 0 and 1.
        recovery_threshold: instances in a row that went well, while the limit is in use, that raise it.
        recovery_factor: what they multiply it by, above 1; they add at least 1.
        settings: those of `ThrottledAsyncParallelBatchFlow`; see there for `max_flow_retries`.

    Raises:
        TypeError, ValueError: a setting is unknown or out of range; the message names it and its value.

    Example:
        >>> import asyncio
        >>> from pocketflow import AsyncNode
        >>> class Greet(AsyncNode):
        ...     async def post_async(self, shared, prep_res, exec_res):
        ...         shared["greeted"] += 1
        >>> class GreetAll(AdaptiveThrottledBatchFlow):
        ...     async def prep_async(self, shared):
        ...         return [{"user": user} for user in range(100)]
        >>> flow, shared = GreetAll(start=Greet()), {"greeted": 0}
        >>> asyncio.run(flow.run_async(shared))
        >>> shared["greeted"], flow.stats["total_rate_limits"]
        (100, 0)
    """

    initial_concurrent_flows: int = 5
    min_concurrent_flows: int = 1
    max_concurrent_flows: int = 20

    _settings = (*Throttled._settings, *AdaptiveFlowSettings.__annotations__)
    _bounds = ("initial_concurrent_flows", "min_concurrent_flows", "max_concurrent_flows")

    def __init__(self, start: Any = None, **settings: Unpack[AdaptiveFlowSettings]) -> None:
        super().__init__(start, **settings)  # type: ignore[misc]

    @property
    def current_concurrent_flows(self) -> int:
        """Instances at once that are allowed now."""
        return self._current()

    @property
    def stats(self) -> dict[str, Any]:
        """The settings, the counts over all copies and runs of this flow, and the live numbers of its limiter."""
        streak = self._state.streak
        return {**super().stats, "current_concurrent_flows": self.current_concurrent_flows, "consecutive_successes": streak}

    def _limits(self) -> dict[str, Any]:
        limits = super()._limits()
        del limits["max_concurrent"]  # the rule's
        return {**limits, "adaptive": self._adaptive()}


def _check_params(index: int, params: Any) -> None:
    if not isinstance(params, dict):
        raise TypeError(f"parameter set {index} must be a dict, got {shown(params)}")

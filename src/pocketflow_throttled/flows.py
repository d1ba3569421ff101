"""A parallel batch flow that starts its instances under a limit. Drop-in for PocketFlow's AsyncParallelBatchFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pocketflow import AsyncParallelBatchFlow

from .adaptive import AdaptiveThrottled, of_the_rule
from .attempts import logger
from .coverable import coverable
from .mixins import Throttled
from .notes import shown
from .state import scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .rate_limiter import RateLimiter


class FlowSettings(TypedDict, total=False):
    """The settings of a throttled flow, each a class attribute and a keyword."""

    max_concurrent_flows: int
    max_flows_per_minute: int | None
    max_flow_retries: int
    on_error: str
    rate_limit_timeout: float


@coverable
class ThrottledAsyncParallelBatchFlow(Throttled, AsyncParallelBatchFlow):
    """PocketFlow's parallel batch flow, so many instances at once and a minute, of which one may fail without the others.

    Args:
        start: the first node.
        max_concurrent_flows: instances at once.
        max_flows_per_minute: starts of instances in any 60 seconds; None: no limit.
        max_flow_retries: how often a refused instance is run again from its start; its earlier nodes run again too.
        on_error: "collect": a failed instance is counted and logged, and its exception stands in the list; "raise": the
            first error cancels the rest and is raised.
        rate_limit_timeout: seconds for which a refused instance is run again at most, and the longest pause.

    Raises:
        TypeError, ValueError: a setting is unknown or out of range; the message names it and its value.

    Guarantees: each instance has limiters of its own for the nodes it runs, also when it is run again, unless they name a
    `shared_limiter`. `post_async` gets the list of the instances' last actions, in order.

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

    _setting_names = tuple(FlowSettings.__annotations__)
    _limiter_has: Mapping[str, str] = {"max_concurrent_flows": "max_concurrent", "max_flows_per_minute": "max_per_window"}
    _limiter_name, _set_instead = "flow_limiter", "max_concurrent_flows and max_flows_per_minute"

    def __init__(self, start: Any = None, **settings: Unpack[FlowSettings]) -> None:
        super().__init__(start)
        self._take_settings(dict(settings))

    @property
    def flow_limiter(self) -> RateLimiter:
        """The limiter of the instances."""
        return self._limiter_in_use()

    def _limiter_in_use(self) -> RateLimiter:
        """Return the limiter to look at: within an instance it is the one that holds the instance."""
        limiters = scope.get()
        if limiters is not None and self._throttled_state not in limiters:
            return self._throttled_state.latest or self._throttled_limiter()
        return self._throttled_limiter()

    def reset_flow_limiter(self) -> None:
        """Forget the windows and the pause of the limiter, and set the counts to zero."""
        self._limiter_in_use().reset()
        self._throttled_state.reset_counts()

    @property
    def stats(self) -> dict[str, Any]:
        """The settings, the counts over all copies and runs of this flow, and the live numbers of its limiter."""
        return {
            **self._limiter_in_use().stats,
            "max_concurrent_flows": self.max_concurrent_flows,
            "max_flows_per_minute": self.max_flows_per_minute,
            "completed_flows": self._throttled_state.completed,
            "failed_flows": self._throttled_state.failed,
            "total_rate_limits": self._throttled_state.refused,
        }

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.shared_limiter is not None:
            raise TypeError(
                f"shared_limiter is for the nodes of a flow, whose own slot is no call's; got {self.shared_limiter!r}. "
                "Set it on them, and limit the flow by max_concurrent_flows and max_flows_per_minute"
            )

    async def _run_async(self, shared: Any) -> Any:
        params_list = await self.prep_async(shared)
        if params_list is None:
            params_list = []
        own = {**self.params}
        around = scope.get()

        def call(params: dict[str, Any]) -> Any:
            limiters = scope.get()
            if limiters is None or limiters is around:  # once for an instance and all its attempts, in its own task's context
                scope.set({})
            else:  # it is run again: what it waits for has been waited for here
                for each in limiters.values():
                    each.limiter._end_unasked_pause()
            return self._orch_async(shared, {**own, **params})

        actions = await self._run_batch(params_list, call=call, check=_check_params)
        return await self.post_async(shared, params_list, actions)

    async def post_async(self, shared: Any, prep_res: Any, exec_res_list: list[Any]) -> Any:
        """Override it to use the list of last actions; it stays silent, so that a batch flow works as a node of another flow."""

    def _as_final(self, error: Exception, refusals: int) -> Exception | None:
        return error if refusals > self.max_flow_retries else None

    def _most_attempts(self) -> int:
        return 1  # what an instance did before it failed is not done twice, unless max_flow_retries says so

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


@coverable
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

    _setting_names = tuple(AdaptiveFlowSettings.__annotations__)
    _bound_names = ("initial_concurrent_flows", "min_concurrent_flows", "max_concurrent_flows")
    _limiter_has: Mapping[str, str] = {**ThrottledAsyncParallelBatchFlow._limiter_has, **of_the_rule(*_bound_names)}

    def __init__(self, start: Any = None, **settings: Unpack[AdaptiveFlowSettings]) -> None:
        given = () if start is None else (start,)
        super().__init__(*given, **settings)  # type: ignore[misc]  # the next class may be one with a start of its own

    @property
    def current_concurrent_flows(self) -> int:
        """Instances at once that are allowed now."""
        return self._current_limit()

    @property
    def stats(self) -> dict[str, Any]:
        """The settings, the counts over all copies and runs of this flow, and the live numbers of its limiter."""
        streak = self._throttled_state.streak
        return {**super().stats, "current_concurrent_flows": self.current_concurrent_flows, "consecutive_successes": streak}


def _check_params(index: int, params: Any) -> None:
    if not isinstance(params, dict):
        try:
            {**params}  # noqa: B018  (PocketFlow merges whatever has keys: a mapping, a row of a database)
        except TypeError:
            raise TypeError(f"parameter set {index} must be a dict, got {shown(params)}") from None

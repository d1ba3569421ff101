"""Observing: a queue that listens to what the headers of responses say, and pauses for it.

Whose answer it is, and when it is here, is known here; what follows for the windows, in `told_limits` and `others`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .answers import Answer, Mark
from .carried import status_of, told_by
from .headers import lowered, read_output_quota, read_quotas, retry_after
from .others import Others
from .told_limits import ToldLimits
from .waiting import Waiting

if TYPE_CHECKING:
    from .aimd import AdaptiveRule
    from .budget import Budget
    from .headers import Kind

_FAILED = 400  # the least status of an error
_LONGEST_WINDOW = 3600.0  # of a limit that is held here
LONGEST_PAUSE = 600.0

# That of the call which runs in this context: its response tells of what the server had counted by then. None outside of a batch.
sent: ContextVar[Mark | None] = ContextVar("sent", default=None)
# For how many seconds headers may ask at most, by the node whose call runs in this context: after it, one call tries.
longest_pause: ContextVar[float] = ContextVar("longest_pause", default=LONGEST_PAUSE)


class Observing(Waiting):
    """A queue whose limits follow what a server says of them, as far as the user allows."""

    def __init__(
        self,
        max_concurrent: int,
        budget: Budget,
        rule: AdaptiveRule | None,
        asked: dict[Kind, int | None],
    ) -> None:
        super().__init__(max_concurrent, budget, rule)
        self._asked = asked  # by the user
        self._told_limits = ToldLimits(budget, asked)
        self._others = Others(budget, asked, self._told_limits.spans)
        self._is_told = False

    def observe(self, headers: object) -> None:
        """Learn from the headers of a response, successful or not, what the API says is left.

        Args:
            headers: of any client, or a dict. What cannot be read is no information; nothing here raises.

        What is left by the API's count beats what the limiter thinks it has used: other clients count too. It pauses for what
        Retry-After says; without that, at 0 left, until the reset; for 10 minutes at most, or for `rate_limit_timeout` where a
        node calls. A limit that the headers name becomes the limit if none was set, and is never raised above one that was. A
        window whose length the API does not say is taken to be this limiter's, until its resets tell that it is shorter.

        Example:
            >>> from pocketflow_throttled import RateLimiter
            >>> limiter = RateLimiter()
            >>> limiter.observe({"x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": "20"})
            >>> limiter.max_per_window, limiter.current_window_count
            (50, 30)
        """
        self._observe(lowered(headers), longest_pause.get(), is_refused=False)

    async def observe_response(self, response: Any) -> None:
        """Observe the headers of a response, of any client: an event hook for httpx and httpx2.

        Example:
            AsyncOpenAI(http_client=DefaultAsyncHttpxClient(event_hooks={"response": [limiter.observe_response]}))
        """
        is_refused = (status_of(response) or 0) >= _FAILED
        self._observe(lowered(told_by(response, "headers")), longest_pause.get(), is_refused=is_refused)

    def _observe_failure(self, headers: dict[str, str]) -> None:
        """Learn what is left by the headers of an error that is no refusal: what it asks to wait is no matter of other calls."""
        told = {name: value for name, value in headers.items() if not name.startswith("retry-after")}
        self._observe(told, longest_pause.get(), is_refused=True)

    def _observe(self, headers: dict[str, str], at_most: float, *, is_refused: bool, is_of_limits: bool = False) -> bool:
        """Learn from headers, and return whether a limit is used up whose own log tells when there is room again.

        Args:
            headers: with lower-case names.
            at_most: seconds for which they may ask to wait.
            is_refused: whether they are those of an error.
            is_of_limits: whether that refuses a call because of a limit.
        """
        if not headers:
            return False
        hint = retry_after(headers)
        pause = hint or 0.0
        is_used_up = False
        with self._lock:
            self._start_clock()
            now = self._clock()
            longest = longest_pause.get() if is_refused else LONGEST_PAUSE
            answer = Answer(now, sent.get(), is_refused, hint, longest)
            for quota in read_quotas(headers):
                if quota.is_longer_than(_LONGEST_WINDOW) or self._told_limits.is_of_bursts(quota):
                    continue
                self._is_told = True
                if not is_refused:
                    self._others.served(quota, now)
                is_pace = self._told_limits.set(quota, now, self._active)
                wait = self._others.take_away(quota, answer, is_pace=is_pace)
                if hint is None:
                    pause = max(pause, wait)
                is_used_up |= quota.remaining == 0
            output = read_output_quota(headers)
            if output is not None:
                self._is_told = True
                outputs, call = self._outputs, None if is_refused else answer.call
                is_early = call is not None and outputs.is_early(now - call.time)
                since = now if call is None else call.time
                outputs.told(output, now, self._budget.seconds, is_answer=not is_refused, since=since)
                outputs.is_enforced |= (is_of_limits or is_early) and output.remaining == 0 and not is_used_up
                is_held_back = not is_refused and outputs.is_enforced and outputs.each > 0  # so that each start has room
                if hint is None and output.remaining == 0 and not is_held_back:
                    pause = max(pause, output.until_reset)
            if pause > 0:
                is_sure = not is_refused or sent.get() is None  # the node whose call it is reads on
                self._pause_until(now + min(pause, at_most), is_sure=is_sure)
            self._wake()
        return is_used_up and pause == 0

    def _told_wait(self) -> float:
        """Return for how many seconds no call may start by what a server told, beyond what the user's own limit asks for."""
        with self._lock:
            window, asked, now = self._budget.requests, self._asked["requests"], self._now()
            if window is None or window.fits(now) or (asked is not None and window.own(now) >= asked):
                return 0.0
            opens_at = window.opens_at(now)  # at the earliest: others' share may be back before its own starts have left
            if window.own(now) >= window.limit:
                opens_at = max(opens_at, window.times[-window.limit] + window.span)
            return opens_at - now

    def _mark(self) -> None:
        """Remember for the call that starts now what is counted: its answer will tell what the server had counted by then."""
        with self._lock:
            now, budget = self._now(), self._budget
            sent.set(Mark(now, budget.served("requests", now), budget.counts(now)))

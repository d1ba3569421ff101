"""Observing: what the headers of responses say of the limits, put to use in a limiter.

A server counts a call when it arrives, and may tell of that moment or of the one when it answers: what it says is left may be as
old as the answer is slow. Until it is known which, it is held against the larger of the counts at the call's start and now; only
what is missing then is others'.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .carried import told_by
from .headers import lowered, read_quotas, retry_after
from .level import Level
from .untold import ALIKE, FULL_SECOND, SHORT, Moment, Span
from .waiting import Waiting

if TYPE_CHECKING:
    from .aimd import AdaptiveRule
    from .budget import Budget
    from .headers import Kind, Quota

_FAILED = 400  # the least status of an error
_LONGEST_WINDOW = 3600.0  # of a limit that is held here
_LONGEST_PAUSE = 600.0
_ROLLING = 0.9  # of a window: a reset as far away as that does not tell when the first of the limit comes back
_ROUNDING = 1e-6  # of what is calculated back and forth
_ON_ITS_WAY = 1.0  # seconds until a call arrives, at most: a reset is counted from then
_OVERTAKING = 0.3  # seconds by which a call that started later may arrive earlier
_OFTEN_REFUSED = 0.05  # of the calls: then it is others that empty a bucket
_BLAMED_FOR, _BLAMED = 5, 5  # refusals at least, for which others are blamed; windows for which they are
_ROUNDED = 0.02  # of a limit: what it says is left may be rounded
# Refusals by a server that served no more than so much of a limit, in a window whose length its resets told: then they tell of
# something else. Two are served also where a limit is small, and fewer refusals may be bad luck.
_HARDLY, _FEW, _A_FEW = 0.1, 2, 3


@dataclass(frozen=True, slots=True)
class Mark:
    """What a limiter had counted when a call started."""

    time: float
    requests: int
    tokens: int


# That of the call which runs in this context: its response tells of what the server had counted by then. None outside of a batch.
sent: ContextVar[Mark | None] = ContextVar("sent", default=None)
# For how many seconds headers may ask at most, by the node whose call runs in this context: after it, one call tries.
longest_pause: ContextVar[float] = ContextVar("longest_pause", default=_LONGEST_PAUSE)
UNMARKED = Mark(-math.inf, 0, 0)  # of calls that started before the server had told anything


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
        # What the user asked for: what headers say may be less, and is never more.
        self._asked = asked
        self._spans: dict[Kind, Span] = {"requests": Span(), "tokens": Span()}
        self._told_at: dict[Kind, float] = {"requests": -math.inf, "tokens": -math.inf}
        self._moment, self._level = Moment(), Level()
        self._is_told = False
        self._blamed_until = -math.inf  # others, for refusals that own calls do not explain
        self._length_since = math.inf  # when the window of requests got the length that resets tell

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
        """Observe the headers of a response: an event hook for httpx and httpx2.

        Example:
            AsyncOpenAI(http_client=httpx2.AsyncClient(event_hooks={"response": [limiter.observe_response]}))
        """
        status = told_by(response, "status_code")
        is_refused = isinstance(status, int) and status >= _FAILED
        self._observe(lowered(told_by(response, "headers")), longest_pause.get(), is_refused=is_refused)

    def _observe(self, headers: dict[str, str], at_most: float, *, is_refused: bool) -> bool:
        """Learn from headers, and return whether its own log tells of a limit that is used up when there is room again."""
        if not headers:
            return False
        hint = retry_after(headers)
        pause = hint or 0.0
        is_used_up = False
        with self._lock:
            self._start_clock()
            now = self._clock()
            for quota in read_quotas(headers):
                if quota.is_longer_than(_LONGEST_WINDOW) or self._is_of_bursts(quota):
                    continue
                self._is_told = True
                if not is_refused:
                    self._learn_served(quota)
                is_pace = self._set_limit(quota, now)
                wait = self._take_away(quota, now, hint, is_pace=is_pace, is_refused=is_refused)
                if hint is None:
                    pause = max(pause, wait)
                is_used_up |= quota.remaining == 0
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
            sent.set(Mark(now, budget.served("requests", now), budget.served("tokens", now)))

    def _is_of_bursts(self, quota: Quota) -> bool:
        """Whether it tells of the bursts that the user set, as a bucket does: its own log keeps to these better."""
        burst = self._budget.burst
        if quota.kind == "tokens" or quota.window is not None or burst is None or burst == self._asked["requests"]:
            return False
        return quota.limit == burst or (quota.limit is None and (quota.remaining or 0) <= burst)

    def _learn_served(self, quota: Quota) -> None:
        """Learn how much there ever is left; whoever first gives a small bucket away ends the wait for a whole window."""
        span = self._spans[quota.kind]
        was_small = span.is_small
        span.served(quota)
        if span.is_small and not was_small:
            self._told_at[quota.kind] = -math.inf

    def _doubt_length(self, now: float, stamp: float) -> None:
        """Take the word of resets for another, where a server refuses nearly all that would fit the window they tell."""
        span, window = self._spans["requests"], self._budget.requests
        if window is None or window.seconds >= self._budget.seconds or stamp <= self._length_since:
            return
        served = self._budget.served("requests", now)
        if served <= max(_FEW, _HARDLY * window.limit) and self._budget.refused_since(self._length_since) >= _A_FEW:
            span.is_of_one = True

    def _set_limit(self, quota: Quota, now: float) -> bool:
        """Set a limit that is told, as far as the user allows, and return whether it only is a pace within the user's."""
        limit, asked, budget = quota.limit, self._asked[quota.kind], self._budget
        if limit is None:
            return False
        seconds = self._spans[quota.kind].seconds(quota, budget.seconds) if quota.window is None else quota.window
        set_limit = budget.set_requests if quota.kind == "requests" else budget.set_tokens
        if asked is None:
            before = budget.window(quota.kind)
            if quota.kind == "requests" and (before is None or before.seconds != seconds):
                self._length_since = now
                budget.disregard_until(now)
            set_limit(limit, seconds)
            if quota.kind == "requests" and before is None:
                for _ in range(self._active):  # under way, as many at least were not counted, and the server does
                    budget.book(now, 0)
            return False
        share = limit * budget.seconds / asked
        if self._tells_no_longer_than(share, quota):
            seconds = min(seconds, share)
        is_pace = seconds < ALIKE * budget.seconds and limit < asked
        if is_pace and quota.kind == "requests":
            budget.set_pace(limit, seconds, now)  # as well as the user's own
        told = limit
        if not ALIKE <= seconds / budget.seconds <= 1:
            limit = max(1, int(limit * budget.seconds / seconds + _ROUNDING))
        set_limit(min(limit, asked))
        if is_pace and budget.tokens is not None and quota.kind == "tokens":
            budget.tokens.set_slice(told, max(seconds, share), now)
        return is_pace

    def _tells_no_longer_than(self, seconds: float, quota: Quota) -> bool:
        """Whether a window, as far as the API tells, may be as short as that: then the user's limit is told in other words."""
        longest = quota.window
        if longest is None:
            longest = self._spans[quota.kind].longest
            most = SHORT if quota.kind == "requests" else self._budget.seconds / 2
            if quota.reset is None or quota.is_guess or not longest or seconds > most:
                return False
        return longest - (FULL_SECOND if longest.is_integer() else 0.0) <= seconds  # full seconds are rounded up

    def _is_all_its_own(self, quota: Quota, now: float) -> bool:
        """Whether what is missing of a bucket may be what was started here in the time in which the bucket fills by as much.

        A bucket that holds less than the limit has never much left, and is whole again within seconds.
        """
        reset, window, span = quota.reset, self._budget.requests, self._spans["requests"]
        if quota.kind == "tokens" or window is None or quota.is_guess or reset is None or max(reset, span.longest) > SHORT:
            return False
        seconds = reset + (FULL_SECOND if reset.is_integer() else 0.0)
        rate = (quota.limit or window.limit) / window.seconds
        if span.tells_of_one(quota, rate):
            return False
        missing = max(0.0, reset - (FULL_SECOND if quota.is_date else 0.0)) * rate
        if self._is_refused_often(now):
            return False
        call = sent.get()
        then = now if call is None or call is UNMARKED else call.time
        return ALIKE * missing <= max(self._budget.starts_between(when - seconds, when) for when in (now, then))

    def _is_refused_often(self, now: float, least: int = 1) -> bool:
        """Whether so many calls are refused that others must be to blame."""
        budget = self._budget
        since = max(now - budget.seconds, budget.spaced_since)  # before, it may have been a burst
        return budget.refused_since(since) >= max(least, _OFTEN_REFUSED * budget.starts_between(since, now))

    def _take_away(self, quota: Quota, now: float, hint: float | None, *, is_pace: bool, is_refused: bool) -> float:
        """Count what others have used, and return for how long nothing should start: until the reset at 0 left.

        Where the limiter has counted the same, its own log knows better when there is room than "whole again" says.
        """
        remaining, reset, window = quota.remaining, quota.reset, self._budget.window(quota.kind)
        if remaining is None:
            return 0.0
        if window is None:
            reset = min(reset or 0.0, self._budget.seconds) if quota.is_guess else reset or 0.0
            return reset if remaining == 0 else 0.0
        used = max(0, (quota.limit or window.limit) - remaining)  # by the server's count
        call = sent.get()
        if quota.kind == "requests" and self._follow_level(quota, remaining, now, is_refused=is_refused):
            return 0.0
        age, own = self._held_against(call, quota.kind, used, now, is_refused=is_refused)
        if quota.is_date:
            age = 0.0
        # Told to the minute's end by a clock that may be wrong, a reset is no further away than the window is long.
        most = window.seconds if reset is None or quota.is_guess else math.inf
        reset = max(0.0, min(math.inf if reset is None else reset, most) - age)
        wait = reset if remaining == 0 and quota.reset is not None else 0.0
        missing = used if is_pace else window.limit - remaining
        others = max(0, missing - own)
        if others and not is_refused and self._is_all_its_own(quota, now):
            others = 0
        age_at_most = 0.0 if call is None else now - call.time
        first, reset = self._back_after(quota, reset, hint, others=others, missing=missing, age=age_at_most)
        is_newer = call is None or call.time >= self._told_at[quota.kind]
        if is_newer or others >= window.others(now):
            at_most = longest_pause.get() if is_refused else max(_LONGEST_PAUSE, longest_pause.get())
            told_of = None if is_refused else self._told_of(quota, call, now)
            window.take_away(others, now + min(first, at_most), now + min(reset, at_most), told_of)
            self._told_at[quota.kind] = now
        if call is not None and quota.kind == "requests" and self._asked["requests"] is None:
            self._budget.forget_requests(call.time, used)
        is_counted = others <= _ROUNDED * window.limit
        is_rolling = own > 0 and reset + age >= _ROLLING * window.seconds
        longest = max(reset, 0.0 if quota.window is None else quota.window)  # of which its own log may be too short to tell
        rounded = 2 * FULL_SECOND if quota.is_date else FULL_SECOND if reset.is_integer() else 0.0
        return 0.0 if (is_counted or is_rolling) and longest <= 1.05 * window.seconds + rounded else wait

    def _told_of(self, quota: Quota, call: Mark | None, now: float) -> float | None:
        """Return the moment that an answer tells of, if that is known, and if others have taken what it says is missing."""
        moment = self._moment
        if call is None or self._spans[quota.kind].is_small:
            return None
        if moment.is_start:
            return call.time
        return now if moment.is_end or quota.kind == "tokens" else None

    def _back_after(
        self, quota: Quota, reset: float, hint: float | None, *, others: int, missing: int, age: float
    ) -> tuple[float, float]:
        """Return the seconds after which the first of what others have taken is back, and the last."""
        window, span = self._budget.window(quota.kind), self._spans[quota.kind]
        assert window is not None
        first, each = reset, window.seconds / window.limit
        if quota.reset is None and span.may_be_small(self._budget.at_once, window.limit):
            first, reset = max(0.0, each - age), others * each  # as fast as the limit says, perhaps since the call started
        elif quota.reset is not None and span.tells_of_one(quota, 1 / each):
            reset = min(window.seconds, missing * each)
        if quota.remaining == 0 and hint is not None:
            # Retry-After tells when the first of them is back, `reset` when the last is, if the clocks agree.
            return hint, hint if quota.is_guess else max(hint, min(reset, window.seconds))
        return first, reset

    def _follow_level(self, quota: Quota, left: int, now: float, *, is_refused: bool) -> bool:
        """Hold starts back by the level of a small bucket, and return whether it is known what others take of it."""
        window, span, level, budget = self._budget.requests, self._spans["requests"], self._level, self._budget
        hold = None
        if window is not None and span.is_small:
            call = sent.get()
            started = now if call is None else None if call is UNMARKED else call.time
            if is_refused and started is not None:
                level.refused(started)
                if self._is_refused_often(now, _BLAMED_FOR):
                    self._blamed_until = now + _BLAMED * budget.seconds
            # It fills as fast as the server's limit says, which may be more than the user's, or told of a shorter time.
            rate, most = max(quota.limit or 0, window.limit) / window.seconds, max(span.most_left, budget.at_once or 0)
            level.learn(now, started, left, window, rate=rate, most=most)
            hold = level.hold(now, window, rate=rate, most=most, is_blamed=now < self._blamed_until)
        is_spaced = budget.at_once is not None  # then it is not emptied, but by others
        budget.hold(None if hold is not None and is_spaced and not hold.is_shared else hold, now)
        if window is None or hold is None:
            return False
        window.take_away(0, now, now)
        return True

    def _held_against(self, call: Mark | None, kind: Kind, used: int, now: float, *, is_refused: bool) -> tuple[float, int]:
        """Return how many seconds old an answer is at least, and what was counted here at the moment that it may tell of."""
        own = self._budget.served(kind, now)
        if call is None:
            return 0.0, own
        before = call.requests if kind == "requests" else call.tokens
        age, most, moment = max(0.0, now - call.time - _ON_ITS_WAY), max(own, before), self._moment
        if call is UNMARKED or is_refused:
            return 0.0, most
        if kind == "requests":
            moment.learn(used - before, used - own)
        elif moment.is_start or moment.is_end:  # tokens of calls under way are estimates, so neither count is exact
            return age if moment.is_start else 0.0, most
        if moment.is_start:  # some that started after it may have arrived before it
            return age, min(most, before + self._budget.starts_between(call.time, call.time + _OVERTAKING))
        if moment.is_end:
            return 0.0, own
        return age if used <= before else 0.0, most  # one that counts no later call was told as this one arrived

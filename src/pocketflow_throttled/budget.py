"""Budget: what the windows of a limiter still allow, requests, bursts and tokens taken together or not at all.

Pure: `now` is an argument, in seconds. It knows neither slots nor who waits.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING

from .correction import Estimate
from .counting import NOTHING
from .crowding import Crowding
from .sliced_window import SlicedWindow
from .spaced import Spaced
from .token_window import TokenWindow
from .unbooked import Unbooked
from .window import SlidingWindow

if TYPE_CHECKING:
    from .counting import Counts
    from .headers import Kind
    from .token_window import Spend

# This many refusals among at most eight times as many calls are no accident. Fewer may be, or have another reason. Spaced starts
# slow down what follows a pause, so these take five; to slice the window of tokens costs little, so three will do.
_SOME: dict[Kind, int] = {"requests": 5, "tokens": 3}
_SHARE = 1 / 8
_MATTERS = 0.005  # of the calls of a window: if fewer are refused, they are not worth spaced starts
# Of a window: with so much of it served, a refusal says nothing of bursts. Less of tokens, as estimates may have been too low.
_ROOM: dict[Kind, float] = {"requests": 0.9, "tokens": 0.8}


class Budget(Spaced):
    """The windows of one limiter; each may be absent, and each limit may change while it is in use.

    Args:
        requests: starts in any window; None: no limit.
        tokens: tokens in any window; None: no limit.
        burst: also at most so many starts in any `burst / requests` share of the window; None: as they come.
        seconds: length of the window in seconds.

    Example:
        >>> budget = Budget(requests=1, tokens=None, burst=None, seconds=60.0)
        >>> budget.fits(now=0.0, tokens=0), budget.book(now=0.0, tokens=0)
        (True, None)
        >>> budget.fits(now=1.0, tokens=0), budget.opens_at(now=1.0)
        (False, 60.0)
    """

    __slots__ = ("_crowding", "_kept_requests", "_kept_tokens", "_refused", "_unbooked")

    def __init__(self, requests: int | None, tokens: int | None, burst: int | None, seconds: float) -> None:
        super().__init__(burst, seconds)
        self._refused: deque[float] = deque()  # the stamps of calls that a server's limits refused, of late
        self._crowding = Crowding()
        self._unbooked: Unbooked | None = None
        self._kept_requests: SlidingWindow | None = None  # the windows, kept while there is no limit: what they count is ...
        self._kept_tokens: SlicedWindow | None = None  # ... no less spent when there is one again
        self.set_requests(requests)
        self.set_tokens(tokens)

    def window(self, kind: Kind) -> SlidingWindow | TokenWindow | None:
        """Return the window of one kind, of which a server tells, or None if it has no limit."""
        return self.requests if kind == "requests" else None if self.tokens is None else self.tokens.told

    def set_requests(self, limit: int | None, seconds: float | None = None) -> None:
        """Set the starts allowed in any window, or in any `seconds`; those made while there was none are not counted."""
        if limit is None:
            self.requests = None
        else:
            self.requests = self._kept_requests = self._kept_requests or SlidingWindow(limit, self.seconds)
            self._resize(self.requests, limit, seconds)
        self.set_burst(self.burst)

    def set_tokens(self, limit: int | None, seconds: float | None = None) -> None:
        """Set the tokens allowed in any window, or in any `seconds`."""
        if self.tokens is not None and self.tokens.limit != limit:
            self.tokens.unslice()
        if limit is None:
            self.tokens = None
        else:
            self.tokens = self._kept_tokens = self._kept_tokens or SlicedWindow(limit, self.seconds)
            self._resize(self.tokens, limit, seconds)

    def fits(self, now: float, tokens: int) -> bool:
        """Return whether a request that costs `tokens` may start at `now`."""
        if now >= self._cold_until:
            self._grow_warm()
        if now >= self._margin.look_at:
            self._look_at_margin(now)
        return (
            (self._gate is None or now >= self._gate.next_at)
            and (self.requests is None or self.requests.fits(now))
            and (self._bursts is None or self._bursts.fits(now))
            and (tokens == 0 or self.tokens is None or self.tokens.fits(now, tokens, *_known_of(tokens)))
        )

    def admit(self, now: float) -> bool:
        """Stamp a request without tokens if it may start at `now`, and return whether it may: `fits` and `book`, faster."""
        requests = self.requests
        if requests is None:
            return True
        gate = self._gate
        if gate is not None and now < gate.next_at:
            return False
        times = requests.times
        if len(times) >= requests.allowed:
            if now >= self._cold_until:
                self._grow_warm()
            if not requests.fits(now):
                return False
        if self._bursts is not None:
            if now >= self._margin.look_at:
                self._look_at_margin(now)
            if not self._bursts.fits(now):
                return False
            self._bursts.times.append(now)
        times.append(now)
        if gate is not None and not gate.started(now):
            self._gate = None
        return True

    def opens_at(self, now: float) -> float:
        """Return when the window opens that is in the way, of a request that does not fit at `now`."""
        if self._gate is not None and now < self._gate.next_at:
            return self._gate.next_at
        if self.requests is not None and not self.requests.fits(now):
            return self.requests.opens_at(now)
        if self._bursts is not None and not self._bursts.fits(now):
            return self._bursts.opens_at(now)
        assert self.tokens is not None
        return self.tokens.opens_at(now)

    def book(self, now: float, tokens: int) -> Spend | None:
        """Stamp a request that starts at `now`, and return the entry of its tokens, if any are counted."""
        if self.requests is not None:
            self.requests.times.append(now)
            if self._bursts is not None:
                self._bursts.times.append(now)
            if self._gate is not None and not self._gate.started(now):
                self._gate = None
        return self.book_tokens(now, tokens)

    def book_tokens(self, now: float, tokens: int) -> Spend | None:
        """Return the entry of the tokens of a request that starts at `now`, if any are counted."""
        if not tokens or self.tokens is None:
            return None
        return self.tokens.add(now, tokens, *_known_of(tokens))

    def book_under_way(self, kind: Kind, calls: int, now: float) -> None:
        """Stamp calls that had started before there was a limit; their tokens are booked at what others of them have cost.

        Not so those that are counted already, as there was a limit earlier.
        """
        if kind == "requests" and self.requests is not None:
            for _ in range(calls - self.requests.own(now)):
                self.book(now, 0)
        elif self.tokens is not None:
            self.tokens.forget(now)
            counted = sum(spend.is_under_way and not spend.is_refused for spend in self.tokens.spends)
            self._unbooked = Unbooked(self.tokens, calls - counted, now)

    def was_under_way(self, stamp: float) -> bool:
        """Whether a request surely is one of those that had started before there was a limit of tokens, and is booked as such."""
        return self._unbooked is not None and self._unbooked.includes(stamp)

    def take_back(self, stamp: float, spend: Spend | None) -> None:
        """Take back what a request booked that was never sent."""
        for window in (self.requests, self._bursts):
            if window is not None:
                window.remove(stamp)
        if spend is not None and self._kept_tokens is not None:
            self._kept_tokens.take_back(spend)

    def settle(self, stamp: float, spend: Spend | None, tokens: int, now: float) -> Spend | None:
        """Correct the tokens of a request that has just ended, at `now`, and return their entry."""
        if spend is not None and self._kept_tokens is not None:
            self._kept_tokens.correct(spend, tokens, now)
        elif self.tokens is not None:
            return self._count(stamp, tokens) or self.tokens.insert(stamp, tokens)
        return spend

    def _count(self, stamp: float, tokens: int | None) -> Spend | None:
        """Count a call that may have started before there was a limit of tokens, and return its entry, if it had."""
        return None if self.tokens is None or self._unbooked is None else self._unbooked.ended(stamp, tokens)

    def measured(self, estimated: int) -> int | None:
        """Return what the server counts of a call that is estimated at so much, by its answers, if that is known."""
        return None if self.tokens is None else self.tokens.measured(estimated)

    def correct(self, spend: Spend, tokens: int) -> None:
        """Correct what a request booked."""
        if self._kept_tokens is not None:
            self._kept_tokens.correct(spend, tokens)

    def refused(self, stamp: float, spend: Spend | None, *, is_of_limits: bool = True) -> None:
        """Remember that a server refused the call of a stamp: the call counts here for what it was, but not at most servers."""
        while self._refused and self._refused[0] + self.seconds <= stamp:
            self._refused.popleft()
        if is_of_limits:
            insort(self._refused, stamp)
        if self.requests is not None:
            self.requests.refuse(stamp)
        if spend is None:
            self._count(stamp, None)
        elif self.tokens is not None:
            if is_of_limits:
                self.tokens.refuse(spend)
            else:
                self.tokens.drop(spend)

    def refused_since(self, time: float) -> int:
        """Return how many calls were refused by a server's limits that started after `time`, of late."""
        return sum(1 for _ in takewhile(lambda stamp: stamp > time, reversed(self._refused)))

    def space(self, now: float, stamp: float) -> None:
        """Space the starts, or more than before, as a server with room in the window refuses the call that started at `stamp`."""
        self.slice_tokens(now)
        requests, bursts = self.requests, self._bursts
        if requests is None or (self._gate is not None and self._bursts is not None) or stamp <= self._margin.since:
            return
        if bursts is None:
            is_crowded = self._refuses_what_is_crowded(now, stamp, requests)
            if not is_crowded and not self._refuses_what_has_room(now, _SOME["requests"]):
                return
        if bursts is not None and not requests.count_served_between(self._margin.since, math.inf):
            self._margin.since = now  # none was served yet: what was sent before is still counted
            return
        self._space_more(now)

    def slice_tokens(self, now: float) -> None:
        """Find how many tokens are allowed in less time, as a server with room in the window refuses a call."""
        if self.tokens is not None and self._refuses_what_has_room(now, _SOME["tokens"]):
            self.tokens.find_slice(now)

    def _refuses_what_has_room(self, now: float, some: int) -> bool:
        if len(self._refused) < some or not (self.has_room("requests", now) and self.has_room("tokens", now)):
            return False
        before = math.nextafter(self._refused[-some], -math.inf)
        return self.refused_since(before) >= _SHARE * self._calls_since(before)

    def _refuses_what_is_crowded(self, now: float, stamp: float, requests: SlidingWindow) -> bool:
        """Return whether a call is refused, as those before it, when as many had just started as a part of the window allows."""
        if not (self.has_room("requests", now) and self.has_room("tokens", now)):
            return False
        self._crowding.refused(stamp, requests)
        lately = now - requests.seconds
        matters = self.refused_since(lately) >= _MATTERS * self._calls_since(lately)
        return matters and self._crowding.is_regular(now, requests.seconds)

    def has_room(self, kind: Kind, now: float) -> bool:
        """Return whether what a server has served of one kind is so far from its limit that this is no reason to refuse."""
        window = self.window(kind)
        return window is None or self.served(kind, now) <= _ROOM[kind] * window.limit

    def forget_pace(self) -> None:
        """Forget how starts were spaced without a burst that was set, and that fewer tokens are allowed in a shorter time."""
        if self.tokens is not None:
            self.tokens.unslice()
        super().forget_pace()

    def served(self, kind: Kind, now: float) -> int:
        """Return what is counted of one kind that a server counts too, others' share aside; forget what has left the window."""
        window = self.window(kind)
        if window is None:
            return 0
        if isinstance(window, TokenWindow):
            return window.counts(now)[window.way]
        window.forget(now)
        return window.served(now)

    def counts(self, now: float) -> Counts:
        """Return what is counted of tokens by each way, as `served` does."""
        window = self.window("tokens")
        return window.counts(now) if isinstance(window, TokenWindow) else NOTHING

    def forget_requests(self, until: float, used: int) -> None:
        """Forget the oldest starts made until then, so that `used` are counted: as many as the server does."""
        times = self.requests.times if self.requests is not None else deque[float]()
        if len(times) > used:
            later = max(0, len(times) - bisect_left(times, until) - 1)  # those that started with it may have arrived after it
            for _ in range(len(times) - later - used):
                times.popleft()

    def clear(self) -> None:
        """Forget every start and every spend, and what others have taken."""
        for window in (self._kept_requests, self._bursts, self._kept_tokens):
            if window is not None:
                window.clear()
        self._refused.clear()
        self._crowding.clear()
        self.forget_pace()


def _known_of(tokens: int) -> tuple[int, int]:
    return (tokens.variance, tokens.estimated) if isinstance(tokens, Estimate) else (0, 0)

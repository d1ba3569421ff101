"""Budget: what the windows of a limiter still allow, requests, bursts and tokens taken together or not at all.

Pure: `now` is an argument, in seconds. It knows neither slots nor who waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .window import SlidingWindow, Spend, TokenWindow

if TYPE_CHECKING:
    from .headers import Kind


class Budget:
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

    __slots__ = ("_bursts", "burst", "requests", "seconds", "tokens")

    def __init__(self, requests: int | None, tokens: int | None, burst: int | None, seconds: float) -> None:
        self.seconds = seconds
        self.burst = burst
        self.requests: SlidingWindow | None = None
        self.tokens: TokenWindow | None = None
        self._bursts: SlidingWindow | None = None
        self.set_requests(requests)
        self.set_tokens(tokens)

    def set_requests(self, limit: int | None) -> None:
        """Set the starts allowed in any window. Those made while there was no limit are not counted later."""
        if limit is None:
            self.requests = None
        elif self.requests is None:
            self.requests = SlidingWindow(limit, self.seconds)
        else:
            self.requests.limit = limit
        self.set_burst(self.burst)

    def set_burst(self, burst: int | None) -> None:
        """Set the starts allowed in any `burst / requests` share of the window."""
        self.burst = burst
        if burst is None or self.requests is None:
            self._bursts = None
            return
        if self._bursts is None:
            self._bursts = SlidingWindow(burst, self.seconds)
        self._bursts.limit = burst
        self._bursts.seconds = self.seconds * burst / self.requests.limit

    def set_tokens(self, limit: int | None) -> None:
        """Set the tokens allowed in any window."""
        if limit is None:
            if self.tokens is not None:
                self.tokens.clear()  # what is settled or taken back later has nothing to do with the next window
            self.tokens = None
        elif self.tokens is None:
            self.tokens = TokenWindow(limit, self.seconds)
        else:
            self.tokens.limit = limit

    def fits(self, now: float, tokens: int) -> bool:
        """Return whether a request that costs `tokens` may start at `now`."""
        return (
            (self.requests is None or self.requests.fits(now))
            and (self._bursts is None or self._bursts.fits(now))
            and (tokens == 0 or self.tokens is None or self.tokens.fits(now, tokens))
        )

    def admit(self, now: float) -> bool:
        """Stamp a request without tokens if it may start at `now`, and return whether it may: `fits` and `book` in one."""
        requests = self.requests
        if requests is None:
            return True
        times = requests.times
        if len(times) >= requests.limit and not requests.fits(now):
            return False
        if self._bursts is not None:
            if not self._bursts.fits(now):
                return False
            self._bursts.times.append(now)
        times.append(now)
        return True

    def opens_at(self, now: float) -> float:
        """Return when the window opens that is in the way, of a request that does not fit at `now`."""
        if self.requests is not None and not self.requests.fits(now):
            return self.requests.opens_at()
        if self._bursts is not None and not self._bursts.fits(now):
            return self._bursts.opens_at()
        assert self.tokens is not None
        return self.tokens.opens_at()

    def book(self, now: float, tokens: int) -> Spend | None:
        """Stamp a request that starts at `now`, and return the entry of its tokens, if any are counted."""
        if self.requests is not None:
            self.requests.times.append(now)
            if self._bursts is not None:
                self._bursts.times.append(now)
        return self.tokens.add(now, tokens) if tokens and self.tokens is not None else None

    def take_back(self, stamp: float, spend: Spend | None) -> None:
        """Take back what a request booked that was never sent."""
        for window in (self.requests, self._bursts):
            if window is not None:
                window.remove(stamp)
        if spend is not None and self.tokens is not None:
            self.tokens.correct(spend, 0)

    def settle(self, stamp: float, spend: Spend | None, tokens: int) -> Spend | None:
        """Correct the tokens of a request, and return their entry."""
        if self.tokens is None:
            return spend
        if spend is None:
            return self.tokens.insert(stamp, tokens)
        self.tokens.correct(spend, tokens)
        return spend

    def has_used_up(self, kind: Kind, now: float, limit: int | None, reset: float | None) -> bool:
        """Return whether all of a server's `limit` is counted here too, in a window as long as its `reset` says."""
        window = self.requests if kind == "requests" else self.tokens
        if window is None or window.limit != limit or (reset is not None and reset > 1.05 * self.seconds):
            return False
        return window.used(now) >= limit

    def take_away(self, kind: Kind, now: float, remaining: int, reset: float | None) -> None:
        """Count what others have used: the server says that only so many are left, until the `reset` in so many seconds."""
        window = self.requests if kind == "requests" else self.tokens
        if window is None:
            return
        missing = window.limit - window.used(now) - remaining
        if missing > 0:
            whole_again = self.seconds if reset is None else min(reset, self.seconds)
            window.insert(now + whole_again - self.seconds, missing)

    def clear(self) -> None:
        """Forget every start and every spend."""
        for window in (self.requests, self._bursts):
            if window is not None:
                window.times.clear()
        if self.tokens is not None:
            self.tokens.clear()

"""RateLimitHit: how a program says "slow down" in its own words."""

from __future__ import annotations


class RateLimitHit(Exception):  # noqa: N818  (the name is the public one since the first version)
    """An API refused a call for now.

    Args:
        message: what happened.
        retry_after: seconds after which to try again; None: the API did not say.
        source: who refused, an API's or a node's name.

    Example:
        >>> RateLimitHit("Test", retry_after=10.0, source="api")
        RateLimitHit('Test', retry_after=10.0, source='api')
    """

    message = "Rate limit hit"
    retry_after: float | None = None
    source: str | None = None
    propagated = False  # by a node with propagate_rate_limit: past on_error and the fallback
    _held_for = 0.0  # seconds for which that node's limiter, if it is a shared one, lets no call start

    def __init__(self, message: str = message, retry_after: float | None = None, source: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.source = source

    def __repr__(self) -> str:
        return f"RateLimitHit({self.message!r}, retry_after={self.retry_after!r}, source={self.source!r})"

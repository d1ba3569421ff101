"""What providers say in their headers, each in its dialect."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Literal

from pocketflow_throttled.headers import Kind

from .counting import Count

Dialect = Literal["openai", "azure", "anthropic", "mistral", "openrouter", "ietf", "garbage", "none"]
RetryAfter = Literal["seconds", "whole", "milliseconds", "date", "none"]


def quotas(
    dialect: Dialect, counts: Iterable[tuple[Kind, Count]], now: float, clock: datetime, rounding: int = 1
) -> dict[str, str]:
    """Return the headers that tell of some counts `now`, which is `clock` by the server's own; tokens left are rounded."""
    found: dict[str, str] = {}
    for kind, count in counts:
        left, reset = count.left(now), round(count.reset(now), 6)  # no server tells the rounding of floats
        if kind == "tokens":
            left = round(left / rounding) * rounding
        if dialect in ("openai", "azure"):
            told = _duration(reset) if dialect == "openai" else f"{math.ceil(reset)}"
            found |= _named(f"x-ratelimit-{{}}-{kind}", count.limit, left, told)
        elif dialect == "anthropic":
            told = _date(clock, reset)
            found |= _named(f"anthropic-ratelimit-{'input-tokens' if kind == 'tokens' else kind}-{{}}", count.limit, left, told)
        elif dialect == "mistral":
            found |= _named(f"x-ratelimit-{{}}-{'req' if kind == 'requests' else kind}-minute", count.limit, left, None)
        elif dialect == "openrouter" and kind == "requests":
            told = f"{(clock + timedelta(seconds=reset)).timestamp() * 1000:.0f}"
            found |= _named("X-RateLimit-{}", count.limit, left, told)
        elif dialect == "ietf" and kind == "requests":
            found["RateLimit"] = f'"api";r={left};t={math.ceil(reset)}'
            found["RateLimit-Policy"] = f'"api";q={count.limit};w={math.ceil(count.seconds)}'
        elif dialect == "garbage":
            found |= _named(f"x-ratelimit-{{}}-{kind}", "lots", "-1", "soon")
            found |= _named(f"anthropic-ratelimit-{kind}-{{}}", 0, "NaN", "yesterday")
    return found


def _date(clock: datetime, seconds: float) -> str:
    return (clock + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _named(name: str, limit: object, remaining: object, reset: object) -> dict[str, str]:
    parts = {"limit": limit, "remaining": remaining, "reset": reset}
    return {name.format(part): str(value) for part, value in parts.items() if value is not None}


def _duration(seconds: float) -> str:
    """Return a time as OpenAI says it: 6m0s, 1.5s, 12ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def output_quota(count: Count, now: float, clock: datetime) -> dict[str, str]:
    """Return Anthropic's headers that tell of output tokens."""
    return _named("anthropic-ratelimit-output-tokens-{}", count.limit, count.left(now), _date(clock, count.reset(now)))


def retry_after(kind: RetryAfter, seconds: float, clock: datetime) -> dict[str, str]:
    """Return the header that tells how long to wait, rounded up, or none."""
    if kind == "none":
        return {}
    if kind == "milliseconds":
        return {"retry-after-ms": f"{math.ceil(seconds * 1000)}"}
    if kind == "date":
        return {"retry-after": format_datetime(clock + timedelta(seconds=math.ceil(seconds) + 1), usegmt=True)}
    return {"retry-after": f"{math.ceil(seconds * 1000) / 1000:.3f}" if kind == "seconds" else f"{math.ceil(seconds)}"}

"""What a response's headers say: how long to wait, and what is left of which limit.

Pure but for the wall clock that dates are counted from, unless the caller gives one. Whatever a server sends, nothing raises,
and no time is negative or endless. One rule reads every provider's format of a time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 200  # of a header's value, in characters: beyond that nobody means well
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e12  # a bare number as large as that is a date
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.IGNORECASE)
_DURATIONS = re.compile(r"(?:\d{1,15}(?:\.\d{1,15})?(?:ms|s|m|h|d)){1,5}", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_IETF = re.compile(r"\b([a-z]+)\s*=\s*(\d{1,15})", re.IGNORECASE)

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Quota:
    """What a server says of one of its limits.

    Attributes:
        kind: what it limits.
        limit: how many in a window; None: it did not say.
        remaining: how many are left; None: it did not say.
        reset: seconds until the limit is whole again; None: it did not say.
        window: length of the window in seconds, where the server names it; None: it did not say.
    """

    kind: Kind
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    window: float | None = None


def parse_wait(value: object, now: datetime | None = None) -> float | None:
    """Return a time to wait in seconds, or None if it cannot be read as one.

    Args:
        value: seconds, a sum such as "6m0s", an HTTP date, an RFC 3339 time, or seconds or milliseconds since 1970.
        now: wall-clock time a date is counted from; None: the present.

    Example:
        >>> parse_wait("30"), parse_wait("6m0s"), parse_wait("12ms"), parse_wait("soon"), parse_wait(-1)
        (30.0, 360.0, 0.012, None, None)
        >>> parse_wait("2026-11-24T12:00:30Z", now=datetime(2026, 11, 24, 12, tzinfo=UTC))
        30.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = _seconds_of_text(str(value)[:_LONGEST].strip(), now)
    if seconds >= _EPOCH_SECONDS:
        since_1970 = seconds / 1000 if seconds >= _EPOCH_MILLISECONDS else seconds
        seconds = max(0.0, since_1970 - (now or datetime.now(UTC)).timestamp())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_of_text(text: str, now: datetime | None) -> float:
    if _DURATIONS.fullmatch(text):
        return sum(float(number) * _UNITS[unit.lower()] for number, unit in _DURATION.findall(text))
    date = parse_date(text)
    return math.nan if date is None else max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def parse_date(value: object) -> datetime | None:
    """Return an RFC 3339 time or an HTTP date, or None if it is neither."""
    if not isinstance(value, str):
        return None
    text = value[:_LONGEST].strip()
    try:
        date = datetime.fromisoformat(text) if _RFC_3339.match(text) else parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def lowered(headers: object) -> dict[str, str]:
    """Return headers as a dict with lower-case names, whatever client they come from; empty if they cannot be read.

    Example:
        >>> lowered([("Retry-After", "3"), ("X", 1)])
        {'retry-after': '3', 'x': '1'}
    """
    found: dict[str, str] = {}
    try:
        pairs: Any = headers.items() if hasattr(headers, "items") else headers
        for name, value in pairs:
            found[_text(name).lower()] = _text(value)
    except Exception:  # noqa: BLE001  (no headers, or none that can be read: then they say nothing)
        return {}
    return found


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that lower-case headers ask to wait: `retry-after-ms`, else `retry-after`.

    A date is counted from the server's own `date`, so that clocks which differ do not matter.
    """
    milliseconds = parse_wait(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return parse_wait(headers.get("retry-after"), parse_date(headers.get("date")))


def read_quotas(headers: Mapping[str, str]) -> tuple[Quota, ...]:
    """Return what lower-case headers say of the limits, requests first.

    Of several quotas of one kind, the one with the least left counts. Input tokens count for tokens where they are told apart:
    those are what a request is admitted by, and output tokens are not known before.

    Example:
        >>> read_quotas({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
        ...              "x-ratelimit-reset-requests": "1s"})
        (Quota(kind='requests', limit=60, remaining=59, reset=1.0, window=None),)
    """
    now = parse_date(headers.get("date"))
    found: list[Quota | None] = []
    kinds: tuple[Kind, ...] = ("requests", "tokens")
    for kind in kinds:
        names = [f"x-ratelimit-{{}}-{kind}", f"anthropic-ratelimit-{kind}-{{}}"]
        if kind == "tokens":
            names.append("anthropic-ratelimit-input-tokens-{}")
        quotas = [_quota(headers, kind, name, now) for name in names]
        minute = "x-ratelimit-{}-req-minute" if kind == "requests" else "x-ratelimit-{}-tokens-minute"
        quotas.append(_quota(headers, kind, minute, now, window=60.0))
        if kind == "requests":
            quotas += [_quota(headers, kind, name, now) for name in ("x-ratelimit-{}", "ratelimit-{}")]
            quotas.append(_ietf_quota(headers))
        found.append(min((quota for quota in quotas if quota is not None), key=_left, default=None))
    return tuple(quota for quota in found if quota is not None)


def _left(quota: Quota) -> float:
    return math.inf if quota.remaining is None else quota.remaining


def _quota(
    headers: Mapping[str, str], kind: Kind, name: str, now: datetime | None, *, window: float | None = None
) -> Quota | None:
    limit = _count(headers.get(name.format("limit")), least=1)
    remaining = _count(headers.get(name.format("remaining")), least=0)
    if limit is None and remaining is None:
        return None
    return Quota(kind, limit, remaining, parse_wait(headers.get(name.format("reset")), now), window)


def _ietf_quota(headers: Mapping[str, str]) -> Quota | None:
    """Read `RateLimit: "api";r=0;t=55` and `RateLimit-Policy: "api";q=500;w=300`, of the IETF's draft."""
    state = dict(_IETF.findall(headers.get("ratelimit", "")[:_LONGEST].lower()))
    policy = dict(_IETF.findall(headers.get("ratelimit-policy", "")[:_LONGEST].lower()))
    limit, remaining = _count(policy.get("q"), least=1), _count(state.get("r"), least=0)
    if limit is None and remaining is None:
        return None
    return Quota("requests", limit, remaining, parse_wait(state.get("t")), parse_wait(policy.get("w")))


def _count(value: str | None, *, least: int) -> int | None:
    """Return a count, or None for what is none: unreadable, or the -1 and the limit of 0 that some servers send for "unknown"."""
    try:
        number = float((value or "")[:_LONGEST])
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= least else None

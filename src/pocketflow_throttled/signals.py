"""What an exception says: whether the call was refused, for how long, and whether for good.

Pure: no clock but the wall clock that dates in headers need, no I/O, and no SDK imported. SDKs build on different HTTP
clients, so their exceptions are known by attributes and by class names, wherever they stand along `__cause__`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from .exceptions import RateLimitHit

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAUSES = 10  # as deep as anyone wraps; a cycle ends here too
_TEXT = 2000  # of a message, in characters

_STATUSES = range(100, 600)
_REFUSED_STATUSES = (429, 529)  # 529 is Anthropic's "overloaded"
_UNAVAILABLE = 503
_REFUSED_NAMES = frozenset({"RateLimitError", "TooManyRequestsError", "TooManyRequests", "RateLimitHit", "ResourceExhausted"})
_REFUSED_TEXT = re.compile(
    r"\brate[ _-]?limit(?:s|ed|ing)?\b|\bquota exceeded\b|\btoo many requests\b"
    r"|(?:\bstatus(?:[ _]code)?|\berror(?:[ _]code)?|\bhttp(?:/[\d.]+)?)[ :=]{1,3}429\b|^429\b(?!\s+\w+s\b)",
    re.IGNORECASE,
)
_HINT = re.compile(r"\b(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d)){1,5})\b", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.IGNORECASE)
_WHOLE_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d)){1,5}", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# platform.openai.com/docs/guides/rate-limits and docs.anthropic.com/en/api/rate-limits, November 2026.
_FINAL_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an API said when it refused a call.

    Attributes:
        retry_after: seconds to wait; None: it did not say.
        final: whether sending the call again cannot help.
        reason: why, for people.
    """

    retry_after: float | None
    final: bool
    reason: str


def read_error(exc: BaseException) -> Refusal | None:
    """Return what an exception says of a refusal, or None if it is none.

    A refusal is status 429, or 529 or 503 with a hint how long to wait (both say "overloaded"); a `RateLimitHit`; a class named
    as the SDKs name theirs; or, of an exception with no status at all, a message that says so.

    Example:
        >>> read_error(RateLimitHit("slow down", retry_after=2.0))
        Refusal(retry_after=2.0, final=False, reason='slow down')
        >>> read_error(ValueError("order 1429")) is None
        True
    """
    for error in _causes(exc):
        hint = _hint(error)
        if _is_refusal(error, hint):
            final = next((code for code in _codes(error) if code in _FINAL_CODES), None)
            return Refusal(hint, final is not None, final or _text(error) or type(error).__name__)
    return None


def is_rate_limit_error(exc: BaseException) -> bool:
    """Return whether an exception says "slow down"."""
    return read_error(exc) is not None


def retry_after(exc: BaseException) -> float | None:
    """Return the seconds an exception asks to wait, or None if it does not say. Never negative, never endless."""
    refusal = read_error(exc)
    return None if refusal is None else refusal.retry_after


def parse_wait(value: object, now: datetime | None = None) -> float | None:
    """Return a Retry-After or a duration in seconds, or None if it cannot be read as one.

    Args:
        value: seconds, a sum such as "6m0s", or an HTTP date.
        now: wall-clock time a date is counted from; None: the present.

    Example:
        >>> parse_wait("30"), parse_wait("6m0s"), parse_wait("12ms"), parse_wait("soon"), parse_wait(-1)
        (30.0, 360.0, 0.012, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = _seconds_of_text(str(value)[:100].strip(), now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_of_text(text: str, now: datetime | None) -> float:
    if _WHOLE_DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit.lower()] for number, unit in _DURATION.findall(text))
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan


def _is_refusal(error: BaseException, hint: float | None) -> bool:
    if isinstance(error, RateLimitHit):
        return True
    status = _status(error)
    if status is not None:
        return status in _REFUSED_STATUSES or (status == _UNAVAILABLE and hint is not None)
    if any(cls.__name__ in _REFUSED_NAMES for cls in type(error).__mro__):
        return True
    return _REFUSED_TEXT.search(_text(error)) is not None


def _hint(error: BaseException) -> float | None:
    if isinstance(error, RateLimitHit):
        return parse_wait(error.retry_after)
    headers = _headers(error)
    milliseconds = parse_wait(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    for value in (headers.get("retry-after"), _get(error, "retry_after")):
        wait = parse_wait(value)
        if wait is not None:
            return wait
    said = _HINT.search(_text(error))
    return parse_wait(said[1]) if said else None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    error: BaseException | None = exc
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__


def _get(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  (an exception that cannot be read says nothing)
        return None


def _status(error: BaseException) -> int | None:
    for value in (
        _get(error, "status_code"),
        _get(error, "code"),
        _get(_get(error, "response"), "status_code"),
        _get(error, "status"),
    ):
        if isinstance(value, int) and not isinstance(value, bool) and value in _STATUSES:
            return value
    return None


def _headers(error: BaseException) -> dict[str, object]:
    for headers in (_get(_get(error, "response"), "headers"), _get(error, "headers")):
        try:
            found = {str(name).lower(): value for name, value in headers.items()}
        except Exception:  # noqa: BLE001, S112  (no headers, or none that can be read)
            continue
        if found:
            return found
    return {}


def _codes(error: BaseException) -> Iterator[str]:
    body = _get(error, "body")
    inner = body.get("error", body) if isinstance(body, dict) else None
    for source in (error, inner):
        for name in ("code", "type", "error_code"):
            value = source.get(name) if isinstance(source, dict) else _get(source, name)
            if isinstance(value, str):
                yield value


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT]
    except Exception:  # noqa: BLE001  (as above)
        return ""

"""What an exception says: whether the call was refused, for how long, and whether for good.

Pure, and with no SDK imported. SDKs build on different HTTP clients, so their exceptions are known by attributes and by class
names, wherever they stand along `__cause__`. Whatever a server sent, nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from . import headers
from .exceptions import RateLimitHit

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAUSES = 10  # as deep as anyone wraps; a cycle ends here too
_TEXT = 2000  # of a message, in characters
_DEPTH, _PARTS, _LONGEST_BODY = 6, 1000, 100_000  # of a body: levels, parts, characters of its text
_LONGEST_GUESS = 60.0  # seconds until a date by a server's clock that did not tell its own time

_STATUSES = range(100, 600)
_REFUSED, _OVERLOADED, _UNAVAILABLE, _TOO_LARGE, _PAYMENT = 429, 529, 503, 413, 402
_REFUSED_NAMES = frozenset({"RateLimitError", "TooManyRequestsError", "TooManyRequests", "RateLimitHit", "ResourceExhausted"})
_REFUSED_TEXT = re.compile(
    r"\brate[ _-]?limit(?:s|ed|ing|_?error|_?exceeded|_?reached|_?hit)?\b|\btoo[ _-]?many[ _-]?requests\b"
    r"|(?<!\bdisk )\bquota (?:has been |was |is )?exceeded\b|\bexceeded (?:your |the )?(?:current |request )?quota\b"
    r"|(?:^|\b(?:is|are|was|were|been|being|got|requests?|calls?) )throttled\b|(?:^|[:.)] ?)rate exceeded\b(?! \w)"
    r"|\bresource[ _]exhausted\b|\bthrottlingexception\b"
    r"|(?:\bstatus(?:[ _]code)?|\b(?:error[ _]?)?code|\berror|\bhttp(?:/[\d.]+)?)[ :=]{1,3}429\b"
    r"|(?:\b(?:returned|failed with|got|received)(?: an?)? |^)429\b(?!\s+(?!status\b)\w+s\b)|\b(?:error|failed) [(\[]429[)\]]",
    re.IGNORECASE,
)
_BUSY_TEXT = re.compile(r"\bserver (?:is )?(?:currently |too )?busy\b", re.IGNORECASE)
_OVERLOADED_TYPE = "overloaded_error"  # Anthropic's: in mid-stream, with status 200; litellm passes it on as a 500
_HINT = re.compile(
    r"\b(?:try again|retry(?:ing)?|wait) (?:in|after|for)? ?((?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d)){1,5})\b"
    r"|\b(?:try again|retry(?:ing)?|wait) (?:in|after|for)? ?(\d{1,9}(?:\.\d{1,9})?) ?sec(?:ond)?s?\b",
    re.IGNORECASE,
)

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
_FINAL_CODE = re.compile(rf"\b(?:{'|'.join(sorted(_FINAL_CODES))})\b")
# ai.google.dev/gemini-api/docs/rate-limits and console.groq.com/docs/rate-limits, November 2026.
_FINAL_TEXTS = (
    (re.compile(r"PerDay|\bper[ -]day\b|\((?:RPD|TPD)\)"), "a quota per day is used up"),
    (re.compile(r"\blimit: ?0\b(?!\.\d)"), "the limit is 0"),
    (re.compile(r"\brequest too large\b", re.IGNORECASE), "the request can never fit the limit"),
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
    return next((refusal for error in _causes(exc) if (refusal := _read(error)) is not None), None)


def is_rate_limit_error(exc: BaseException) -> bool:
    """Return whether an exception says "slow down"."""
    return read_error(exc) is not None


def retry_after(exc: BaseException) -> float | None:
    """Return the seconds an exception asks to wait, or None if it does not say. Never negative, never endless."""
    refusal = read_error(exc)
    return None if refusal is None else refusal.retry_after


def _read(error: BaseException) -> Refusal | None:
    if isinstance(error, RateLimitHit):
        return Refusal(_seconds(error.retry_after), final=False, reason=_text(error) or type(error).__name__)
    status = _status(error)
    body = _body(error)
    texts = [_text(error), *_strings(body)]
    codes = set(_codes(error, body))
    fields = _headers(error)
    hint = _hint(error, body, fields)
    if status == _TOO_LARGE and "rate_limit_exceeded" in codes:  # Groq's
        return Refusal(None, final=True, reason="the request can never fit the limit")
    if not _is_refusal(error, status, codes, texts, hint):
        return None
    final = _final_reason(texts, codes, fields)
    return Refusal(hint, final is not None, final or texts[0] or type(error).__name__)


def _seconds(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= 0 else None  # type: ignore[arg-type,operator]


def _is_refusal(error: BaseException, status: int | None, codes: set[str], texts: list[str], hint: float | None) -> bool:
    if status is None:
        if any(cls.__name__ in _REFUSED_NAMES for cls in type(error).__mro__):
            return True
        if hint is not None and _BUSY_TEXT.search(texts[0]):  # as with status 503: without a hint it may be broken
            return True
        return _OVERLOADED_TYPE in codes or _REFUSED_TEXT.search(texts[0]) is not None
    if status in (_REFUSED, _OVERLOADED):
        return True
    if status == _UNAVAILABLE:
        return hint is not None or "slow_down" in codes
    if status == _PAYMENT:  # OpenRouter's, of calls under way
        return any("in_flight_budget_exhausted" in text for text in texts)
    is_overloaded = _OVERLOADED_TYPE in codes or _OVERLOADED_TYPE in texts[0]
    return is_overloaded and (status < 300 or status >= 500)


def _final_reason(texts: list[str], codes: set[str], fields: dict[str, str]) -> str | None:
    for code in sorted(codes & _FINAL_CODES):
        return code
    if fields.get("x-ratelimit-limit-req-minute", "").strip() == "0":  # Mistral's
        return "the limit is 0"
    for pattern, reason in _FINAL_TEXTS:
        if any(pattern.search(text) for text in texts):
            return reason
    return next((found[0] for text in texts if (found := _FINAL_CODE.search(text))), None)  # litellm passes the text on


def _hint(error: BaseException, body: object, fields: dict[str, str]) -> float | None:
    wait = headers.retry_after(fields)
    if wait is None:
        wait = headers.parse_wait(_get(error, "retry_after"))
    if wait is None:
        wait = _retry_info(body)
    if wait is None and (said := _HINT.search(_text(error))):
        wait = headers.parse_wait(said[1] or said[2])
    if wait is None:
        used_up = [quota for quota in headers.read_quotas(fields) if quota.remaining == 0 and quota.reset is not None]
        # By a clock that may be an hour off, it is asked again after a minute.
        resets = [min(quota.reset or 0.0, _LONGEST_GUESS if quota.is_guess else math.inf) for quota in used_up]
        wait = max(resets, default=None)
    return wait


def _retry_info(body: object) -> float | None:
    """Return the delay of a google.rpc.RetryInfo, wherever it stands in a body."""
    parts: list[Any] = []
    if isinstance(body, dict):
        if body.get("retryDelay") is not None:
            return headers.parse_wait(body["retryDelay"])
        parts = list(body.values())
    elif isinstance(body, list):
        parts = body
    return next((wait for part in parts if (wait := _retry_info(part)) is not None), None)


def _strings(body: object) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict | list):
        for part in body.values() if isinstance(body, dict) else body:
            yield from _strings(part)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    error: BaseException | None = exc
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__


def _get(thing: object, name: str) -> Any:
    try:
        value = getattr(thing, name, None)
        isinstance(value, int)  # raises for a class that raises when it is asked what it is
        return value
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


def _headers(error: BaseException) -> dict[str, str]:
    # litellm keeps the provider's headers beside those of a response that it may have made up.
    kept = (_get(error, "litellm_response_headers"), _get(error, "headers"), _get(_get(error, "response"), "headers"))
    return {name: value for source in kept if source is not None for name, value in headers.lowered(source).items()}


def headers_of(exc: BaseException) -> dict[str, str]:
    """Return the headers, with lower-case names, of the response that an exception or one of its causes carries."""
    return next((found for error in _causes(exc) if (found := _headers(error))), {})


def _body(error: BaseException) -> dict[str, Any] | list[Any] | None:
    """Return the body of an error as plain data: google-genai's is `details`, mistralai's a text, httpx's in the response."""
    response = _get(error, "response")
    for source, name in ((error, "body"), (error, "details"), (response, "content"), (response, "text")):
        body = _plain(_get(source, name))
        if isinstance(body, dict | list):
            return body
    return None


def _plain(value: object) -> Any:
    """Return data as a server may have sent it, cut to a size that takes no time to read; what is none of it is None."""
    try:
        if isinstance(value, str | bytes) and len(value) <= _LONGEST_BODY and value[:1] in ("{", "[", b"{", b"["):
            value = json.loads(value)
        return _cut(value, _DEPTH, count(1))
    except Exception:  # noqa: BLE001  (what cannot be read says nothing)
        return None


def _cut(value: object, depth: int, parts: Iterator[int]) -> Any:
    if isinstance(value, str):
        return str(value[:_TEXT])
    if isinstance(value, int | float):
        return value
    if depth and isinstance(value, dict):
        return {str(name): _cut(part, depth - 1, parts) for name, part in value.items() if next(parts) <= _PARTS}
    if depth and isinstance(value, list | tuple):
        return [_cut(part, depth - 1, parts) for part in value[:_PARTS] if next(parts) <= _PARTS]
    return None


def _codes(error: BaseException, body: object) -> Iterator[str]:
    inner = body.get("error") if isinstance(body, dict) else None
    for source in (error, body, inner):
        for name in ("code", "type", "error_code"):
            value = source.get(name) if isinstance(source, dict) else _get(source, name)
            if isinstance(value, str):
                yield value[:_TEXT]


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT]
    except Exception:  # noqa: BLE001  (an exception that cannot be read says nothing)
        return ""

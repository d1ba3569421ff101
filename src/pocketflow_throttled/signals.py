"""What an exception says: whether the call was refused, for how long, and whether for good.

Pure, and with no SDK imported. SDKs build on different HTTP clients, so their exceptions are known by attributes and by class
names, wherever they stand behind the one that was raised. Whatever a server sent, nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .carried import BUGS, body_of, causes, codes_of, headers_in, inside, status_of, text_of
from .exceptions import RateLimitHit
from .hints import asked_for, longest_reset
from .told_times import parse_wait

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUPS = 5  # that are nested

_REFUSED, _OVERLOADED, _UNAVAILABLE, _TOO_LARGE, _PAYMENT, _NO_ROOM = 429, 529, 503, 413, 402, 498
_REFUSED_NAME = re.compile(  # the end of it: there are ModelRateLimitError, RateLimitExceeded and TooManyRequestsException
    r"(?:RateLimit(?:ed|Exceeded|Reached|Hit)?|TooManyRequests|ResourceExhausted|Throttl(?:ed|ing))(?:Error|Exception)?$"
)
# Errors of what is read quote it, and that may be an answer about rate limits.
_QUOTING_NAME = re.compile(r"(?:Decode|Validation|Pars(?:e|er|ing)|Syntax|YAML)(?:Error|Exception)$")
_REFUSED_TEXT = re.compile(
    r"\brate[ _-]?limit(?:s|ed|ing|_?error|_?exceeded|_?reached|_?hit)?\b|\btoo[ _-]?many[ _-]?requests\b"
    r"|(?<!\bdisk )\bquota (?:has been |was |is )?exceeded\b|\bexceeded (?:your |the )?(?:current |request )?quota\b"
    r"|(?:^|\b(?:is|are|was|were|been|being|got|requests?|calls?) )throttled\b|(?:^|[:.)] ?)rate exceeded\b(?! \w)"
    r"|\bresource[ _]exhausted\b|\bthrottlingexception\b|\btoo many 429 error responses\b"
    r"|(?:\bstatus(?:[ _]?code)?|\b(?:error[ _]?)?code|\berror|\bhttp(?:/[\d.]+)?)['\" :=]{1,5}429\b"
    r"|(?:\b(?:returned|(?:failed|responded) with|got|received)(?: an?)? |^[(\[]?)429\b(?![)\]]?\s+(?!status\b)\w+s\b)"
    r"|\b(?:error|failed|response) [(\[]429[)\]]",
    re.IGNORECASE,
)
_BUSY_TEXT = re.compile(r"\bserver (?:is )?(?:currently |too )?busy\b", re.IGNORECASE)
_OVERLOADED_TYPE = "overloaded_error"  # Anthropic's: in mid-stream, with status 200; litellm passes it on as a 500
_REFUSED_CODES = frozenset({"rate_limit_error", "rate_limit_exceeded"})  # Anthropic's and OpenAI's, in mid-stream
# botocore's, in lower case: of `botocore.retries.standard.ThrottledRetryableChecker`, those that are of no single service.
_THROTTLED_CODES = frozenset(
    {
        "throttling",
        "throttlingexception",
        "throttledexception",
        "requestthrottled",
        "requestthrottledexception",
        "toomanyrequestsexception",
        "provisionedthroughputexceededexception",
        "requestlimitexceeded",
        "bandwidthlimitexceeded",
        "slowdown",
    }
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
        "billing_not_active",
        "billing_hard_limit_reached",
        "exceeded_current_quota_error",  # Moonshot's
    }
)
_FINAL_CODE = re.compile(rf"\b(?:{'|'.join(sorted(_FINAL_CODES))})\b")
# ai.google.dev/gemini-api/docs/rate-limits and console.groq.com/docs/rate-limits, November 2026.
_FINAL_TEXTS = (
    (
        re.compile(
            r"PerDay|(?<![A-Za-z])per[ _-]day(?![A-Za-z])|\((?:RPD|TPD)\)|\b[Dd]aily (?:\w+ )?(?:limit|quota|allocation)\b"
        ),
        "a quota per day is used up",
    ),
    (re.compile(r"\blimit: ?0\b(?!\.\d)"), "the limit is 0"),
    (re.compile(r"\brequest too large\b|\blarger than max\b", re.IGNORECASE), "the request can never fit the limit"),
    (
        re.compile(
            r"\bcredits? (?:balance )?(?:(?:is|are|has been|have been) )?(?:depleted|exhausted|used up)\b"
            r"|\bused (?:up )?all (?:of )?(?:your |its |the )?(?:available |included )?credits?\b"
            r"|\binsufficient (?:credits?|balance|funds)\b",
            re.IGNORECASE,
        ),
        "no credit is left",
    ),
    (
        re.compile(r"\b(?:reached|exceeded|hit)\b[^.]{0,40}\bspend(?:ing)? (?:limit|cap)\b", re.IGNORECASE),
        "the spending limit is reached",
    ),
    (
        re.compile(r"\blimited to [^.]{0,40}(?:per[ -]|/ ?)month\b|\bmonthly (?:usage )?(?:quota|limit)\b", re.IGNORECASE),
        "a quota per month is used up",
    ),
)
_ASKED_FOR = re.compile(r"\blimit:? (\d{1,12})\b[^\n]{0,60}\brequested:? (\d{1,12})\b", re.IGNORECASE)  # OpenAI's and Groq's


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an API said when it refused a call.

    Attributes:
        retry_after: seconds to wait; None: it did not say.
        final: whether sending the call again cannot help.
        reason: why, for people.
        by_reset: whether it only said when a limit is whole again.
        overloaded: whether it has too much to do, for whoever calls; that tells nothing of the limits of one client.
    """

    retry_after: float | None
    final: bool
    reason: str
    by_reset: bool = field(default=False, repr=False, compare=False)
    overloaded: bool = field(default=False, repr=False, compare=False)


def read_error(exc: BaseException) -> Refusal | None:
    """Return what an exception says of a refusal, or None if it is none.

    A refusal is status 429, or 529 or 503 with a hint how long to wait (both say "overloaded"); a `RateLimitHit`; a class named
    as the SDKs name theirs; or, of an exception with no status at all, a message that says so. It may stand behind the exception,
    as what it was raised from or what was handled then. A group is one if all of its errors are.

    Example:
        >>> read_error(RateLimitHit("slow down", retry_after=2.0))
        Refusal(retry_after=2.0, final=False, reason='slow down')
        >>> read_error(ValueError("order 1429")) is None
        True
    """
    return _read_along(exc, _GROUPS)


def _read_along(exc: BaseException, groups: int) -> Refusal | None:
    """Return the first refusal that is final, else the first that tells a wait: what wraps another may only repeat its name."""
    known: Refusal | None = None
    for error in causes(exc):
        refusal = _read_group(error, groups) if isinstance(error, BaseExceptionGroup) else _read(error)
        if refusal is None:
            continue
        if refusal.final:
            return refusal
        if known is None or (known.retry_after is None and refusal.retry_after is not None):
            known = refusal
    return known


def _read_group(group: BaseExceptionGroup[BaseException], groups: int) -> Refusal | None:
    """Read a group as a refusal if each of its errors is one: any other is the user's to see."""
    found: list[Refusal] = []
    for error in inside(group) if groups else ():
        refusal = _read_along(error, groups - 1)
        if refusal is None:
            return None
        found.append(refusal)
    if not found:
        return None
    waits = [refusal.retry_after for refusal in found if refusal.retry_after is not None]
    first = next((refusal for refusal in found if refusal.final), found[0])
    by_reset, overloaded = all(refusal.by_reset for refusal in found), all(refusal.overloaded for refusal in found)
    return Refusal(max(waits, default=None), first.final, first.reason, by_reset, overloaded)


def is_rate_limit_error(exc: BaseException) -> bool:
    """Return whether an exception says "slow down"."""
    return read_error(exc) is not None


def retry_after(exc: BaseException) -> float | None:
    """Return the seconds an exception asks to wait, or None if it does not say. Never negative, never endless."""
    refusal = read_error(exc)
    return None if refusal is None else refusal.retry_after


def _read(error: BaseException) -> Refusal | None:
    if isinstance(error, RateLimitHit):
        return Refusal(parse_wait(error.retry_after), final=False, reason=text_of(error) or type(error).__name__)
    status = status_of(error)
    body = body_of(error)
    texts = [text_of(error), *_strings(body)]
    codes = set(codes_of(error, body))
    fields = headers_in(error)
    hint = asked_for(error, body, texts, fields)
    by_reset = hint is None
    if by_reset:
        hint = longest_reset(fields)
    if status == _TOO_LARGE and ("rate_limit_exceeded" in codes or any(map(_ASKED_FOR.search, texts))):  # Groq's
        return Refusal(None, final=True, reason="the request can never fit the limit")
    if not _is_refusal(error, status, codes, texts, hint):
        return None
    final = _final_reason(texts, codes, fields)
    overloaded = status in (_OVERLOADED, _UNAVAILABLE, _NO_ROOM) or _OVERLOADED_TYPE in codes or _OVERLOADED_TYPE in texts[0]
    return Refusal(hint, final is not None, final or texts[0] or type(error).__name__, by_reset, overloaded)


def _is_refusal(error: BaseException, status: int | None, codes: set[str], texts: list[str], hint: float | None) -> bool:
    if any(code.lower() in _THROTTLED_CODES for code in codes):
        return True
    if status is None:
        if _is_named(error, _REFUSED_NAME):
            return True
        if hint is not None and _BUSY_TEXT.search(texts[0]):  # as with status 503: without a hint it may be broken
            return True
        if _OVERLOADED_TYPE in codes or codes & (_REFUSED_CODES | _FINAL_CODES):
            return True
        if isinstance(error, BUGS) or _is_named(error, _QUOTING_NAME):  # bugs may quote a key or a name
            return False
        return _OVERLOADED_TYPE in texts[0] or _REFUSED_TEXT.search(texts[0]) is not None
    if status in (_REFUSED, _OVERLOADED):
        return True
    is_overloaded = _OVERLOADED_TYPE in codes or _OVERLOADED_TYPE in texts[0]
    if status == _UNAVAILABLE:
        return hint is not None or is_overloaded or "slow_down" in codes
    if status == _NO_ROOM:  # Groq's, of its flex tier
        return "capacity_exceeded" in codes
    if status == _PAYMENT:  # OpenRouter's, of calls under way
        return any("in_flight_budget_exhausted" in text for text in texts)
    if status < 300:
        return is_overloaded or bool(codes & _REFUSED_CODES)
    return is_overloaded and status >= 500


def _is_named(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(cls.__name__) for cls in type(error).__mro__)


def _final_reason(texts: list[str], codes: set[str], fields: dict[str, str]) -> str | None:
    for code in sorted(codes & _FINAL_CODES):
        return code
    if fields.get("x-ratelimit-limit-req-minute", "").strip() == "0":  # Mistral's
        return "the limit is 0"
    for pattern, reason in _FINAL_TEXTS:
        if any(pattern.search(text) for text in texts):
            return reason
    if any(int(said[2]) > int(said[1]) for text in texts if (said := _ASKED_FOR.search(text))):
        return "the request can never fit the limit"
    return next((found[0] for text in texts if (found := _FINAL_CODE.search(text))), None)  # litellm passes the text on


def _strings(body: object) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict | list):
        for part in body.values() if isinstance(body, dict) else body:
            yield from _strings(part)


def headers_of(exc: BaseException) -> dict[str, str]:
    """Return the headers, with lower-case names, of the response that an exception or one behind it carries."""
    return _headers_along(exc, _GROUPS)


def _headers_along(exc: BaseException, groups: int) -> dict[str, str]:
    for error in causes(exc):
        parts = inside(error) if groups and isinstance(error, BaseExceptionGroup) else ()
        found = headers_in(error) or next((kept for each in parts if (kept := _headers_along(each, groups - 1))), {})
        if found:
            return found
    return {}

"""What an exception says: whether the call was refused, for how long, and whether for good.

Pure, and with no SDK imported. SDKs build on different HTTP clients, so their exceptions are known by attributes and by class
names, wherever they stand behind the one that was raised. Whatever a server sent, nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .carried import BUGS, body_of, causes, codes_of, headers_in, inside, name_of, status_of, status_said, text_of
from .exceptions import RateLimitHit
from .finals import FINAL_CODES, NEVER_FITS, compares_with_limit, final_reason
from .hints import asked_for, longest_reset
from .told_times import parse_wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GROUPS = 5  # that are nested

_REFUSED, _OVERLOADED, _UNAVAILABLE, _TOO_LARGE, _PAYMENT, _NO_ROOM = 429, 529, 503, 413, 402, 498
_REFUSED_NAME = re.compile(  # the end of it: there are ModelRateLimitError, RateLimitExceeded and TooManyRequestsException
    r"(?:RateLimit(?:ed|Exceeded|Reached|Hit)?|TooManyRequests|ResourceExhausted|Throttl(?:ed|ing))(?:Error|Exception)?$"
)
# Errors of what is read quote it, and that may be an answer about rate limits.
_QUOTING_NAME = re.compile(r"(?:Decode|Validation|Pars(?:e|er|ing)|Syntax|YAML)(?:Error|Exception)$")
_REFUSED_WORDS = re.compile(
    r"\brate[ _-]?limit(?:s|ed|ing|_?error|_?exceeded|_?reached|_?hit)?\b|\btoo[ _-]?many[ _-]?requests\b"
    r"|(?<!\bdisk )\bquota (?:has been |was |is )?exceeded\b|\bexceeded (?:your |the )?(?:current |request )?quota\b"
    r"|(?:^|\b(?:is|are|was|were|been|being|got|requests?|calls?) )throttled\b|(?:^|[:.)] ?)rate exceeded\b(?! \w)"
    r"|\bresource[ _]exhausted\b|\bthrottlingexception\b|\btoo many 429 error responses\b"
    r"|\boverloaded_error\b",
    re.IGNORECASE,
)
_REFUSED_NUMBER = re.compile(
    r"(?:\bstatus(?:[ _]?code)?|\b(?<!zip )(?<!postal )(?<!area )(?<!country )(?<!product )(?<!language )(?:error[ _]?)?code"
    r"|\berror|\bhttp(?:/[\d.]+)?)['\" :=]{1,5}429\b"
    r"|\b(?:returned|(?:failed|responded) with|got|received)(?: an?)? 429\b(?!\.\d)(?!\s+(?!status\b)\w+s\b)"
    r"|^[(\[]?429\b(?!\.\d)(?![)\]]?\s+(?:(?!status\b)\w+s|is not a|not in (?:index|list|range)|out of (?:bounds|range))\b)"
    r"|\b(?:error|failed|response) [(\[]429[)\]]",
    re.IGNORECASE,
)
# As `expected 512 features, got 429`: what was counted is no status. But `expected 200, got 429` is one, and so is what came
# instead of something within some seconds.
_COUNTED_TEXT = re.compile(
    r"\bexpect(?:ed|s|ing)?(?: exactly| at least| at most)? (?!(?:0|10[0-3]|2[0-2]\d|30[0-8]|4[0-5]\d|50\d|51[01])\b)\d+"
    r"(?: (?!or\b|m?s\b|seconds?\b)[a-z]+)?,? (?:but )?(?:got|received) 429\b(?! (?:error|from|by|status|response)\b)",
    re.IGNORECASE,
)
_QUOTED = 300  # characters of a message: whoever repeats so many repeats it, though it may be cut
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
    none: list[BaseException] = []  # of those behind: whoever quotes them says nothing by it
    found: list[Refusal] = []
    for error in reversed(list(causes(exc))):
        refusal = _read_group(error, groups) if isinstance(error, BaseExceptionGroup) else _read(error, none)
        if refusal is None:
            none.append(error)
        else:
            found.insert(0, refusal)
    for refusal in found:
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


def _read(error: BaseException, behind: Iterable[BaseException]) -> Refusal | None:
    if isinstance(error, RateLimitHit):
        return Refusal(parse_wait(error.retry_after), final=False, reason=name_of(error))
    status = status_of(error)
    body = body_of(error)
    texts = [text_of(error), *_strings(body)]
    codes = set(codes_of(error, body))
    fields = headers_in(error)
    asked = asked_for(error, body, texts, fields)
    wait = longest_reset(fields) if asked is None else asked
    if status == _TOO_LARGE and ("rate_limit_exceeded" in codes or compares_with_limit(texts)):  # Groq's
        return Refusal(None, final=True, reason=NEVER_FITS)
    is_overloaded = _OVERLOADED_TYPE in codes or _OVERLOADED_TYPE in texts[0]
    if status is None:
        is_refusal = _is_refused_by_name(error, codes) or _is_refused_by_text(error, texts[0], behind, wait)
        if not is_refusal and (status := status_said(error, body)) is not None:
            is_refusal = _is_refused_by_status(status, codes, texts, wait, is_overloaded=is_overloaded)
    else:
        is_refusal = _is_refused_by_status(status, codes, texts, wait, is_overloaded=is_overloaded)
    if not is_refusal:
        return None
    final = final_reason(texts, codes, fields, asked)
    overloaded = is_overloaded or status in (_OVERLOADED, _UNAVAILABLE, _NO_ROOM)
    return Refusal(wait, final is not None, final or name_of(error), asked is None, overloaded)


def _is_refused_by_status(status: int, codes: set[str], texts: list[str], wait: float | None, *, is_overloaded: bool) -> bool:
    if status in (_REFUSED, _OVERLOADED) or _tells_throttled(codes):
        return True
    if status == _UNAVAILABLE:
        return wait is not None or is_overloaded or "slow_down" in codes
    if status == _NO_ROOM:  # Groq's, of its flex tier
        return "capacity_exceeded" in codes
    if status == _PAYMENT:  # OpenRouter's, of calls under way
        return any("in_flight_budget_exhausted" in text for text in texts)
    if status < 300:
        return is_overloaded or bool(codes & _REFUSED_CODES)
    return is_overloaded and status >= 500


def _is_refused_by_name(error: BaseException, codes: set[str]) -> bool:
    is_told = _OVERLOADED_TYPE in codes or bool(codes & (_REFUSED_CODES | FINAL_CODES)) or _tells_throttled(codes)
    return is_told or _is_named(error, _REFUSED_NAME)


def _is_refused_by_text(error: BaseException, text: str, behind: Iterable[BaseException], wait: float | None) -> bool:
    """Return whether the message of an error says so.

    It says nothing by words that it quotes from an error behind it that is no refusal, nor by those around it: an answer that
    could not be read is often told twice. A status that it tells beside the quote counts.
    """
    before = text
    for quoted in (text_of(error).strip("'\"") for error in behind):
        if _says_refused(quoted) and quoted[:_QUOTED] in text:
            text = text.replace(quoted, "").replace(quoted[:_QUOTED], "")
    if wait is not None and _BUSY_TEXT.search(text):  # as with status 503: without a hint it may be broken
        return True
    if isinstance(error, BUGS) or _is_named(error, _QUOTING_NAME):  # bugs may quote a key or a name
        return False
    return _says_refused(text) if text == before else _REFUSED_NUMBER.search(text) is not None


def _says_refused(text: str) -> bool:
    return _REFUSED_WORDS.search(text) is not None or _REFUSED_NUMBER.search(_COUNTED_TEXT.sub("", text)) is not None


def _tells_throttled(codes: set[str]) -> bool:
    return any(code.lower() in _THROTTLED_CODES for code in codes)


def _is_named(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(cls.__name__) for cls in type(error).__mro__)


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

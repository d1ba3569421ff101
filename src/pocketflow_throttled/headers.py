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
_UNITS = {
    **dict.fromkeys(("ms", "millisecond"), 0.001),
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("m", "min", "minute"), 60.0),
    **dict.fromkeys(("h", "hr", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
_UNIT = rf"(?:{'|'.join(sorted(_UNITS, key=len, reverse=True))})"  # `ms` before `m`
DURATION = rf"(?:\d{{1,15}}(?:\.\d{{1,15}})? ?{_UNIT}s?(?:,? (?:and )?(?=\d))?){{1,5}}"  # as `6m0s`, or `1 minute and 30 seconds`
_DURATION = re.compile(DURATION, re.IGNORECASE | re.ASCII)
_PART = re.compile(rf"(\d+(?:\.\d+)?) ?({_UNIT})", re.IGNORECASE | re.ASCII)

Kind = Literal["requests", "tokens"]

_PARAMETER = re.compile(r"\b([a-z]{1,20})\s?=\s?(\d{1,15})(?![\d_])", re.ASCII)
_MOST = 1e15  # of anything that is counted
_HOUR, _DAY = 3600.0, 86400.0
_ABOUT = 1.25  # times as long, or as short: a reset may be told to the full second
_HARDLY_USED = 0.1  # of a limit: what is left may be rounded

# Kind, pattern of the names, and the window that they tell.
_PATTERNS: tuple[tuple[Kind, str, float | None], ...] = (
    ("requests", "x-ratelimit-{}-requests", None),  # OpenAI, Azure, Groq
    ("requests", "anthropic-ratelimit-requests-{}", None),
    ("requests", "x-ratelimit-{}-req-minute", 60.0),  # Mistral
    ("requests", "x-ratelimit-{}", None),  # OpenRouter, and many others
    ("requests", "x-rate-limit-{}", None),
    ("requests", "ratelimit-{}", None),  # older drafts of the IETF
    ("tokens", "x-ratelimit-{}-tokens", None),
    ("tokens", "anthropic-ratelimit-tokens-{}", None),
    ("tokens", "anthropic-ratelimit-input-tokens-{}", None),
    ("tokens", "x-ratelimit-{}-tokens-minute", 60.0),
)
_NAMES = tuple((name.format("limit"), name.format("remaining"), name.format("reset")) for _, name, _ in _PATTERNS)


@dataclass(frozen=True, slots=True)
class Quota:
    """What a server says of one of its limits.

    Attributes:
        kind: what it limits.
        limit: how many in a window; None: it did not say.
        remaining: how many are left; None: it did not say.
        reset: seconds until the limit is whole again; None: it did not say.
        window: length of the window in seconds, where the server names it; None: it did not say.
        is_date: whether `reset` was told as a date: then it is counted from when the answer was sent, or is here.
        is_guess: whether that is counted from this machine's clock, for want of the server's.
    """

    kind: Kind
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None
    window: float | None = None
    is_date: bool = False
    is_guess: bool = False

    def is_longer_than(self, seconds: float) -> bool:
        """Return whether its window is known to be longer.

        Some servers (Groq) count requests by the day under the names that others (OpenAI) use for a minute, and let them come
        back bit by bit: then what is used tells the day. Tokens are counted by the minute under all of these names. Any other
        length tells nothing: by the first answer of a minute which comes back at once, all of it would take hours.
        """
        if self.window is not None:
            return self.window > seconds
        if self.limit is None or not self.remaining or self.reset is None or self.remaining >= self.limit:
            return False
        if self.is_guess:
            return False
        days = self.reset * self.limit / (self.limit - self.remaining) / _DAY
        return self.reset > seconds or (self.kind == "requests" and seconds < _DAY and 1 / _ABOUT <= days <= _ABOUT)


def parse_wait(value: object, now: datetime | None = None) -> float | None:
    """Return a time to wait in seconds, or None if it cannot be read as one.

    Args:
        value: seconds, a sum such as "6m0s" or "2 minutes", an HTTP date, an RFC 3339 time, or seconds or milliseconds since
            1970.
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
        seconds = _number(value) if isinstance(value, str) else float(value)
    except OverflowError:
        return None
    except ValueError:
        seconds = _seconds_of_text(str(value)[:_LONGEST].strip(), now)
    if seconds >= _EPOCH_SECONDS:
        since_1970 = seconds / 1000 if seconds >= _EPOCH_MILLISECONDS else seconds
        seconds = max(0.0, since_1970 - (now or datetime.now(UTC)).timestamp())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _number(text: str) -> float:
    """Return a number as servers write it: `float` also reads 1_000, and the digits of other scripts."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text)


def _is_date(value: str) -> bool:
    try:
        return _number(value) >= _EPOCH_SECONDS
    except ValueError:
        return parse_date(value) is not None


def _seconds_of_text(text: str, now: datetime | None) -> float:
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(text))
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
    told = headers.get("retry-after")
    return None if told is None else parse_wait(told, parse_date(headers.get("date")))


def read_quotas(headers: Mapping[str, str]) -> tuple[Quota, ...]:
    """Return what lower-case headers say of the limits, requests first.

    Of several quotas of one kind, the one with the least left counts, one of a day last. Input tokens count for tokens where they
    are told apart: those are what a request is admitted by, and output tokens are not known before.

    Example:
        >>> [quota] = read_quotas({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
        ...                        "x-ratelimit-reset-requests": "1s"})
        >>> quota.kind, quota.limit, quota.remaining, quota.reset
        ('requests', 60, 59, 1.0)
    """
    found: dict[Kind, list[Quota]] = {"requests": [], "tokens": []}
    for (kind, _, window), names in zip(_PATTERNS, _NAMES, strict=True):
        if names[0] in headers or names[1] in headers:
            quota = _quota(headers, kind, names, window)
            if quota is not None:
                found[kind].append(quota)
    if "ratelimit" in headers or "ratelimit-policy" in headers:
        found["requests"] += _ietf_quotas(headers)
    return tuple(min(quotas, key=_tightness) for quotas in found.values() if quotas)


def never_fits(headers: Mapping[str, str], tokens: int) -> bool:
    """Return whether lower-case headers of a refusal tell that a request of so many tokens can never fit.

    That is if it would take more than a limit of which hardly anything is used, and no other limit is used up.

    Example:
        >>> never_fits({"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "1000"}, 1001)
        True
    """
    quotas = {quota.kind: quota for quota in read_quotas(headers)}
    requests, told = quotas.get("requests"), quotas.get("tokens")
    if told is None or told.limit is None or told.remaining is None or (requests is not None and requests.remaining == 0):
        return False
    return tokens > told.limit and told.remaining >= (1 - _HARDLY_USED) * told.limit


def _tightness(quota: Quota) -> tuple[bool, float]:
    return quota.is_longer_than(_HOUR), math.inf if quota.remaining is None else quota.remaining


def _quota(headers: Mapping[str, str], kind: Kind, names: tuple[str, str, str], window: float | None) -> Quota | None:
    limit, remaining, reset = (headers.get(name) for name in names)
    if limit is not None and names[0] == "ratelimit-limit":  # as in `100, 100;w=60`
        policies = headers.get("ratelimit-policy", limit)
        limit = limit.partition(",")[0].partition(";")[0].strip()
        named = re.search(rf"(?<![\d.]){re.escape(limit[:_LONGEST])};\s?w=(\d{{1,15}})", policies[:_LONGEST])
        window = float(named[1]) or None if named else window
    most, left = _count(limit, least=1), _count(remaining, least=0)
    if most is None and (left is None or _is_unknown(limit)):
        return None
    is_date = reset is not None and _is_date(reset)
    now = parse_date(headers.get("date")) if is_date else None
    return Quota(kind, most, left, parse_wait(reset, now), window, is_date, is_guess=is_date and now is None)


def _is_unknown(limit: str | None) -> bool:
    """Whether it is 0 or -1, as some servers say when they do not know, and not 0.1 a second, as Together says 6 a minute."""
    return _count(limit, least=-math.inf) is not None and not 0 < float(limit or 0) < 1


def _ietf_quotas(headers: Mapping[str, str]) -> list[Quota]:
    """Read what the IETF's drafts say: `RateLimit: "api";r=0;t=55` and `RateLimit-Policy: "api";q=500;w=300`, or several.

    An older one says `RateLimit: limit=500, remaining=0, reset=55` and `RateLimit-Policy: 500;w=300`.
    """
    policies, states = (_ietf_items(headers.get(name, "")) for name in ("ratelimit-policy", "ratelimit"))
    if "limit" in states or "remaining" in states:
        state = {name: number for items in states.values() for name, number in items.items()}
        policy = next(iter(policies.values()), {})
        states, policies = (
            {"": {"r": state.get("remaining", ""), "t": state.get("reset", "")}},
            {"": {"q": state.get("limit", ""), "w": policy.get("w", "")}},
        )
    quotas = []
    for name in {**policies, **states}:
        state, policy = states.get(name, {}), policies.get(name, {})
        limit, remaining = _count(policy.get("q"), least=1), _count(state.get("r"), least=0)
        if limit is not None or remaining is not None:
            quotas.append(Quota("requests", limit, remaining, parse_wait(state.get("t")), parse_wait(policy.get("w")) or None))
    return quotas


def _ietf_items(value: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each item of a structured list by its name."""
    items = (item.strip() for item in value[:_LONGEST].lower().split(","))
    return {_ietf_name(item): dict(_PARAMETER.findall(item)) for item in items if item}


def _ietf_name(item: str) -> str:
    """Return the name of an item: what is no parameter, and the last of that: Hugging Face says `"fixed window";"api";q=500`."""
    names = [part for part in item.split(";") if "=" not in part]
    return names[-1].strip() if names else item.partition("=")[0].strip()


def _count(value: str | None, *, least: float) -> int | None:
    """Return a count, or None for what is none: unreadable, or the -1 and the limit of 0 that some servers send for "unknown"."""
    try:
        number = _number((value or "")[:_LONGEST])
    except ValueError:
        return None
    return int(number) if least <= number < _MOST and number > -_MOST else None

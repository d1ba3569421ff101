"""What a response's headers say: how long to wait, and what is left of which limit.

Pure but for the wall clock, from which `told_times` counts dates where a server tells no date of its own. Whatever a server
sends, nothing raises.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .told_times import LONGEST, parse_date, parse_wait, read_number, tells_date
from .validation import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["requests", "tokens"]

_PARAMETER = re.compile(r"\b([a-z]{1,20})\s?=\s?(\d{1,15})(?![\d_])", re.ASCII)
_HOUR, _DAY = 3600.0, 86400.0
_ABOUT = 1.25  # times as long, or as short: a reset may be told to the full second
_REPEATED = 8  # times that one header is told, at most
_LONGEST_GUESS = 60.0  # seconds until a date by a server's clock that did not tell its own time
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
_OUTPUT = "anthropic-ratelimit-output-tokens-{}"
_OUTPUT_NAMES = (_OUTPUT.format("limit"), _OUTPUT.format("remaining"), _OUTPUT.format("reset"))


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

    @property
    def until_reset(self) -> float:
        """Seconds until the limit is whole again; by a clock that may be an hour off, not beyond a minute; 0: it did not say."""
        return min(self.reset or 0.0, _LONGEST_GUESS if self.is_guess else math.inf)

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
            key, told = _text(name).lower(), _text(value)
            found[key] = told if key.endswith("-bin") else _once(told)  # bytes, of gRPC's metadata
    except Exception:  # noqa: BLE001  (no headers, or none that can be read: then they say nothing)
        return {}
    return found


def _text(value: object) -> str:
    if isinstance(value, list | tuple):  # a header that may be told more than once
        return ", ".join(map(_text, value[:_REPEATED]))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _once(value: str) -> str:
    """Return what a proxy may have added again, and a client joined with commas, as it was told once."""
    parts = [part.strip() for part in value.split(",")] if "," in value and len(value) <= LONGEST else []
    times = (len(parts) // size for size in range(1, len(parts) // 2 + 1) if parts == parts[:size] * (len(parts) // size))
    repeated = next(times, 1)
    return value if repeated == 1 else ", ".join(parts[: len(parts) // repeated])


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that lower-case headers ask to wait: `retry-after-ms`, else `retry-after`.

    A date is counted from the server's own `date`, so that clocks which differ do not matter.
    """
    milliseconds = parse_wait(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told, sent = headers.get("retry-after", ""), parse_date(headers.get("date"))
    wait = parse_wait(told, sent)
    if wait is not None or "," not in told:
        return wait
    waits = [parse_wait(part, sent) for part in told[:LONGEST].split(",")]  # of several servers on the way
    return max((wait for wait in waits if wait is not None), default=None)


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


def read_output_quota(headers: Mapping[str, str]) -> Quota | None:
    """Return what lower-case headers say of output tokens: what a request will take of them is not known before it ends."""
    return _quota(headers, "tokens", _OUTPUT_NAMES, None)


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
        named = re.search(rf"(?<![\d.]){re.escape(limit[:LONGEST])};\s?w=(\d{{1,15}})", policies[:LONGEST])
        window = float(named[1]) or None if named else window
    most, left = _count(limit, least=1), _count(remaining, least=0)
    if most is None and (left is None or _is_unknown(limit)):
        return None
    is_date = reset is not None and tells_date(reset)
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
    items = (item.strip() for item in value[:LONGEST].lower().split(","))
    return {_ietf_name(item): dict(_PARAMETER.findall(item)) for item in items if item}


def _ietf_name(item: str) -> str:
    """Return the name of an item: what is no parameter, and the last of that: Hugging Face says `"fixed window";"api";q=500`."""
    names = [part for part in item.split(";") if "=" not in part]
    return names[-1].strip() if names else item.partition("=")[0].strip()


def _count(value: str | None, *, least: float) -> int | None:
    """Return a count, or None for what is none: unreadable, or the -1 and the limit of 0 that some servers send for "unknown"."""
    try:
        number = read_number((value or "")[:LONGEST])
    except ValueError:
        return None
    return int(number) if least <= number < MOST and number > -MOST else None

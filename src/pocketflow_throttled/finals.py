"""Finals: refusals that no wait can help, as they are told by codes, headers and messages. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NEVER_FITS = "the request can never fit the limit"
_SHORT = 60.0  # seconds: who asks for no longer wait has not used up what only another day brings

# platform.openai.com/docs/guides/rate-limits and docs.anthropic.com/en/api/rate-limits, November 2026.
FINAL_CODES = frozenset(
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
_FINAL_CODE = re.compile(rf"\b(?:{'|'.join(sorted(FINAL_CODES))})\b")
_LINK = re.compile(r"\bhttps?://[^\s\"'<>\\]+")
# ai.google.dev/gemini-api/docs/rate-limits and console.groq.com/docs/rate-limits, November 2026.
_A_DAY = "a quota per day is used up"
_FINAL_TEXTS = (
    (
        re.compile(r"PerDay|By[A-Z][a-z]+ByDay\b|\((?:RPD|TPD)\)"),
        _A_DAY,
    ),  # as the name of the quota: Gemini's, GitHub's, OpenAI's and Groq's
    (re.compile(r"\blimit: ?0\b(?!\.\d)"), "the limit is 0"),
    (re.compile(r"\brequest too large\b|\blarger than max\b", re.IGNORECASE), NEVER_FITS),
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
)
# Which of its quotas is used up, such a message does not always tell: it may name them all, or say how to raise one.
_FINAL_UNLESS_SHORT = (
    (re.compile(r"(?<![A-Za-z])per[ _-]day(?![A-Za-z])|\b[Dd]aily (?:\w+ )?(?:limit|quota|allocation)\b"), _A_DAY),
    (
        re.compile(r"\blimited to [^.]{0,40}(?:per[ -]|/ ?)month\b|\bmonthly (?:usage )?(?:quota|limit)\b", re.IGNORECASE),
        "a quota per month is used up",
    ),
)
_ASKED_FOR = re.compile(r"\blimit:? (\d{1,12})\b[^\n]{0,60}\brequested:? (\d{1,12})\b", re.IGNORECASE)  # OpenAI's and Groq's


def compares_with_limit(texts: Iterable[str]) -> bool:
    """Return whether a message tells a limit, and how much of it was requested."""
    return any(map(_ASKED_FOR.search, texts))


def final_reason(texts: list[str], codes: set[str], fields: dict[str, str], wait: float | None) -> str | None:
    """Return why it cannot help to send a refused call again, or None if it can.

    Args:
        texts: the message of the error, and those in its body.
        codes: that it tells.
        fields: the headers that it carries, with lower-case names.
        wait: seconds for which it asks; None: it does not say.

    Example:
        >>> final_reason(["1000 requests per day exceeded"], set(), {}, wait=None)
        'a quota per day is used up'
        >>> final_reason(["10 requests per minute and 1000 requests per day. Try again in 4 seconds"], set(), {}, wait=4.0)
    """
    for code in sorted(codes & FINAL_CODES):
        return code
    if fields.get("x-ratelimit-limit-req-minute", "").strip() == "0":  # Mistral's
        return "the limit is 0"
    said = [_LINK.sub("", text) for text in texts]
    for pattern, reason in _FINAL_TEXTS if wait is not None and wait <= _SHORT else _FINAL_TEXTS + _FINAL_UNLESS_SHORT:
        if any(map(pattern.search, said)):
            return reason
    if any(int(found[2]) > int(found[1]) for text in said if (found := _ASKED_FOR.search(text))):
        return NEVER_FITS
    named = (found[0] for text in texts if (found := _FINAL_CODE.search(text)))  # litellm passes the text on
    return next(named, None)

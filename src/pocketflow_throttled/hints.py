"""How long an exception asks to wait, by its headers, an attribute, its body, gRPC's metadata or its message. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from . import headers
from .carried import told_by
from .told_times import DURATION, parse_wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HINT = re.compile(
    r"(?:\b(?:try again|retry(?:ing)?|wait|resets?|available)(?: (?:in|after|for))?:? ?~?|\bretryDelay['\"]: ?['\"])"
    rf"({DURATION})\b"
    r"|\bretry_delay \{\s{1,9}seconds: (\d{1,9})(?:\s{1,9}nanos: (\d{1,9}))?\b",  # Google's, as its older clients print it
    re.IGNORECASE | re.ASCII,
)
# In a body; Gemini's is of google.rpc.RetryInfo.
_HINT_NAMES = ("retryDelay", "retry_after", "retryAfter", "retry_after_seconds", "estimated_time")
# As gRPC sends them, in protobuf's wire format: google.rpc.RetryInfo, and google.rpc.Status, of whose details one may be that.
_RETRY_INFO, _STATUS, _TYPE = "google.rpc.retryinfo-bin", "grpc-status-details-bin", b"/google.rpc.RetryInfo"
_LONGEST_MESSAGE = 8192  # bytes: by default, gRPC's clients take no more metadata
_NUMBER, _BYTES = 0, 2  # types of fields; these messages have no others


def asked_for(error: BaseException, body: object, texts: Iterable[str], fields: dict[str, str]) -> float | None:
    """Return how many seconds an error asks to wait, or None if it does not say.

    Args:
        error: the exception.
        body: of it, as plain data.
        texts: its message, and those in the body.
        fields: the headers that it carries, with lower-case names.
    """
    wait = headers.retry_after(fields)
    if wait is None:
        wait = parse_wait(told_by(error, "retry_after"))
    if wait is None:
        wait = _in_body(body)
    if wait is None:
        wait = _in_metadata(fields)
    if wait is None:
        wait = next((_in_text(said) for text in texts if (said := _HINT.search(text))), None)
    return wait


def longest_reset(fields: dict[str, str]) -> float | None:
    """Return the seconds until the last limit is whole again that is used up by headers, or None if they do not say."""
    quotas = (*headers.read_quotas(fields), headers.read_output_quota(fields))
    used_up = (quota for quota in quotas if quota is not None and quota.remaining == 0 and quota.reset is not None)
    return max((quota.until_reset for quota in used_up), default=None)


def _in_text(said: re.Match[str]) -> float | None:
    wait = parse_wait(said[1] or said[2])
    return None if wait is None else wait + int(said[3] or 0) * 1e-9


def _in_body(body: object) -> float | None:
    """Return how long a body says to wait, wherever it does."""
    parts: list[Any] = []
    if isinstance(body, dict):
        for name in _HINT_NAMES:
            if body.get(name) is not None:
                return parse_wait(body[name])
        parts = list(body.values())
    elif isinstance(body, list):
        parts = body
    return next((wait for part in parts if (wait := _in_body(part)) is not None), None)


def _in_metadata(fields: dict[str, str]) -> float | None:
    """Return how long gRPC's metadata says to wait."""
    try:
        for info in _retry_infos(fields):
            for delay in _values(info, 1):
                seconds, nanos = (next(_values(delay, number), 0) for number in (1, 2))
                return parse_wait(f"{seconds}.{nanos:09}s")
    except (ValueError, TypeError, IndexError, AttributeError):  # it is none of these messages
        pass
    return None


def _retry_infos(fields: dict[str, str]) -> Iterator[Any]:
    if _RETRY_INFO in fields:
        yield fields[_RETRY_INFO][:_LONGEST_MESSAGE].encode("latin-1")
    for detail in _values(fields.get(_STATUS, "")[:_LONGEST_MESSAGE].encode("latin-1"), 3):
        if next(_values(detail, 1), b"").endswith(_TYPE):
            yield from _values(detail, 2)


def _values(message: bytes, number: int) -> Iterator[Any]:
    """Yield the values of a field of a message in protobuf's wire format: an int, or bytes of whatever it holds."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        told, at = _varint(message, at)
        value: int | bytes = told
        if key & 7 == _BYTES:
            value, at = message[at : at + told], at + told
        elif key & 7 != _NUMBER:
            raise ValueError(key)
        if key >> 3 == number:
            yield value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number, of which each byte tells seven bits, and where the next one begins."""
    end = at
    while message[end] > 127:
        end += 1
    return sum((byte & 127) << 7 * place for place, byte in enumerate(message[at : end + 1])), end + 1

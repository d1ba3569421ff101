"""What an exception carries: what is behind it, and the status, headers, body and codes of the response that it tells of.

Pure, and with no SDK imported: everything is found by attributes. Whatever is there, nothing here raises.
"""

from __future__ import annotations

import json
import re
from inspect import iscoroutinefunction
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from .headers import lowered

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAUSES = 10  # as deep as anyone wraps; a cycle ends here too
_TEXT = 2000  # of a message, in characters
_DEPTH, _PARTS, _LONGEST_BODY = 6, 1000, 100_000  # of a body: levels, parts, characters of its text
_STATUSES, _ERRORS = range(100, 600), range(400, 600)
_STATUS = re.compile(r"[1-5]\d\d", re.ASCII)
# google.rpc.code tells which status of HTTP is which of gRPC's, whose errors have them for a code. Not those that gRPC makes of
# whatever else came (INTERNAL, UNAVAILABLE, UNKNOWN): of these the message tells.
_GRPC = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "DEADLINE_EXCEEDED": 504,
}
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)

Body = dict[str, Any] | list[Any] | None


def causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what is behind it: what it was raised from, or while what was handled.

    Not the latter behind a bug, nor behind an error with another status of its own: that it came while a refusal was handled
    says nothing of it. With the same status it is the same answer, which litellm tells anew and without its body.
    """
    error: BaseException | None = exc
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        cause = told_by(error, "__cause__") or _last_tried(error) or told_by(error, "cause")  # google.api_core's
        if cause is None and not error.__suppress_context__ and not isinstance(error, BUGS):
            handled, status = told_by(error, "__context__"), status_of(error)
            cause = handled if status is None or status == status_of(handled) else None
        error = cause if isinstance(cause, BaseException) else None


def _last_tried(error: BaseException) -> Any:
    """Return the error of the last try that a retrying library tells of: tenacity's, if it is raised anew, has no other cause."""
    attempt = told_by(error, "last_attempt")
    try:
        return attempt.exception(timeout=0) if attempt is not None else None
    except Exception:  # noqa: BLE001  (what cannot be read says nothing)
        return None


def inside(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, ...]:
    """Return the errors of a group."""
    errors = told_by(group, "exceptions")
    return errors if isinstance(errors, tuple) else ()


def status_of(told: object) -> int | None:
    """Return the HTTP status that an error or a response tells, if any."""
    response = told_by(told, "response")
    for value in (
        told_by(told, "status_code"),
        told_by(told, "code"),
        told_by(response, "status_code"),
        told_by(told_by(response, "ResponseMetadata"), "HTTPStatusCode"),  # botocore's
        told_by(told, "status"),
        told_by(told, "http_status"),  # voyageai's
    ):
        if isinstance(value, int) and not isinstance(value, bool) and value in _STATUSES:
            return value
    is_grpcs = told_by(told, "trailing_metadata") is not None  # of others nothing is called
    return _GRPC.get(str(told_by(_called(told, "code"), "name"))) if is_grpcs else None


def status_said(error: BaseException, body: Body) -> int | None:
    """Return the status of an error that it has as a text, or that its body tells: as OpenRouter's, in mid-stream.

    That is no more than a word: it may tell of a refusal, but not that there is none where something else says so.
    """
    told = told_by(body, "error")
    inner = told if isinstance(told, dict) else body
    values = (told_by(error, "status_code"), told_by(error, "code"), told_by(inner, "status"), told_by(inner, "code"))
    said = (int(value) for value in values if type(value) is int or (isinstance(value, str) and _STATUS.fullmatch(value)))
    return next((status for status in said if status in _ERRORS), None)


def headers_in(error: BaseException) -> dict[str, str]:
    """Return the headers that an error carries, with lower-case names."""
    response = told_by(error, "response")
    body = body_of(error)
    kept = (
        told_by(told_by(told_by(body, "error") or body, "metadata"), "headers"),  # OpenRouter's
        told_by(told_by(response, "ResponseMetadata"), "HTTPHeaders"),
        # litellm keeps the provider's headers beside those of a response that it may have made up.
        told_by(error, "litellm_response_headers"),
        _metadata(response),  # gRPC's, behind an error of google.api_core ...
        _metadata(error),  # ... or its own
        told_by(error, "headers"),
        told_by(response, "headers"),
    )
    return {name: value for source in kept if source is not None for name, value in lowered(source).items()}


def _metadata(error: object) -> list[Any] | None:
    try:
        return list(islice(_called(error, "trailing_metadata"), _PARTS))
    except Exception:  # noqa: BLE001  (what cannot be read says nothing)
        return None


def _called(error: object, name: str) -> Any:
    """Return what a method without arguments returns, as gRPC's errors have them; or None."""
    read = told_by(error, name)
    try:
        return read() if callable(read) and not iscoroutinefunction(read) else None
    except Exception:  # noqa: BLE001  (what cannot be read says nothing)
        return None


def body_of(error: BaseException) -> Body:
    """Return the body of an error as plain data.

    google-genai's is `details`, mistralai's a text, that of botocore the response itself, and of most others in it.
    """
    response = told_by(error, "response")
    for value in (
        told_by(error, "body"),
        told_by(error, "details"),
        told_by(response, "content"),
        told_by(response, "text"),
        response if isinstance(response, dict) else None,
    ):
        body = _plain(value)
        if isinstance(body, dict | list):
            return body
    return None


def codes_of(error: BaseException, body: Body) -> Iterator[str]:
    """Yield the codes and types that an error or its body tells."""
    inner = told_by(body, "error") or told_by(body, "Error")
    for source in (error, body, inner):
        for name in ("code", "type", "error_code", "Code"):
            value = told_by(source, name)
            if isinstance(value, str):
                yield value[:_TEXT]


def text_of(error: BaseException) -> str:
    """Return the message of an error, as far as it is worth reading."""
    try:
        return str(error)[:_TEXT]
    except Exception:  # noqa: BLE001  (an exception that cannot be read says nothing)
        return ""


def name_of(error: BaseException) -> str:
    """Return the message of an error, or the name of its class if it has none."""
    return text_of(error) or type(error).__name__


def told_by(thing: object, name: str) -> Any:
    """Return an attribute, or what is under a key, of whatever came from outside; or None."""
    try:
        value = thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
        isinstance(value, int)  # raises for a class that raises when it is asked what it is
        return value
    except Exception:  # noqa: BLE001  (what cannot be read says nothing)
        return None


def _plain(value: object) -> Any:
    """Return data as a server may have sent it, cut to a size that takes no time to read; what is none of it is None."""
    try:
        if isinstance(value, bytes) and len(value) <= _LONGEST_BODY:
            value = value.decode("utf-8-sig")
        if isinstance(value, str) and len(value) <= _LONGEST_BODY and value.lstrip()[:1] in ("{", "["):
            value = json.loads(value)
        if isinstance(value, list) and len(value) == 1:  # Gemini's, where it speaks as OpenAI does
            value = value[0]
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

"""What a server tells as a time: seconds, a sum of units, a date, or a moment since 1970. One rule reads every provider's format.

Pure but for the wall clock that dates are counted from, unless the caller gives one. Whatever a server sent, nothing raises, and
no time is negative or endless.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from numbers import Real

LONGEST = 200  # of a value, in characters: beyond that nobody means well
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


def parse_wait(value: object, now: datetime | None = None) -> float | None:
    """Return a time to wait in seconds, or None if it cannot be read as one.

    Args:
        value: seconds, a sum such as "6m0s" or "2 minutes", an HTTP date, an RFC 3339 time, seconds or milliseconds since
            1970, or, from code, any real number or a timedelta.
        now: wall-clock time a date is counted from; None: the present.

    Example:
        >>> parse_wait("30"), parse_wait("6m0s"), parse_wait("12ms"), parse_wait("soon"), parse_wait(-1)
        (30.0, 360.0, 0.012, None, None)
        >>> parse_wait("2026-11-24T12:00:30Z", now=datetime(2026, 11, 24, 12, tzinfo=UTC))
        30.0
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        try:
            seconds = _until(read_number(value), now)
        except ValueError:
            seconds = _seconds_of_text(value[:LONGEST].strip(), now)
    elif isinstance(value, Real | Decimal) and not isinstance(value, bool):
        try:
            seconds = _until(float(value), now)
        except Exception:  # noqa: BLE001  (too large for a float, a signalling NaN, or a class of a program's that raises)
            return None
    else:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(seconds: float, now: datetime | None) -> float:
    """Return seconds as they are, or, if they are so many that they are counted from 1970, those until then."""
    if seconds >= _EPOCH_SECONDS:
        since_1970 = seconds / 1000 if seconds >= _EPOCH_MILLISECONDS else seconds
        seconds = max(0.0, since_1970 - (now or datetime.now(UTC)).timestamp())
    return seconds


def read_number(text: str) -> float:
    """Return a number as servers write it: `float` also reads 1_000, and the digits of other scripts."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text)


def _seconds_of_text(text: str, now: datetime | None) -> float:
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(text))
    date = parse_date(text)
    return math.nan if date is None else max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def parse_date(value: object) -> datetime | None:
    """Return an RFC 3339 time or an HTTP date, or None if it is neither."""
    if not isinstance(value, str):
        return None
    text = value[:LONGEST].strip()
    try:
        date = datetime.fromisoformat(text) if _RFC_3339.match(text) else parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def tells_date(value: str) -> bool:
    """Return whether it is a date, or a moment since 1970."""
    try:
        return read_number(value) >= _EPOCH_SECONDS
    except ValueError:
        return parse_date(value) is not None

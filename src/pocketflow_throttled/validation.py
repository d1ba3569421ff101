"""What a setting may be. Each check returns the value, or raises an error that names the setting, the value and what would do."""

from __future__ import annotations

import math

_MINUTE = 60.0  # seconds
MOST = 10**12  # of anything that is counted, as calls or servers tell it, who may tell anything: floats have an end


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """Return `value` if it is an int of at least `least`, else raise TypeError or ValueError that name the setting."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if not _is_finite(value):
        raise ValueError(f"{name} must be a number that a float can hold, got one of {value.bit_length()} bits")
    return value


def check_tokens(name: str, value: object) -> int:
    """Return what a call costs, at most MOST, if it is an int of at least 0, else raise as `check_count` does."""
    if isinstance(value, int) and value > MOST:
        return MOST
    return check_count(name, value, least=0)


def check_optional_count(name: str, value: object) -> int | None:
    """Return `value` if it is None (no limit) or a count, else raise."""
    return None if value is None else check_count(name, value)


def check_limit(name: str, value: int | None, minute: str, per_minute: int | None, seconds: float) -> int | None:
    """Return a limit, of a window of so many seconds or, by the name that nodes and presets have, of a minute; else raise."""
    check_optional_count(name, value)
    if per_minute is None:
        return value
    limit = check_count(minute, per_minute)
    if value is not None:
        raise ValueError(f"{minute} is {name} by another name, got {minute}={per_minute!r} and {name}={value!r}: set one of them")
    if seconds != _MINUTE:
        raise ValueError(f"{minute} is of 60 s, got {minute}={per_minute!r} and window_seconds={seconds!r}: set {name}")
    return limit


def check_burst(burst: int | None, name: str, limit: int | None) -> None:
    """Raise ValueError if calls are to be spaced of which there is no limit, by the name of that setting."""
    if burst is not None and limit is None:
        raise ValueError(f"max_burst needs {name}, got max_burst={burst!r} and {name}=None: set {name}, or leave max_burst out")


def check_seconds(name: str, value: object, *, positive: bool = True) -> float:
    """Return `value` as a finite number of seconds, else raise TypeError or ValueError that name the setting."""
    wanted = "positive" if positive else "zero or more"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be {wanted}, a number of seconds, got {value!r}")
    if not _is_finite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be {wanted} and finite, in seconds, got {value!r}")
    return float(value)


def check_factor(name: str, value: object, *, above: float, below: float = math.inf) -> None:
    """Raise TypeError or ValueError that name the setting if `value` is no number strictly between two others."""
    wanted = f"above {above:g}" if below == math.inf else f"between {above:g} and {below:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number {wanted}, got {value!r}")
    if not _is_finite(value) or not above < value < below:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold is as good as endless
        return False

"""Notes: what an error tells, beside what it was raised with, of the item that it is about. Nothing here raises."""

from __future__ import annotations

from contextlib import suppress

_SHOWN = 200  # characters of a value


def shown(value: object) -> str:
    """Return the start of a value's repr, for an error message; never raises."""
    try:
        return f"{value!r:.{_SHOWN}}"
    except Exception:  # noqa: BLE001  (a broken __repr__ must not hide the error that is being told)
        return f"<{type(value).__name__}>"


def noted(error: BaseException, note: str) -> None:
    """Add a note to an exception, where it takes any: a frozen dataclass does not. Never raises."""
    with suppress(Exception):
        error.add_note(note)


def explained(exc: Exception, reason: str) -> Exception:
    """Return an exception that says itself why its item is not sent again: in its message, if it shows one, else in a note."""
    with suppress(Exception):  # it may be frozen, or not to be shown
        if len(exc.args) == 1 and isinstance(exc.args[0], str) and reason not in exc.args[0]:
            exc.args = (f"{exc.args[0]} ({reason})",)
        if reason in str(exc):
            return exc
    noted(exc, reason)
    return exc

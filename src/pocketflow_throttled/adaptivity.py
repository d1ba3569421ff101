"""What users set and see of the adaptive rule: its settings, and the changes it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .validation import check_count, check_factor


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The settings of the adaptive rule.

    Args:
        initial_concurrent: calls at once to start with; None: 5, brought into min..max.
        min_concurrent: the fewest at once.
        max_concurrent: the most at once.
        backoff_factor: a cut multiplies by this, between 0 and 1.
        recovery_threshold: successes in a row before the limit is raised.
        recovery_factor: a raise multiplies by this, above 1, and adds at least 1.

    Raises:
        TypeError, ValueError: a setting is out of range; the message names it and its value.

    Example:
        >>> Adaptive(initial_concurrent=10, max_concurrent=100).backoff_factor
        0.5
    """

    initial_concurrent: int | None = None
    min_concurrent: int = 1
    max_concurrent: int = 20
    backoff_factor: float = 0.5
    recovery_threshold: int = 10
    recovery_factor: float = 1.2

    def __post_init__(self) -> None:
        for name in ("min_concurrent", "max_concurrent", "recovery_threshold"):
            check_count(name, getattr(self, name))
        check_factor("backoff_factor", self.backoff_factor, above=0, below=1)
        check_factor("recovery_factor", self.recovery_factor, above=1)
        least, most, initial = self.min_concurrent, self.max_concurrent, self.initial_concurrent
        if least > most:
            raise ValueError(f"min_concurrent must be at most max_concurrent={most}, got {least}")
        if initial is not None and not least <= check_count("initial_concurrent", initial) <= most:
            raise ValueError(f"initial_concurrent must be within {least}..{most} (min..max_concurrent), got {initial}")

    @property
    def initial(self) -> int:
        """Calls at once to start with."""
        return (
            min(max(5, self.min_concurrent), self.max_concurrent) if self.initial_concurrent is None else self.initial_concurrent
        )


class Change(NamedTuple):
    """One change of a limit: when, from, to, and why."""

    time: float
    old: int
    new: int
    reason: str

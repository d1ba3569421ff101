"""Answers: what is known of one beside what its headers tell of limits. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .counting import NOTHING

if TYPE_CHECKING:
    from .counting import Counts


@dataclass(frozen=True, slots=True)
class Mark:
    """What a limiter had counted when a call started."""

    time: float
    requests: int
    tokens: Counts


UNMARKED = Mark(-math.inf, 0, NOTHING)  # of calls that started before the server had told anything


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of an answer beside what its headers tell of limits.

    Attributes:
        now: when it is here.
        call: what was counted as its call started; None: nobody knows whose it is.
        is_refused: whether it refuses its call.
        hint: seconds that Retry-After asks for; None: nothing.
        at_most: seconds for which others' share is held.
    """

    now: float
    call: Mark | None
    is_refused: bool
    hint: float | None
    at_most: float

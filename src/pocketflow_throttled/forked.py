"""Forked: a child process has limiters of its own. Who holds or waits for a slot of one does so in the parent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from .waiting import Waiting

limiters: WeakSet[Waiting] = WeakSet()


def _begin_anew() -> None:
    for limiter in limiters:
        limiter._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

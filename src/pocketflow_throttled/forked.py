"""Forked: a child process has limiters of its own. Who holds or waits for a slot, or holds a lock, does so in the parent."""

from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from .waiting import Waiting

begin_anew: WeakSet[Waiting | Lock] = WeakSet()


class Lock:
    """A re-entrant lock that is free in a child process, whoever held it in the parent as it was forked."""

    def __init__(self) -> None:
        self._begin_anew()
        begin_anew.add(self)

    def _begin_anew(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _in_child() -> None:
    for each in begin_anew:
        each._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

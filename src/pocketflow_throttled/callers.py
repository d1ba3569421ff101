"""Callers: the batches around a batch, so that none waits for the very slots that the calls around it hold."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .permit import Permit
    from .rate_limiter import RateLimiter

    Items = dict[int, tuple[asyncio.Task[Any], Permit]]


class _Batch(NamedTuple):
    """A batch as its calls see it: its items under way, what runs it, and the batch around that."""

    limiters: tuple[RateLimiter, ...]  # its own, and those of the batches around it
    items: Items
    task: asyncio.Task[Any] | None
    outer: _Batch | None


_around: ContextVar[_Batch | None] = ContextVar("around", default=None)


def be_around_the_calls_of(items: Items, limiter: RateLimiter) -> None:
    """Let every task that is started in this context know that a call of this batch is around it."""
    outer = _around.get()
    limiters = (limiter,) if outer is None else (limiter, *outer.limiters)
    _around.set(_Batch(limiters, items, asyncio.current_task(), outer))


def is_held_by_a_caller(limiter: RateLimiter) -> bool:
    """Return whether the call that this task is, or a call around that, holds a slot of a limiter.

    A task that a call has started is none of its callers': it may outlive the call.
    """
    batch, task = _around.get(), asyncio.current_task()
    while batch is not None and limiter in batch.limiters:
        permit = next((permit for mine, permit in batch.items.values() if mine is task), None)
        if permit is None:
            return False
        if permit.limiter is limiter and permit.held:
            return True
        task, batch = batch.task, batch.outer
    return False

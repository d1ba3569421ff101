"""Slices: the shorter times in which a server may enforce a limit of tokens, and which of them explain what it refused. Pure."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from .on_the_way import IN_ANY_ORDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .token_window import Spend

_PARTS = (2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60)  # of the window, which a slice may be: of a minute, whole seconds
# Whether it counts by a sliding window, a fixed one or as a bucket, what a server has served in a slice leaves no room for
# what it refuses. That must hold for _MOST of what was refused.
_MOST = 0.75


def slices_of(limit: int, seconds: float, largest: int) -> Iterator[tuple[int, float]]:
    """Yield the limits and seconds of what may be a slice of a window, the longest first: none holds less than the largest call.

    Example:
        >>> list(slices_of(limit=600, seconds=60.0, largest=150))
        [(300, 30.0), (200, 20.0), (150, 15.0)]
    """
    return ((limit // parts, seconds / parts) for parts in _PARTS if limit // parts >= largest)


def explains(limit: int, seconds: float, spends: Sequence[Spend], counted: Callable[[Spend], int]) -> bool:
    """Return whether a server that allows `limit` tokens in `seconds` refuses what was refused.

    Args:
        limit: of the slice, in tokens.
        seconds: length of the slice.
        spends: what was served and what was refused, by time.
        counted: the tokens that a server counts of one.
    """
    served = [spend for spend in spends if not spend.is_refused]
    refused = [spend for spend in spends if spend.is_refused and not spend.is_dropped]
    times = [spend.time for spend in served]
    sums = [0, *accumulate(map(counted, served))]
    explained = 0
    for spend in refused:
        since, until = spend.time - seconds - IN_ANY_ORDER, spend.time + IN_ANY_ORDER
        explained += sums[bisect_right(times, until)] - sums[bisect_right(times, since)] + counted(spend) > limit
    return explained >= _MOST * len(refused)

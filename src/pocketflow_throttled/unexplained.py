"""Unexplained: a refusal by a server that had room, as far as was known then. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .token_window import Spend


class Unexplained(NamedTuple):
    """A refusal that what calls cost which were under way may explain, once they have told it.

    Attributes:
        room: what would have fitted beside what was known.
        untold: calls under way then that have not told yet what they cost.
        under_way: all of these.
        refused: the call.
    """

    room: int
    untold: set[Spend]
    under_way: list[Spend]
    refused: Spend

    def is_told_by(self, spend: Spend) -> bool:
        """Take note that a call has told what it costs; return whether all have."""
        self.untold.discard(spend)
        return not self.untold

    @property
    def is_explained(self) -> bool:
        """Whether there was no room, by what these cost."""
        return sum(each.cost for each in self.under_way) + self.refused.cost > self.room

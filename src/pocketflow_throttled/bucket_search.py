"""BucketSearch: looks for a bucket that explains when an API refused. Pure: times are arguments, in seconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .bucket_fit import fitted
from .conclusions import refused_by_a_rate

if TYPE_CHECKING:
    from .bucket_fit import Bucket
    from .evidence import Evidence

_SOME_MORE = 25  # of all starts, such a part must be new to look again in vain, which takes time
_NEWS = 10  # starts since one was found, without which it is no news that the same is found again


class BucketSearch:
    """The bucket that explains the refusals, as far as it was found.

    Args:
        evidence: the starts there were, and the refusals.

    Attributes:
        found: the last one; None: none was, or it was forgotten.
        is_news: whether much was admitted between the last two times that one was found.
    """

    __slots__ = ("_evidence", "_found_at", "_in_vain_at", "found", "is_news")

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._found_at = self._in_vain_at = -math.inf
        self.found: Bucket | None = None
        self.is_news = True

    def look(self, now: float) -> Bucket | None:
        """Return the bucket that explains the refusals up to now; None: none does, or it is too soon to look again."""
        evidence = self._evidence
        if evidence.between(self._in_vain_at, now) < len(evidence.starts) // _SOME_MORE:
            return None
        bucket = fitted(list(evidence.starts), refused_by_a_rate(evidence), self.found)
        if bucket is None:
            self._in_vain_at = now
            return None
        self.is_news = evidence.between(self._found_at, now) >= _NEWS
        self.found, self._found_at = bucket, now
        return bucket

    def forget(self) -> None:
        """Look for any bucket from now on, and not first for the one that was found."""
        self.found = None

"""How providers count: in any window, in a bucket, or in windows that begin at fixed times. Pure: `now` is an argument."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

Counting = Literal["sliding", "bucket", "fixed"]


@dataclass
class Count:
    """How much of one limit is used: `limit` in `seconds`, in any of these, in a bucket, or in windows that begin at `phase`."""

    limit: int
    seconds: float
    counting: Counting = "sliding"
    phase: float = 0.0
    _log: deque[tuple[float, int]] = field(default_factory=deque)
    _used: float = 0.0
    _at: float = 0.0

    def used(self, now: float) -> float:
        if self.counting == "bucket":
            self._used = max(0.0, self._used - (now - self._at) * self.limit / self.seconds)
        elif self.counting == "fixed" and self._window(now) != self._window(self._at):
            self._used = 0.0
        while self.counting == "sliding" and self._log and self._log[0][0] + self.seconds <= now + 1e-9:
            self._used -= self._log.popleft()[1]
        self._at = now
        return self._used

    def _window(self, now: float) -> int:
        return math.floor((now - self.phase) / self.seconds + 1e-9)

    def add(self, now: float, cost: int) -> None:
        self._used = self.used(now) + cost
        self._log.append((now, cost))

    def left(self, now: float) -> int:
        return max(0, math.floor(self.limit - self.used(now) + 1e-6))

    def wait(self, now: float, cost: int) -> float:
        """Seconds until `cost` fits; 0.0 if it does now."""
        over = self.used(now) + min(cost, self.limit) - self.limit
        if over <= 1e-6:
            return 0.0
        if self.counting == "bucket":
            return over * self.seconds / self.limit
        if self.counting == "fixed":
            return self.phase + (self._window(now) + 1) * self.seconds - now
        for time, spent in self._log:
            over -= spent
            if over <= 0:
                return time + self.seconds - now
        return self.seconds

    def reset(self, now: float) -> float:
        """Seconds until the limit is whole again."""
        used = self.used(now)
        if self.counting == "bucket":
            return used * self.seconds / self.limit
        if self.counting == "fixed":
            return self.phase + (self._window(now) + 1) * self.seconds - now
        return self._log[-1][0] + self.seconds - now if self._log else 0.0

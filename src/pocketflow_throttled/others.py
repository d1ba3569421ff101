"""Others: what other clients on the same key have used of a limit, by what a server says is left of it.

A server counts a call when it arrives. What it says is left may be of that moment, and so as old as the answer is slow, or of the
moment when it answers. Until it is known which, it is held against one's own count at the call's start or now, whichever is
larger; only what is missing then is others'. Pure: it knows neither clock nor queue.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .answers import UNMARKED
from .boundary import Boundary
from .counted_window import CountedWindow
from .counting import Way
from .moment import Moment
from .on_the_way import ARRIVED, IN_ANY_ORDER
from .small_bucket import SmallBucket
from .span import ALIKE, FULL_SECOND, SHORT
from .token_window import TokenWindow
from .untold_wait import UntoldWait

if TYPE_CHECKING:
    from .answers import Answer
    from .budget import Budget
    from .headers import Kind, Quota
    from .span import Span
    from .window import SlidingWindow

_ROLLING = 0.9  # of a window: a reset as far away as that does not tell when the first of the limit comes back ...
_ROLLING_IF_GUESSED = 0.65  # ... nor does one that by clocks which differ may be as far away
_AS_LONG = 1.05  # times the window: resets that are no longer, but for rounding, tell of no longer window than is counted here
_ROUNDED = 0.02  # of a limit: what it says is left may be rounded


class Others:
    """What others take of the limits of a budget.

    Args:
        budget: whose windows they are.
        asked: what the user set.
        spans: what is known of windows whose lengths nobody tells.
    """

    def __init__(self, budget: Budget, asked: dict[Kind, int | None], spans: dict[Kind, Span]) -> None:
        self._budget = budget
        self._asked = asked
        self._spans = spans
        self._told_at: dict[Kind, float] = {"requests": -math.inf, "tokens": -math.inf}
        self._told_by = dict(self._told_at)  # the last start of a call whose answer has told
        self._moment, self._bucket = Moment(), SmallBucket(budget, spans["requests"])
        # As told, if that is of calls' starts, and if it is of their ends.
        self._boundaries: dict[Kind, tuple[Boundary, Boundary]] = {
            "requests": (Boundary(), Boundary()),
            "tokens": (Boundary(), Boundary()),
        }
        self._untold_waits = {kind: UntoldWait(budget, kind) for kind in self._told_at}

    def served(self, quota: Quota, now: float) -> None:
        """Learn how much there ever is left; whoever first gives a small bucket away ends the wait for a whole window."""
        span = self._spans[quota.kind]
        was_small = span.is_small
        span.served(quota, self._served_at_once(quota.kind, now))
        if span.is_small and not was_small:
            self._told_at[quota.kind] = -math.inf

    def _served_at_once(self, kind: Kind, now: float) -> int:
        """Return how many calls a bucket must have held, as so many started at once and none of them is refused by now."""
        window = self._budget.requests
        if kind == "tokens" or window is None or not window.times or now < window.times[0] + ARRIVED:
            return 0
        first = window.times[0]
        filled = (IN_ANY_ORDER + ARRIVED) * window.limit / window.seconds
        before = math.nextafter(first, -math.inf)
        refused = self._budget.refused_since(-math.inf) - self._budget.refused_since(before)  # counted from when a limit was told
        return window.count_served_between(before, first + IN_ANY_ORDER) - refused - math.ceil(filled)

    def take_away(self, quota: Quota, answer: Answer, *, is_pace: bool) -> float:
        """Count what others have used, and return for how long nothing should start: until the reset at 0 left.

        Where the limiter has counted the same, its own log knows better when there is room than "whole again" says.

        Args:
            quota: what is told.
            answer: in which it is.
            is_pace: whether its limit is a pace within the user's.
        """
        remaining, reset, window = quota.remaining, quota.reset, self._budget.window(quota.kind)
        if remaining is None:
            return 0.0
        if window is None:
            reset = min(reset or 0.0, self._budget.seconds) if quota.is_guess else reset or 0.0
            return reset if remaining == 0 else 0.0
        used = max(0, (quota.limit or window.limit) - remaining)  # by the server's count
        if quota.kind == "requests" and self._bucket.follow(quota, remaining, answer):
            return 0.0
        self._learn(quota, answer, window, used)
        age, own = self._held_against(answer, quota.kind, used)
        if self._is_outdated(quota, answer, window.seconds):
            return 0.0
        if quota.is_date:
            age = 0.0
        # Told to the minute's end by a clock that may be wrong, a reset is no further away than the window is long.
        most = window.seconds if reset is None or quota.is_guess else math.inf
        reset = max(0.0, min(math.inf if reset is None else reset, most) - age)
        wait = reset if remaining == 0 and quota.reset is not None else 0.0
        missing = used if is_pace else window.limit - remaining
        others = max(0, missing - own)
        if others and not answer.is_refused and self._is_all_its_own(quota, answer):
            others = 0
        back_after = self._back_after(quota, answer, window, reset, others=others, missing=missing)
        self._count(quota, answer, window, others, back_after)
        if answer.call is not None and quota.kind == "requests" and self._asked["requests"] is None:
            self._budget.forget_requests(answer.call.time - IN_ANY_ORDER, used)
        is_rolling = own > 0 and back_after[1] + age >= (_ROLLING_IF_GUESSED if quota.is_guess else _ROLLING) * window.seconds
        is_counted = others <= _ROUNDED * window.limit
        return 0.0 if (is_counted or is_rolling) and self._log_is_long_enough(quota, window.seconds, back_after[1]) else wait

    def _learn(self, quota: Quota, answer: Answer, window: SlidingWindow | TokenWindow, used: int) -> None:
        """Learn from an answer that is no refusal where the server's window ends, and what it counts of tokens."""
        now, call = answer.now, answer.call
        if answer.is_refused:
            return
        self._find_boundary(quota, answer, used, window.seconds)
        if isinstance(window, CountedWindow) and call is not None:
            is_bucket, began_at = self._spans["tokens"].comes_back_evenly, self._began_at("tokens", now, window.seconds)
            window.compare(now, used, call.time, call.tokens, is_bucket=is_bucket, began_at=began_at)
            if quota.limit is not None:
                by_start, by_end = (boundary.began_at(now, window.seconds) for boundary in self._boundaries["tokens"])
                window.deny(now, used, call.time, limit=quota.limit, began_at=(by_start, by_end))

    def _count(
        self, quota: Quota, answer: Answer, window: SlidingWindow | TokenWindow, others: int, back_after: tuple[float, float]
    ) -> None:
        """Count what others have used, unless more was told since the call of this answer started."""
        now, call, (first, last) = answer.now, answer.call, back_after
        if call is None or call.time >= self._told_at[quota.kind] or others >= window.others(now):
            back = now + min(first, answer.at_most), now + min(last, answer.at_most)
            window.take_away(others, *back, self._told_of(quota, answer), began_at=self._since(quota.kind, now))
            self._told_at[quota.kind] = now

    @staticmethod
    def _log_is_long_enough(quota: Quota, seconds: float, reset: float) -> bool:
        """Whether the limiter's own log, of a window of so many seconds, reaches as far back as what the server counts."""
        rounded = 2 * FULL_SECOND if quota.is_date else FULL_SECOND if reset.is_integer() else 0.0
        return max(reset, quota.window or 0.0) <= _AS_LONG * seconds + rounded

    @property
    def _way(self) -> Way:
        """How tokens are counted, as far as it is known."""
        window = self._budget.window("tokens")
        return window.way if isinstance(window, TokenWindow) else Way.COST

    def _is_all_its_own(self, quota: Quota, answer: Answer) -> bool:
        """Whether what is missing of a bucket may be what was started here in the time in which the bucket fills by as much.

        A bucket that holds less than the limit has never much left, and is whole again within seconds.
        """
        reset, window, span = quota.reset, self._budget.requests, self._spans["requests"]
        if quota.kind == "tokens" or window is None or quota.is_guess or reset is None or max(reset, span.longest) > SHORT:
            return False
        seconds = reset + (FULL_SECOND if reset.is_integer() else 0.0)
        rate = (quota.limit or window.limit) / window.seconds
        if span.tells_of_one(quota, rate):
            return False
        missing = max(0.0, reset - (FULL_SECOND if quota.is_date else 0.0)) * rate
        now, call = answer.now, answer.call
        if self._bucket.is_refused_often(now):
            return False
        then = now if call is None or call is UNMARKED else call.time
        return ALIKE * missing <= max(self._budget.starts_between(when - seconds, when) for when in (now, then))

    def _told_of(self, quota: Quota, answer: Answer) -> float | None:
        """Return the moment that an answer tells of, if that is known, and if others have taken what it says is missing."""
        moment, call = self._moment, answer.call
        if answer.is_refused or call is None or self._spans[quota.kind].is_small:
            return None
        if moment.is_start:
            return call.time
        return answer.now if moment.is_end or quota.kind == "tokens" else None

    def _back_after(
        self,
        quota: Quota,
        answer: Answer,
        window: SlidingWindow | TokenWindow,
        reset: float,
        *,
        others: int,
        missing: int,
    ) -> tuple[float, float]:
        """Return the seconds after which the first of what others have taken is back, and the last."""
        now, call, hint, span = answer.now, answer.call, answer.hint, self._spans[quota.kind]
        if others and answer.is_refused and quota.reset is None and hint is None:
            untold = self._untold_waits[quota.kind].refused(window, others, now)
            if untold is not None:
                return untold
        first, each = reset, window.seconds / window.limit
        if quota.reset is None and span.may_be_small(self._budget.at_once, window.limit):
            age = 0.0 if call is None else now - call.time  # at most: it may tell of the moment when its call started
            first, reset = max(0.0, each - age), others * each  # as fast as the limit says
        elif quota.reset is not None and span.tells_of_one(quota, 1 / each):
            reset = min(window.seconds, missing * each)
        if quota.remaining == 0 and hint is not None:
            # Retry-After tells when the first of them is back, `reset` when the last is, if the clocks agree.
            return hint, hint if quota.is_guess else max(hint, min(reset, window.seconds))
        return first, reset

    def _is_outdated(self, quota: Quota, answer: Answer, seconds: float) -> bool:
        """Whether an answer tells no reset, and of a moment before one of which the answer of a later call has told."""
        call, told_by = answer.call, self._told_by[quota.kind]
        if call is None or call is UNMARKED or answer.is_refused:
            return False
        self._told_by[quota.kind] = max(told_by, call.time)
        if quota.reset is not None or self._moment.is_end or call.time >= told_by - IN_ANY_ORDER:
            return False
        turned_at = self._boundaries[quota.kind][0].turned_at(answer.now, seconds)  # since then it would tell of less
        return self._moment.is_start or call.time < turned_at <= told_by

    def _find_boundary(self, quota: Quota, answer: Answer, used: int, seconds: float) -> None:
        """Learn where the server's window ends, if it is a fixed one."""
        now, call, reset = answer.now, answer.call, quota.reset
        if call is None or call is UNMARKED or not reset or quota.is_guess:  # 0: some tell nothing by it
            return
        end = now + reset
        by_start, by_end = self._boundaries[quota.kind]
        is_sure = not quota.is_date  # that is counted from the server's own date, whatever moment that is of
        by_start.learn(call.time, now, call.time + reset if is_sure else end, used, seconds=seconds, is_sure=is_sure)
        by_end.learn(call.time, now, end, used, seconds=seconds, is_sure=is_sure)

    def _since(self, kind: Kind, now: float) -> float:
        """Return when a fixed window of requests began, if it is known to be one."""
        window = self._budget.requests
        return -math.inf if kind == "tokens" or window is None else self._began_at(kind, now, window.seconds)

    def _began_at(self, kind: Kind, now: float, seconds: float) -> float:
        """Return when a fixed window began, if it is known to be one."""
        by_start, by_end = self._boundaries[kind]
        began_at = (by_end if by_start.end is None else by_start).began_at(now, seconds)
        return -math.inf if began_at is None else began_at

    def _served_since(self, since: float, until: float) -> int:
        window = self._budget.requests
        return 0 if window is None else window.count_served_between(since, until)

    def _held_against(self, answer: Answer, kind: Kind, used: int) -> tuple[float, int]:
        """Return how many seconds old an answer is at least, and what was counted here at the moment that it may tell of."""
        now, call, moment = answer.now, answer.call, self._moment
        own = self._budget.served(kind, now)
        if call is None:
            return 0.0, own
        before = call.requests if kind == "requests" else call.tokens[self._way]
        since = self._since(kind, now)
        if since > -math.inf:
            own, before = self._served_since(since, now), self._served_since(since, call.time)
        age, most = max(0.0, now - call.time - ARRIVED), max(own, before)
        if call is UNMARKED or answer.is_refused:
            return 0.0, most
        if kind == "requests":
            moment.learn(used - before, used - own)
        elif moment.is_start or moment.is_end:  # tokens of calls under way are estimates, so neither count is exact
            return age if moment.is_start else 0.0, most
        if moment.is_start:  # some that started after it may have arrived before it
            return age, min(most, before + self._budget.starts_between(call.time, call.time + IN_ANY_ORDER))
        if moment.is_end:
            return 0.0, own
        return age if used <= before else 0.0, most  # one that counts no later call was told as this one arrived

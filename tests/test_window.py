"""What the windows promise, with `now` given."""

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketflow_throttled.budget import Budget
from pocketflow_throttled.crowding import Crowding
from pocketflow_throttled.token_window import Spend, TokenWindow
from pocketflow_throttled.window import SlidingWindow


def test_a_full_window_opens_when_its_oldest_start_leaves() -> None:
    window = SlidingWindow(limit=2, seconds=10.0)
    window.add(0.0)
    window.add(3.0)
    assert not window.fits(9.999)
    assert window.opens_at(9.0) == 10.0
    assert window.fits(10.0)


def test_a_lowered_limit_opens_only_when_enough_starts_have_left() -> None:
    window = SlidingWindow(limit=3, seconds=10.0)
    for now in (0.0, 1.0, 2.0):
        window.add(now)
    window.limit = 1
    assert not window.fits(11.5)
    assert window.opens_at(9.0) == 12.0


def test_reading_forgets_nothing() -> None:
    window = SlidingWindow(limit=2, seconds=10.0)
    window.add(0.0)
    assert window.used(100.0) == 0
    assert window.used(5.0) == 1


def test_removing_a_start_that_has_left_is_harmless() -> None:
    window = SlidingWindow(limit=1, seconds=1.0)
    window.remove(5.0)
    assert window.used(5.0) == 0


def test_tokens_settled_lower_are_free_at_once_and_higher_are_debt() -> None:
    window = TokenWindow(limit=100, seconds=60.0)
    spend = window.add(0.0, 80)
    assert not window.fits(1.0, 30)
    window.correct(spend, 10)
    assert window.fits(1.0, 30)
    window.correct(spend, 250)
    window.add(2.0, 20)
    assert not window.fits(59.0, 1)
    assert window.used(59.0) == 270
    assert window.fits(60.0, 80)
    window.correct(spend, 0)
    assert window.used(60.0) == 20


def test_a_request_over_the_whole_token_window_runs_alone() -> None:
    window = TokenWindow(limit=100, seconds=60.0)
    assert window.fits(0.0, 500)
    window.add(0.0, 500)
    assert not window.fits(59.0, 1)
    assert window.opens_at(9.0) == 60.0
    window.clear()
    assert window.fits(1.0, 1)


def test_for_costs_that_are_not_known_room_is_kept_that_grows_with_the_root_of_their_number() -> None:
    window = TokenWindow(limit=1000, seconds=60.0)
    spends = [window.add(0.0, 100, variance=2500) for _ in range(3)]
    assert window.fits(0.0, 500, variance=2500)  # four calls, each of which may be off by 50: 100 together, twice that is kept
    assert not window.fits(0.0, 501, variance=2500)
    assert not window.fits(0.0, 700)
    window.correct(spends[0], 110)
    for spend in spends[1:]:
        window.correct(spend, 100)
        window.correct(spend, 100)
    assert window.fits(0.0, 690)
    assert not window.fits(0.0, 691)


def test_a_request_over_the_whole_token_window_runs_alone_also_if_its_cost_is_not_known() -> None:
    window = TokenWindow(limit=100, seconds=60.0)
    assert window.fits(0.0, 90, variance=10_000)
    window.add(0.0, 90, variance=10_000)
    assert not window.fits(59.0, 1)
    assert window.fits(60.0, 500, variance=10_000)


@given(st.lists(st.tuples(st.sampled_from(["add", "correct", "take back", "wait"]), st.integers(0, 100)), max_size=50))
def test_nothing_of_a_cost_that_was_not_known_stays_behind(steps: list[tuple[str, int]]) -> None:
    window, spends, now = TokenWindow(limit=1000, seconds=10.0), list[Spend](), 0.0
    for step, number in steps:
        if step == "add":
            spends.append(window.add(now, 1, variance=number))
        elif step == "wait":
            now += number / 10
            window.forget(now)
        elif spends and step == "correct":
            window.correct(spends[number % len(spends)], number)
        elif spends:
            window.take_back(spends[number % len(spends)])
    assert window.fits(now + 10, 1000)
    spends.append(window.add(now + 10, 1, variance=5))
    window.clear()
    assert window.fits(now + 10, 1000)


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
)
@pytest.mark.parametrize("seconds", [1, 7])
def test_never_more_than_the_limit_in_any_window(seconds: int, limit: int, gaps: list[int]) -> None:
    window = SlidingWindow(limit, seconds)
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap / 10
        if window.fits(now):
            window.add(now)
            admitted.append(now)
    for first in admitted:
        assert sum(first <= start < first + seconds for start in admitted) <= limit


@pytest.mark.parametrize(
    "window", [SlidingWindow(limit=10, seconds=60.0), TokenWindow(limit=10, seconds=60.0)], ids=["starts", "tokens"]
)
def test_what_others_have_taken_comes_back_evenly_and_the_newest_word_counts(window: SlidingWindow | TokenWindow) -> None:
    window.take_away(10, back_from=5.0, back_until=15.0)
    assert window.used(4.9) == 10
    assert not window.fits(4.9, *([1] if isinstance(window, TokenWindow) else []))
    assert window.opens_at(4.9) == 5.0
    assert [window.used(now) for now in (5.0, 6.0, 9.5, 14.9, 15.0)] == [9, 8, 5, 0, 0]
    window.take_away(3, back_from=20.0, back_until=20.0)
    assert [window.used(now) for now in (15.0, 19.9, 20.0)] == [3, 3, 0]
    window.limit = 2
    assert window.allowed == 0
    window.clear()
    assert (window.used(0.0), window.allowed) == (0, 2)


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.floats(0, 1e-6) | st.floats(0, 100))
@example(50, 1e6, 1e-6)  # shorter than what floats tell apart there
def test_whoever_waits_for_what_others_have_taken_is_woken_at_most_once_for_each_step(
    taken: int, start: float, length: float
) -> None:
    window = SlidingWindow(limit=taken, seconds=60.0)
    window.take_away(taken, start, start + length)
    steps = -(-taken // max(1, taken // 50))
    now, wakes = 0.0, 0
    while window.others(now):
        window.fits(now)
        later = window._others_back_at(now)
        assert later > now  # or a timer would fire for ever at one moment
        now, wakes = later, wakes + 1
        assert wakes <= 2 * steps + 2  # a few twice, where floats hardly tell the steps apart
    assert now <= start + length + 1e-6


@pytest.mark.parametrize(
    ("seconds", "spread", "cold", "span"),
    [
        (60.0, 0.0, False, 60.0),
        (60.0, 0.2, False, 60.2),
        (60.0, 7.0, False, 60.6),
        (1.0, 7.0, False, 1.03),
        (60.0, 7.0, True, 61.0),
        (1.0, 7.0, True, 1.25),
    ],
)
def test_a_window_is_stretched_by_what_calls_differ_but_by_little(seconds: float, spread: float, cold: bool, span: float) -> None:
    window = SlidingWindow(limit=1, seconds=seconds)
    window.add(0.0)
    window.stretch(spread, cold=cold)
    assert window.opens_at(0.5) == span


def test_bursts_are_apart_by_as_much_as_may_be_until_some_calls_have_told_how_long_they_take() -> None:
    def next_start(budget: Budget, now: float) -> float:
        assert budget.fits(now, tokens=0)
        budget.book(now, tokens=0)
        assert not budget.fits(now, tokens=0)
        return budget.opens_at(now) - now

    budget = Budget(requests=600, tokens=None, burst=10, seconds=60.0)
    for _ in range(9):
        budget.book(0.0, tokens=0)
    assert next_start(budget, 0.0) == 1.0  # a limiter whose calls nobody times keeps to the limit
    budget.expect_times()
    assert budget.opens_at(0.0) == 1.03
    for now in (1.5, 1.6, 1.7, 1.8):
        budget.timed(now, seconds=0.5)
    assert not budget.fits(1.02, tokens=0)
    budget.timed(1.9, seconds=0.5)
    assert budget.fits(1.02, tokens=0)
    budget.expect_times()
    assert budget.fits(1.02, tokens=0)


def test_a_budget_is_stretched_more_while_its_first_calls_count() -> None:
    budget = Budget(requests=5, tokens=100, burst=None, seconds=2.0)
    assert budget.requests is not None
    budget.timed(now=0.4, seconds=0.4)
    assert budget.requests.span == 2.0
    for now, span in ((0.5, 2.3), (4.3, 2.3), (4.5, 2.06), (9.0, 2.06)):
        budget.timed(now, seconds=0.1)
        budget.fits(now, tokens=0)
        assert budget.requests.span == pytest.approx(span)


def test_refused_calls_are_no_servers_count_for_as_long_as_their_window_is() -> None:
    budget = Budget(requests=None, tokens=None, burst=None, seconds=60.0)
    budget.set_requests(100, 3600.0)
    for _ in range(10):
        budget.book(0.0, tokens=0)
    budget.refused(0.0, None)
    budget.book(100.0, tokens=0)
    budget.refused(100.0, None)
    assert budget.served("requests", 200.0) == 9


def test_refused_calls_from_before_there_was_a_limit_take_nothing_of_its_count() -> None:
    budget = Budget(requests=None, tokens=None, burst=None, seconds=60.0)
    budget.refused(0.0, budget.book(0.0, tokens=50))
    budget.set_requests(100)
    budget.set_tokens(1000)
    budget.book(1.0, tokens=30)
    assert (budget.served("requests", 2.0), budget.served("tokens", 2.0)) == (1, 30)


def test_calls_under_way_that_a_window_counts_still_are_not_counted_again_when_a_limit_is_told() -> None:
    budget = Budget(requests=50, tokens=1000, burst=None, seconds=60.0)
    spend = budget.book(0.0, tokens=100)
    budget.set_requests(None)
    budget.set_tokens(None)
    budget.set_requests(50)
    budget.set_tokens(1000)
    budget.book_under_way("requests", 3, now=1.0)  # two of which began when there was no limit
    budget.book_under_way("tokens", 3, now=1.0)
    assert (budget.served("requests", 1.0), budget.served("tokens", 1.0)) == (3, 100)
    for stamp, booked in ((0.0, spend), (0.5, None), (0.7, None)):
        budget.settle(stamp, booked, 40, now=2.0)
    assert budget.served("tokens", 2.0) == 120
    budget.book_under_way("requests", 2, now=3.0)
    assert budget.served("requests", 3.0) == 3


Call = tuple[float, Spend | None]


@example([("wait", 1), ("start", 0), ("refuse", 0), ("wait", 100), ("start", 0)])  # 10.1 - 10.0 < 0.1
@given(st.lists(st.tuples(st.sampled_from(["start", "refuse", "correct", "wait"]), st.integers(0, 100)), max_size=60))
def test_what_a_server_counts_is_what_has_started_in_the_window_and_was_not_refused(steps: list[tuple[str, int]]) -> None:
    budget, now = Budget(requests=1000, tokens=100_000, burst=None, seconds=10.0), 0.0
    started, pending, calls = list[Call](), list[Call](), list[Call]()
    for step, number in steps:
        if step == "start":
            calls.append((now, budget.book(now, tokens=number)))
            pending.append(calls[-1])
            started.append(calls[-1])
        elif step == "wait":
            now += number / 10
        elif step == "correct":
            spend = started[number % len(started)][1] if started else None
            if spend is not None:
                budget.correct(spend, number)
        elif pending:
            refused = pending.pop(number % len(pending))  # in any order
            budget.refused(*refused)
            calls.remove(refused)
        inside = [0 if spend is None else spend.cost for start, spend in calls if start + 10.0 > now]
        assert budget.served("requests", now) == len(inside)
        assert budget.served("tokens", now) == sum(inside)


def test_others_are_expected_to_go_on_while_nothing_is_told() -> None:
    window = SlidingWindow(100, 60.0)
    for second in range(10):
        window.take_away(50, 60.0 + second, 60.0 + second, told_at=float(second))
    for _ in range(45):
        window.add(9.0)
    assert window.fits(9.1)
    window.take_away(50, 69.0, 69.0, told_at=9.0)
    assert not window.fits(40.0)
    assert window.used(40.0) == 95  # what was told


def test_one_start_tells_what_is_left_where_others_may_but_need_not_have_taken_all() -> None:
    window = SlidingWindow(10, 60.0)
    window.take_away(9, 60.0, 60.0, told_at=0.0)
    assert window.fits(50.0)
    window.add(50.0)
    assert not window.fits(50.0)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100), st.floats(0, 120), st.floats(0, 120)), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), max_size=10),
    st.integers(1, 100),
    st.just(-math.inf) | st.floats(-60, 30),
)
def test_whatever_others_are_told_to_have_taken_there_is_room_in_time(
    told: list[tuple[float, int, float, float]], own: list[tuple[float, int]], cost: int, began_at: float
) -> None:
    requests, tokens = SlidingWindow(10, 60.0), TokenWindow(100, 60.0)
    for window in (requests, tokens):
        for when, count, first, more in sorted(told):
            window.take_away(min(count, window.limit), when + first, when + first + more, told_at=when, began_at=began_at)
    for when, spent in sorted(own):
        requests.add(when)
        tokens.add(when, spent)

    def wait(fits: Callable[[float], bool], opens_at: Callable[[float], float]) -> float:
        now = 30.0
        while not fits(now):
            assert now < opens_at(now) <= 30 + 240 + 60
            now = opens_at(now)
        return now

    wait(requests.fits, requests.opens_at)
    wait(lambda now: tokens.fits(now, cost), tokens.opens_at)


def test_others_share_no_fixed_window_with_starts_before_it_began() -> None:
    window = SlidingWindow(100, 60.0)
    for at in [0.0] * 50 + [30.0] * 20:
        window.add(at)
    window.take_away(40, 80.0, 80.0, began_at=20.0)  # 20 and 40 are counted at the server, 70 here
    assert window.fits(30.0)
    for _ in range(30):
        window.add(30.0)
    assert not window.fits(30.0)
    assert window.fits(60.0)
    assert window.allowed == 60  # those that have left make no room there


def test_what_was_refused_or_has_left_a_servers_window_is_not_served_in_it() -> None:
    window = SlidingWindow(100, 60.0)
    window.stretch(1.0)
    for at in (0.0, 0.0, 10.0, 10.0):
        window.add(at)
    window.refuse(0.0)
    window.refuse(10.0)
    assert [window.served(now) for now in (10.0, 60.2, 60.4, 71.0)] == [2, 2, 1, 0]
    assert len(window.times) == 4  # reading forgets nothing


@given(st.lists(st.integers(0, 9), max_size=9), st.sets(st.integers(0, 8)), st.integers(-1, 10), st.integers(0, 10))
def test_as_many_are_served_between_as_would_be_listed(times: list[int], refused: set[int], after: int, longer: int) -> None:
    window = SlidingWindow(100, 60.0)
    for at in sorted(times):
        window.add(at)
    for place in refused:
        if place < len(times):
            window.refuse(times[place])
    assert window.count_served_between(after, after + longer) == len(window.served_between(after, after + longer))


def test_others_who_are_gone_are_expected_no_more() -> None:
    window = SlidingWindow(100, 60.0)
    window.take_away(50, 60.0, 60.0, told_at=0.0)
    window.take_away(0, 50.0, 50.0)
    for _ in range(99):
        window.add(50.0)
    assert window.fits(59.0)


@pytest.mark.parametrize(
    ("starts", "regular"),
    [
        ([(0, 50), (10, 50), (20, 50), (30, 50), (40, 50)], True),
        ([(0, 50), (10, 50), (20, 50), (30, 50)], False),
        ([(0, 50), (10, 50), (20, 4), (30, 50), (40, 50)], False),
        ([(0, 50), (2, 50), (4, 50), (6, 50), (8, 50)], False),
        ([(0, 50), (50, 50), (100, 50), (150, 50), (200, 50)], False),
    ],
    ids=["regular", "too few", "one has another reason", "at once", "long ago"],
)
def test_refusals_tell_of_a_part_of_the_window_if_it_was_full_at_each(starts: list[tuple[float, int]], regular: bool) -> None:
    window, crowding = SlidingWindow(limit=300, seconds=60.0), Crowding()
    for start, calls in starts:
        for _ in range(calls):
            window.add(start)
        crowding.refused(start + 0.5, window)
    assert crowding.is_regular(starts[-1][0] + 0.6, window.seconds) is regular


@pytest.mark.parametrize(
    ("until", "left"), [(5.0, [4.0, 5.0]), (3.0, [2.0, 3.0, 4.0, 5.0]), (0.0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])]
)
def test_what_a_server_no_longer_counts_is_forgotten_but_for_what_may_have_arrived_after_it_answered(
    until: float, left: list[float]
) -> None:
    budget = Budget(requests=10, tokens=None, burst=None, seconds=60.0)
    for at in range(6):
        budget.book(float(at), 0)
    budget.forget_requests(until, used=2)
    assert budget.requests is not None
    assert list(budget.requests.times) == left

"""What is learned of estimates, from what calls have cost."""

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled.correction import Correction, Estimate
from pocketflow_throttled.token_window import TokenWindow
from pocketflow_throttled.validation import MOST


def test_nobody_reads_what_estimates_are_corrected_by_while_it_is_learned_anew() -> None:
    free: list[bool] = []

    class Watched(Correction):
        def _start(self) -> None:
            super()._start()
            thread = threading.Thread(target=lambda: free.append(self._lock.acquire(blocking=False)))
            thread.start()
            thread.join()

    correction = Watched()
    assert free.pop()  # which nothing else has a hold of
    correction._lock = threading.RLock()
    for cost in (*[100] * 20, 9000, 9000):
        correction.learn(100, cost)
    assert free == [False]
    assert correction.apply(100) >= 9000


def test_estimates_wrong_at_random_are_corrected_to_what_calls_cost() -> None:
    correction = Correction()
    for _ in range(50):
        correction.learn(300, 100)
        correction.learn(33, 100)
    for estimated in (33, 100, 300):
        assert correction.apply(estimated) == pytest.approx(100, rel=0.1)
    assert correction.apply(0) == 0


def test_what_is_added_to_every_estimate_is_found_out() -> None:
    """As `max_output_tokens` is, where answers are shorter."""
    correction = Correction()
    for call in range(50):
        prompt = 50 + call * 37 % 500
        correction.learn(prompt + 400, prompt + 50)
    for prompt in (50, 300, 550):
        assert correction.apply(prompt + 400) == pytest.approx(prompt + 50, abs=25)


def test_a_call_beyond_all_before_it_costs_more_by_what_estimates_are_wrong_on_the_whole() -> None:
    correction = Correction()
    for _ in range(50):
        correction.learn(300, 100)
        correction.learn(100, 100)
    assert correction.apply(300) == pytest.approx(100, rel=0.1)
    assert correction.apply(10_300) == pytest.approx(100 + 5_000, rel=0.1)


def test_calls_that_were_estimated_at_nothing_tell_nothing_of_others() -> None:
    correction = Correction()
    correction.learn(100, 100)
    for _ in range(50_000):
        correction.learn(0, 100)
    assert correction.apply(100) == 100


def test_no_call_is_thought_to_cost_next_to_nothing() -> None:
    correction = Correction()
    for call in range(50):
        correction.learn(1000 + call * 37 % 500, 10 + call * 37 % 500)
        correction.learn(100, 20)
    assert 0.2 * 100 * 0.2 <= correction.apply(100) <= 100


@given(
    st.lists(st.tuples(st.integers(0, 10**9) | st.just(MOST), st.integers(0, 10**9) | st.just(MOST)), max_size=30),
    st.integers(0, 10**9) | st.just(MOST),
)
def test_whatever_calls_have_cost_an_estimate_is_a_count(calls: list[tuple[int, int]], estimated: int) -> None:
    correction = Correction()
    for told, cost in calls:
        correction.learn(told, cost)
    found = correction.apply(estimated)
    assert found >= 0
    assert found.variance >= 0
    assert found.again() == found
    TokenWindow(limit=1000, seconds=60.0).fits(0.0, found, found.variance)


@pytest.mark.parametrize("free", [1_000, 23_000, 25_000, 60_000])
def test_a_call_that_costs_something_after_many_that_cost_nothing_is_learned_from(free: int) -> None:
    """As those that an API answers from a cache."""
    correction = Correction()
    correction.learn(100, 100)
    for _ in range(free):
        correction.learn(100, 0)
    for _ in range(200):
        correction.learn(100, 100)
        cost = correction.apply(100)
        assert TokenWindow(limit=1000, seconds=60.0).fits(0.0, cost, cost.variance)
    assert cost == pytest.approx(100, rel=0.02)
    assert cost.variance**0.5 < 30


def test_one_answer_off_its_estimate_does_not_tell_what_every_call_costs() -> None:
    correction = Correction()
    correction.learn(300, 100)
    assert correction.apply(300) >= 200
    for _ in range(9):
        correction.learn(300, 100)
    assert correction.apply(300) == 100


def test_an_estimate_that_was_right_is_trusted_at_once() -> None:
    correction = Correction()
    correction.learn(100, 100)
    assert correction.apply(100) == 100


def test_how_far_single_calls_are_off_is_told_beside_what_they_cost_on_average() -> None:
    correction = Correction()
    for _ in range(200):
        correction.learn(100, 50)
        correction.learn(100, 150)
    cost = correction.apply(100)
    assert 90 <= cost <= 110
    assert cost.variance**0.5 == pytest.approx(50, rel=0.1)


def test_an_estimate_that_is_less_than_all_before_may_be_as_wrong_as_the_first() -> None:
    """As where a batch goes on to items that are estimated otherwise: these too may be three times too low."""
    correction = Correction()
    for call in range(30):
        correction.learn(3000 + 100 * (call % 5), 1000)
    assert correction.apply(2500) < 1000
    assert 900 <= correction.apply(300) <= 1000
    correction.learn(300, 100)
    assert correction.apply(300) < 200


def test_calls_that_all_cost_the_same_are_told_to_the_token_whatever_is_estimated() -> None:
    chance, correction = random.Random(5), Correction()
    for _ in range(40):
        correction.learn(round(1000 * 3 ** chance.uniform(-1, 1)), 3000)
    for estimated in (400, 1000, 2500):
        assert (correction.apply(estimated), correction.apply(estimated).variance) == (3000, 0)


def test_a_few_answers_do_not_tell_which_estimates_are_small() -> None:
    correction = Correction()
    for _ in range(5):
        correction.learn(3000, 3000)
    assert correction.apply(300) == 300


def test_two_answers_in_a_row_that_are_far_more_than_what_is_known_tell_what_others_cost() -> None:
    correction = Correction()
    for _ in range(100):
        correction.learn(3000, 1000)
    correction.learn(300, 1000)
    assert 900 <= correction.apply(300) <= 1000  # one may be an exception, but tells of no small ones that are cheap
    for _ in range(10):
        correction.learn(300, 1000)
        assert 800 < correction.apply(300) < 2500
    assert correction.apply(300) == pytest.approx(1000, rel=0.03)


def test_answers_that_differ_at_random_tell_more_than_the_last_two() -> None:
    chance, correction = random.Random(3), Correction()
    costs = []
    for _ in range(500):
        correction.learn(round(1000 * 3 ** chance.uniform(-1, 1)), round(1000 * 3 ** chance.uniform(-1, 1)))
        costs.append(correction.apply(1000))
    assert all(600 < cost < 2500 for cost in costs[20:])


def ended(correction: Correction, calls: list[tuple[int, int]], under_way: int) -> list[Estimate]:
    """Learn from calls of which so many are under way at a time, and return what they were told to cost as they started."""
    told: list[Estimate] = []
    for number in range(len(calls) + under_way):
        if number < len(calls):
            told.append(correction.apply(calls[number][0]))
        if number >= under_way:
            correction.learn(*calls[number - under_way], told[number - under_way])
    return told


def test_calls_that_cost_more_and_more_are_told_ahead_of_what_was_learned() -> None:
    calls = [(1000, round(1000 * 1.005**number)) for number in range(300)]
    told = ended(Correction(), calls, under_way=20)
    for (_, cost), cost_told in zip(calls[100:], told[100:], strict=True):
        assert cost_told == pytest.approx(cost, rel=0.15)  # the mean of the last thirty, of twenty calls ago, is off by a quarter
    unheard = ended(Correction(), [*calls, (1, 1)], under_way=20)[-1]
    assert unheard.by_line == 0


def test_no_call_is_told_to_cost_more_than_twice_what_was_learned() -> None:
    calls = [(1000, 1000)] * 60 + [(1000, 2900)] * 40
    told = [each / each.by_line for each in ended(Correction(), calls, under_way=20) if each.by_line]
    assert 1.5 < max(told) <= 2.001


def test_calls_that_cost_less_and_less_are_told_as_they_were_learned() -> None:
    calls = [(1000, round(1000 / 1.005**number)) for number in range(300)]
    for each in ended(Correction(), calls, under_way=20):
        assert each == each.by_line or not each.by_line


@pytest.mark.parametrize("before", [1 / 3, 1])
def test_calls_of_which_estimates_become_too_high_are_never_told_to_cost_less_than_they_do(before: float) -> None:
    calls = [(round(800 * before), 800)] * 100 + [(2400, 800)] * 200
    assert min(ended(Correction(), calls, under_way=40)[10:]) >= 800


def test_calls_that_cost_more_or_less_at_random_are_told_no_further_ahead_than_chance_asks_for() -> None:
    chance = random.Random(1)
    calls = [(1000, chance.randint(300, 1700)) for _ in range(3000)]
    told = ended(Correction(), calls, under_way=20)
    off = [abs(each / each.by_line - 1) for each in told if each.by_line]
    assert sum(off) / len(off) < 0.02
    assert max(off) < 0.25


def test_what_was_told_before_all_was_learned_anew_tells_nothing_of_what_comes_after() -> None:
    told = ended(Correction(), [(300, 100)] * 100 + [(300, 2700)] * 60, under_way=30)
    assert set(told[145:]) == {2700}

"""What shorter time explains what a server refused."""

import pytest

from pocketflow_throttled.slices import explains, slices_of
from pocketflow_throttled.token_window import Spend


def spent(time: float, cost: int, *, is_refused: bool = False, is_dropped: bool = False) -> Spend:
    spend = Spend(time, cost)
    spend.is_refused, spend.is_dropped = is_refused, is_dropped
    return spend


def cost(spend: Spend) -> int:
    return spend.cost


def test_no_slice_holds_less_than_the_largest_call() -> None:
    assert all(limit >= 90 for limit, _ in slices_of(1000, 60.0, largest=90))
    assert list(slices_of(1000, 60.0, largest=600)) == []


def test_slices_come_longest_first_and_allow_as_many_a_second_as_the_window() -> None:
    slices = list(slices_of(6000, 60.0, largest=1))
    assert slices == sorted(slices, reverse=True)
    assert {limit / seconds for limit, seconds in slices} == {100.0}


@pytest.mark.parametrize(("seconds", "is_explained"), [(5.0, False), (10.0, True), (30.0, True)])
def test_a_slice_explains_a_refusal_for_which_it_had_no_room_left(seconds: float, is_explained: bool) -> None:
    spends = [spent(0.0, 60), spent(8.0, 30), spent(9.0, 30, is_refused=True)]
    assert explains(100, seconds, spends, cost) is is_explained


def test_a_call_that_arrives_late_still_counts_at_the_server() -> None:
    spends = [spent(0.0, 90), spent(10.2, 20, is_refused=True)]
    assert explains(100, 10.0, spends, cost)
    assert not explains(100, 10.0, [spent(0.0, 90), spent(10.4, 20, is_refused=True)], cost)


def test_one_refusal_in_four_may_have_another_reason() -> None:
    spends = [spent(0.0, 95), *(spent(1.0 + number, 20, is_refused=True) for number in range(3))]
    other = spent(40.0, 20, is_refused=True)
    assert explains(100, 10.0, [*spends, other], cost)
    assert not explains(100, 10.0, [*spends, other, spent(41.0, 20, is_refused=True)], cost)


def test_what_no_limit_refused_is_not_to_be_explained() -> None:
    spends = [spent(0.0, 95), spent(1.0, 20, is_refused=True)]
    spends += [spent(40.0 + number, 20, is_refused=True, is_dropped=True) for number in range(9)]
    assert explains(100, 10.0, spends, cost)


def test_tokens_are_those_that_the_server_counts() -> None:
    spends = [spent(0.0, 30), spent(1.0, 10, is_refused=True)]
    assert not explains(100, 10.0, spends, cost)
    assert explains(100, 10.0, spends, lambda spend: 3 * spend.cost)

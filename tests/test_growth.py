"""How much others may have taken of a limit since a server last told."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled.growth import Growth


def learned(*told: tuple[float, int], limit: int = 300, seconds: float = 60.0) -> Growth:
    growth = Growth()
    for when, count in told:
        growth.learn(count, when, limit=limit, seconds=seconds)
    return growth


def test_others_that_always_took_as_much_are_expected_to_go_on() -> None:
    growth = learned(*((float(when), 150) for when in range(8)))
    assert growth.rate == 150 / 60
    assert growth.by(7.0, told=150, back_until=67.0, seconds=60.0) == 0
    assert growth.by(47.0, told=150, back_until=67.0, seconds=60.0) == 3 * math.sqrt(100)  # what they take at random, alone


def test_others_that_have_just_begun_are_expected_to_take_more() -> None:
    growth = learned(*((float(when), when) for when in range(21)))
    assert 0.8 <= growth.rate <= 1.0
    assert 20 + growth.by(60.0, told=20, back_until=70.0, seconds=60.0) >= 0.8 * 60


def test_others_are_expected_anew_once_what_they_took_is_back() -> None:
    growth = learned((0.0, 150), (10.0, 150))
    at_once = growth.by(60.0, told=150, back_until=60.0, seconds=60.0)
    later = growth.by(70.0, told=150, back_until=60.0, seconds=60.0)
    assert later - at_once >= 25


def test_calls_that_arrive_in_another_order_are_not_taken_for_others() -> None:
    growth = learned((0.0, 2), (10.0, 14), (20.0, 3))
    assert growth.rate == 0
    assert growth.by(60.0, told=3, back_until=80.0, seconds=60.0) == 0


def test_what_others_may_take_of_a_limit_of_tokens_is_as_uneven_as_calls_are_large() -> None:
    growth = learned((0.0, 15_000), limit=30_000)
    assert growth.by(1.0, told=15_000, back_until=60.0, seconds=60.0, each=400) == int(3 * math.sqrt(250 * 400))


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 10**9)), min_size=1),
    st.floats(0, 1e9),
    st.integers(0, 10**9),
    st.floats(-math.inf, 1e9, allow_nan=False),
)
def test_whatever_is_told_growth_is_a_number_that_is_not_negative(
    told: list[tuple[float, int]], now: float, count: int, back_until: float
) -> None:
    assert learned(*told).by(now, told=count, back_until=back_until, seconds=60.0) >= 0


def test_others_may_have_no_more_than_can_be_counted() -> None:
    """A limit that was given as good as endless, of which a server says that next to nothing is left."""
    growth = Growth()
    growth.learn(int(1.7e308), 0.0, limit=int(1.7e308), seconds=0.1)
    assert growth.by(100.0, told=0, back_until=0.0, seconds=60.0) >= 0

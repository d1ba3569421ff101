"""Calls that are under way as a limit of tokens is first told."""

from pocketflow_throttled.sliced_window import SlicedWindow
from pocketflow_throttled.unbooked import Unbooked


def test_each_is_booked_at_what_the_others_have_cost_on_average() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    unbooked = Unbooked(window, calls=4, now=5.0)
    assert window.used(6.0) == 0
    unbooked.ended(stamp=1.0, tokens=40)
    assert window.used(6.0) == 4 * 40
    unbooked.ended(stamp=2.0, tokens=80)
    assert window.used(6.0) == 40 + 80 + 2 * 60


def test_one_that_was_refused_costs_nothing_and_tells_nothing_of_the_others() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    unbooked = Unbooked(window, calls=3, now=5.0)
    unbooked.ended(stamp=1.0, tokens=50)
    spend = unbooked.ended(stamp=1.0, tokens=None)
    assert spend is not None
    assert (spend.cost, window.used(6.0)) == (0, 100)


def test_a_call_that_started_later_is_none_of_them() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    unbooked = Unbooked(window, calls=2, now=5.0)
    assert unbooked.ended(stamp=5.1, tokens=50) is None
    assert unbooked.includes(4.9)
    assert not unbooked.includes(5.0)  # it may have started just after, ...
    assert unbooked.ended(stamp=5.0, tokens=50) is not None  # ... or before


def test_no_more_are_counted_than_were_under_way() -> None:
    window = SlicedWindow(limit=1000, seconds=60.0)
    unbooked = Unbooked(window, calls=1, now=5.0)
    assert unbooked.ended(stamp=1.0, tokens=50) is not None
    assert unbooked.ended(stamp=1.0, tokens=50) is None
    assert not unbooked.includes(1.0)

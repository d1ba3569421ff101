"""How calls at once beyond which an API refused are probed, and what a refused probe tells."""

import pytest

from pocketflow_throttled.ceiling import Ceiling
from pocketflow_throttled.closing import Before
from pocketflow_throttled.timing import Timing


def ceiling_of(level: int) -> Ceiling:
    timing = Timing()
    timing.served(1.0)
    ceiling = Ceiling(timing, rare=20)
    ceiling.found(level, is_doubted=False)
    return ceiling


def successes_to_probe(ceiling: Ceiling) -> int:
    assert ceiling.level is not None
    return next(count for count in range(10_000) if ceiling.is_to_be_probed(ceiling.level, count))


@pytest.mark.parametrize(("refused", "level"), [(29, 28), (22, 18), (19, 18)])
def test_a_large_step_that_is_refused_went_well_up_to_the_refused_call(refused: int, level: int) -> None:
    ceiling = ceiling_of(18)  # which the network blurs by as much as a small step
    ceiling.probe_refused(refused)
    assert (ceiling.level, ceiling.target, ceiling.step) == (level, level, 1)


def test_a_ceiling_that_has_fallen_is_probed_no_sooner_than_one_that_did_not() -> None:
    fell, never = ceiling_of(36), ceiling_of(4)
    fell.found(4, is_doubted=False)
    assert successes_to_probe(fell) == successes_to_probe(never) == 20


def test_a_ceiling_that_a_probe_raised_little_is_probed_no_sooner_than_before() -> None:
    """As the network blurs it, a small step beyond it goes well by chance again and again."""
    ceiling = ceiling_of(16)
    for _ in range(2):
        ceiling.probe_more_rarely(1.0)
    rarely = successes_to_probe(ceiling)
    assert rarely > 20
    ceiling.lift(18)
    ceiling.probe_more_rarely(1.0)
    assert successes_to_probe(ceiling) == rarely
    ceiling.probe_more_rarely(1.0)  # not raised at all
    assert successes_to_probe(ceiling) == 2 * rarely
    ceiling.lift(21)
    ceiling.probe_more_rarely(1.0)
    assert successes_to_probe(ceiling) == 20


def test_a_ceiling_that_was_found_lower_is_news_as_soon_as_it_is_raised_again() -> None:
    ceiling = ceiling_of(40)
    for _ in range(3):
        ceiling.probe_more_rarely(1.0)
    ceiling.found(20, is_doubted=False)
    ceiling.lift(30)
    ceiling.probe_more_rarely(1.0)
    assert successes_to_probe(ceiling) <= 20


@pytest.mark.parametrize(("refusals", "confirmed"), [((0.2, 0.2), 5), ((0.2, 0.24), 5), ((0.2, 0.26), 12), ((0.0, 0.2, 0.2), 5)])
def test_more_starts_beyond_a_ceiling_lift_it_where_calls_differ_on_their_way(
    refusals: tuple[float, ...], confirmed: int
) -> None:
    timing = Timing()
    timing.served(1.0)
    for seconds in refusals:
        timing.refused(seconds)
    ceiling = Ceiling(timing)
    ceiling.found(8, is_doubted=False)
    starts = 0
    while not ceiling.is_to_be_lifted(9):
        ceiling.started(float(starts), 9)
        starts += 1
    assert starts == confirmed + 1  # the first one may be refused yet


def test_a_ceiling_that_was_not_to_blame_is_probed_twice_as_soon_as_before() -> None:
    ceiling = ceiling_of(16)
    for _ in range(2):
        ceiling.probe_more_rarely(1.0)
    before, target, after = ceiling.level, ceiling.target, ceiling.probe_after
    ceiling.found(9, is_doubted=True)
    ceiling.go_back_to(Before(target, 0, before, after))
    assert (ceiling.level, ceiling.target) == (16, 16)
    assert successes_to_probe(ceiling) == after // 2


def test_who_probes_starts_apart_from_the_last_call_until_a_call_was_refused_for_all_that() -> None:
    ceiling = ceiling_of(4)
    assert [ceiling.keeps_apart(level) for level in (3, 4, 5, 6)] == [False, False, True, True]
    ceiling.is_met = True
    assert not ceiling.keeps_apart(5)
    ceiling.found(3, is_doubted=True)  # another one
    assert ceiling.keeps_apart(4)
    ceiling.drop()
    assert not ceiling.keeps_apart(5)


def test_the_rest_of_a_step_need_not_start_apart_once_enough_of_it_went_well() -> None:
    ceiling = ceiling_of(4)
    for start in range(6):
        assert ceiling.keeps_apart(5)
        ceiling.started(float(start), 5)
    assert not ceiling.keeps_apart(5)
    ceiling.forget_probe()
    assert ceiling.keeps_apart(5)

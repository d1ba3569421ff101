"""How calls at once beyond which an API refused are probed, and what a refused probe tells."""

import pytest

from pocketflow_throttled.ceiling import Ceiling
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


def test_a_ceiling_that_has_fallen_is_probed_the_sooner_the_higher_it_was() -> None:
    fell = [ceiling_of(level) for level in (4, 16, 36)]
    for ceiling in fell:
        ceiling.found(4, is_doubted=False)
    assert [successes_to_probe(ceiling) for ceiling in fell] == [20, 10, 6]


def test_a_ceiling_that_fell_long_ago_is_probed_no_sooner_than_one_that_did_not() -> None:
    fell, never = ceiling_of(36), ceiling_of(4)
    fell.found(4, is_doubted=False)
    for _ in range(20):
        for ceiling in (fell, never):
            ceiling.probe_refused(5)
            ceiling.probe_more_rarely(1.0)
    assert successes_to_probe(fell) == successes_to_probe(never) > 20

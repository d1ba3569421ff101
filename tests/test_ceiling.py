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


@pytest.mark.parametrize(("refused", "level"), [(29, 28), (22, 18), (19, 18)])
def test_a_large_step_that_is_refused_went_well_up_to_the_refused_call(refused: int, level: int) -> None:
    ceiling = ceiling_of(18)  # which the network blurs by as much as a small step
    ceiling.probe_refused(refused)
    assert (ceiling.level, ceiling.target, ceiling.step) == (level, level, 1)

"""What is kept for calls under way, whose costs nobody knows: less where a server has room for them, more where it refuses."""

import random
from typing import Any

import pytest

from pocketflow_throttled import SimulatedAPI, run_virtual
from pocketflow_throttled.caution import Caution
from pocketflow_throttled.counted_window import CountedWindow

from .test_nodes import Batch, now

VARIANCE = 10_000


def test_nothing_is_kept_in_the_end_if_no_call_is_refused() -> None:
    caution, kept = Caution(), []
    for _ in range(200):
        kept.append(caution.kept(VARIANCE))
        caution.served()
    assert kept == sorted(kept, reverse=True)
    assert (kept[0], kept[-1]) == (150, 0)


def test_more_is_kept_once_for_all_calls_that_started_before_a_refusal_was_here() -> None:
    caution = Caution()
    for started in (1.0, 1.2, 2.0):
        caution.refused(started, last_started=2.0)
    assert caution.kept(VARIANCE) == 219
    for started in range(3, 20):
        caution.refused(started, last_started=started)
    assert caution.kept(VARIANCE) == Caution.most(VARIANCE) == 250


def test_few_refusals_in_a_thousand_calls_keep_it_where_it_is() -> None:
    caution = Caution()
    for number in range(2000):
        caution.served()
        if number % 200 == 0:
            caution.refused(number, last_started=number)
    assert 100 <= caution.kept(VARIANCE) <= 250


@pytest.mark.parametrize(("used", "is_told"), [(700, False), (900, True)])
def test_a_refusal_tells_of_it_only_where_calls_under_way_may_have_filled_the_window(used: int, is_told: bool) -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    for _ in range(10):
        window.add(0.0, used // 10, variance=25, estimated=used // 10)
    refused = window.add(1.0, 20, variance=25, estimated=20)
    free = 1000 - used - 20
    before = max(cost for cost in range(free + 1) if window.fits(1.0, cost, 400))
    window.refuse(refused)
    after = max(cost for cost in range(free + 1) if window.fits(1.0, cost, 400))
    assert (after < before) is is_told


@pytest.mark.parametrize(("used", "is_told"), [(500, False), (900, True)])
def test_a_served_call_tells_of_it_only_where_there_was_hardly_any_room(used: int, is_told: bool) -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    window.add(0.0, used, variance=0, estimated=used)

    def most() -> int:
        return max(cost for cost in range(1000 - used + 1) if window.fits(1.0, cost, 100))

    before = most()
    for _ in range(200):
        spend = window.add(1.0, 10, variance=100, estimated=10)
        window.correct(spend, 0, now=2.0)
    assert (most() > before) is is_told


@pytest.mark.no_cover  # a long simulation
def test_a_server_that_has_room_for_what_cannot_be_foreseen_is_used_in_full() -> None:
    """A bucket, or a window by the clock, hardly ever refuses what is a bit over its limit in a window that counts back."""
    chance = random.Random(3)
    costs = [chance.choice([100, 900]) for _ in range(3000)]
    for algorithm in ("token_bucket", "fixed_window"):
        api = SimulatedAPI(max_tokens_per_window=60_000, algorithm=algorithm, latency=8.0)

        class Node(Batch):
            def estimate_tokens(self, item: int) -> int:
                return 500

        async def call(item: int, api: SimulatedAPI = api) -> dict[str, Any]:
            await api.call(item, tokens=item)
            return {"usage": {"total_tokens": item}}

        async def main(call: Any = call, node: type[Batch] = Node) -> float:
            await node(call, max_concurrent=60, max_tokens_per_minute=60_000).run_async({"items": costs})
            return now()

        seconds = run_virtual(main())
        allowed = sum(costs) / 60_000 - 1  # minutes, after the first window's worth
        assert api.served == 3000
        assert api.refused <= 30
        assert seconds <= 60 * allowed / 0.95, algorithm

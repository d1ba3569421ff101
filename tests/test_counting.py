"""What is found out of how a server counts tokens, in virtual time."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from pocketflow_throttled import RateLimitHit, run_virtual
from pocketflow_throttled.counted_window import CountedWindow
from pocketflow_throttled.counting import NOTHING, Counting, Way
from pocketflow_throttled.on_the_way import IN_ANY_ORDER
from pocketflow_throttled.refill import Buckets, in_bucket
from pocketflow_throttled.token_window import Spend

from .providers.counting import Count
from .providers.counting import Counting as Counted
from .providers.model import Model, jitter
from .test_nodes import Batch, now

LIMIT, INPUT, MOST_OUTPUT = 100_000, 300, 700
BEYOND = [Way.ESTIMATE]
CLEARLY = {Way.ESTIMATE: 1.0}


class Server:
    """Counts input and the most output of a call as it arrives, and what it cost when it has ended, unless it keeps that."""

    def __init__(self, way: Way, *, hints: bool = False) -> None:
        self.way, self.hints = way, hints
        self.counted: deque[list[float]] = deque()  # when, how much
        self.served = 0
        self.refused: list[float] = []  # when

    async def call(self, output: int) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        time = now()
        while self.counted and self.counted[0][0] <= time - 60:
            self.counted.popleft()
        tokens = INPUT + (output if self.way is Way.COST else MOST_OUTPUT)
        over = sum(counted for _, counted in self.counted) + tokens - LIMIT
        if over > 0:
            self.refused.append(time)
            left = (started for started, counted in self.counted if (over := over - counted) <= 0)
            raise RateLimitHit("tokens", retry_after=next(left) + 60 - time if self.hints else None)
        entry = [time, tokens]
        self.counted.append(entry)
        await asyncio.sleep(4 + output / 100)
        if self.way is Way.SETTLED_BACK:
            entry[1] = INPUT + output
        if self.way is Way.SETTLED:
            self.counted.append([now(), output - MOST_OUTPUT])
        self.served += 1
        return {"usage": {"total_tokens": INPUT + output}}


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("hints", [False, True])
def test_how_a_server_counts_is_found_out_by_few_refusals(way: Way, hints: bool) -> None:
    server, chance = Server(way, hints=hints), random.Random(7)

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return INPUT + MOST_OUTPUT

    node = Node(server.call, max_concurrent=60, max_tokens_per_minute=LIMIT)

    async def main() -> float:
        await node.run_async({"items": [chance.randint(50, 350) for _ in range(1000)]})
        return now()

    seconds = run_virtual(main())
    assert server.served == 1000
    assert len(server.refused) <= {Way.COST: 5, Way.SETTLED: 25, Way.SETTLED_BACK: 6, Way.ESTIMATE: 3}[way]
    calls_a_minute = {Way.COST: 200, Way.SETTLED: 200, Way.SETTLED_BACK: 178, Way.ESTIMATE: 100}[way]  # 1,000 tokens for 6 s
    lost = 60 if hints and way is not Way.COST else 0  # by the pause that the refusal asks for that tells how is counted
    assert seconds <= 60 * 1000 / calls_a_minute / (0.95 if way is Way.COST else 0.9) + lost


@pytest.mark.no_cover  # a long simulation
def test_estimates_too_high_leave_nothing_unused_where_thousands_of_calls_fit_in_a_minute() -> None:
    """An API that tells truly what is left by what calls cost: it refuses none and keeps none apart."""
    model = Model(tokens=Count(600_000, 60.0, "sliding"), latency=jitter(random.Random(7), 3.0, 10.0))

    async def call(item: int) -> Any:
        response = await model.call(300)
        await node.limiter.observe_response(response)
        return response

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return 2 * 300

    node = Node(call, max_concurrent=400, max_tokens_per_minute=600_000)

    async def main() -> float:
        await node.run_async({"items": list(range(3000))})
        return now()

    assert run_virtual(main()) <= 95  # 2,000 calls a minute: the last ones start in the second minute
    assert model.refused <= 0.005 * 3000


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize("seed", range(4))
def test_a_bucket_that_serves_some_tries_and_counts_estimates_is_not_taken_for_one_that_counts_costs(seed: int) -> None:
    chance = random.Random(seed)
    model = Model(tokens=Count(38_000, 60.0, "bucket"), dialect="none", latency=jitter(chance, 0.8, 4.9))
    costs = [chance.randint(100, 300) for _ in range(900)]

    class Node(Batch):
        def estimate_tokens(self, item: int) -> int:
            return 2 * costs[item]

    async def call(item: int) -> Any:
        await model.call(2 * costs[item])
        return {"usage": {"total_tokens": costs[item]}}

    node = Node(call, max_concurrent=46, max_tokens_per_minute=38_000)

    async def main() -> float:
        await node.run_async({"items": list(range(900))})
        return now()

    assert run_virtual(main()) <= 900 * 400 / 38_000 * 60
    assert model.refused <= 5


def test_calls_that_may_not_fit_are_tried_one_at_a_time_and_then_faster_and_faster() -> None:
    counting, times, time = Counting(60.0), [], 0.0
    while len(times) < 20:
        if counting.may_start(time, BEYOND):
            counting.started(time, BEYOND, CLEARLY)
            times.append(time)
        else:
            time = counting.opens_at(time)
    gaps = [round(later - earlier, 6) for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] >= 0.8  # by when a refusal is back, also of a server that is far away
    assert times[-1] == times[-4] <= 2.5  # it is known by then that they fit


@pytest.mark.parametrize("limit", [50, 1200, 5000, 20_000])
def test_the_gaps_between_tries_that_tell_nothing_leave_no_part_of_the_limit_unused(limit: int) -> None:
    """Answers tell what is left, and a bucket may have room for each of them: so they rule nothing out."""
    counting, times = Counting(60.0), [0.0]
    for _ in range(200):
        counting.started(times[-1], BEYOND, {}, 1 / limit)
        times.append(counting.opens_at(times[-1]))
    assert not counting.is_ruled_out(Way.ESTIMATE)
    assert times[5] >= 2.0  # by when a refusal of the first ones is back
    assert 60.0 / (times[-1] - times[-2]) >= 1.99 * limit  # as they come in bursts


@pytest.mark.parametrize(("tells", "tries"), [(1.0, 16), (0.5, 32)])
def test_a_way_is_ruled_out_by_tries_that_are_served_as_far_as_they_tell(tells: float, tries: int) -> None:
    counting, time = Counting(60.0), 0.0
    for _ in range(tries):
        assert not counting.is_ruled_out(Way.ESTIMATE)
        counting.started(time, BEYOND, {Way.ESTIMATE: tells})
        time = counting.opens_at(time)
    assert counting.is_ruled_out(Way.ESTIMATE)


@pytest.mark.parametrize("is_told", [False, True])
def test_tries_that_a_bucket_has_room_for_rule_out_a_way_slowly_or_not_at_all_where_answers_do(*, is_told: bool) -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    if is_told:
        window.compare(0.0, 0, -math.inf, NOTHING)
    ruled_out = []
    for moment in (4.5 * call for call in range(55)):  # estimates: more than a window has room for, less than a bucket has
        window.forget(moment)
        spend = window.add(moment, 40, estimated=90)
        window.correct(spend, 40, moment + 1.0)
        ruled_out.append(window.counting.is_ruled_out(Way.ESTIMATE))
    assert not any(ruled_out[:40])  # a dozen fill the window, and twice 16 are tried
    assert ruled_out[-1] is not is_told


def test_calls_that_fit_however_is_counted_wait_for_no_try() -> None:
    counting = Counting(60.0)
    counting.started(0.0, BEYOND, CLEARLY)
    assert counting.refused(0.0)
    assert counting.may_start(0.0, [])


def test_a_try_that_is_refused_is_not_repeated_for_a_window_and_a_second_one_for_many() -> None:
    counting = Counting(60.0)
    for time, seconds in ((0.0, 60.0), (60.0, 480.0), (540.0, 960.0), (1500.0, 1920.0)):
        assert counting.may_start(time, BEYOND)
        counting.started(time, BEYOND, CLEARLY)
        assert counting.refused(time)
        assert counting.opens_at(time) == time + seconds
        assert not counting.may_start(time + seconds - 1, BEYOND)
        assert counting.way is Way.ESTIMATE


def test_refusals_now_and_then_do_not_outweigh_that_most_were_served() -> None:
    counting = Counting(60.0)
    for call in range(1000):
        counting.started(call, BEYOND, CLEARLY)
        if call > 50 and call % 50 < 3:
            counting.refused(call)
    assert counting.way is Way.COST
    assert counting.may_start(1000.0, BEYOND)


def test_calls_that_are_refused_together_do_not_outweigh_that_most_were_served() -> None:
    """As by a server that allows less in a shorter time, when that is full."""
    counting = Counting(60.0)
    for call in range(40):
        counting.started(call / 10, BEYOND, CLEARLY)
    assert not any(counting.refused(3.9) for _ in range(15))
    assert counting.is_ruled_out(Way.ESTIMATE)


def test_refusals_of_calls_that_would_fit_in_any_way_are_for_another_reason() -> None:
    """As those by a server that allows less in a shorter time."""
    counting = Counting(60.0)
    counting.started(0.0, BEYOND, CLEARLY)
    assert not any(counting.refused(call + 1) for call in range(100))
    assert counting.way is Way.COST


@pytest.mark.parametrize("blamed", [1, 2, 3])
def test_a_way_is_blamed_no_more_as_calls_that_had_room_in_it_are_refused_as_often(blamed: int) -> None:
    """By a server that allows less in a shorter time, it may be a try that is refused first."""
    counting, time = Counting(60.0), 0.0
    for _ in range(blamed):
        counting.started(time, BEYOND, CLEARLY)
        assert counting.refused(time)
        time = counting.opens_at(time)
    for moment in range(1, max(2, blamed) + 1):
        assert counting.way is Way.ESTIMATE
        assert not counting.may_start(moment, BEYOND)
        assert not any(counting.refused(time + moment) for _ in range(3))  # together: that tells it once
    assert counting.way is Way.COST
    assert counting.may_start(time + 4, BEYOND)


def test_no_refusal_speaks_against_a_way_where_answers_tell_what_is_left() -> None:
    counting = Counting(60.0)
    counting.started(0.0, BEYOND, CLEARLY)
    assert counting.refused(0.0, is_told=True)
    assert not any(counting.refused(time, is_told=True) for time in (1.0, 2.0, 3.0))
    assert counting.way is Way.ESTIMATE


def test_a_way_that_was_acquitted_may_be_blamed_anew() -> None:
    counting = Counting(60.0)
    counting.started(0.0, BEYOND, CLEARLY)
    assert counting.refused(0.0)
    assert not any(counting.refused(time) for time in (1.0, 2.0))
    for time in (10.0, 20.0):
        counting.started(time, BEYOND, CLEARLY)
    assert counting.refused(20.0)
    assert not counting.refused(30.0)
    assert counting.way is Way.ESTIMATE


def test_a_way_that_answers_have_denied_is_blamed_only_after_several_refusals() -> None:
    counting, blamed = Counting(60.0), []
    counting.deny(Way.ESTIMATE, until=10.0)
    for time in (20.0, 40.0):
        counting.started(time, BEYOND, {})
        blamed.append(counting.refused(time))
    assert blamed == [False, True]


def test_what_is_refused_beside_a_try_does_not_speak_for_the_way_it_tries() -> None:
    counting = Counting(60.0)
    counting.started(IN_ANY_ORDER, BEYOND, CLEARLY)
    assert counting.refused(0.1)
    assert not counting.refused(0.1 - IN_ANY_ORDER / 2)  # it may have arrived with those
    assert not counting.refused(10.0)
    assert counting.way is Way.ESTIMATE


@pytest.mark.parametrize("refusals", [3, 4])
def test_more_refusals_together_than_there_were_tries_speak_against_the_way_that_is_tried(refusals: int) -> None:
    counting = Counting(60.0)
    counting.started(0.0, BEYOND, CLEARLY)
    for _ in range(refusals):
        counting.refused(0.0)
    assert counting.way is Way.COST
    counting.started(1.0, BEYOND, CLEARLY)
    assert counting.refused(1.0)
    assert not counting.refused(2.0)
    assert counting.way is Way.COST


@pytest.mark.no_cover  # a long simulation
@pytest.mark.parametrize(("counting", "seed"), [("bucket", 1), ("sliding", 4), ("fixed", 1)])
def test_a_limit_enforced_by_ten_seconds_is_not_taken_for_one_of_estimates_for_good(counting: Counted, seed: int) -> None:
    """Estimates are three times too high, so that the first calls refused would not fit in a minute by what is estimated."""
    chance = random.Random(seed)
    delay, latency = jitter(chance, 0.005, 0.01), jitter(chance, 2.5, 5.0)
    requests, tokens = Count(16, 10.0, counting), Count(1400, 10.0, counting)
    model = Model(requests, tokens, dialect="none", skew=7.0, retry_after="date", delay=delay, latency=latency)
    costs = [chance.randint(50, 150) for _ in range(300)]

    class Tripled(Batch):
        def estimate_tokens(self, item: int) -> int:
            return 3 * item

    async def call(item: int) -> dict[str, Any]:
        await model.call(item)
        return {"usage": {"total_tokens": item}}

    async def main() -> float:
        node = Tripled(call, max_concurrent=28, max_per_minute=96, max_tokens_per_minute=8400)
        await node.run_async({"items": costs})
        return now()

    assert run_virtual(main()) <= 1.6 * sum(costs) / 140


def test_what_calls_cost_explains_a_refusal_if_they_told_of_less_before_it() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    for _ in range(4):
        window.correct(window.add(0.0, 100, estimated=180), 100, 0.0)
    under_way = window.add(1.0, 300, estimated=300)
    refused = window.add(1.0, 100, estimated=180)
    assert window.refuse(refused)
    assert window.counting.way is Way.ESTIMATE
    window.correct(under_way, 600, 5.0)
    assert window.counting.way is Way.COST
    assert window.counting.opens_at(5.0) > 60.0


def test_what_seemed_to_be_of_others_explains_no_refusal_that_tells_how_is_counted() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    for _ in range(4):
        window.correct(window.add(0.0, 100, estimated=180), 100, 0.0)
    window.take_away(300, 60.0, 60.0)
    under_way = window.add(1.0, 100, estimated=100)
    assert window.refuse(window.add(1.0, 100, estimated=180))
    window.correct(under_way, 250, 5.0)
    assert window.counting.way is Way.ESTIMATE


def test_answers_that_tell_of_more_than_calls_cost_spare_the_tries() -> None:
    counting = Counting(60.0)
    counts = (20_000, 30_000, 30_000, 60_000)
    counting.told(9.0, 60_000, by_start=counts, by_end=counts, cost=counts[0], limit=100_000, unsure=lambda: 0)
    assert counting.way is Way.ESTIMATE
    assert not counting.may_start(9.0, BEYOND)
    counting.told(10.0, 20_000, by_start=counts, by_end=counts, cost=counts[0], limit=100_000, unsure=lambda: 0)
    assert counting.way is Way.COST
    assert counting.may_start(10.0, BEYOND)


@pytest.mark.parametrize(("window", "is_known"), [({}, False), ({"is_bucket": True}, True), ({"began_at": 40.0}, True)])
def test_what_comes_back_by_itself_is_no_sign_that_calls_give_something_back(window: dict[str, Any], is_known: bool) -> None:
    window_of_tokens, counts = CountedWindow(LIMIT, 60.0), (20_000, 20_000, 20_000, 60_000)
    spend = window_of_tokens.add(0.0, 20_000, 0, 60_000)
    window_of_tokens.compare(10.0, 60_000, 0.5, counts)
    window_of_tokens.correct(spend, 20_000, 10.0)
    assert window_of_tokens.counting.way is Way.ESTIMATE
    window_of_tokens.compare(50.0, 500, 45.0, counts, **window)
    assert (window_of_tokens.counting.way is Way.ESTIMATE) is is_known


def test_answers_by_which_all_ways_are_alike_tell_nothing() -> None:
    counting = Counting(60.0)
    counting.told(9.0, 20_000, by_start=(20_000,) * 4, by_end=(20_000,) * 4, cost=20_000, limit=100_000, unsure=lambda: 0)
    assert counting.way is Way.COST
    assert counting.may_start(9.0, BEYOND)


def test_what_a_server_counts_of_calls_under_way_is_in_the_way_until_they_end() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    spend = window.add(0.0, 100, estimated=700)
    assert window.counts(0.0) == (100, 700, 700, 700)
    window.correct(spend, 150, 9.0)
    assert window.counts(9.0) == (150, 150, 150, 700)
    assert window.counts(60.0) == NOTHING  # what was given back as it ended counts longer, but not for less than nothing
    window.add(60.0, 600, estimated=600)
    assert window.counts(60.0) == (600, 600, 600, 600)


def test_who_counts_estimates_counts_no_less_than_a_call_under_way_is_known_to_cost() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    window.add(0.0, 300, estimated=200)
    window.add(0.0, 100, estimated=200)
    assert window.counts(1.0)[Way.ESTIMATE] == 500


def test_what_a_call_costs_more_than_was_counted_at_first_counts_from_its_end() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    window.correct(window.add(0.0, 100, estimated=100), 300, 9.0)
    assert window.counts(60.0) == (0, 200, 0, 0)
    assert window.counts(69.0) == NOTHING


def test_who_waits_for_what_a_call_cost_more_is_let_go_when_that_leaves() -> None:
    window = CountedWindow(limit=1000, seconds=60.0)
    first = window.add(0.0, 100, estimated=200)
    assert window.opens_at(1.0) == 60.0  # none has ended yet
    window.correct(first, 900, 9.0)
    window.forget(60.0)
    window.add(60.0, 100, estimated=100)
    window.counting.started(60.0, [Way.SETTLED], {Way.SETTLED: 1.0})
    assert window.counting.refused(60.0)
    assert not window.fits(61.0, 500, estimated=500)
    assert window.opens_at(61.0) == 69.0
    assert window.fits(69.0, 500, estimated=500)


class Looked(deque[Spend]):
    """Spends that know how many of them were looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Spend]:
        for spend in super().__iter__():
            self.looks += 1
            yield spend


def told(limit: int) -> CountedWindow:
    """Return a window of a server that tells what is left."""
    window = CountedWindow(limit, seconds=60.0)
    window.compare(0.0, 0, 0.0, NOTHING)
    return window


def test_a_try_is_no_look_at_every_call_where_answers_tell_what_is_left() -> None:
    window = told(100_000)
    window.spends = spends = Looked()
    for call in range(1000):
        window.add(call / 100, 50, estimated=200)
    assert spends.looks <= 2 * 1000


@pytest.mark.parametrize(("estimated", "is_ruled_out"), [(1500, True), (900, False)])
def test_a_try_that_a_bucket_has_no_room_for_tells_even_if_it_was_emptied_for_minutes(estimated: int, is_ruled_out: bool) -> None:
    """A hundred calls a minute, whose estimates are a half more than a bucket of 100,000 gets back in that time, or less."""
    window = told(100_000)
    for call in range(500):
        window.forget(0.6 * call)
        spend = window.add(0.6 * call, 600, estimated=estimated)
        window.correct(spend, 600, 0.6 * call)
        assert not window.counting.is_ruled_out(Way.SETTLED_BACK)
    assert window.counting.is_ruled_out(Way.ESTIMATE) is is_ruled_out


@pytest.mark.parametrize("way", [Way.ESTIMATE, Way.SETTLED_BACK])
def test_what_is_used_of_a_bucket_is_known_without_a_look_at_every_call(way: Way) -> None:
    chance, window, buckets, now = random.Random(3), CountedWindow(1_000_000, seconds=60.0), Buckets(), 0.0
    under_way: list[Spend] = []
    for _ in range(200):
        now += chance.expovariate(5.0)
        spend = window.add(now, 100, estimated=300)
        buckets.start(spend, limit=1_000_000, rate=10.0)
        under_way.append(spend)
        if chance.random() < 0.9:
            ended = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() < 0.1:
                buckets.take_back(ended)
                window.refuse(ended)
            else:
                cost = chance.randint(50, 400)
                buckets.end(ended, cost)
                window.correct(ended, cost, now)
        assert buckets.used(way, now, 10.0) == pytest.approx(in_bucket(window.spends, way, moments=(now, now), rate=10.0))


def test_calls_that_were_refused_or_never_sent_take_nothing_of_a_bucket() -> None:
    window = told(1000)
    for call in range(100):
        for end in (window.take_back, window.refuse, window.drop):
            end(window.add(60.0 * call, 300, estimated=900))
    assert not window.counting.is_ruled_out(Way.ESTIMATE)


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_calls_that_were_never_sent_or_have_left_count_in_no_way(seconds: float) -> None:
    window = CountedWindow(limit=1000, seconds=seconds)
    for _ in range(2):
        window.take_back(window.add(0.0, 100, estimated=700))
        window.correct(window.add(0.0, 100, estimated=700), 150, 0.0)
        window.refuse(window.add(0.0, 100, estimated=700))
        late = window.add(0.0, 100, estimated=700)
        window.forget(seconds)
        for spend in (late, late):
            window.correct(spend, 500, seconds)
            window.take_back(spend)
        assert (window.counts(seconds), window.used(seconds)) == (NOTHING, 0)
        assert window.fits(seconds, 1000)
        window.clear()


@pytest.mark.parametrize(("cost", "may_start"), [(97_000, False), (14_000, True)])
def test_what_is_used_is_held_against_what_calls_are_known_to_cost_by_now(cost: int, may_start: bool) -> None:
    """As they started, they were thought to cost as much as their estimates."""
    counting = Counting(seconds=60.0)
    counting.wait_for_more(20.0)
    by_start, by_end = (97_000,) * 4, (30_000, 60_000, 60_000, 99_000)
    counting.told(5.0, 13_000, by_start=by_start, by_end=by_end, cost=cost, limit=100_000, unsure=lambda: 5_000)
    assert counting.may_start(5.0, [Way.SETTLED, Way.SETTLED_BACK, Way.ESTIMATE]) is may_start


@pytest.mark.parametrize(("cost", "may_start"), [(1_000, True), (9_000, False)])
def test_calls_that_cost_less_than_they_were_thought_to_as_they_started_are_known_to_by_now(cost: int, may_start: bool) -> None:
    """Ten calls of 9,000 each by their estimates: an answer that tells of little used tells more if they cost less than that."""
    window = CountedWindow(limit=100_000, seconds=60.0)
    window.counting.wait_for_more(20.0)
    spends = [window.add(0.0, 9_000, estimated=9_000) for _ in range(10)]
    by_start = window.counts(1.0)
    for spend in spends:
        window.correct(spend, cost, 3.0)
    window.compare(5.0, 11_000, 1.0, by_start)
    assert window.counting.may_start(5.0, [Way.ESTIMATE]) is may_start

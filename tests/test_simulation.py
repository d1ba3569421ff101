"""What SimulatedAPI and virtual time promise."""

import asyncio
import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketflow_throttled import SimulatedAPI, VirtualTimeLoop, run_virtual
from pocketflow_throttled.simulation import SimulatedRateLimitError


def outcomes(api: SimulatedAPI, arrivals: list[float], *, tokens: int = 0) -> list[Any]:
    """Send one request at each of these times and return what became of each: the item, or the hint it was refused with."""

    async def one(at: float) -> Any:
        await asyncio.sleep(at)
        try:
            return await api.call(at, tokens=tokens)
        except Exception as error:
            return error.response.headers.get("retry-after", "refused")

    async def main() -> list[Any]:
        return await asyncio.gather(*map(one, arrivals))

    return run_virtual(main())


def test_a_day_passes_in_no_time_and_in_order() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times = []
        for hours in (1, 5, 18):
            await asyncio.sleep(hours * 3600)
            times.append(loop.time())
        return times

    assert run_virtual(main()) == [3600, 6 * 3600, 24 * 3600]


def test_an_age_passes_in_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(1e15)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(1e15)


def test_virtual_time_waits_for_threads() -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: 42)

    assert run_virtual(main()) == 42
    assert VirtualTimeLoop.__mro__[1] is asyncio.SelectorEventLoop


def test_virtual_time_within_a_running_loop_is_refused_with_what_would_do() -> None:
    async def main() -> float:
        with pytest.raises(RuntimeError, match="run_virtual.*await asyncio.to_thread"):
            run_virtual(a_day())
        with pytest.raises(RuntimeError, match="run_virtual.*await asyncio.to_thread"):
            run_virtual(a_day)  # type: ignore[arg-type]
        return await asyncio.to_thread(run_virtual, a_day())

    async def a_day() -> float:
        await asyncio.sleep(86400)
        return asyncio.get_running_loop().time()

    assert asyncio.run(main()) == 86400


def test_more_at_once_than_allowed_are_refused_without_a_hint() -> None:
    api = SimulatedAPI(max_concurrent=2, latency=1.0)
    assert outcomes(api, [0, 0.1, 0.2, 1.05]) == [0, 0.1, "refused", 1.05]
    assert (api.served, api.refused, api.peak_concurrent, api.in_flight) == (3, 1, 2, 0)


def test_a_limit_may_change_with_time() -> None:
    api = SimulatedAPI(max_concurrent=lambda now: 1 if now < 10 else None, latency=1.0)
    assert outcomes(api, [0, 0.5, 10, 10, 10]) == [0, "refused", 10, 10, 10]


def test_a_sliding_window_admits_its_limit_in_any_window() -> None:
    api = SimulatedAPI(max_per_window=2, window_seconds=10.0)
    assert outcomes(api, [0, 6, 8, 10.1, 15]) == [0, 6, "2.000", 10.1, "1.000"]
    assert api.worst_window == 2


def test_a_fixed_window_admits_twice_its_limit_across_its_boundary() -> None:
    api = SimulatedAPI(max_per_window=2, window_seconds=10.0, algorithm="fixed_window")
    assert outcomes(api, [0, 9, 9.5, 10.1, 10.2, 10.3]) == [0, 9, "0.500", 10.1, 10.2, "9.700"]
    assert api.worst_window == 3


def test_a_token_bucket_refills_continuously() -> None:
    api = SimulatedAPI(max_per_window=2, window_seconds=10.0, algorithm="token_bucket")
    assert outcomes(api, [0, 0, 0, 5.1, 6]) == [0, 0, "5.000", 5.1, "4.000"]


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket", "fixed_window"])
def test_tokens_are_limited_too(algorithm: Any) -> None:
    api = SimulatedAPI(max_tokens_per_window=100, window_seconds=10.0, algorithm=algorithm)
    assert outcomes(api, [0, 0.1, 0.2], tokens=40)[:2] == [0, 0.1]
    assert api.refused == 1


@given(
    algorithm=st.sampled_from(["sliding_window", "token_bucket", "fixed_window"]),
    costs=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    gaps=st.lists(st.floats(0.0, 3.0), min_size=12, max_size=12),
)
@example("sliding_window", [1, 10], [0.95, 0.9])
@example("fixed_window", [1, 10, 10], [0.95, 0.9, 0.0])
def test_who_waits_as_long_as_it_was_told_is_served(algorithm: Any, costs: list[int], gaps: list[float]) -> None:
    api = SimulatedAPI(max_tokens_per_window=10, window_seconds=7.0, algorithm=algorithm)

    async def main() -> None:
        for cost, gap in zip(costs, gaps, strict=False):
            await asyncio.sleep(gap)
            try:
                await api.call(tokens=cost)
            except SimulatedRateLimitError as error:
                hint = float(error.response.headers["retry-after"])
                assert 0 < hint <= 14.0
                await asyncio.sleep(hint)
                await api.call(tokens=cost)

    run_virtual(main())
    assert api.served == len(costs)


def test_every_refusal_may_ask_for_the_same_time() -> None:
    assert outcomes(SimulatedAPI(max_concurrent=1, latency=5.0, retry_after=2.0), [0.0, 0.1]) == [0.0, "2.000"]
    assert outcomes(SimulatedAPI(max_per_window=1, retry_after=2.0), [0.0, 0.1]) == [0.0, "2.000"]
    with pytest.raises(ValueError, match="retry_after must be zero or more and finite, in seconds, got nan"):
        SimulatedAPI(retry_after=math.nan)


def test_hints_may_be_withheld() -> None:
    api = SimulatedAPI(max_per_window=1, retry_after=False)
    assert outcomes(api, [0, 1]) == [0, "refused"]


def test_requests_answers_and_refusals_take_their_time() -> None:
    api = SimulatedAPI(max_concurrent=1, latency=lambda item: 2.0, network_delay=0.5, refusal_latency=lambda: 0.25)

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()

        async def one() -> float:
            try:
                await api("x", reply="y")
            except Exception:
                pass
            return loop.time()

        return list(await asyncio.gather(one(), one()))

    assert run_virtual(main()) == [3.0, 1.25]


def test_errors_are_made_as_asked() -> None:
    api = SimulatedAPI(max_concurrent=1, latency=1.0, error=lambda reason, hint: RuntimeError(reason))

    async def main() -> None:
        with pytest.raises(RuntimeError, match="1 requests under way, 1 allowed"):
            await asyncio.gather(api.call(), api.call())
        await asyncio.sleep(2)

    run_virtual(main())
    assert repr(api) == "<SimulatedAPI served=1 refused=1 in_flight=0 peak_concurrent=1 worst_window=1>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_concurrent", 0),
        ("max_per_window", 1.5),
        ("max_tokens_per_window", "5"),
        ("window_seconds", -1),
        ("latency", float("nan")),
        ("network_delay", -1),
        ("refusal_latency", "x"),
        ("algorithm", "magic"),
        ("algorithm", ["sliding_window"]),
        ("retry_after", None),
        ("retry_after", -1),
        ("error", "429"),
    ],
)
def test_bad_settings_are_refused_with_name_and_value(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name) as caught:
        SimulatedAPI(**{name: value})
    assert repr(value) in str(caught.value)


def test_it_is_said_how_hints_are_withheld() -> None:
    with pytest.raises(TypeError, match="^retry_after must be True, False or a number of seconds, got None$"):
        SimulatedAPI(retry_after=None)  # type: ignore[arg-type]


def test_bad_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens must be at least 0, got -1"):
        run_virtual(SimulatedAPI().call(tokens=-1))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_refusal_may_be_copied_and_sent_to_another_process(again: Any) -> None:
    error = SimulatedRateLimitError("5 requests in 60 s allowed", 2.5)
    error.add_note("in item 3")
    copied = again(error)
    assert (str(copied), copied.status_code, copied.body, copied.__notes__) == (str(error), 429, error.body, error.__notes__)
    assert copied.response.headers == {"retry-after": "2.500"}


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket", "fixed_window"])
def test_a_request_larger_than_the_limit_fits_an_empty_window_and_one_without_tokens_any(algorithm: Any) -> None:
    async def main() -> tuple[int, int]:
        api = SimulatedAPI(max_tokens_per_window=100, algorithm=algorithm)
        await api.call(0, tokens=300)
        await api.call(1, tokens=0)
        with pytest.raises(SimulatedRateLimitError):
            await api.call(2, tokens=1)
        return api.served, api.refused

    assert run_virtual(main()) == (2, 1)

"""What `python -m pocketflow_throttled` promises."""

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketflow_throttled import FlowPresets, Presets, RateLimiter, run_virtual
from pocketflow_throttled.__main__ import main
from pocketflow_throttled.forecast import forecast


def test_presets_are_printed_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    for name in Presets.list_presets():
        assert f"Presets.{name.upper()}: max_concurrent=" in printed
        assert Presets.source(name).source in printed
        assert Presets.source(name).date in printed
    for name in FlowPresets.list_presets():
        assert f"FlowPresets.{name.upper()}: " in printed
    assert "max_tokens_per_minute=500,000" in printed


# --- the forecast


@pytest.mark.parametrize(
    ("settings", "work", "seconds", "limited_by"),
    [
        ({"max_concurrent": 5, "max_per_minute": None}, {"items": 100, "latency": 1.0}, 20, ("max_concurrent",)),
        ({"max_concurrent": 50, "max_per_minute": 60}, {"items": 150, "latency": 1.0}, 121, ("max_per_minute",)),
        (
            {"max_concurrent": 50, "max_per_minute": 600, "max_tokens_per_minute": 1000},
            {"items": 30, "latency": 1.0, "tokens": 100},
            121,
            ("max_tokens_per_minute",),
        ),
        ({"max_concurrent": 50, "max_per_minute": 600}, {"items": 10, "latency": 2.0}, 2, ()),
        ({"max_concurrent": 1, "max_per_minute": 1}, {"items": 1, "latency": 3.0}, 3, ()),
        ({"max_concurrent": 1}, {"items": 1000, "latency": 0}, 0, ()),
        ({"max_concurrent": 1, "max_per_minute": 60}, {"items": 600, "latency": 0}, 540, ("max_per_minute",)),
        # larger than the window: one a minute
        (
            {"max_concurrent": 9, "max_tokens_per_minute": 100},
            {"items": 3, "latency": 1, "tokens": 5000},
            121,
            ("max_tokens_per_minute",),
        ),
    ],
)
def test_a_forecast_tells_the_time_and_what_limits_it(
    settings: dict, work: dict, seconds: float, limited_by: tuple[str, ...]
) -> None:
    found = forecast(settings, **work)
    assert found.seconds == pytest.approx(seconds, abs=0.5)
    assert found.limited_by == limited_by


def test_two_limits_that_hold_equally_are_named_together() -> None:
    found = forecast({"max_concurrent": 1, "max_per_minute": 60}, items=6000, latency=1.0)
    assert found.limited_by == ("max_concurrent", "max_per_minute")
    assert (found.seconds, found.seconds_without) == (6000, 1)


def test_a_million_calls_are_forecast_without_a_loop_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketflow_throttled.forecast._COUNTED", 50_000)
    found = forecast({"max_concurrent": 100, "max_per_minute": 15_000}, items=1_000_000, latency=10.0)
    assert found.seconds == 100_000
    assert found.limited_by == ("max_concurrent",)


def test_calls_that_are_spaced_are_forecast_so() -> None:
    found = forecast({"max_concurrent": 10, "max_per_minute": 60, "max_burst": 1}, items=11, latency=1.0)
    assert (found.seconds, found.limited_by) == (11.0, ("max_per_minute",))
    assert forecast({"max_concurrent": 10, "max_per_minute": 60, "max_burst": 5}, items=12, latency=1.0).seconds == 11.0


def test_a_minute_that_its_bursts_do_not_divide_is_forecast_too() -> None:
    assert forecast({"max_per_minute": 5, "max_burst": 2}, items=6, latency=0).seconds == 60.0
    assert forecast({"max_per_minute": 3, "max_burst": 5}, items=4, latency=0).seconds == 60.0


def test_a_billion_calls_take_no_longer_to_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketflow_throttled.forecast._COUNTED", 50_000)
    settings = {"max_concurrent": 100, "max_per_minute": 600, "max_tokens_per_minute": 40_000_000}
    found = forecast(settings, items=1_000_000_000, latency=2.0, tokens=1)
    assert found.seconds == pytest.approx(100_000_000, rel=1e-6)
    assert found.limited_by == ("max_per_minute",)
    assert found.seconds_without == pytest.approx(20_000_000, rel=1e-6)


LIMIT = st.none() | st.integers(1, 20)


@given(st.integers(1, 20), LIMIT, LIMIT, LIMIT, st.integers(1, 40), st.sampled_from([0, 0.5, 7, 61]), st.integers(0, 30))
def test_a_forecast_is_what_the_limiter_does(
    max_concurrent: int,
    per_minute: int | None,
    burst: int | None,
    tokens_per_minute: int | None,
    items: int,
    latency: float,
    tokens: int,
) -> None:
    burst = None if per_minute is None else burst

    async def batch() -> float:
        limiter = RateLimiter(max_concurrent, per_minute, max_tokens_per_window=tokens_per_minute, max_burst=burst)
        loop = asyncio.get_running_loop()
        for _ in range(items):
            await limiter.acquire(tokens=tokens)
            loop.call_later(latency, limiter.release)
        await asyncio.sleep(latency)
        return loop.time()

    settings = {
        "max_concurrent": max_concurrent,
        "max_per_minute": per_minute,
        "max_tokens_per_minute": tokens_per_minute,
        "max_burst": burst,
    }
    found = forecast(settings, items=items, latency=latency, tokens=tokens)
    assert found.seconds == pytest.approx(run_virtual(batch()), abs=0.01)


# --- what it prints


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (
            "--preset Conservative --items 100 --latency 2",
            "100 calls of 2 s: 4 min 20 s, with max_concurrent=2, max_per_minute=20.",
        ),
        ("--preset Conservative --items 100 --latency 2", "Limited by max_per_minute: without, it would take 1 min 40 s."),
        ("--preset Conservative --items 100 --latency 2", "To be faster, raise max_per_minute,"),
        ("--items 1 --latency 0", "1 call of 0 s: 0 s, with max_concurrent=5.\nLimited by nothing"),
        ("--items 100 --latency 1 --max-concurrent 4", "25 s, with max_concurrent=4.\nLimited by max_concurrent: without"),
        ("--preset openai_tier1 --items 9 --latency 1 --max-concurrent 3", "3 s, with max_concurrent=3, max_per_minute=500"),
        (
            "--items 120 --latency 1 --tokens 50 --max-tokens-per-minute 3000",
            "Limited by max_tokens_per_minute: without, it would take 24 s",
        ),
        (
            "--items 6000 --latency 1 --max-concurrent 1 --max-per-minute 60",
            "Limited by max_concurrent and max_per_minute together",
        ),
        ("--items 1 --latency 0 --preset Presets.CONSERVATIVE", "with max_concurrent=2, max_per_minute=20.\n"),
        ("--items 9 --latency 1 --preset groq_free", "Tokens are not counted: `--tokens` tells how many a call costs.\n"),
        ("--items 9 --latency 1 --max-tokens-per-minute 5", "Tokens are not counted: `--tokens`"),
        (
            "--items 9 --latency 1 --preset groq_free --tokens 6001",
            "max_tokens_per_minute=6,000, it refuses every call: one costs more than that.\n",
        ),
        ("--items 10 --latency 1e15", "23,148,148,148 d"),
        ("--items 1000 --latency 3600", "8 d 8 h"),
    ],
)
def test_simulate_tells_how_long_what_limits_and_what_to_raise(
    arguments: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *arguments.split()]) == 0
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("simulate --preset nope --items 1 --latency 1", "error: Unknown preset: 'nope'"),
        ("simulate --preset openai_tier --items 1 --latency 1", "Did you mean OPENAI_TIER5 or OPENAI_TIER4 or OPENAI_TIER3?"),
        ("simulate --items 0 --latency 1", "error: items must be at least 1, got 0"),
        ("simulate --items 1 --latency -1", "error: latency must be zero or more"),
        ("simulate --items 1 --latency nan", "error: latency must be zero or more"),
        ("simulate --items 1 --latency inf", "error: latency must be zero or more"),
        ("simulate --items 1 --latency 1 --tokens -1", "error: tokens must be at least 0, got -1"),
        ("simulate --items 1 --latency 1 --max-concurrent 0", "error: max_concurrent must be at least 1, got 0"),
        ("simulate --items 1 --latency 1 --max-per-minute -3", "error: max_per_minute must be at least 1, got -3"),
        ("simulate --items ten --latency 1", "error: argument --items: invalid int value: 'ten'"),
        ("simulate --latency 1", "error: the following arguments are required: --items"),
        ("simulate --items 1 --latency 1 --colour red", "error: unrecognized arguments: --colour red"),
        ("guess", "error: argument {presets,simulate}: invalid choice: 'guess'"),
        ("", "error: the following arguments are required: {presets,simulate}"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments.split())
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert (said.err.count("\n"), said.out) == (1, "")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketflow_throttled", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_is_a_command() -> None:
    done = run("simulate", "--preset", "OPENAI_TIER1", "--items", "10", "--latency", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("10 calls of 5 s: 5 s, with max_concurrent=84")
    done = run("simulate", "--preset", "nope", "--items", "10", "--latency", "5")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("command", [(), ("presets",), ("simulate",)])
def test_it_tells_its_options(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    assert "usage: python -m pocketflow_throttled" in capsys.readouterr().out


def test_a_reader_that_has_read_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "pocketflow_throttled", "presets"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""

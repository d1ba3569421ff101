"""What `python -m pocketflow_throttled` promises."""

import subprocess
import sys

import pytest

from pocketflow_throttled import Presets
from pocketflow_throttled.__main__ import main
from pocketflow_throttled.forecast import forecast


def test_presets_are_printed_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    for name in Presets.list_presets():
        assert name.upper() in printed
        assert Presets.source(name).source in printed
    assert "max_tokens_per_minute=500,000" in printed


@pytest.mark.parametrize(
    ("settings", "work", "seconds", "limited_by"),
    [
        ({"max_concurrent": 5, "max_per_minute": None}, {"items": 100, "latency": 1.0}, 20, "max_concurrent"),
        ({"max_concurrent": 50, "max_per_minute": 60}, {"items": 150, "latency": 1.0}, 121, "max_per_minute"),
        (
            {"max_concurrent": 50, "max_per_minute": 600, "max_tokens_per_minute": 1000},
            {"items": 30, "latency": 1.0, "tokens": 100},
            121,
            "max_tokens_per_minute",
        ),
        ({"max_concurrent": 50, "max_per_minute": 600}, {"items": 10, "latency": 2.0}, 2, None),
    ],
)
def test_a_forecast_tells_the_time_and_what_limits_it(settings: dict, work: dict, seconds: float, limited_by: str | None) -> None:
    found = forecast(settings, **work)
    assert found.seconds == pytest.approx(seconds, abs=0.5)
    assert found.limited_by == limited_by


def test_simulate_says_which_setting_to_raise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--preset", "Conservative", "--items", "100", "--latency", "2"]) == 0
    printed = capsys.readouterr().out
    assert "take 0:04:" in printed
    assert "Limited by max_per_minute" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nope", "--items", "1", "--latency", "1"], "error: Unknown preset: 'nope'"),
        (["--preset", "moderate", "--items", "0", "--latency", "1"], "error: items must be at least 1, got 0"),
        (["--preset", "moderate", "--items", "1", "--latency", "-1"], "error: latency must be zero or more"),
        (["--preset", "moderate", "--items", "1", "--latency", "nan"], "error: latency must be zero or more"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "pocketflow_throttled", "simulate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1

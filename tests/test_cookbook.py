"""Every script of the cookbook runs without a key, tells its options, and its tables are what it measures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .providers.server import Behaviour, Provider

ROOT = Path(__file__).parent.parent
COOKBOOK = ROOT / "cookbook" / "rate_limited_llm_batch"
SCRIPTS = sorted(path.name for path in COOKBOOK.glob("*.py") if path.name != "utils.py")


def run(script: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return subprocess.run(
        [sys.executable, str(COOKBOOK / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**inherited, **environment},
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs_without_a_key_and_what_it_claims_holds(script: str) -> None:
    done = run(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(character.isdigit() for character in done.stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_tells_its_options(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_the_main_job_shows_the_throttle_at_work() -> None:
    done = run("main.py", "--compare", "--languages", "French, German,Korean,Greek")
    assert done.returncode == 0
    assert "Throttled: 4 of 4 translated" in done.stdout
    assert "refused calls: 0, most at once: 3" in done.stdout
    assert "Unthrottled: 0 of 4" in done.stdout or "Unthrottled: 3 of 4" in done.stdout


def test_the_main_job_writes_what_it_translated(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("Good morning.", encoding="utf-8")
    assert run("main.py", "--input", str(text), "--output", str(tmp_path / "out"), "--languages", "Welsh").returncode == 0
    assert "Good morning." in (tmp_path / "out" / "Welsh.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_main_job_works_with_the_real_clients_and_waits_a_refusal_out(provider: str, tmp_path: Path) -> None:
    api = Provider(misbehave=lambda number: Behaviour(429, headers={"retry-after": "0.1"}) if number == 2 else None)
    with api.serve() as url:
        keys = {f"{provider.upper()}_API_KEY": "test", "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        done = run("main.py", "--provider", provider, "--languages", "French,Greek,Thai", cwd=tmp_path, **keys)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 translated" in done.stdout
    assert (api.served, api.unfair, api.received) == (3, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--provider", "openai"), 2, "OPENAI_API_KEY is not set"),
        (("--provider", "anthropic"), 2, "ANTHROPIC_API_KEY is not set"),
        (("--provider", "nobody"), 2, "invalid choice"),
        (("--languages", " ,"), 2, "--languages names no language"),
        (("--input", "no such file"), 2, "no such file"),
        (("--compare", "--provider", "openai"), 2, "paid calls"),
    ],
)
def test_the_main_job_says_what_is_missing(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run("main.py", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("readme", [ROOT / "README.md", COOKBOOK / "README.md"], ids=str)
def test_the_readmes_tables_are_what_the_comparison_measures(readme: Path) -> None:
    done = run("comparison.py")
    table = done.stdout.partition("\nLost items")[0].strip()
    assert table in readme.read_text(encoding="utf-8")

"""Every script of the cookbook runs without a key, tells its options, and its tables are what it measures."""

import asyncio
import gc
import importlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pocketflow_throttled import SimulatedAPI

from .providers.server import Anthropic, Behaviour, OpenAI, Provider

ROOT = Path(__file__).parent.parent
COOKBOOK = ROOT / "cookbook" / "rate_limited_llm_batch"
SCRIPTS = sorted(path.name for path in COOKBOOK.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COOKBOOK / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")} | environment,
    )


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a script in this process, which spares starting another."""

    def run(script: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> Done:
        monkeypatch.setattr(sys, "argv", [str(COOKBOOK / script), *arguments])
        monkeypatch.syspath_prepend(COOKBOOK)
        monkeypatch.chdir(cwd)
        for name in [name for name in os.environ if name.endswith("_API_KEY")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = 0
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
                if isinstance(exit_.code, str):
                    print(exit_.code, file=sys.stderr)
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs_without_a_key_and_what_it_claims_holds(script: str, run_here: Callable[..., Done]) -> None:
    done = run_here(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(character.isdigit() for character in done.stdout)
    assert "not hold" not in done.stdout
    assert "virtual" in done.stdout or script in (
        "main.py",
        "comparison.py",
    )  # the one takes real time, the other says it in --help


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_fails_when_its_claim_does_not_hold(
    script: str, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    init = SimulatedAPI.__init__

    def stricter(self: SimulatedAPI, **settings: Any) -> None:
        told = settings.get("max_concurrent")
        init(self, **{**settings, "max_concurrent": max(1, told - 1) if isinstance(told, int) else 10})

    monkeypatch.setattr(SimulatedAPI, "__init__", stricter)
    few = ("--languages", "French,German,Greek") if script == "main.py" else ()  # which waits for real
    done = run_here(script, *few)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["adaptive_example.py", "comparison.py"])
def test_it_draws_a_picture(script: str, tmp_path: Path, run_here: Callable[..., Done]) -> None:
    file = tmp_path / "drawn.png"
    done = run_here(script, "--plot", str(file))
    assert done.returncode == 0, done.stderr
    assert file.read_bytes().startswith(b"\x89PNG\r\n")
    assert f"Drawn to {file}." in done.stdout


@pytest.mark.parametrize("script", ["adaptive_example.py", "comparison.py"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("drawn.png", "--plot needs matplotlib: pip install matplotlib"),
        ("no/such/folder/drawn.png", "No such file or directory"),
        ("drawn.song", "'song' is not supported"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_told_in_a_line(
    script: str, file: str, message: str, tmp_path: Path, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "needs matplotlib" in message:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run_here(script, "--plot", str(tmp_path / file))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: --plot")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_tells_its_options(script: str, run_here: Callable[..., Done]) -> None:
    done = run_here(script, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_the_main_job_shows_the_throttle_at_work() -> None:
    done = run("main.py", "--compare", "--languages", "French, German,Korean,Greek")
    assert done.returncode == 0
    assert "Throttled: 4 of 4 translated" in done.stdout
    assert "refused calls: 0, most at once: 3" in done.stdout
    assert "Unthrottled: 0 of 4" in done.stdout or "Unthrottled: 3 of 4" in done.stdout
    assert done.stdout.endswith("Throttled, nothing was lost or refused.\n")  # whatever became of the other


def test_the_main_job_writes_what_it_translated(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("Good morning.", encoding="utf-8")
    assert run("main.py", "--input", str(text), "--output", str(tmp_path / "out"), "--languages", "Welsh").returncode == 0
    assert "Good morning." in (tmp_path / "out" / "Welsh.md").read_text(encoding="utf-8")


def test_the_main_job_loses_nothing_where_the_terminal_does_not_know_a_language(tmp_path: Path) -> None:
    done = run("main.py", "--languages", "Ελληνικά", "--output", str(tmp_path), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u0395" in done.stdout
    assert "Ελληνικά" in (tmp_path / "Ελληνικά.md").read_text(encoding="utf-8")


def test_the_main_job_asks_nobody_for_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    done = run("main.py", "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("main.py: ")


def test_the_main_job_asks_once_for_a_language_that_is_named_twice() -> None:
    assert "Asking mock for 1 languages" in run("main.py", "--languages", "Welsh, Welsh").stdout


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a script's connections end with its process
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_main_job_works_with_the_real_clients_and_waits_a_refusal_out(
    provider: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    api = Provider(misbehave=lambda number: Behaviour(429, headers={"retry-after": "0.1"}) if number == 2 else None)
    with api.serve() as url:
        keys = {f"{provider.upper()}_API_KEY": "test", "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        done = run_here("main.py", "--provider", provider, "--languages", "French,Greek,Thai", cwd=tmp_path, **keys)
        gc.collect()  # its client
    assert done.returncode == 0, done.stderr
    assert "3 of 3 translated" in done.stdout
    assert (api.served, api.unfair, api.received) == (3, 1, 4)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    ("wire", "told"),
    [
        (OpenAI, {"choices": [{"index": 0, "finish_reason": "content_filter", "message": {"content": None}}]}),
        (OpenAI, {"choices": [{"index": 0, "finish_reason": "length", "message": {"content": "Guten"}}]}),
        (Anthropic, {"content": [], "stop_reason": "refusal"}),
        (Anthropic, {"content": [{"type": "text", "text": "Guten"}], "stop_reason": "max_tokens"}),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error_and_no_text(
    wire: type[OpenAI | Anthropic], told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = wire.answer("Guten Morgen", 1)
    monkeypatch.setattr(wire, "answer", staticmethod(lambda text, tokens: {**whole, **told}))
    monkeypatch.syspath_prepend(COOKBOOK)
    provider = wire.__name__.lower()
    with Provider().serve() as url:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", "test")
        monkeypatch.setenv(f"{provider.upper()}_BASE_URL", f"{url}/v1" if wire is OpenAI else url)
        with pytest.raises(ValueError, match="the answer is not whole"):
            asyncio.run(importlib.import_module("utils").make_call_llm(provider)("Good morning"))
        gc.collect()  # its client


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--provider", "openai"), 2, "OPENAI_API_KEY is not set"),
        (("--provider", "anthropic"), 2, "ANTHROPIC_API_KEY is not set"),
        (("--provider", "nobody"), 2, "invalid choice"),
        (("--languages", " ,"), 2, "--languages names no language"),
        (("--input", "no such file"), 2, "no such file"),
        (("--compare", "--provider", "openai"), 2, "paid calls"),
        (("--output", "out", "--languages", "Thai,Chinese (old/new)"), 2, "'Chinese (old/new)' cannot be the name"),
    ],
)
def test_the_main_job_says_what_is_missing(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str, run_here: Callable[..., Done]
) -> None:
    done = run_here("main.py", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr

"""Every code block of the README, and every example in a docstring, runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pocketflow_throttled
from pocketflow_throttled.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "cookbook").glob("*/README.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)} {number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
MODULES = [f"pocketflow_throttled.{module.name}" for module in pkgutil.iter_modules(pocketflow_throttled.__path__)]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_code_block_runs(block: str) -> None:
    exec(compile(block, "a code block", "exec"), {"__name__": "page"})


WITHOUT_EXAMPLE = {"api.md", "changelog.md", "design.md", "which-class.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in WITHOUT_EXAMPLE], ids=str)
def test_every_page_has_an_example(page: Path) -> None:
    assert "```python\n" in page.read_text(encoding="utf-8")


COMMANDS = {
    command
    for page in PAGES
    for command in re.findall(
        r"python -m pocketflow_throttled ((?:presets|simulate) ?[\w .-]*)", page.read_text(encoding="utf-8")
    )
}


@pytest.mark.parametrize("command", sorted(command for command in COMMANDS if "NAME" not in command))
def test_every_command_that_is_shown_runs(command: str) -> None:
    try:
        code = main(command.split())
    except SystemExit as exit_:  # of --help
        code = exit_.code
    assert code == 0


def test_commands_are_shown() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0

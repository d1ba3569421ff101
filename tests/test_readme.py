"""Every code block of the README, and every example in a docstring, runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pocketflow_throttled

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


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0

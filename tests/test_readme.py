"""Every code block of the README, and every example in a docstring, runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pocketflow_throttled

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
MODULES = [f"pocketflow_throttled.{module.name}" for module in pkgutil.iter_modules(pocketflow_throttled.__path__)]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_readme_runs(number: int) -> None:
    exec(compile(BLOCKS[number], f"README.md block {number}", "exec"), {"__name__": "readme"})


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0

"""The generated parts of the docs are what their sources say."""

import importlib.util
from pathlib import Path
from types import ModuleType

from pocketflow_throttled import Presets

DOCS = Path(__file__).parent.parent / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_of_the_simulation() -> None:
    drawn = (DOCS / "pages" / "images" / "adaptive.svg").read_text(encoding="utf-8")
    assert drawn == load("pictures").picture()


def test_each_marker_stands_for_its_part() -> None:
    hooks = load("hooks")
    for page in ("presets", "changelog", "index"):
        markdown = (DOCS / "pages" / f"{page}.md").read_text(encoding="utf-8")
        assert len(hooks.on_page_markdown(markdown)) > len(markdown) + 200
    table = hooks.presets()
    for name in Presets.list_presets():
        assert f"| `{name.upper()}` |" in table


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (DOCS / "pages").glob("*.md"):
        assert f"- {page.name}" in navigation

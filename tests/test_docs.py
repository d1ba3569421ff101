"""The generated parts of the docs are what their sources say, and every page can be found."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pocketflow_throttled
from pocketflow_throttled import FlowPresets, Presets

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "pocketflow_throttled"
PAGES = sorted((DOCS / "pages").glob("*.md"))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module


def test_what_is_generated_is_up_to_date(generate: ModuleType) -> None:
    made = generate.made()
    assert {path.suffix for path in made} == {".md", ".svg"}
    old = [path for path, content in made.items() if path.read_text(encoding="utf-8") != content]
    assert not old, f"run `python docs/generate.py` to bring these up to date: {[str(path.relative_to(ROOT)) for path in old]}"


def test_the_comparison_is_the_same_in_the_readme_the_cookbook_and_the_docs() -> None:
    copies = (ROOT / "README.md", ROOT / "cookbook" / "rate_limited_llm_batch" / "README.md", DOCS / "pages" / "index.md")
    tables = {copy.read_text(encoding="utf-8").partition("comparison.py --write -->")[2].partition("<!--")[0] for copy in copies}
    assert len(tables) == 1
    assert tables.pop().count("|") > 20


def test_the_presets_page_has_every_preset_with_its_source(generate: ModuleType) -> None:
    table = generate.presets()
    for presets in (Presets, FlowPresets):
        for name in presets.list_presets():
            assert f"| `{name.upper()}` |" in table
    for name in Presets.list_presets():
        assert Presets.source(name).source in table
        assert Presets.source(name).model in table


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert re.search(rf"^ +- (?:.+: )?{re.escape(page.name)}$", navigation, re.MULTILINE), page.name


def test_the_api_reference_has_every_public_name() -> None:
    page = (DOCS / "pages" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: pocketflow_throttled\.(\w+)$|heading: (\w+)", page, re.MULTILINE)
    assert sorted(name or heading for name, heading in named) == sorted(pocketflow_throttled.__all__)


def test_every_member_that_the_api_reference_names_exists() -> None:
    page = (DOCS / "pages" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: pocketflow_throttled\.(\w+)\n +options: {members: \[(.*)\]}$", page, re.MULTILINE)
    assert named
    for owner, members in named:
        for member in members.split(", "):
            assert hasattr(getattr(pocketflow_throttled, owner), member), f"{owner}.{member}"


def rooms() -> list[set[str]]:
    """Return the modules that the design page names, row by row."""
    page = (DOCS / "pages" / "design.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def test_the_design_page_has_every_module() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert set().union(*rooms()) == modules


def test_each_module_imports_only_from_its_row_of_the_design_page_and_those_above() -> None:
    above: set[str] = set()
    for row in rooms():
        above |= row
        for name in row:
            source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
            imported = set(re.findall(r"^ *from \.(\w+) import", source, re.MULTILINE))
            imported.update(*(names.split(", ") for names in re.findall(r"^ *from \. import (.*)$", source, re.MULTILINE)))
            assert imported <= above, f"{name} imports {sorted(imported - above)}"


def test_the_api_reference_shows_what_public_classes_have_from_others() -> None:
    settings = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    shown = re.search(r"inherited_members: \[(.*)\]", settings)
    assert shown is not None
    page = (DOCS / "pages" / "api.md").read_text(encoding="utf-8")
    in_full = re.findall(r"^::: pocketflow_throttled\.(\w+)\n +options: {inherited_members: true}$", page, re.MULTILINE)
    assert in_full == ["RateLimiter"]
    public = [getattr(pocketflow_throttled, name) for name in pocketflow_throttled.__all__ if name not in in_full]
    own = [base for owner in public if isinstance(owner, type) for base in owner.__mro__ if base not in public]
    members = [
        name
        for base in own
        if base.__module__.startswith("pocketflow_throttled.")
        for name, member in vars(base).items()
        if not name.startswith("_") and getattr(member, "__doc__", None) and (callable(member) or hasattr(member, "__get__"))
    ]
    assert sorted(set(members)) == sorted(shown[1].split(", "))


LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)?(?:#([^)]*))?\)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", *ROOT.glob("cookbook/*/README.md")], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {file}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]

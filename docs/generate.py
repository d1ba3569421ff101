"""Writes what the README and the docs have from data and from simulations: `python docs/generate.py`.

The comparison (README, cookbook, docs), the pictures, and the table of presets. A test fails when a file differs.
"""

import importlib
import sys
from pathlib import Path

import pictures

from pocketflow_throttled import FlowPresets, Presets

DOCS = Path(__file__).parent
COOKBOOK = DOCS.parent / "cookbook" / "rate_limited_llm_batch"
BEGIN, END = "<!-- presets: made by docs/generate.py -->", "<!-- end of presets -->"


def presets():
    """Return the presets as Markdown: value, model, source and date."""
    lines = ["## From a provider", "", "| preset | at once | a minute | tokens a minute | holds for | source, date |"]
    lines.append("|---|---:|---:|---:|---|---|")
    names = list(Presets.list_presets())
    for name in filter(lambda name: Presets.source(name).source, names):
        source = Presets.source(name)
        link = f"[{source.source.split('/')[0]}](https://{source.source}), {source.date}"
        lines.append(f"| `{name.upper()}` | {_numbers(Presets.get(name), TOKENS)} | {source.model} | {link} |")
    lines += ["", "## Ours", "", "| preset | at once | a minute | for |", "|---|---:|---:|---|"]
    for name in filter(lambda name: not Presets.source(name).source, names):
        lines.append(f"| `{name.upper()}` | {_numbers(Presets.get(name), TOKENS[:2])} | {Presets.list_presets()[name]} |")
    lines += ["", "## For flows: `FlowPresets`", "", "| preset | at once | starts a minute | for |", "|---|---:|---:|---|"]
    for name, what in FlowPresets.list_presets().items():
        lines.append(f"| `{name.upper()}` | {_numbers(FlowPresets.get(name), FLOWS)} | {what} |")
    return "\n".join(lines)


TOKENS = ("max_concurrent", "max_per_minute", "max_tokens_per_minute")
FLOWS = ("max_concurrent_flows", "max_flows_per_minute")


def _numbers(settings, names):
    return " | ".join("" if settings.get(name) is None else f"{settings[name]:,}" for name in names)


def made():
    """Return what each generated file should hold, by its path."""
    sys.path.insert(0, str(COOKBOOK))
    try:
        comparison = importlib.import_module("comparison")
    finally:
        sys.path.remove(str(COOKBOOK))
    measured = comparison.measure()
    table = comparison.table(measured)
    page = DOCS / "pages" / "presets.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        page: f"{before}{BEGIN}\n\n{presets()}\n\n{END}{after}",
        **{copy: comparison.placed(copy.read_text(encoding="utf-8"), table) for copy in comparison.COPIES},
        DOCS / "pages" / "images" / "adaptive.svg": pictures.adaptive(pictures.learn()),
        DOCS / "pages" / "images" / "comparison.svg": pictures.comparison(measured),
    }


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content, encoding="utf-8")
        print(f"written: {path.relative_to(DOCS.parent)}")

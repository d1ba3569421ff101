"""Puts generated parts into the pages: the presets from their data, the changelog, the measured comparison."""

from pathlib import Path

from pocketflow_throttled import Presets

ROOT = Path(__file__).parent.parent


def presets():
    """Return the presets as a Markdown table: value, model, source and date."""
    lines = ["| preset | at once | a minute | tokens a minute | holds for | source |", "|---|---:|---:|---:|---|---|"]
    for name in Presets.list_presets():
        settings, source = Presets.get(name), Presets.source(name)
        numbers = [settings.get(key) for key in ("max_concurrent", "max_per_minute", "max_tokens_per_minute")]
        cells = " | ".join("" if number is None else f"{number:,}" for number in numbers)
        holds = source.model or Presets.list_presets()[name]
        lines.append(
            f"| `{name.upper()}` | {cells} | {holds} | {f'{source.source}, {source.date}' if source.source else 'ours'} |"
        )
    return "\n".join(lines)


def changelog():
    """Return the changelog without its title."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]


def comparison():
    """Return the table that the README has, which `comparison.py --write` made."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("comparison.py --write -->")[2].partition("<!-- end of comparison")[0]


PARTS = {"<!-- presets -->": presets, "<!-- changelog -->": changelog, "<!-- comparison -->": comparison}


def on_page_markdown(markdown, **_):
    """Replace each marker by what it stands for."""
    for marker, make in PARTS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown

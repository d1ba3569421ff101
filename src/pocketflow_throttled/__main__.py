"""`python -m pocketflow_throttled`: print the presets with their sources, or tell how long a batch will take."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta

from .forecast import forecast
from .presets import Presets

_LONGER = "ask the provider for a higher tier, or choose a preset with a higher one"
_RAISE = {
    "max_concurrent": "raise max_concurrent, if the API takes more at once",
    "max_per_minute": f"max_per_minute is the API's: {_LONGER}",
    "max_tokens_per_minute": f"max_tokens_per_minute is the API's: {_LONGER}, or send fewer tokens",
}


def _presets() -> None:
    for name in Presets.list_presets():
        settings = ", ".join(f"{key}={value:,}" for key, value in Presets.get(name).items() if value is not None)
        source = Presets.source(name)
        origin = f"{source.model} ({source.source}, {source.date})" if source.source else Presets.list_presets()[name]
        print(f"{name.upper():24} {settings}\n{'':24} {origin}")


def _simulate(arguments: argparse.Namespace) -> None:
    found = forecast(Presets.get(arguments.preset), items=arguments.items, latency=arguments.latency, tokens=arguments.tokens)
    took = _time(found.seconds)
    print(f"{arguments.items:,} items of {arguments.latency:g} s take {took} with {arguments.preset.upper()}.")
    if found.limited_by is None:
        print("No limit holds them back: each call takes its time.")
    else:
        without = _time(found.seconds_without)
        print(f"Limited by {found.limited_by}: without it, {without}. To be faster, {_RAISE[found.limited_by]}.")


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{timedelta(seconds=round(seconds))} h"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors are one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m pocketflow_throttled", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("presets", help="print every preset with its source")
    simulate = commands.add_parser("simulate", help="tell how long a batch will take, what limits it, and what to raise")
    simulate.add_argument("--preset", required=True, help="a name that `presets` prints, in any case")
    simulate.add_argument("--items", type=int, required=True, help="calls in the batch")
    simulate.add_argument("--latency", type=float, required=True, help="seconds that a call takes")
    simulate.add_argument("--tokens", type=int, default=0, help="tokens that a call costs")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "presets":
            _presets()
        else:
            _simulate(parsed)
    except (KeyError, TypeError, ValueError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

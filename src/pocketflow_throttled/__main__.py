"""Print the presets with their sources, or tell how long a batch will take before a cent is spent."""

from __future__ import annotations

import argparse
import os
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

from .forecast import Forecast, forecast
from .nodes import ThrottledParallelBatchNode
from .presets import FlowPresets, Presets

_COMMAND = "python -m pocketflow_throttled"
_EXAMPLE = f"example: {_COMMAND} simulate --preset OPENAI_TIER1 --items 10000 --latency 5 --tokens 1500"
_AT_ONCE = ThrottledParallelBatchNode.max_concurrent
_RAISE = {
    "max_concurrent": "raise max_concurrent, if the API takes more at once",
    "max_per_minute": "raise max_per_minute, for which the API's own limit must be higher: another model or tier",
    "max_tokens_per_minute": "raise max_tokens_per_minute, for which the API's own limit must be higher, or send fewer tokens",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one line; the usage is what `--help` is for."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _presets() -> None:
    for owner in (Presets, FlowPresets):
        for name, description in owner.list_presets().items():
            limits = ", ".join(f"{key}={value:,}" for key, value in owner.get(name).items() if value is not None)
            print(f"{owner.__name__}.{name.upper()}: {limits}\n    {description}")


def _simulate(arguments: argparse.Namespace) -> None:
    settings: dict[str, Any] = {"max_concurrent": _AT_ONCE}
    if arguments.preset is not None:
        settings.update(_preset(arguments.preset))
    given = ("max_concurrent", "max_per_minute", "max_tokens_per_minute")
    settings.update({name: value for name in given if (value := getattr(arguments, name)) is not None})
    found = forecast(settings, items=arguments.items, latency=arguments.latency, tokens=arguments.tokens)
    calls = "1 call" if arguments.items == 1 else f"{arguments.items:,} calls"
    limits = ", ".join(f"{name}={value:,}" for name, value in settings.items() if value is not None)
    print(f"{calls} of {_time(arguments.latency)}: {_time(found.seconds)}, with {limits}.")
    print(_what_limits(found))
    allowed = settings.get("max_tokens_per_minute")
    if allowed is not None and not arguments.tokens:
        print("Tokens are not counted: `--tokens` tells how many a call costs.")
    if allowed is not None and arguments.tokens > allowed:
        print(
            f"If the API allows no more than max_tokens_per_minute={allowed:,}, it refuses every call: one costs more than that."
        )


def _preset(name: str) -> dict[str, Any]:
    known = list(Presets.list_presets())
    key = name.lower().removeprefix("presets.")  # as they are printed
    if key in known:
        return Presets.get(key)
    close = [match.upper() for match in get_close_matches(key, known, n=3)]
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"Unknown preset: {name!r}.{meant} `{_COMMAND} presets` prints them all.")


def _what_limits(found: Forecast) -> str:
    if not found.limited_by:
        return "Limited by nothing but the calls themselves."
    together = " together" if len(found.limited_by) > 1 else ""
    advice = "; and ".join(_RAISE[name] for name in found.limited_by)
    limits = " and ".join(found.limited_by)
    return f"Limited by {limits}{together}: without, it would take {_time(found.seconds_without)}. To be faster, {advice}."


def _time(seconds: float) -> str:
    """Return a time in its two largest units.

    Example:
        >>> _time(0.25), _time(59.96), _time(3725), _time(200_000)
        ('0.25 s', '1 min', '1 h 2 min', '2 d 7 h')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{round(seconds, 1):g} s"
    parts = []
    left = round(seconds) if seconds < 3600 else round(seconds / 60) * 60
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, unit))
    largest = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count:,} {unit}" for count, unit in parts[largest : largest + 2] if count)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_COMMAND, description=__doc__, epilog=_EXAMPLE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{presets,simulate}")
    about = "print every preset with its source"
    commands.add_parser("presets", help=about, description=f"{about[0].upper()}{about[1:]}.")
    about = "tell how long a batch will take, what limits it, and which setting to raise"
    simulate = commands.add_parser(
        "simulate", help=about, description=f"{about[0].upper()}{about[1:]}. Sends nothing.", epilog=_EXAMPLE
    )
    simulate.add_argument("--items", type=int, required=True, metavar="N", help="calls in the batch")
    simulate.add_argument("--latency", type=float, required=True, metavar="SECONDS", help="how long a call takes")
    simulate.add_argument("--tokens", type=int, default=0, metavar="N", help="tokens that a call costs (default: not counted)")
    simulate.add_argument("--preset", metavar="NAME", help="limits to start from, as `presets` prints them, in any case")
    simulate.add_argument(
        "--max-concurrent", type=int, metavar="N", help=f"calls at once (default: the preset's, without one {_AT_ONCE})"
    )
    simulate.add_argument("--max-per-minute", type=int, metavar="N", help="calls a minute (default: the preset's)")
    simulate.add_argument("--max-tokens-per-minute", type=int, metavar="N", help="tokens a minute (default: the preset's)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors are one line on stderr and exit code 2."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "presets":
            _presets()
        else:
            _simulate(parsed)
        sys.stdout.flush()
    except (TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read it, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())

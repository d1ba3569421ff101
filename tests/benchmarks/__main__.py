"""`python -m tests.benchmarks [core|adaptive|providers] [--json FILE]`: run a suite, core by default, and print its table."""

import argparse
import json
import platform
import sys
from pathlib import Path

from . import adaptive, core, providers

SUITES = {"core": core.run, "adaptive": adaptive.run, "providers": providers.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=SUITES, default="core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    print(f"CPython {platform.python_version()}, {platform.machine()}, {sys.platform}")
    rows = SUITES[arguments.suite]()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


main()

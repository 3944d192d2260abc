"""Tortures a server of its own, on this machine alone: kills, broken files, hostile requests, many annotators.

    python -m scripts.torture files --count 10000
    python -m scripts.torture kill --rounds 200
    python -m scripts.torture load --annotators 50 --seconds 1200
    python -m scripts.torture fuzz --examples 200

Prints what was found as JSON, and ends with 1 where anything was wrong. docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from scripts.measure.torture.files import torture_files
from scripts.measure.torture.fuzz import torture_by_requests
from scripts.measure.torture.kills import torture_by_kills
from scripts.measure.torture.load import torture_by_load
from scripts.servers.client import ended_by_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one kind of torture; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("files", "kill", "load", "fuzz"))
    parser.add_argument("--count", type=int, default=300, help="mutated files")
    parser.add_argument("--rounds", type=int, default=3, help="kills")
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--examples", type=int, default=5, help="requests of each kind to each route")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with ended_by_signals():
        if options.kind == "files":
            report = torture_files(options.count, options.seed)
            wrong = bool(report["failures"])
        elif options.kind == "kill":
            report = torture_by_kills(options.rounds, options.seed)
            wrong = bool(report["wrong"])
        elif options.kind == "load":
            report = torture_by_load(options.annotators, options.seconds)
            wrong = bool(report["wrong"]) or any(not key.endswith(" 200") for key in report["answers"])
        else:
            report = torture_by_requests(options.examples, options.seed)
            wrong = bool(report["failures"])
    print(json.dumps(report, indent=1))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

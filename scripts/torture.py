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
    asked = parser.parse_args(arguments)
    with ended_by_signals():
        if asked.kind == "files":
            found = torture_files(asked.count, asked.seed)
            wrong = bool(found["failures"])
        elif asked.kind == "kill":
            found = torture_by_kills(asked.rounds, asked.seed)
            wrong = bool(found["wrong"])
        elif asked.kind == "load":
            found = torture_by_load(asked.annotators, asked.seconds)
            wrong = bool(found["wrong"]) or any(not key.endswith(" 200") for key in found["answers"])
        else:
            found = torture_by_requests(asked.examples, asked.seed)
            wrong = bool(found["failures"])
    print(json.dumps(found, indent=1))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

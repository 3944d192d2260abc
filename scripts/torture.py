"""Tortures a server of its own, on this machine alone: kills, broken files, odd requests, crowds, attacks, lost shares.

    python -m scripts.torture files --count 10000
    python -m scripts.torture kill --rounds 200
    python -m scripts.torture load --annotators 50 --seconds 1200 --think 10
    python -m scripts.torture fuzz --examples 200
    python -m scripts.torture attack
    python -m scripts.torture share --rounds 10

Prints what was found as JSON, and ends with 1 where anything was wrong. docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.measure.torture.attack import torture_by_attacks
from scripts.measure.torture.files import torture_files
from scripts.measure.torture.fuzz import torture_by_requests
from scripts.measure.torture.kills import torture_by_kills
from scripts.measure.torture.load import torture_by_load
from scripts.measure.torture.shares import torture_by_share
from scripts.measure.torture.starts import Nursery
from scripts.servers.client import APP, ended_by_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one kind of torture; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("files", "kill", "load", "fuzz", "attack", "share"))
    parser.add_argument("--count", type=int, default=300, help="mutated files")
    parser.add_argument("--rounds", type=int, default=3, help="kills, and absences of the study folder")
    parser.add_argument(
        "--train-every", type=int, default=20, help="one of so many kills is of a training too; 0: none"
    )
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--think", type=float, default=0, help="seconds between an annotator's answer and next click")
    parser.add_argument("--examples", type=int, default=5, help="requests of each kind to each route")
    parser.add_argument("--clicks", type=int, default=230, help="that are sent at once and hung up on")
    parser.add_argument("--weights", type=Path, help="that are served when attacked; untrained ones without it")
    parser.add_argument("--app", type=Path, default=APP, help="attack the app of another release")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with ended_by_signals():
        result = torture_files(options.count, options.seed) if options.kind == "files" else _of_servers(options)
    print(json.dumps(result, indent=1))
    return int(bool(result["wrong"]))


def _of_servers(options: argparse.Namespace) -> dict[str, Any]:
    with Nursery() as nursery:
        match options.kind:
            case "kill":
                return torture_by_kills(options.rounds, options.seed, options.train_every, nursery.launch)
            case "load":
                return torture_by_load(options.annotators, options.seconds, nursery.launch, options.think)
            case "share":
                return torture_by_share(options.rounds, nursery.launch)
            case "fuzz":
                return torture_by_requests(options.examples, options.seed, nursery.launch)
            case _:
                return torture_by_attacks(options.app, options.weights, options.clicks, nursery.launch)


if __name__ == "__main__":
    sys.exit(main())

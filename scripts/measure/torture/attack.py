"""A list of attacks, each seen to succeed on an earlier release or on plain MONAI Label: none may succeed any more.

An attack is a generator over a `Target` that yields a sentence for each hole it finds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.measure.torture import burdens, doors
from scripts.measure.torture.lists import label_file, write_studies, write_weights
from scripts.measure.torture.target import SECRET, Target, served
from scripts.servers.client import Server, ServerError
from scripts.servers.processes import Launch

Attack = Callable[[Target], Iterator[str]]
TOGETHER: Sequence[Attack] = (  # one after the other on one server
    doors.archives_that_leave_their_folder, doors.names_of_other_sites, doors.requests_from_other_sites,
    doors.names_that_are_paths, doors.files_by_their_paths, doors.parameters_that_are_paths,
    doors.weights_that_are_code_or_no_numbers, doors.doors_left_open, burdens.clicks_nobody_waits_for,
    burdens.sizes_that_headers_claim, burdens.names_that_are_long, burdens.masks_that_are_torn,
    burdens.folders_that_are_away, doors.records_that_poison,
)  # fmt: skip
START_SECONDS = 240.0


def torture_by_attacks(
    app: Path, weights: Path | None, clicks: int, launch: Launch, attacks: Sequence[Attack] = TOGETHER
) -> dict[str, Any]:
    """Try every attack on a server of an app's release.

    Args:
        app: the app's folder; the release is what lies around it.
        weights: what is served; None for untrained ones, which answer within milliseconds.
        clicks: how many clicks are sent at once and hung up on.
        launch: starts a server.
        attacks: those that are tried on a server that runs.

    Returns:
        Which attacks were tried, which of them found nothing, and every hole.
    """
    held: list[str] = []
    wrong: list[str] = []

    def note(name: str, holes: list[str]) -> None:
        print(f"{'HOLE' if holes else 'held'} {name}", *holes, sep="\n     ", file=sys.stderr, flush=True)
        wrong.extend(f"{name}: {hole}" for hole in holes)
        held.extend([name] * (not holes))

    waiting = list(attacks)
    while waiting:
        with _target(app, weights, clicks, launch) as target:
            while waiting:
                attack = waiting.pop(0)
                note(attack.__name__, _tried(attack, target))
                if not target.wait(lambda: served(target.ask("GET", "/info/", timeout=25)), 30):
                    note(f"after {attack.__name__}", ["the server gives no answer any more"])
                    break
            else:
                note("starts_again", _started_again(target))
    note("damaged_files", _with_damaged_files(app, weights, clicks, launch))
    return {"tried": len(held) + len({hole.partition(":")[0] for hole in wrong}), "held": held, "wrong": wrong}


def _tried(attack: Attack, target: Target) -> list[str]:
    started = time.monotonic()
    try:
        return list(attack(target))
    except Exception as error:  # an answer of another form than any that was expected
        return [f"could not be tried to its end: {type(error).__name__}: {error}"]
    finally:
        print(f"  {time.monotonic() - started:.1f} s", file=sys.stderr)


@contextmanager
def _target(app: Path, weights: Path | None, clicks: int, launch: Launch, damaged: bool = False) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name).resolve()
        write_studies(folder / "studies", 2)
        (folder / "secret.bin").write_bytes(SECRET)
        for number in range(2):
            (folder / f"label{number}.nii.gz").write_bytes(label_file(number, 7)[0])
        if weights:
            shutil.copyfile(weights, folder / "w.safetensors")
        else:
            write_weights(folder / "w.safetensors")
        if damaged:
            burdens.write_damaged(folder / "studies")
        with _server(app, folder, launch) as server:
            yield Target(server, folder, clicks)


def _server(app: Path, folder: Path, launch: Launch) -> Server:
    conf = {"weights": str(folder / "w.safetensors"), "models": str(folder / "models"), "labels": "organ"}
    return Server(folder / "studies", log=folder / "server.log", conf=conf, cwd=folder, app=app,
                  start_timeout=START_SECONDS, launch=launch)  # fmt: skip


def _started_again(target: Target) -> list[str]:
    """What a request left in the records keeps the server from starting."""
    target.server.kill()
    try:
        with target.server:
            answer = target.save("s0")
            return [] if served(answer) else [f"a sound label is answered with {answer.status_code}"]
    except ServerError as error:
        return [str(error)[:300]]


def _with_damaged_files(app: Path, weights: Path | None, clicks: int, launch: Launch) -> list[str]:
    try:
        with _target(app, weights, clicks, launch, damaged=True) as target:
            return _tried(burdens.listed_all_the_same, target)
    except ServerError as error:
        return [f"the server does not start: {str(error)[-300:]}"]

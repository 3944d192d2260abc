"""How long it takes from *Train* to new weights served, and how long an annotator waits meanwhile.

    python -m scripts.time_training --studies IMAGES --truth LABELS --limit 8 --labelled 4 --json OUT

Starts the real server on a copy of the study folder, saves the first studies' labels over REST as a client would, waits
until the others are segmented, presses *Train*, and sends one click on a study after the other, a pause between them,
until what came of it is served and for a while afterwards. Seconds depend on the machine; whether they were measured on
an idle one is for the reader to say.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import ImageError, read_image
from scripts.command_line import parser_of
from scripts.demo import read_template
from scripts.measure.study_list import StudyListError, Truth, add_study_options, copy_studies, count, find_studies
from scripts.servers.client import Client, Server, ServerError, ended_by_signals
from scripts.servers.follow import follow_job

PATIENCE = 3600  # seconds for a training, and for a study
AFTERWARDS = 30  # seconds of clicks after the weights were swapped: the next request loads what was published


class Clicks(threading.Thread):
    """An annotator who clicks into the middle of a study, again and again.

    `waits` are (when it began, seconds until the answer); `failures` the server's words.
    """

    def __init__(self, url: str, study: str, shape: Sequence[int], structure: str, pause: float) -> None:
        super().__init__(daemon=True)
        self.waits: list[tuple[float, float]] = []
        self.failures: list[str] = []
        self._url, self._study, self._pause = url, study, pause
        middle = [side // 2 for side in shape]
        self._params = {"foreground": [middle], "background": [], "label": structure, "slice": middle[-1]}
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(self._pause):
            began = time.monotonic()
            # A connection of its own: the server ends one that is idle for five seconds, maybe as the click leaves
            with Client(self._url) as client:
                try:
                    client.infer("oneprompt_slice", self._study, self._params)
                except ServerError as error:
                    self.failures.append(str(error))
            self.waits.append((began, time.monotonic() - began))

    def end(self) -> None:
        self._end.set()
        self.join()


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything the command measures, with temporary files in `folder`."""
    studies = find_studies(options.studies)[: options.limit]
    if len(studies) <= options.labelled:
        raise StudyListError(f"{options.labelled} labelled studies and one more are needed, there are {len(studies)}")
    truth, others = Truth.in_folder(options.truth), studies[options.labelled :]
    templates = [read_template(study, truth) for study in studies[: options.labelled]]
    copy_studies(studies, folder / "studies")
    conf = {"models": str(folder / "models"), **({"weights": str(options.weights)} if options.weights else {})}
    conf |= {"finetuning": options.settings} if options.settings else {}
    server = Server(folder / "studies", log=folder / "server.log", conf=conf, cwd=folder)
    with server, Client(server.url) as client:
        for template in templates:
            client.save_label(template.study.id, truth.need(template.study), template.values)
        follow_job(client, server, [study.id for study in others], PATIENCE)
        shape = read_image(others[0].path).array.shape
        clicks = Clicks(server.url, others[0].id, shape, templates[0].names[0], options.pause)
        clicks.start()
        try:
            time.sleep(options.quiet)
            began, before = time.monotonic(), client.status()["weights"]
            record = _train(client, server, options.params)
            ended = time.monotonic()
            time.sleep(AFTERWARDS if record["state"] == "published" else 0)
        finally:
            clicks.end()
        served = client.status()["weights"]
    return {
        **{"labelled": options.labelled, "state": record["state"], "reason": record["reason"]},
        **{"weights_before": before, "weights_served": served, "seconds": round(ended - began, 1)},
        **{"clicks": len(clicks.waits), "failures": clicks.failures},
        "wait_before": _waits(clicks.waits, 0, began),
        "wait_while_training": _waits(clicks.waits, began, ended),
        "wait_after": _waits(clicks.waits, ended, np.inf),
    }


def _train(client: Client, server: Server, params: dict[str, Any]) -> dict[str, Any]:
    """Press *Train*; what the server says of it when it is over."""
    record = client.train(params)
    end, shown = time.monotonic() + PATIENCE, -1
    while record["state"] == "running" or record["queued"]:
        server.check()
        if time.monotonic() > end:
            raise ServerError(f"the training was not over within {PATIENCE} s: {record}")
        if "epochs" in record and record["epoch"] != shown:  # its process tells them when it has read the labels
            shown = record["epoch"]
            print(f"epoch {shown} of {record['epochs']}", flush=True)
        time.sleep(0.5)
        record = client.training()
    return record


def _waits(waits: Sequence[tuple[float, float]], since: float, until: float) -> dict[str, float]:
    """Median and longest wait of the requests that began in a time."""
    own = [seconds for began, seconds in waits if since <= began < until]
    return {"median": round(float(np.median(own)), 2), "longest": round(max(own), 2)} if own else {}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of("time_training", __doc__)
    add_study_options(parser)
    parser.add_argument("--labelled", type=count, default=4, metavar="N", help="studies whose label is saved")
    parser.add_argument("--settings", default="", help="numbers of a training, as --conf finetuning takes them")
    parser.add_argument("--params", type=json.loads, default={}, help="what is sent with Train, in JSON")
    parser.add_argument("--pause", type=float, default=5, help="seconds from an answer to the next click (default 5)")
    parser.add_argument("--quiet", type=float, default=30, help="seconds of clicks before Train (default 30)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    options = parser.parse_args(arguments)
    if options.studies is None or options.truth is None:
        parser.error("--studies and --truth are needed: labels come from the truth")
    options.weights = options.weights and options.weights.resolve()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        with ended_by_signals(), tempfile.TemporaryDirectory(prefix="oneprompt-training-") as folder:
            report = json.dumps(run(options, Path(folder)), indent=1)
    except (ServerError, StudyListError, ImageError) as error:
        print(f"time_training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("time_training: stopped, and the server with it", file=sys.stderr)
        return 130
    print(report)
    if options.json:
        options.json.write_text(report + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

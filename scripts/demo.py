"""Shows the whole loop on a study list: `python -m scripts.demo`.

Starts the real server on a copy of the study folder, saves the first study's label over REST as a client would, waits
while the others are segmented, downloads every mask over REST and compares it with the truth and with what costs
nothing: the template's mask, stretched to the other study's grid. It prints a table and writes a picture of each study.

Without --studies it makes phantoms. With your own, --truth holds label maps called like the studies; at least the first
study needs one. Studies without truth get a mask and a picture, and no Dice. Dice are given in 0..100, as the mean over
the template's structures.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.images import ImageError, read_image, read_label
from scripts.command_line import parser_of
from scripts.make_demo_data import write_demo_data
from scripts.measure.demo_report import Result, percent, short, summarise, table
from scripts.measure.overlays import Gallery, Picture
from scripts.measure.scores import by_name, copy_resized, dice_by_label
from scripts.measure.study_list import (
    Study,
    StudyListError,
    Truth,
    add_study_options,
    copy_studies,
    count,
    find_studies,
)
from scripts.servers.client import Client, Server, ServerError, ended_by_signals
from scripts.servers.follow import follow_job


@dataclass(frozen=True)
class Template:
    """The study whose label is saved. values: structure -> value in its truth; label: the n-th structure as n + 1."""

    study: Study
    values: Mapping[str, int]
    label: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)


@dataclass(frozen=True)
class Demo:
    """A study list with its truth, and how to serve it.

    patience: seconds to wait for one study. conf: further settings of the app.
    """

    studies: Sequence[Study]
    truth: Truth
    patience: float
    conf: Mapping[str, str]

    def run(self, templates: Sequence[Template], folder: Path, gallery: Gallery) -> list[Result]:
        """One server's life in a new `folder`: save the templates' labels, wait, then fetch and compare every mask.

        Structures are those of the first template, whose mask is also what is copied.
        """
        copy_studies(list(self.studies), folder / "studies")
        (folder / "masks").mkdir()
        shown = {template.study.id for template in templates}
        others = [study for study in self.studies if study.id not in shown]
        together = len(templates) > 1  # the job waits until all of them are there
        conf = {"models": str(folder / "models"), "auto_propagate": str(not together).lower(), **self.conf}
        server = Server(folder / "studies", log=folder / "server.log", conf=conf, cwd=folder)
        with server, Client(server.url) as client:
            if missing := {study.id for study in self.studies} - set(client.image_ids()):
                raise ServerError(f"the server does not list these studies: {', '.join(sorted(missing))}")
            for template in templates:
                client.save_label(template.study.id, self.truth.need(template.study), template.values)
            if together:
                client.start_job()
            seconds = follow_job(client, server, [study.id for study in others], self.patience)
            status = client.status()
            for study in others:
                client.download_label(study.id, "original", folder / "masks")
        for template in templates:
            _show_template(template, gallery)
        first = templates[0]
        return [self._compare(study, first, folder / "masks", seconds[study.id], status, gallery) for study in others]

    def _compare(
        self,
        study: Study,
        template: Template,
        masks: Path,
        seconds: float,
        status: Mapping[str, Any],
        gallery: Gallery,
    ) -> Result:
        image = read_image(study.path)
        path = next(masks.glob(f"{study.id}.*"))
        mask = by_name(read_label(path, like=image), status["labels"], template.names)
        truth = self.truth.read(study)
        scores: dict[str, tuple[float | None, float | None]] = {}
        if truth is not None:
            truth = by_name(truth, self.truth.structures(truth), template.names)
            segmented = dice_by_label(mask, truth, len(template.names))
            copied = dice_by_label(copy_resized(template.label, truth.shape), truth, len(template.names))
            scores = dict(zip(template.names, zip(segmented, copied, strict=True), strict=True))
        quality = list(status["studies"][study.id].get("quality", {}).values())
        predicted = float(np.mean(quality)) if quality else None
        result = Result(study.id, template.study.id, seconds, predicted, scores)
        title = f"{short(study.id)}  {percent(result.dice)}"
        gallery.add(study.id, Picture(title, image.array, mask, truth, image.affine))
        return result


def read_template(study: Study, truth: Truth) -> Template:
    """The study with its true label. Raises StudyListError where it has none, or an empty one."""
    truth.need(study)
    label = truth.read(study)
    values = truth.structures(label) if label is not None else {}
    if label is None or not values:
        raise StudyListError(f"the truth of {study.path.name} holds no structure, so it cannot be a template")
    return Template(study, values, by_name(label, values, tuple(values)))


def run(options: argparse.Namespace, folder: Path) -> list[Result]:
    """Everything the command does, with temporary files in `folder`."""
    studies_folder, truth_folder = options.studies, options.truth
    if studies_folder is None:
        write_demo_data(folder / "phantoms", **({"count": options.limit} if options.limit else {}))
        studies_folder, truth_folder = folder / "phantoms" / "studies", folder / "phantoms" / "truth"
    studies = find_studies(studies_folder)[: options.limit]
    wanted = max(2, options.templates + options.together)
    if len(studies) < wanted:
        raise StudyListError(f"at least {wanted} studies are needed, and there are {len(studies)} in {studies_folder}")
    conf = {"weights": str(options.weights.resolve())} if options.weights else {}
    conf |= {"model": options.model} if options.model else {}
    demo = Demo(studies, Truth.in_folder(truth_folder), options.timeout, conf)
    templates = [read_template(study, demo.truth) for study in studies[: options.templates]]
    everything: list[Result] = []
    turns = [templates] if options.together else [[template] for template in templates]
    for turn in turns:
        print(f"\nTemplate {', '.join(one.study.id for one in turn)}: {', '.join(turn[0].names)}", flush=True)
        pictures = options.output if len(turns) == 1 else options.output / turn[0].study.id
        gallery, work = Gallery(pictures), folder / "run"
        work.mkdir()
        results = demo.run(turn, work, gallery)
        shutil.rmtree(work)
        print(f"{table(results)}\nPictures: {gallery.save_contact_sheet()}", flush=True)
        everything += results
    return everything


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of("demo", __doc__)
    add_study_options(parser)
    parser.add_argument("--templates", type=count, default=1, metavar="N", help="the first N in turn as the template")
    parser.add_argument("--together", action="store_true", help="all N labels are saved, and segment the others")
    parser.add_argument("--model", metavar="NAME", help="the app's setting of that name, as promptseg (default: auto)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="pictures (default: demo_output)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="longest wait for one study (default 600)"
    )
    options = parser.parse_args(arguments)
    if (options.studies is None) != (options.truth is None):
        parser.error("--studies and --truth go together: the first study's label comes from the truth")
    if options.weights is not None and not options.weights.is_file():
        parser.error(f"--weights must be a file, and there is none at {options.weights}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        with ended_by_signals(), tempfile.TemporaryDirectory(prefix="oneprompt-demo-") as folder:
            summary = summarise(run(options, Path(folder)))
    except (ServerError, StudyListError, ImageError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped, and the server with it", file=sys.stderr)
        return 130
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")
    if summary["mean_dice"] is not None:
        print(f"\nMean Dice {summary['mean_dice']}, copying the template {summary['mean_dice_copy']}")
    return 0


def _show_template(template: Template, gallery: Gallery) -> None:
    image = read_image(template.study.path)
    title = f"template {short(template.study.id)}"
    gallery.add(template.study.id, Picture(title, image.array, template.label, None, image.affine))


if __name__ == "__main__":
    sys.exit(main())

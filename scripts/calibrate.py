"""Fit the predicted quality to weights: `python -m scripts.calibrate --data DIR [--weights FILE] [--out FILE]`.

Studies of the split `train`, whose truth is known, synthetic tasks and phantom volumes are segmented as the server does
it, and a small regressor learns to tell the Dice from what speaks for each mask (`lib.quality.features`). The JSON it
writes lies beside the weights and ships with them; do this again for every new version of them. Masks are kept in a
second file: start the same command again and it goes on where it stopped. `python -m scripts.evaluate_quality` measures
it. With `--promptseg FILE` it is fitted to those weights of PromptSeg, whose prompts `--weights` answer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.learning.datasets import DatasetError, read_datasets
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import SUFFIX, Estimator
from lib.quality.features import FEATURES
from lib.segmenters.promptseg import PromptSegSegmenter
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.calibration.fitting import fit
from scripts.measure.calibration.lists import Collection, Record, of_dataset, synthetic_lists
from scripts.measure.calibration.phantom_lists import phantom_lists
from scripts.pretrain import AS_ONE_CLASS

TEMPLATES = (1, 1, 3)  # of the lists made of a data set, in turn
SEVERAL = (1, 2, 4)  # the same for PromptSeg
BLANK = Estimator(["reverse"], [0.5], [0.25], [[{"weights": [[1.0]], "bias": [0.0]}]])  # only so that there is one


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model's masks are looked at, for `segmenter_of`."""
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS, help="of One-Prompt (%(default)s)")
    parser.add_argument("--promptseg", type=Path, metavar="FILE", help="look at PromptSeg with these weights instead")
    parser.add_argument("--device", default="cpu")


def segmenter_of(
    options: argparse.Namespace,
    settings: SegmenterSettings = SegmenterSettings(),
    estimator: Estimator | None = None,
) -> SliceSegmenter:
    """One-Prompt, or PromptSeg where its weights are given. Raises CheckpointError."""
    one_prompt = SliceSegmenter(load_network(options.weights, options.device), options.device, settings, estimator)
    if options.promptseg is None:
        return one_prompt
    network = load_network(options.promptseg, options.device, PromptSeg)
    return PromptSegSegmenter(network, one_prompt, options.device, settings, estimator)


def beside_weights(options: argparse.Namespace) -> Path:
    """Where the estimator of the model's weights lies."""
    weights: Path = options.promptseg or options.weights
    return weights.with_suffix(SUFFIX)


def collect(options: argparse.Namespace) -> tuple[list[Record], str]:
    """Masks of all lists, and the hash of the weights that made them."""
    segmenter = segmenter_of(options, estimator=BLANK)
    hashed = segmenter.weights_hash
    datasets = read_datasets(options.data, "train", options.terms) if options.data else []
    key = {"weights": hashed, "features": FEATURES, "lists": options.lists, "studies": options.studies}
    collection = Collection(options.records, {**key, "seed": options.seed})
    counts = SEVERAL if options.promptseg else TEMPLATES
    if options.synthetic:
        tasks = synthetic_lists(options.synthetic, 3, options.seed)
        collection.take(f"synthetic, {options.synthetic} tasks", segmenter, tasks)
    if options.phantoms:
        volumes = phantom_lists(options.phantoms, 3, options.seed)
        collection.take(f"phantoms, {options.phantoms} lists", segmenter, volumes)
    for dataset in datasets:
        one = of_dataset(dataset, dataset.name in AS_ONE_CLASS, counts, options.lists, options.studies, options.seed)
        collection.take(dataset.name, segmenter, [one])
    return collection.records, hashed


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of data sets (lib/learning/datasets.py); without, synthetic tasks and phantoms only",
    )
    parser.add_argument("--terms", default="open", help="use data sets with these terms only (%(default)s)")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, help=f"JSON file to write (that of the weights, with {SUFFIX})")
    parser.add_argument("--records", type=Path, default=Path("evaluation/calibrate.json"), help="where masks are kept")
    parser.add_argument("--lists", type=int, default=7, help="lists made of each data set (%(default)s)")
    parser.add_argument("--studies", type=int, default=5, help="studies segmented in each list (%(default)s)")
    parser.add_argument("--synthetic", type=int, default=90, help="synthetic tasks (%(default)s)")
    parser.add_argument("--phantoms", type=int, default=24, help="lists of phantom volumes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        records, hashed = collect(options)
        about = {"weights": hashed, "command": "python -m scripts.calibrate", "terms": options.terms}
        estimator = fit(records, FEATURES, about, options.seed)
    except (CheckpointError, DatasetError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    out = options.out or beside_weights(options)
    estimator.write(out)
    summary = estimator.about
    print(
        f"{out}: {summary['masks']} masks of {len(summary['lists'])} lists; on lists it was not fitted on, "
        f"correlation {summary['correlation']}, mean absolute error {summary['mean_absolute_error']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

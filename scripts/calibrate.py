"""Fit the predicted quality to weights: `python -m scripts.calibrate --data DIR [--weights FILE] [--out FILE]`.

Studies of the split `train`, whose truth is known, synthetic tasks and phantom volumes are segmented as the server does
it, and a small regressor learns to tell the Dice from what speaks for each mask (`lib.quality.features`). The JSON it
writes lies beside the weights and ships with them; do this again for every new version of them. Masks are kept in a
second file: start the same command again and it goes on where it stopped. `python -m scripts.evaluate_quality` measures
it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.learning.datasets import DatasetError, read_datasets
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network, weights_hash
from lib.quality.estimator import SHIPPED_ESTIMATOR, Estimator
from lib.quality.features import FEATURES
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts.measure.calibration.fitting import fit
from scripts.measure.calibration.lists import Collection, Record, of_dataset, synthetic_lists
from scripts.measure.calibration.phantom_lists import phantom_lists
from scripts.pretrain import AS_ONE_CLASS

TEMPLATES = (1, 1, 3)  # of the lists made of a data set, in turn
BLANK = Estimator(["reverse"], [0.5], [0.25], [[{"weights": [[1.0]], "bias": [0.0]}]])  # only so that there is one


def collect(options: argparse.Namespace) -> tuple[list[Record], str]:
    """Masks of all lists, and the hash of the weights that made them."""
    network = load_network(options.weights, options.device)
    hashed = weights_hash(network)
    datasets = read_datasets(options.data, "train", options.terms) if options.data else []
    key = {"weights": hashed, "features": FEATURES, "lists": options.lists, "studies": options.studies}
    collection = Collection(options.records, {**key, "seed": options.seed})
    segmenter = SliceSegmenter(network, options.device, estimator=BLANK)
    if options.synthetic:
        tasks = synthetic_lists(options.synthetic, 3, options.seed)
        collection.take(f"synthetic, {options.synthetic} tasks", segmenter, tasks)
    if options.phantoms:
        volumes = phantom_lists(options.phantoms, 3, options.seed)
        collection.take(f"phantoms, {options.phantoms} lists", segmenter, volumes)
    for dataset in datasets:
        one = of_dataset(dataset, dataset.name in AS_ONE_CLASS, TEMPLATES, options.lists, options.studies, options.seed)
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
    parser.add_argument("--weights", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--out", type=Path, default=SHIPPED_ESTIMATOR, help="JSON file to write (%(default)s)")
    parser.add_argument("--records", type=Path, default=Path("evaluation/calibrate.json"), help="where masks are kept")
    parser.add_argument("--lists", type=int, default=7, help="lists made of each data set (%(default)s)")
    parser.add_argument("--studies", type=int, default=5, help="studies segmented in each list (%(default)s)")
    parser.add_argument("--synthetic", type=int, default=90, help="synthetic tasks (%(default)s)")
    parser.add_argument("--phantoms", type=int, default=24, help="lists of phantom volumes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        records, hashed = collect(options)
        about = {"weights": hashed, "command": "python -m scripts.calibrate", "terms": options.terms}
        estimator = fit(records, FEATURES, about, options.seed)
    except (CheckpointError, DatasetError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    estimator.write(options.out)
    summary = estimator.about
    print(
        f"{options.out}: {summary['masks']} masks of {len(summary['lists'])} lists; on lists it was not fitted on, "
        f"correlation {summary['correlation']}, mean absolute error {summary['mean_absolute_error']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

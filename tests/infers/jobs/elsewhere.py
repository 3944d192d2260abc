"""A process that does not belong to the cluster: ADDRESS WEIGHTS IMAGE TEMPLATE LABEL OUT, one study's mask."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from infers.jobs.engine import RayEngine
from infers.serving.priority_lock import PriorityLock
from lib.cluster.segmenting import Recipe
from lib.imaging.images import read_image
from lib.segmenters.by_template import read_template
from lib.segmenters.slice_segmenter import SliceSegmenter


def recipe_of(weights: Path, segmenter: SliceSegmenter) -> Recipe:
    """What makes this segmenter in a worker."""
    return Recipe(weights.read_bytes(), segmenter._estimator, segmenter.settings, segmenter.fingerprint)


def main() -> None:
    """Segment with the cluster's workers, and save the mask."""
    address, weights, image, template, label, out = sys.argv[1:]
    segmenter = SliceSegmenter.load(Path(weights))
    engine = RayEngine(address, PriorityLock(), lambda _: recipe_of(Path(weights), segmenter))
    prediction = engine.segment(segmenter)(read_image(image), [read_template(template, label)], {"label_1": 1})
    np.save(out, prediction.mask)
    engine.close()


if __name__ == "__main__":
    main()

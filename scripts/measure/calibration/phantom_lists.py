"""Study lists of phantom volumes: evidence from stacks of slices is unlike that from flat images.

Openly licensed volumes are few. What the network makes of a torso phantom says how reverse Dice, votes of template
slices and agreement of planes go with the true Dice in volumes; nobody learnt anatomy from it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from lib.imaging.images import Image
from scripts.measure.calibration.lists import MOST_STRUCTURES, SMALLEST, LabelledStudy, StudyList
from scripts.phantoms.anatomy import LABELS
from scripts.phantoms.phantom import TISSUES, Phantom, Variation, make_phantom

GRIDS = (((88, 88, 22), (4.2, 4.2, 9.5)), ((56, 56, 40), (6.5, 6.5, 6.5)))  # thick slices, and equal spacings
MARGIN = (6.0, 45.0)  # mm of surroundings that are left around the structures


def phantom_lists(count: int, queries: int, seed: int) -> Iterator[StudyList]:
    """Lists of one to four organs, every second one cropped around them, every third one with several templates."""
    for number in range(count):
        rng = np.random.default_rng([seed, number, 11])
        modality = list(TISSUES)[number % len(TISSUES)]
        templates = 3 if number % 3 == 2 else 1
        names = rng.permutation(list(LABELS))[: rng.integers(1, MOST_STRUCTURES + 1)].tolist()
        shape, spacing = GRIDS[number // 2 % len(GRIDS)]
        spread = Variation(noise=float(rng.uniform(0.5, 3)), bend=float(rng.uniform(2, 12)))
        studies = []
        for study in range(templates + queries):
            phantom = make_phantom((seed, number, study), shape, spacing, modality=modality, variation=spread)
            image, label = _cropped(phantom, names, rng) if number % 2 else (phantom.array, phantom.label)
            studies.append(LabelledStudy(f"{number}-{study}", str(study), Image(image, phantom.affine), label))
        shown = {name: LABELS[name] for name in names if (studies[0].label == LABELS[name]).sum() >= SMALLEST}
        yield StudyList("phantoms", shown, studies, [range(templates)], queries, seed)


def _cropped(phantom: Phantom, names: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and label around those structures; a crop's own place in the world says nothing that is asked for."""
    shown = np.isin(phantom.label, [LABELS[name] for name in names])
    box = ndimage.find_objects(shown.astype(np.uint8))
    if not box:
        return phantom.array, phantom.label
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    window = []
    for span, size in zip(box[0], spacing, strict=True):
        before, after = np.ceil(rng.uniform(*MARGIN, 2) / size).astype(int)
        window.append(slice(max(0, span.start - before), span.stop + after))
    return phantom.array[tuple(window)], phantom.label[tuple(window)]

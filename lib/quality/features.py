"""What speaks for or against a mask that nobody has checked: plain numbers, most of them at hand when it was made.

None of them is a quality yet; `lib.quality.estimate` weighs them. They are shares and ratios, so that they mean the
same for a flat image and a volume, and one that cannot be measured (agreement of templates, with one template) is left
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib.imaging.metrics import pooled_dice
from lib.imaging.transforms import resize_logits, resize_mask
from lib.imaging.volumes import Stack
from lib.inference.matching import descriptors_of
from lib.inference.probabilities import to_probability
from lib.inference.slice_network import Question, SliceNetwork, mask_maps
from lib.inference.voting import Guide, Tally
from lib.networks.contract import Features
from lib.quality.augmented_views import VIEWS, AugmentedViews
from lib.quality.reverse_dice import ReverseCase, reverse_answers, spread
from lib.quality.shapes import Shape

FEATURES = (
    "reverse",  # Dice of the templates' masks and of what the mask leads back to, over slices and templates
    "reverse_least",  # the worst of those
    "again",  # what the mask leads back to as a template in turn, against the mask
    "opinions",  # what augmented views of the templates lead to, against the mask
    "expected",  # Dice that the network's own probabilities promise
    "inside",  # mean probability inside the mask
    "border",  # mean certainty, 0 to 1, along its outline
    "votes",  # agreement of template slices with one another
    "planes",  # agreement of the planes' own answers with the mask
    "likeness",  # correlation of grey values, query and template slices
    "overlap",  # of the mask and the template's, one slice laid on the other
    "volume",  # logarithm of the volume's ratio to the templates'
    "parts",  # logarithm of the ratio of the numbers of parts
    "contact",  # share of the surface on the image's border, beyond that in the templates
    "roughness",  # logarithm of the ratio of surface to size
    "place",  # distance of the centres, in parts of the image
    "size",  # share of the image, square root
    "thinness",  # logarithm of the templates' surface to size
    "templates",  # logarithm of their number
    "copies",  # how well the templates find their own structure in augmented views of themselves
)


@dataclass(frozen=True, eq=False)
class MaskOrigin:
    """How one structure's mask came to be.

    Attributes:
        stack: the image, cut in its main plane.
        queries: features of its slices.
        guides: the structure's templates, cut and matched likewise.
        answers: the plane's own logits (N, S, S), for each plane; the main one last.
        structure: place of the structure among those of `tally`.
        tally: the votes in the main plane.
        mask: bool (N, H, W), the result, in slices of the main stack.
    """

    stack: Stack
    queries: Mapping[int, Features]
    guides: Sequence[Guide]
    answers: Sequence[tuple[Stack, np.ndarray]]
    structure: int
    tally: Tally
    mask: np.ndarray


def measure_features(network: SliceNetwork, views: AugmentedViews, origin: MaskOrigin, slices: int) -> dict[str, float]:
    """Name of a feature to its value, finite; those that cannot be measured are missing.

    Args:
        slices: how many slices the network is asked about again.
    """
    features = {**_shape(origin), **_certainty(origin)}
    features |= {"votes": origin.tally.agreement(origin.structure), "planes": _planes(origin)}
    features["copies"] = float(np.mean([views.dice(guide.stack, guide.masks) for guide in origin.guides]))
    if origin.mask.any():
        features |= _reverse_features(network, views, origin, slices)
    return {
        name: round(float(value), 4) for name, value in features.items() if value is not None and np.isfinite(value)
    }


def _reverse_features(
    network: SliceNetwork, views: AugmentedViews, origin: MaskOrigin, slices: int
) -> dict[str, float]:
    """Needs the network: a few slices, from the mask to the template and back again, and from augmented views of it."""
    pairs = _pairs(origin, slices)
    if not pairs:
        return {"reverse": 0.0, "reverse_least": 0.0}
    size = network.size
    features = {id(g): network.encode(g.stack, [s for guide, _, s in pairs if guide is g]) for g in origin.guides}
    cases = [ReverseCase(origin.queries[q], features[id(g)][s], origin.mask[q], g.masks[s]) for g, q, s in pairs]
    backs = reverse_answers(network, cases)
    truths = [resize_mask(case.truth, size) >= 0.5 for case in cases]
    masks = [resize_mask(case.predicted, size) >= 0.5 for case in cases]
    measured = {
        "reverse": pooled_dice(truths, backs),
        "reverse_least": min(pooled_dice([truth], [back]) for truth, back in zip(truths, backs, strict=True)),
        "overlap": pooled_dice(truths, masks),
        "likeness": float(np.mean([_likeness(origin.stack, q, guide.stack, s) for guide, q, s in pairs])),
    }
    again = [n for n, back in enumerate(backs) if back.any()]
    questions = [Question(cases[n].query, cases[n].template, mask_maps(backs[n], size)) for n in again]
    forward = dict(zip(again, [logits > 0 for logits in network.answers(questions)], strict=True))
    nothing = np.zeros((size, size), bool)
    measured["again"] = pooled_dice(masks, [forward.get(n, nothing) for n in range(len(cases))])
    return measured | _view_features(network, views, origin, pairs, masks)


def _view_features(
    network: SliceNetwork,
    views: AugmentedViews,
    origin: MaskOrigin,
    pairs: Sequence[tuple[Guide, int, int]],
    masks: Sequence[np.ndarray],
) -> dict[str, float]:
    """What augmented views of the template slices lead to, against the mask."""
    shown = [n for n, (guide, _, slice) in enumerate(pairs) if guide.shown[slice]]
    each = range(max(1, VIEWS // len(shown))) if shown else range(0)
    own, questions = [], []
    for n in shown:
        guide, query, slice = pairs[n]
        for view in views.take(guide.stack, [(slice, number) for number in each]):
            own.append(masks[n])
            maps = mask_maps(view.mask(guide.masks[slice]), network.size)
            questions.append(Question(origin.queries[query], view.features, maps))
    answers = [logits > 0 for logits in network.answers(questions)]
    return {"opinions": pooled_dice(own, answers)} if answers else {}


def _pairs(origin: MaskOrigin, slices: int) -> list[tuple[Guide, int, int]]:
    """(template, query slice, its template slice) to compare, evenly over the templates and through the stack."""
    pairs = []
    for guide in origin.guides:
        path = guide.match.path
        worth = [q for q in range(len(origin.mask)) if origin.mask[q].any() or guide.shown[path[q]]]
        pairs += [(guide, q, int(path[q])) for q in spread(worth, max(1, slices // len(origin.guides)))]
    return pairs


def _likeness(query: Stack, at: int, template: Stack, there: int) -> float:
    one, other = descriptors_of(query, [at])[0], descriptors_of(template, [there])[0]
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def _certainty(origin: MaskOrigin) -> dict[str, float | None]:
    """What the network's own logits in the main plane promise."""
    logits = origin.answers[-1][1]
    shown = logits[(logits > 0).any(axis=(1, 2))]
    if not len(shown):
        return {"expected": 0.0}
    probability = to_probability(shown)
    mask = shown > 0
    features: dict[str, float | None] = {
        "expected": 2 * float(probability[mask].sum()) / float(probability.sum() + mask.sum()),
        "inside": float(probability[mask].mean()),
    }
    inner = torch.from_numpy(mask[:, None].astype(np.float32))
    grown = torch.nn.functional.max_pool2d(inner, 3, 1, 1)
    shrunk = 1 - torch.nn.functional.max_pool2d(1 - inner, 3, 1, 1)
    edge = (grown - shrunk)[:, 0].numpy() > 0
    features["border"] = float(np.abs(2 * probability[edge] - 1).mean()) if edge.any() else None
    return features


def _planes(origin: MaskOrigin) -> float | None:
    """Mean Dice of the mask and what each plane would have answered alone; None for one plane."""
    if len(origin.answers) < 2:
        return None
    whole = np.moveaxis(origin.mask, 0, origin.stack.axis)
    dices = []
    for stack, logits in origin.answers:
        own = resize_logits(torch.from_numpy(logits)[:, None], stack.slice(0).shape)[:, 0].numpy() > 0
        dices.append(pooled_dice([whole], [np.moveaxis(own, 0, stack.axis)]))
    return float(np.mean(dices))


def _shape(origin: MaskOrigin) -> dict[str, float | None]:
    templates = [Shape.of(guide.stack, guide.masks) for guide in origin.guides]
    own = Shape.of(origin.stack, origin.mask)
    common: dict[str, float | None] = {
        "thinness": float(np.log(np.mean([shape.roughness for shape in templates]))),
        "templates": float(np.log2(len(templates))),
    }
    if not own.volume:
        return common
    return {
        **common,
        "volume": float(np.log(own.volume / np.mean([shape.volume for shape in templates]))),
        "parts": float(np.log(own.parts / np.mean([shape.parts for shape in templates]))),
        "contact": own.contact - max(shape.contact for shape in templates),
        "roughness": float(np.log(own.roughness / np.mean([shape.roughness for shape in templates]))),
        "place": min(float(np.linalg.norm(np.subtract(own.centre, shape.centre))) for shape in templates),
        "size": float(np.sqrt(own.share)),
    }

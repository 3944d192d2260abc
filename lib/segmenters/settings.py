"""The numbers of segmenting with a two-dimensional network."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib.inference.interaction import InteractionSettings
from lib.inference.matching import MatchSettings


@dataclass(frozen=True)
class SegmenterSettings:
    """Switches of a `SliceSegmenter`; those that docs/experiments.md names were measured there.

    Attributes:
        match: how slices of query and template find each other.
        templates_per_query: templates asked for each structure, the first ones given.
        all_planes: cut a volume with equal spacings in all three planes and average; each then asks one template slice
            for a slice instead of `match.slices_per_query`, which is about as much work.
        finer: a flat image with more pixels than the network's square is asked at this multiple of its size too, and
            the probabilities are averaged; 1 asks it once. A volume's slices are too many for it.
        least_probability: answers by templates are cut where the expected Dice is highest, from this probability to one
            half; 0.5 cuts them at one half (`lib.inference.probabilities`).
        smoothing: sigma of the Gaussian that smooths logits from slice to slice, in average voxel sides; half of it in
            every direction where all planes were asked.
        least_island: connected parts smaller than this share of a structure's largest one are removed, or, where a
            structure has several parts in its templates too, smaller than this share of the smallest of those.
        interaction: how a mask passes through a volume.
        quality_slices: slices that the predicted quality is measured on; 0 for none.
        batch_size, precision, cache_bytes: see `lib.inference.slice_network.SliceNetwork`.
        kept_bytes: room for interactive answers, see `lib.segmenters.kept_answers`; 0 keeps none.
    """

    match: MatchSettings = field(default_factory=MatchSettings)
    templates_per_query: int = 4
    all_planes: bool = True
    finer: int = 2
    least_probability: float = 0.2
    smoothing: float = 1.2
    least_island: float = 0.2
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    quality_slices: int = 6
    batch_size: int = 8
    precision: str = "auto"
    cache_bytes: int = 2**29
    kept_bytes: int = 2**27

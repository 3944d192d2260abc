"""What is recorded with every mask: which model made it, with which weights, from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

VERSION = 1


def provenance(
    *,
    model: str,
    network: str,
    weights: str,
    templates: Iterable[str],
    prompt_types: Mapping[str, Iterable[Any]],
    quality: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON-able record of a mask.

    Args:
        model: the segmenter's name, see `lib.segmenters.contract.Capabilities`.
        network: short name of the network's configuration.
        weights: hash of the network's weights.
        templates: ids of those that were asked.
        prompt_types: structure to the types (`PromptType`) of the prompts that showed it.
        quality: what `lib.quality.estimate` says of it, at least `quality`.
    """
    return {
        "version": VERSION,
        "model": model,
        "network": network,
        "weights": weights,
        "templates": list(templates),
        "prompt_types": {name: sorted(kind.value for kind in types) for name, types in prompt_types.items()},
        **quality,
    }

"""Which mask a study would get: two fingerprints that a mask's record keeps, so that it is known when it is outdated.

The template fingerprint speaks of the structures, their indices and the templates that were used, none for a model
with a closed vocabulary. The mask fingerprint adds the segmenter's: its weights and settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

JOIN = "+"  # between the fingerprints of models that answer together


def template_fingerprint(
    labels: Mapping[str, int], used: Mapping[str, Iterable[str]], checksums: Mapping[str, str]
) -> str:
    """16 hexadecimal digits.

    Args:
        labels: structure to its index in masks.
        used: structure to the ids of its templates, in order of preference.
        checksums: template id to what changes with it.
    """
    return digest(
        [[name, labels.get(name), [[id, checksums.get(id)] for id in templates]] for name, templates in used.items()]
    )


def mask_fingerprint(templates: str, segmenter: str) -> str:
    """16 hexadecimal digits from a template fingerprint and `Segmenter.fingerprint`."""
    return digest([templates, *segmenter.split(JOIN)])


def digest(parts: Any) -> str:
    """16 hexadecimal digits that change with any part of a JSON-able value."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

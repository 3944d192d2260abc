"""Alarms that need no calibration, and the one reason that a person reads.

An alarm names what a look at the mask would show: it is empty, torn, cut off by the image's border, much larger than in
the templates, elsewhere, or its templates contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

EMPTY = "nothing was found"
MOST_TIMES = 2.5  # a volume further from the templates' than this
MOST_CONTACT = 0.04  # share of the surface on the image's border, beyond the templates'
MOST_PARTS = 3.0  # times as many parts as the templates have
FAR = 0.25  # of the image, from the nearest template's centre
LEAST_AGREEMENT = 0.5  # Dice of the templates' answers with one another
LEAST_REVERSE = 0.3  # Dice

USUAL = {  # what a person reads of the weakest feature where nothing is alarming
    "reverse": "used as a template, it finds only part of the original label",
    "again": "changes when mask and template swap roles",
    "votes": "the templates' answers differ",
    "planes": "the three planes' answers differ",
    "opinions": "changes with small changes of the template",
    "border": "its outline is uncertain",
    "expected": "the network is unsure of it",
    "copies": "the template hardly finds its own structure in warped copies of itself",
    "likeness": "looks unlike its templates",
    "overlap": "lies elsewhere in its slices than the template's",
    "thinness": "thin structures are hard",
}
FINE = "agrees with its templates"


def alarms(features: Mapping[str, float]) -> list[str]:
    """What is alarming about a mask, the most alarming first; none where there are no features."""
    if "size" not in features:
        return [EMPTY] if features else []
    sentences = []
    times = math.exp(features.get("volume", 0.0))
    if not 1 / MOST_TIMES <= times <= MOST_TIMES:
        sentences.append(f"volume {_number(times)} times the templates'")
    if features.get("contact", 0.0) > MOST_CONTACT:
        sentences.append("touches the image border")
    if features.get("reverse", 1.0) < LEAST_REVERSE:
        sentences.append("used as a template, it does not find the original label")
    parts = math.exp(features.get("parts", 0.0))
    if parts >= MOST_PARTS:
        sentences.append(f"{_number(parts)} times as many parts as in the templates")
    if features.get("place", 0.0) > FAR:
        sentences.append("lies elsewhere in the image than in the templates")
    if min(features.get("votes", 1.0), features.get("planes", 1.0)) < LEAST_AGREEMENT:
        sentences.append("the templates or planes contradict each other")
    return sentences


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def reason(features: Mapping[str, float], weakest: str | None) -> str:
    """One reason a person understands: an alarm, or else what speaks most against the mask."""
    warnings = alarms(features)
    return warnings[0] if warnings else USUAL.get(weakest or "", FINE)

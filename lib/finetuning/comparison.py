"""Whether another network is better than One-Prompt on held-out studies, and the reason in words."""

from __future__ import annotations

import numpy as np

from lib.finetuning.examination import Scores, objection
from lib.finetuning.network_course import NetworkSettings


def compare(
    before: Scores,
    after: Scores,
    settings: NetworkSettings,
    other: str = "with the list-specific U-Net",
    before_by: str = "One-Prompt",
) -> tuple[bool, str]:
    """Whether another network, or One-Prompt together with it, is better than what served before; the reason in words.

    Args:
        other, before_by: what `after` and `before` were scored by, in words.
    """
    gain = after.mean_dice - before.mean_dice
    figures = f"{before_by} {before.mean_dice:.3f} Dice from its templates, {after.mean_dice:.3f} {other}"
    if against := objection(before, after, settings.most_loss):
        return False, f"{against}: {figures}" if after.dice else against
    if gain < settings.least_gain:
        return False, f"not better by {settings.least_gain} Dice: {figures}"
    if settings.sure and gain < settings.sure * (error := _standard_error(before, after)):
        return False, f"the gain differs too much from study to study (standard error {error:.3f}): {figures}"
    return True, figures


def _standard_error(before: Scores, after: Scores) -> float:
    """Of the mean gain over all questions; infinite for a single one."""
    gains = np.concatenate([np.subtract(after.dice[name], before.dice[name]) for name in after.dice])
    return float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf")

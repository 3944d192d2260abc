"""Answers of networks are numbers, or errors: where one is none, no mask may be made of it and no quality predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor


class AnswerError(RuntimeError):
    """A network answered with something that is no number."""


def finite(answer: np.ndarray) -> np.ndarray:
    """The same answer. Raises AnswerError where a value of it is NaN or infinite."""
    if not np.isfinite(answer).all():
        raise AnswerError(
            "the network's answer holds values that are no numbers, so no mask was made: the weights are damaged or do "
            "not fit these grey values; serve other weights (the board's Training, or --conf weights FILE)"
        )
    return answer


def not_finite(tensors: Mapping[str, Tensor], path: str | Path) -> str:
    """What is wrong with weights that hold values that are no numbers; empty where nothing is."""
    wrong = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    return f"{path} holds weights that are no numbers, in {wrong[0]}: its training failed, use others" if wrong else ""

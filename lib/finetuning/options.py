"""What a client may say of a training, as far as a course has to do with it; the names are MONAI Label's."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from lib.learning.adapters import MODES
from lib.parsing import AnyCount, AnySwitch, Part, chosen

Rate = Annotated[float | None, Field(ge=0, allow_inf_nan=False, description="a learning rate, 0 or more")]
Mode = Annotated[
    Annotated[str, Field(pattern=rf"^({'|'.join(MODES)})$")] | None,
    BeforeValidator(chosen),
    Field(description=f"one of {', '.join(MODES)}"),
]


class TrainingOptions(Part):
    """Options of one training; what is not said is the trainer's default.

    Attributes:
        max_epochs, steps_per_epoch: epochs of a phase, steps of an epoch.
        train_batch_size: items of a step.
        learning_rate: of whatever learns.
        mode: which of One-Prompt's weights learn.
        apart, keep: see `lib.finetuning.uniseg.course.UniSegSettings`.
    """

    max_epochs: AnyCount = None
    steps_per_epoch: AnyCount = None
    train_batch_size: AnyCount = None
    learning_rate: Rate = None
    mode: Mode = None
    apart: AnySwitch = None
    keep: AnySwitch = None

    def rate(self, otherwise: float) -> float:
        """The learning rate."""
        return otherwise if self.learning_rate is None else self.learning_rate

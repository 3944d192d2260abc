"""What clients may say of a training and of a batch.

MONAI Label hands everything on to a process of its own, paths and Python paths included.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo

from infers.guards import safe_name
from lib.finetuning.options import TrainingOptions
from lib.parsing import AnyChoice, AnyCount, AnySwitch, AnyText, Options


def _safe(name: str | None, info: ValidationInfo) -> str | None:
    return safe_name(str(info.field_name), name) if name else name


AnyName = Annotated[AnyText, AfterValidator(_safe)]
AnyNumber = Annotated[int | None, Field(description="a whole number")]
AtMost = Annotated[int | None, Field(ge=0, description="a whole number, 0 for no limit")]
AnyShare = Annotated[float | None, Field(ge=0, le=1, description="a share from 0 to 1")]
Studies = Annotated[str | list[str] | None, Field(description="all, labeled, unlabeled, or a list of ids")]


class TrainParams(TrainingOptions):
    """Parameters of POST /train/{model}. `name` is the run's, whose folder it becomes."""

    model_config = ConfigDict(extra="forbid")

    client_id: AnyText = None
    dataloader: AnyChoice = None
    dataset: AnyChoice = None
    device: AnyChoice = None
    early_stop_patience: AnyNumber = None
    gpus: AnyText = None
    model: AnyText = None
    multi_gpu: AnySwitch = None
    name: AnyName = None
    pretrained: AnySwitch = None
    tracking: AnyChoice = None
    tracking_experiment_name: AnyName = None
    tracking_run_name: AnyName = None
    val_batch_size: AnyCount = None
    val_split: AnyShare = None


class BatchParams(Options):
    """Parameters of POST /batch/infer/{model}."""

    client_id: AnyText = None
    device: AnyChoice = None
    gpus: AnyText = None
    images: Studies = None
    label_tag: AnyName = None
    logging: AnyText = None
    max_batch_size: AtMost = None
    max_workers: AtMost = None
    multi_gpu: AnySwitch = None
    save_label: AnySwitch = None

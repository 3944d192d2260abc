"""What clients may say of a training and of a batch.

MONAI Label hands everything on to a process of its own, paths and Python paths included.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo

from infers.guards import safe_name
from lib.finetuning.options import TrainingOptions
from lib.parsing import AnyChoice, AnyCount, AnySwitch, AnyText, Options, shown


def _safe(name: str | None, info: ValidationInfo) -> str | None:
    return safe_name(str(info.field_name), name) if name else name


LONGEST_WORD, LONGEST_LIST = 200, 100_000  # characters: they travel as one argument of a process, which ends at 128 KB


def _word(text: str | None) -> str | None:
    if text and (len(text) > LONGEST_WORD or not text.isprintable()):
        raise ValueError(f"must be text of up to {LONGEST_WORD} printable characters, got {shown(text)}")
    return text


def _list(studies: str | list[str] | None) -> str | list[str] | None:
    if studies and (size := len(json.dumps(studies))) > LONGEST_LIST:
        raise ValueError(f"must have at most {LONGEST_LIST} characters, got {size}: say unlabeled, or send it in parts")
    return studies


AnyWord = Annotated[AnyText, AfterValidator(_word)]
OneWord = Annotated[AnyChoice, AfterValidator(_word)]
AnyName = Annotated[AnyText, AfterValidator(_safe)]
AnyNumber = Annotated[int | None, Field(description="a whole number")]
AtMost = Annotated[int | None, Field(ge=0, description="a whole number, 0 for no limit")]
AnyShare = Annotated[float | None, Field(ge=0, le=1, description="a share from 0 to 1")]
Studies = Annotated[
    str | list[str] | None, AfterValidator(_list), Field(description="all, labeled, unlabeled, or a list of ids")
]


class TrainParams(TrainingOptions):
    """Parameters of POST /train/{model}. `name` is the run's, whose folder it becomes."""

    model_config = ConfigDict(extra="forbid")

    client_id: AnyWord = None
    dataloader: OneWord = None
    dataset: OneWord = None
    device: OneWord = None
    early_stop_patience: AnyNumber = None
    gpus: AnyWord = None
    model: AnyWord = None
    multi_gpu: AnySwitch = None
    name: AnyName = None
    pretrained: AnySwitch = None
    tracking: OneWord = None
    tracking_experiment_name: AnyName = None
    tracking_run_name: AnyName = None
    val_batch_size: AnyCount = None
    val_split: AnyShare = None


class BatchParams(Options):
    """Parameters of POST /batch/infer/{model}."""

    client_id: AnyWord = None
    device: OneWord = None
    gpus: AnyWord = None
    images: Studies = None
    label_tag: AnyName = None
    logging: AnyWord = None
    max_batch_size: AtMost = None
    max_workers: AtMost = None
    multi_gpu: AnySwitch = None
    save_label: AnySwitch = None

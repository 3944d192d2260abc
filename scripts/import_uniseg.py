"""Turns the published UniSeg weights (an nnU-Net v1 checkpoint) into a model of ours, without unpickling anything.

    python -m scripts.import_uniseg CHECKPOINT.model --out uniseg.safetensors [--plans plans.pkl]

The checkpoint is read with PyTorch's weights_only loader, which builds tensors, numbers and containers and nothing
else. The plans are read by an unpickler that knows numbers, arrays and containers alone; they confirm the patch and the
spacing, and without them the published ones are taken. Training's optimiser and curves are left behind.

The published weights are for non-commercial use; the licence is written into the model and shown wherever it is served.
"""

import argparse
import collections
import hashlib
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.networks.checkpoints import CheckpointError
from lib.networks.uniseg import UniSegConfig
from lib.networks.uniseg.published import network_of
from lib.segmenters.uniseg.model import UniSegModel, save_model
from lib.segmenters.uniseg.tasks import Channel, Task, Window

LICENCE = (
    "UniSeg for non-commercial purposes (Ye, Xie, Zhang, Chen, Xia; github.com/yeerwen/UniSeg): commercial use needs a "
    "licence of the authors"
)
# What the training of the published weights did to CT: -325 to 325 HU to 0..1. All else has each image's own mean and
# deviation.
CT = Channel("CT", Window(-325.0, 325.0, -325.0, 650.0))
MR = Channel("MR")
BODY = (3.0, 1.5, 1.5)
BRAIN_CHANNELS = (Channel("T1"), Channel("T1CE"), Channel("T2"), Channel("FLAIR"))
TASKS = (
    Task("liver", ("liver", "liver tumour"), (CT,), BODY),
    Task("kidney", ("kidney", "kidney tumour"), (CT,), BODY),
    Task("hepatic vessel", ("hepatic vessel", "hepatic tumour"), (CT,), BODY),
    Task("pancreas", ("pancreas", "pancreas tumour"), (CT,), BODY),
    Task("colon tumour", ("colon tumour",), (CT,), BODY),
    Task("lung tumour", ("lung tumour",), (CT,), BODY),
    Task("spleen", ("spleen",), (CT,), BODY),
    Task("vertebrae", ("vertebrae",), (CT,), BODY),
    Task("prostate", ("prostate",), (MR,), BODY),
    Task("brain tumour", ("oedema", "non-enhancing tumour", "enhancing tumour"), BRAIN_CHANNELS, (1.0, 1.0, 1.0)),
    Task("whole-body tumour", ("tumour",), (CT, Channel("PT")), (8.0, 4.0, 4.0)),
)
# What an nnU-Net v1 checkpoint holds beside tensors: numpy's numbers, in its curves and best scores
NUMBERS = (np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u8", "u1", "?")))
PICKLED = {
    **{(f"numpy.{core}.multiarray", name): getattr(np.core.multiarray, name) for core in ("core", "_core")
       for name in ("scalar", "_reconstruct")},
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("collections", "OrderedDict"): collections.OrderedDict,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when the model is written, 1 with one line on the error output when not."""
    options = _parser().parse_args(arguments)
    if options.out.exists() and not options.force:
        print(f"error: {options.out} exists already: name another --out, or add --force", file=sys.stderr)
        return 1
    try:
        model = import_checkpoint(options.checkpoint, options.plans)
        save_model(options.out, model)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parameters = sum(value.numel() for value in model.network.parameters())
    print(f"{options.out}: {parameters:,} parameters, {len(model.tasks)} tasks, hash {model.hash}")
    for index, task in enumerate(model.tasks):
        channels = "+".join(channel.modality for channel in task.channels)
        spacing = " x ".join(f"{side:g}" for side in task.spacing)
        print(f"  {index:2d} {task.name}: {', '.join(task.structures)} ({channels}, {spacing} mm)")
    print(f"licence: {model.licence}")
    return 0


def import_checkpoint(checkpoint: Path, plans: Path | None = None) -> UniSegModel:
    """The model in an nnU-Net v1 checkpoint of UniSeg.

    Args:
        checkpoint: the `.model` file.
        plans: the `.pkl` with the plans; None takes the published patch and spacings.

    Raises:
        CheckpointError: no such file, something else than a UniSeg, or plans of another training.
    """
    state = read_state(checkpoint)
    try:
        network = network_of(state)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    config = network.config
    if config.tasks != len(TASKS):
        raise CheckpointError(
            f"{checkpoint} is a UniSeg of {config.tasks} tasks; the published one has {len(TASKS)}, and of others "
            "nobody knows what the outputs mean"
        )
    if plans is not None:
        check_plans(read_plans(plans), config, plans)
    record = {
        "source": "published UniSeg weights, imported",
        "file": checkpoint.name,
        "sha256": _digest(checkpoint),
        "plans": plans.name if plans else None,
        "licence": LICENCE,
        "data": "LiTS, KiTS, MSD (hepatic vessel, pancreas, colon, lung, spleen), VerSe20, SAML prostate, BraTS21, "
        "AutoPET22",
    }
    try:
        return UniSegModel(network, TASKS, record)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights in an nnU-Net v1 checkpoint, by their published names. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give nnU-Net's .model file")
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [*NUMBERS]
    allowed += [(value, f"{module}.{name}") for (module, name), value in PICKLED.items()]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors, torn archives, encodings: PyTorch has many
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is no nnU-Net checkpoint that can be read safely: {reason}") from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no `state_dict` of tensors: give the .model file of an nnU-Net v1 training"
        )
    return dict(state)


def read_plans(path: Path) -> Mapping[str, Any]:
    """The plans in an nnU-Net v1 `plans.pkl`: numbers, texts, arrays and containers. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            plans = _Plain(file).load()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give nnU-Net's plans.pkl, or leave --plans out") from None
    except Exception as error:  # whatever a broken or foreign pickle makes of it
        raise CheckpointError(f"{path} holds no plans that can be read safely: {error}") from error
    if not isinstance(plans, Mapping):
        raise CheckpointError(f"{path} holds no plans: give nnU-Net's plans.pkl, or leave --plans out")
    return plans


def check_plans(plans: Mapping[str, Any], config: UniSegConfig, path: Path) -> None:
    """Whether plans belong to the weights. Raises CheckpointError where they do not."""
    try:
        stage = plans["plans_per_stage"][max(plans["plans_per_stage"])]
        patch = tuple(int(side) for side in stage["patch_size"])
        strides = tuple(tuple(int(side) for side in own) for own in stage["pool_op_kernel_sizes"])
        spacing = tuple(float(side) for side in stage["current_spacing"])
        turned = [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lacks what nnU-Net v1 writes into plans: {error!r}") from error
    for what, theirs, ours in (
        ("patch", patch, config.patch),
        ("pooling", strides, config.strides),
        ("spacing", spacing, BODY),
        ("order of axes", turned, [0, 1, 2]),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"{path} has the {what} {theirs}, the weights {ours}: they are of different trainings"
            )


class _Plain(pickle.Unpickler):
    """Builds what is in `PICKLED` and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(
                f"plans hold numbers, arrays and containers, this file asks for {module}.{name}"
            )
        return PICKLED[module, name]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.import_uniseg", description="Turn published UniSeg weights into a model of ours."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="nnU-Net v1 .model file")
    parser.add_argument(
        "--plans", type=Path, metavar="PLANS", help="nnU-Net v1 plans.pkl, to check the weights against"
    )
    parser.add_argument("--out", type=Path, default=Path("uniseg.safetensors"), metavar="FILE", help="(%(default)s)")
    parser.add_argument("--force", action="store_true", help="write over an older file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

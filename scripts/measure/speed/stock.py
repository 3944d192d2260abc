"""MONAI Label's own path: an app of a `BasicInferTask`, as its documentation builds one, with as many parameters.

Two tasks with one 3-D U-Net of random weights: `click` as its DeepEdit works, on the whole volume resized to 128 voxels
a side with guidance maps, and `label` as its segmentation does, by a sliding window. Only their costs mean anything.
The app runs in this process, without a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.apps.deepedit.transforms import (
    AddGuidanceFromPointsDeepEditd,
    AddGuidanceSignalDeepEditd,
    ResizeGuidanceMultipleLabelDeepEditd,
)
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
    SqueezeDimd,
    ToNumpyd,
)
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored

CHANNELS = (14, 28, 56, 112, 210)  # 3.5 M parameters with two residual units, as the `small` network has
SIDE = 128  # voxels of DeepEdit's input
WINDOW = (96, 96, 96)
LABELS = {"background": 0, "structure": 1}


class StockTask(BasicInferTask):
    """One of the two tasks, see the module's text."""

    def __init__(self, clicks: bool) -> None:
        torch.manual_seed(0)
        self.clicks = clicks
        inputs = 1 + len(LABELS) if clicks else 1
        network = UNet(3, inputs, len(LABELS), CHANNELS, (2, 2, 2, 2), num_res_units=2).eval()
        kind = InferType.DEEPEDIT if clicks else InferType.SEGMENTATION
        super().__init__(None, network, kind, LABELS, 3, "random weights", config={"device": "cpu"})

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def is_valid(self) -> bool:
        """It needs no file."""
        return True

    def pre_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """As MONAI Label's own tasks of this kind have them."""
        steps: list[Callable[..., Any]] = [
            LoadImaged("image", reader="NibabelReader", image_only=False),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            ScaleIntensityRanged("image", -175, 250, 0.0, 1.0, clip=True),
        ]
        if self.clicks:
            steps += [
                AddGuidanceFromPointsDeepEditd(ref_image="image", guidance="guidance", label_names=LABELS),
                Resized("image", spatial_size=(SIDE,) * 3, mode="area"),
                ResizeGuidanceMultipleLabelDeepEditd(guidance="guidance", ref_image="image"),
                AddGuidanceSignalDeepEditd("image", guidance="guidance", number_intensity_ch=1),
            ]
        return [*steps, EnsureTyped("image")]

    def inverse_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """Those of the steps before that can be undone."""
        return []

    def inferer(self, data: Any = None) -> Inferer:
        """The whole at once, or by a window."""
        return SimpleInferer() if self.clicks else SlidingWindowInferer(WINDOW, 1, 0.25)

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """As MONAI Label's own tasks have them."""
        return [
            EnsureTyped("pred"),
            Activationsd("pred", softmax=True),
            AsDiscreted("pred", argmax=True),
            SqueezeDimd("pred", dim=0),
            ToNumpyd("pred"),
            Restored(keys="pred", ref_image="image"),
        ]


class StockApp(MONAILabelApp):
    """An app of these tasks on a study folder of 3-D images."""

    def __init__(self, studies: Path, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False  # nobody else writes there, and its watch would outlive it
        super().__init__(str(state), str(studies), {}, "stock", "MONAI Label's own path", "1")

    def init_infers(self) -> dict[str, InferTask]:
        """Both tasks."""
        return {"click": StockTask(clicks=True), "label": StockTask(clicks=False)}

    def click(self, image: str, voxel: Sequence[int]) -> None:
        """One click on a study, whose mask is written to a file and thrown away."""
        request = {"model": "click", "image": image, "structure": [list(voxel)], "background": []}
        Path(self.infer(request)["file"]).unlink()

    def label_all(self) -> None:
        """Its batch inference over the whole list, which saves a label of each study."""
        self.batch_infer({"model": "label", "images": "all", "device": "cpu", "multi_gpu": False, "label_tag": "stock"})

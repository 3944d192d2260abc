"""UniSeg: an nnU-Net-like 3-D U-Net whose decoder is told the task by a learnable universal prompt.

After the paper (Ye et al., UniSeg: A Prompt-driven Universal Segmentation Model, MICCAI 2023), on MONAI's blocks.
Particular about it:
- the universal prompt belongs to all tasks together. FUSE joins it with what the encoder found and gives one map for
  each task; the map of the task at hand enters the decoder beside the bottleneck, so all of the decoder knows the task;
- `encode` is apart from `decode`: several tasks of one image share one pass of the encoder;
- images of 1, 2 or 4 channels differ in their first convolution alone;
- instance normalisation is written as group normalisation with a group for each channel: the same numbers, and
  less time on CPUs (docs/uniseg.md). For the same reason tensors stay in PyTorch's plain memory format.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn

from lib.networks.uniseg.config import UniSegConfig

Features = tuple[Tensor, ...]
NEGATIVE_SLOPE = 0.01


class UniSeg(nn.Module):
    """The whole network; see the module's text."""

    def __init__(self, config: UniSegConfig) -> None:
        super().__init__()
        self.config = config
        features = config.features
        self.stem = Stem(config)
        stages = [
            nn.Sequential(_block(fine, coarse, stride), _block(coarse, coarse))
            for (fine, coarse), stride in zip(pairwise(features), config.strides, strict=True)
        ]
        self.encoder = nn.ModuleList([_block(features[0], features[0]), *stages])
        self.universal = UniversalPrompt(config) if config.conditioning == "universal" else None
        channels = [features[-1] + (self.universal is not None), *features[-2:0:-1]]
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, stride, stride, bias=False)
            for coarse, fine, stride in zip(channels, features[-2::-1], config.strides[::-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(_block(2 * fine, fine), _block(fine, fine)) for fine in features[-2::-1]
        )
        code = config.tasks if config.conditioning == "one-hot" else 0
        outputs = config.outputs * (config.tasks if config.conditioning == "heads" else 1)
        self.heads = nn.ModuleList(nn.Conv3d(fine + code, outputs, 1, bias=False) for fine in features[-2::-1])
        self.apply(_initialise)

    def encode(self, images: Tensor) -> Features:
        """Images (B, C, D, H, W) to features fine to coarse; sides are multiples of `config.stride`."""
        stride = self.config.stride
        if images.ndim != 5 or images.shape[1] not in self.config.channels:
            allowed = " or ".join(map(str, self.config.channels))
            raise ValueError(f"images must be (B, C, D, H, W) with {allowed} channels, got {tuple(images.shape)}")
        if any(side % own for side, own in zip(images.shape[2:], stride, strict=True)):
            raise ValueError(f"an image's sides must be multiples of {stride}, got {tuple(images.shape[2:])}")
        features = [self.encoder[0](self.stem(images))]
        for stage in self.encoder[1:]:
            features.append(stage(features[-1]))
        return tuple(features)

    def decode(self, features: Features, task: int) -> list[Tensor]:
        """Logits of one task.

        Args:
            features: of `encode`.
            task: index of the task.

        Returns:
            Logits (B, outputs, d, h, w), fine to coarse: full resolution first, the others for deep supervision.
            Outputs beyond a task's classes mean nothing.

        Raises:
            ValueError: there is no such task.
        """
        self._check(task)
        bottleneck = features[-1]
        if self.universal is not None:
            bottleneck = torch.cat([bottleneck, self.universal(bottleneck)[:, task : task + 1]], dim=1)
        return self._decode(bottleneck, features, [task])[0]

    def decode_tasks(self, features: Features, tasks: list[int]) -> list[Tensor]:
        """Logits (B, outputs, D, H, W) at full resolution of each of some tasks, from one encoding and one FUSE."""
        for task in tasks:
            self._check(task)
        bottleneck = features[-1]
        if self.universal is None:
            return [logits[0] for logits in self._decode(bottleneck, features, tasks, deep=False)]
        prompts = self.universal(bottleneck)
        outputs = []
        for task in tasks:
            conditioned = torch.cat([bottleneck, prompts[:, task : task + 1]], dim=1)
            outputs += [logits[0] for logits in self._decode(conditioned, features, [task], deep=False)]
        return outputs

    def forward(self, images: Tensor, task: int) -> list[Tensor]:
        """Images (B, C, D, H, W) to `decode`'s logits of one task."""
        return self.decode(self.encode(images), task)

    def _check(self, task: int) -> None:
        if not 0 <= task < self.config.tasks:
            raise ValueError(f"this network knows the tasks 0 to {self.config.tasks - 1}, got {task}")

    def _decode(self, coarse: Tensor, features: Features, tasks: list[int], deep: bool = True) -> list[list[Tensor]]:
        """For each task its logits fine to coarse; the tasks share all but the output."""
        outputs: list[list[Tensor]] = [[] for _ in tasks]
        stages = zip(self.up, self.decoder, self.heads, features[-2::-1], strict=True)
        for number, (up, stage, head, skip) in enumerate(stages, start=1):
            coarse = stage(torch.cat([up(coarse), skip], dim=1))
            if deep or number == len(self.up):
                for logits, task in zip(outputs, tasks, strict=True):
                    logits.insert(0, self._output(head, coarse, task))
        return outputs

    def _output(self, head: nn.Module, features: Tensor, task: int) -> Tensor:
        config = self.config
        if config.conditioning == "one-hot":
            code = features.new_zeros(1, config.tasks, 1, 1, 1)
            code[:, task] = 1
            features = torch.cat([features, code.expand(len(features), -1, *features.shape[2:])], dim=1)
        logits: Tensor = head(features)
        if config.conditioning == "heads":
            return logits[:, task * config.outputs : (task + 1) * config.outputs]
        return logits


class Stem(nn.Module):
    """The first convolution, one for each number of channels, and what all of them share after it."""

    def __init__(self, config: UniSegConfig) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(
            {str(count): nn.Conv3d(count, config.base, 3, padding=1) for count in config.channels}
        )
        self.rest = nn.Sequential(nn.GroupNorm(config.base, config.base), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, base, D, H, W)."""
        features: Tensor = self.rest(self.convolutions[str(images.shape[1])](images))
        return features


class UniversalPrompt(nn.Module):
    """The universal prompt and FUSE, which makes the prompts of all tasks from it and an image's bottleneck."""

    def __init__(self, config: UniSegConfig) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(1, config.tasks, *config.prompt_shape))
        width = config.fuse_width
        self.fuse = nn.Sequential(
            _block(config.features[-1] + config.tasks, width), _block(width, width), _block(width, config.tasks)
        )

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Bottleneck (B, C, d, h, w) to task prompts (B, T, d, h, w).

        The prompt has the size of a patch's bottleneck; for another window it is stretched.
        """
        prompt = self.prompt.to(bottleneck.dtype)
        if prompt.shape[2:] != bottleneck.shape[2:]:
            prompt = F.interpolate(prompt.float(), bottleneck.shape[2:], mode="trilinear").to(bottleneck.dtype)
        prompts: Tensor = self.fuse(torch.cat([bottleneck, prompt.expand(len(bottleneck), -1, -1, -1, -1)], dim=1))
        return prompts


def _block(inputs: int, outputs: int, stride: tuple[int, int, int] | int = 1) -> Convolution:
    """Convolution, normalisation of each channel of each image, leaky ReLU."""
    return Convolution(
        3,
        inputs,
        outputs,
        strides=stride,
        kernel_size=3,
        padding=1,
        norm=("group", {"num_groups": outputs, "affine": True}),
        act=("leakyrelu", {"negative_slope": NEGATIVE_SLOPE, "inplace": True}),
    )


def _initialise(module: nn.Module) -> None:
    """He's initialisation for leaky ReLU, as in nnU-Net."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

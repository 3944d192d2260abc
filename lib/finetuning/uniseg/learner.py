"""One training step of UniSeg: a batch of one task, Dice and cross entropy at every resolution.

Where a label does not name a structure, its voxels are unknown: the probability of that structure counts as
background's then, so that neither is taught ("marginal loss", Shi et al., Medical Image Analysis 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from lib.finetuning.uniseg.material import Patch
from lib.imaging.metrics import label_map_dice
from lib.learning.training import StepResult, TrainingConfig
from lib.networks.uniseg import UniSeg

IMPOSSIBLE = -1e4  # log probability of a class that is unknown, in all precisions


class UniSegLearner(nn.Module):
    """A network whose forward pass is a whole training step, so that PyTorch's distributed wrapper sees it.

    Args:
        network: what learns.
        classes: of each task, background included.
        older: answers the tasks of patches whose structures are all unknown; what it says counts as right there.
    """

    def __init__(self, network: UniSeg, classes: Sequence[int], older: UniSeg | None = None) -> None:
        super().__init__()
        self.network, self._classes = network, tuple(classes)
        self._older = [older.eval().requires_grad_(False)] if older is not None else []  # hidden from `parameters`

    def forward(
        self, patches: Sequence[Patch], config: TrainingConfig, rng: np.random.Generator
    ) -> tuple[Tensor, StepResult]:
        device = next(self.network.parameters()).device
        task = patches[0].task
        if any(patch.task != task for patch in patches):
            raise ValueError(f"a batch must be of one task, got {sorted({patch.task for patch in patches})}")
        images = torch.from_numpy(np.stack([patch.image for patch in patches])).to(device)
        label = torch.from_numpy(np.stack([patch.label for patch in patches])).long().to(device)
        known = torch.from_numpy(np.stack([patch.known for patch in patches])).to(device)
        if not known.any() and self._older:
            label, known = self._answer(images, task), torch.ones_like(known)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = self.network(images, task)
        logits = [level[:, : self._classes[task]].float() for level in logits]
        loss = deep_loss(logits, label, known)
        masks = logits[0].detach().max(dim=1).indices.cpu().numpy()  # faster than `argmax` on CPUs
        truth = label.cpu().numpy()
        dice = np.array([label_map_dice(*one) for one in zip(masks, truth, known.cpu().numpy(), strict=True)])
        return loss, StepResult(loss, dice, ("uniseg",) * len(patches), (str(task),) * len(patches))

    @torch.no_grad()
    def _answer(self, images: Tensor, task: int) -> Tensor:
        [older] = self._older
        older.to(images.device)
        return older(images, task)[0][:, : self._classes[task]].argmax(dim=1)


def deep_loss(logits: Sequence[Tensor], label: Tensor, known: Tensor) -> Tensor:
    """Dice and cross entropy over all resolutions: each counts half of the finer one, the coarsest nothing.

    Args:
        logits: (B, 1 + K, d, h, w), fine to coarse.
        label: (B, D, H, W), whole numbers of the structures.
        known: (B, K), which structures each label names.
    """
    levels = logits[:-1] if len(logits) > 1 else logits
    weights = [0.5**level for level in range(len(levels))]
    losses = []
    for level in levels:
        shape = level.shape[2:]
        target = label
        if label.shape[1:] != shape:
            target = F.interpolate(label[:, None].float(), size=shape, mode="nearest-exact")[:, 0].long()
        losses.append(dice_and_cross_entropy(level, target, known))
    return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)


def dice_and_cross_entropy(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Plain sum of both, over the whole batch; structures that a label does not name count as background.

    Args:
        logits: (B, 1 + K, D, H, W).
        label: (B, D, H, W).
        known: (B, K).
    """
    unknown = F.pad(~known, (1, 0))[:, :, None, None, None]  # background is always known
    scores = logits.log_softmax(dim=1)
    if unknown.any():
        hidden = torch.where(unknown, scores, IMPOSSIBLE)
        background = torch.cat([scores[:, :1], hidden[:, 1:]], dim=1).logsumexp(dim=1, keepdim=True)
        scores = torch.cat([background, torch.where(unknown, IMPOSSIBLE, scores)[:, 1:]], dim=1)
    dice = DiceLoss(include_background=False, to_onehot_y=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    loss: Tensor = dice(scores.exp(), label[:, None]) + F.nll_loss(scores, label)
    return loss

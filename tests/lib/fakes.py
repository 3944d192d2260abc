"""A stand-in for the network whose answers can be known beforehand."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from lib.imaging.prompts import BBOX, CLICK, DOODLE, PREVIOUS, SEGLAB
from lib.inference.control import Control
from lib.networks import NetworkConfig

SIZE = 32


class GreyNetwork(nn.Module):
    """Answers by grey value: what the template's prompt shows bright is bright in the query, or dark, or neither.

    Query prompts count: a background click erases its surroundings, a foreground click adds them, and inside a box
    only what the box holds stays. Images of SIZE x SIZE voxels a slice are therefore segmented exactly.
    """

    def __init__(self):
        super().__init__()
        self.config = dataclasses.replace(NetworkConfig.small(), name="grey", image_size=SIZE)
        self.weight = nn.Parameter(torch.ones(1))
        self.encoded = self.decoded = self.largest_batch = 0

    def encode(self, images):
        self.encoded += len(images)
        return images, F.avg_pool2d(images, 4), F.avg_pool2d(images, 8)

    def decode(self, query, template, template_prompts, query_prompts=None):
        self.decoded += len(query[0])
        self.largest_batch = max(self.largest_batch, len(query[0]))
        inside = template_prompts[:, 0, [CLICK, DOODLE, SEGLAB, PREVIOUS]].amax(dim=1) > 0.5
        box = template_prompts[:, 0, BBOX] * template_prompts[:, 1, BBOX]
        inside = torch.where(inside.any(dim=(1, 2), keepdim=True), inside, box > 0)[:, None]
        bright = torch.where(inside, template[0], -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
        dark = torch.where(inside, template[0], torch.inf).amin(dim=(1, 2, 3), keepdim=True)
        logits = torch.where(bright > 1, 8 * (query[0] - 1), torch.where(dark < -1, 8 * (-1 - query[0]), -4.0))
        if query_prompts is not None:
            said = query_prompts[:, :, CLICK].unsqueeze(2)
            logits = logits + 100 * (said[:, 0] > 0.5) - 100 * (said[:, 1] > 0.5)
            has_box = query_prompts[:, 0, BBOX].amax(dim=(1, 2))[:, None, None, None] > 0
            in_box = (query_prompts[:, 0, BBOX] * query_prompts[:, 1, BBOX])[:, None] > 0
            logits = torch.where(has_box & ~in_box, -8.0, logits)
        return logits


class Recorder(Control):
    """Takes down every fraction, and stops the work after the first one beyond `until`."""

    def __init__(self, until=1.0):
        self.fractions, self._until = [], until

    def report(self, fraction):
        self.fractions.append(fraction)

    @property
    def stopped(self):
        return bool(self.fractions) and self.fractions[-1] > self._until

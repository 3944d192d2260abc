"""The information bottleneck: K prompts become a few stochastic task tokens, and a weight each.

The paper's statement: prompts are side information S about the mask Y, and what is kept of them, Z, should say much
about Y and little else about S. Our reading is the variational bound (Alemi et al., Deep Variational Information
Bottleneck, ICLR 2017): Z is Gaussian, the segmentation loss asks for I(Z; Y), and KL(Z | S || N(0, 1)) bounds I(Z; S).
Each prompt gives a Gaussian of its own; they are joined with the prior as a product of experts (Wu and Goodman, NeurIPS
2018), in which a precise prompt counts more than a vague one and their order does not matter. Before that the prompts
see each other, so that one that contradicts the others can become vague. A prompt's part in the joint precision is its
weight: everywhere the query reads prompts directly, it reads them by this weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.networks.patch.blocks import Attention, FeedForward
from lib.networks.promptseg.config import PromptSegConfig

LARGEST_LOG_VARIANCE = 6.0  # beyond it a prompt says nothing, and gradients only grow


@dataclass(frozen=True)
class Task:
    """What K prompts say together.

    Attributes:
        tokens: (B, T, C) task tokens, a sample in training and the mean otherwise.
        log_weights: (B, K) logarithm of each prompt's weight; the weights sum to 1.
        divergence: (B,) KL of the task tokens to the prior, in nats, summed over tokens and channels.
    """

    tokens: Tensor
    log_weights: Tensor
    divergence: Tensor

    def of_tasks(self, tasks: Tensor) -> Task:
        """Those with these numbers, which may repeat."""
        return Task(self.tokens[tasks], self.log_weights[tasks], self.divergence[tasks])


class Bottleneck(nn.Module):
    """Prompts' tokens to a `Task`."""

    def __init__(self, config: PromptSegConfig) -> None:
        super().__init__()
        channels, heads = config.channels, config.channels // config.head_channels
        self.questions = nn.Parameter(0.1 * torch.randn(config.task_tokens, channels))
        self.read = Attention(channels, heads)
        self.compare = Attention(channels, heads)
        self.feed_forward = FeedForward(channels)
        self.stochastic = config.bottleneck
        self.moments = nn.Linear(channels, 2 * config.task_channels)
        self.out = nn.Linear(config.task_channels, channels)

    def forward(self, prompts: Tensor) -> Task:
        """Tokens (B, K, M, C) of K prompts, in any order."""
        batch, count = prompts.shape[:2]
        questions = self.questions.to(prompts.dtype).expand(batch * count, -1, -1)
        answers = self.read(questions, prompts.flatten(0, 1)).unflatten(0, (batch, count)).flatten(1, 2)
        answers = self.feed_forward(self.compare(answers, answers)).unflatten(1, (count, -1))  # (B, K, T, C)
        mean, log_variance = self.moments(answers).float().chunk(2, dim=-1)
        if not self.stochastic:
            even = mean.new_full((batch, count), 1 / count).log()
            return Task(self.out(mean.mean(dim=1).to(prompts.dtype)), even, mean.new_zeros(batch))
        log_variance = LARGEST_LOG_VARIANCE * torch.tanh(log_variance / LARGEST_LOG_VARIANCE)
        precision = (-log_variance).exp()  # (B, K, T, D)
        joint = 1 + precision.sum(dim=1)
        centre = (precision * mean).sum(dim=1) / joint
        variance = 1 / joint
        divergence = 0.5 * (centre**2 + variance - 1 + joint.log()).sum(dim=(1, 2))
        sample = centre + variance.sqrt() * torch.randn_like(centre) if self.training else centre
        weights = (precision / precision.sum(dim=1, keepdim=True)).mean(dim=(2, 3))
        return Task(self.out(sample.to(prompts.dtype)), weights.log(), divergence)

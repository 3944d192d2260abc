"""The Prompt-Parser: what the template's prompt says, read with the query in mind (One-Prompt, section 3.3).

    e_tq = e_t (p1 + p2 + e_q)                            combined template-prompt-query embedding
    M    = w[e_t; p1; p2] (e_q)^T                         prompting step, M in R^{N x N}
    e_G  = Max(e_tq * k_G[Conv(M)], e_tq)                 Gaussian masking, per-location mean and variance
    out  = e_G e_t

Two things differ from the letter of the paper. Conv(M) would fix the number of tokens in its weights; here a
convolution reads, at each template location, the moments of the prompting map's row (mean, spread, and towards which
side of the query it leans), which works at every resolution. The moments follow from M's two factors, so that M itself
is only formed once, where the correspondence uses it. And the product e_G e_t enters by a normalised residual, because
products of three embeddings are unstable when trained from random weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.blocks import coordinates, to_maps, to_tokens

WINDOW = 3  # tokens; coarser blocks reach further


class PromptParser(nn.Module):
    """Template tokens, prompt embeddings and query tokens to prompted template tokens and the prompting map."""

    def __init__(self, channels: int, gaussian_masking: bool = True) -> None:
        super().__init__()
        self.norm_template, self.norm_query = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.stack = nn.Sequential(nn.Linear(3 * channels, channels), nn.GELU(), nn.Linear(channels, channels))
        self.gaussian = GaussianMasking(channels) if gaussian_masking else None
        self.norm_out = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, template: Tensor, p1: Tensor, p2: Tensor, query: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All (B, N, C). Returns prompted template tokens (B, N, C) and the two factors of M, each (B, N, C).

        M = factors[0] @ factors[1]^T, rows for template tokens, columns for query tokens.
        """
        e_t, e_q = self.norm_template(template), self.norm_query(query)
        prompted = self.stack(torch.cat([e_t, p1, p2], dim=-1))  # w[e_t; p1; p2], the stack-MLP
        factors = (prompted * e_q.shape[-1] ** -0.5, e_q)
        e_tq = e_t * (p1 + p2 + e_q)
        e_g = self.gaussian(e_tq, factors) if self.gaussian else e_tq
        return template + prompted + self.out(self.norm_out(e_g * e_t)), factors


class GaussianMasking(nn.Module):
    """Max(e_tq * k_G, e_tq) with a Gaussian kernel whose mean and variance are predicted for each location."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predict = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1))

    def forward(self, e_tq: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        """e_tq (B, N, C), the prompting map's factors; returns (B, N, C)."""
        size = round(e_tq.shape[1] ** 0.5)
        kernels = self._kernels(to_maps(row_moments(*factors), size))
        blurred = _weighted_window(e_tq.unflatten(1, (size, size)), kernels.to(e_tq.dtype)).flatten(1, 2)
        return torch.maximum(blurred, e_tq)

    def _kernels(self, moments: Tensor) -> Tensor:
        """(B, window, N) normalised Gaussian weights; mean in tokens within the window, variance positive."""
        predicted = self.predict(moments).float().flatten(2)  # (B, 3, N)
        reach = WINDOW // 2
        mean, variance = reach * torch.tanh(predicted[:, :2]), F.softplus(predicted[:, 2]) + 0.1
        line = torch.arange(-reach, reach + 1, device=moments.device, dtype=torch.float32)
        offsets = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)  # (2, window)
        squared = ((offsets[None, :, :, None] - mean[:, :, None]) ** 2).sum(dim=1)
        return torch.softmax(-squared / (2 * variance[:, None]), dim=1)


def _weighted_window(maps: Tensor, kernels: Tensor) -> Tensor:
    """Each place's weighted sum of the places around it, by shifts, which copy a window's worth less than patches do.

    Args:
        maps: (B, h, w, C).
        kernels: (B, window, h * w), places of the window in row-major order.
    """
    (height, width), reach = maps.shape[1:3], WINDOW // 2
    padded = F.pad(maps, (0, 0, reach, reach, reach, reach))
    weights = kernels.unflatten(2, (height, width))[..., None]
    total = torch.zeros_like(maps)
    for number in range(WINDOW * WINDOW):
        row, column = divmod(number, WINDOW)
        total = torch.addcmul(total, weights[:, number], padded[:, row : row + height, column : column + width])
    return total


def row_moments(left: Tensor, right: Tensor) -> Tensor:
    """Moments of each row of M = left @ right^T without forming M: (B, N, 4).

    Mean, root mean square, and the mean weighted by the query location's two coordinates (in -1..1).
    """
    count = right.shape[1]
    where = to_tokens(coordinates(round(count**0.5), right)).expand(right.shape[0], -1, -1)
    weighted = torch.cat([right.mean(dim=1, keepdim=True), where.transpose(1, 2) @ right / count], dim=1)
    first = left @ weighted.transpose(1, 2)  # (B, N, 3)
    covariance = right.transpose(1, 2) @ right / count
    square = ((left @ covariance) * left).sum(dim=-1, keepdim=True)
    return torch.cat([first, square.clamp(min=1e-6).sqrt().to(first.dtype)], dim=-1)

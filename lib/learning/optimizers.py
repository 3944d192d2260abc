"""Optimisers: AdamW, and Muon for filters and matrices, which learned faster from the same episodes.

Measured in docs/experiments.md. PyTorch's own Muon takes two-dimensional parameters alone; nearly all of One-Prompt's
are convolutions, whose filters are orthogonalised here as the rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "muon"]

# Quintic iteration that draws all singular values to about 1 (Jordan et al. 2024, "Muon: An optimizer for hidden
# layers in neural networks").
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_SIDE = 5  # of a matrix; below it there is nothing to orthogonalise


class Muon(torch.optim.AdamW):
    """Momentum whose steps are orthogonalised, for the groups that have `orthogonal` set; AdamW for the others.

    A step of an orthogonalised matrix has the root mean square that AdamW's have (0.2, Liu et al. 2025), so that one
    learning rate and one weight decay serve both.
    """

    momentum = 0.95

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See `torch.optim.Optimizer.step`; the gradients of the orthogonalised groups are used up."""
        if closure is not None:
            raise ValueError("Muon takes no closure: call backward() before step()")
        for group in self.param_groups:
            if group.get("orthogonal"):
                for parameter in group["params"]:
                    self._step_orthogonal(parameter, group["lr"], group["weight_decay"])
        return super().step()

    def _step_orthogonal(self, parameter: Tensor, rate: float, decay: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:  # "step" because AdamW looks for it when it loads a state
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))
        state["step"] += 1
        mean = state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
        direction = orthogonalised(parameter.grad.lerp(mean, self.momentum).flatten(1))
        parameter.mul_(1 - rate * decay)
        parameter.add_(direction.view(parameter.shape), alpha=-rate * 0.2 * max(direction.shape) ** 0.5)
        parameter.grad = None  # AdamW passes over what has none


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with its singular values drawn to about 1, in float32."""
    a, b, c = QUINTIC
    x = matrix.float()
    x = (x if len(x) <= x.shape[1] else x.T) / (x.norm() + 1e-7)
    # Every step multiplies x by a polynomial of its Gram matrix. Of a wide x the polynomials are multiplied first, all
    # of them in the small square, which takes 0.4 of the time for a filter of 192 by 1728.
    wide, product = x.shape[1] > 2 * len(x), torch.eye(len(x), device=x.device)
    gram = x @ x.T
    for _ in range(ITERATIONS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        if wide:
            product = polynomial @ product
            gram = polynomial @ gram @ polynomial
        else:
            x = polynomial @ x
            gram = x @ x.T
    x = product @ x if wide else x
    return x if len(matrix) <= matrix.shape[1] else x.T


def make_optimizer(
    network: nn.Module, name: OptimizerName, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Optimiser of all parameters that ask for a gradient; biases and norms (one dimension) do not decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    large = [p for p in trained if p.ndim > 1 and min(p.flatten(1).shape) >= SMALLEST_SIDE]
    thin = [p for p in trained if p.ndim > 1 and min(p.flatten(1).shape) < SMALLEST_SIDE]
    groups: list[dict[str, Any]] = [
        {"params": large, "weight_decay": weight_decay, "orthogonal": name == "muon"},
        {"params": thin, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "muon": Muon}[name]
    return kind([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, 0.99), fused=True)

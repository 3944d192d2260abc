"""Muon orthogonalises filters, leaves the rest to AdamW, and goes on from a saved state."""

import copy

import pytest
import torch
from torch import nn

from lib.learning.optimizers import Muon, make_optimizer, orthogonalised


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> list[float]:
    generator, losses = torch.Generator().manual_seed(seed), []
    images = torch.randn(32, 3, 6, 6, generator=generator)
    target = images.mean(dim=(2, 3)) @ torch.randn(3, 6, generator=generator)
    for _ in range(steps):
        loss = (model(images) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (12, 12)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 40
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.5


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_both_optimisers_lower_the_loss(name):
    model = network()
    losses = train(model, make_optimizer(model, name, 1e-2, 0.0), 60)
    assert losses[-1] < 0.2 * losses[0]


def test_muon_moves_every_filter_by_the_same_amount_whatever_its_gradient():
    model = network()
    before = model[0].weight.detach().clone()
    loss = model(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))).sum() * 1e4
    loss.backward()
    make_optimizer(model, "muon", 1e-2, 0.0).step()
    moved = (model[0].weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(1e-2 * 0.2, rel=0.3)


def test_weight_decay_passes_over_biases_and_norms():
    model = network()
    optimizer = make_optimizer(model, "muon", 1e-2, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    after = model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert torch.equal(after["4.bias"], before["4.bias"])
    assert torch.allclose(after["0.weight"], before["0.weight"] * (1 - 1e-2 * 0.5), atol=1e-6)
    assert torch.allclose(after["4.weight"], before["4.weight"] * (1 - 1e-2 * 0.5), atol=1e-6)


def test_parameters_without_gradient_stay():
    model = network().requires_grad_(False)
    model[4].requires_grad_(True)
    before = copy.deepcopy(model[0].state_dict())
    train(model, make_optimizer(model, "muon", 1e-2, 0.1), 3)
    assert torch.equal(model[0].weight, before["weight"])


def test_a_saved_state_continues_to_the_same_weights():
    straight = network()
    optimizer = make_optimizer(straight, "muon", 1e-2, 0.01)
    train(straight, optimizer, 4)
    resumed = copy.deepcopy(straight)
    state = copy.deepcopy(optimizer.state_dict())
    train(straight, optimizer, 4)
    again = make_optimizer(resumed, "muon", 1e-2, 0.01)
    again.load_state_dict(state)
    train(resumed, again, 4)
    for mine, theirs in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_muon_refuses_a_closure():
    model = network()
    with pytest.raises(ValueError, match="closure"):
        Muon(model.parameters()).step(lambda: 0.0)

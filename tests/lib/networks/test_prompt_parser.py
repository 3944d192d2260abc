"""The Prompt-Parser's shortcuts against the plain forms of the paper's equations."""

from __future__ import annotations

import torch

from lib.networks.blocks import coordinates, to_tokens
from lib.networks.prompt_parser import GaussianMasking, PromptParser, row_moments


def test_row_moments_are_those_of_the_full_prompting_map():
    left, right = torch.randn(2, 2, 64, 32, generator=torch.Generator().manual_seed(0))
    full = left @ right.transpose(1, 2)
    where = to_tokens(coordinates(8, full))
    expected = torch.cat(
        [full.mean(2, keepdim=True), full @ where / 64, full.square().mean(2, keepdim=True).sqrt()], dim=2
    )
    torch.testing.assert_close(row_moments(left, right), expected, atol=1e-4, rtol=1e-4)


def test_gaussian_masking_never_lowers_a_value():
    torch.manual_seed(0)
    masking = GaussianMasking(32)
    e_tq, left, right = torch.randn(3, 2, 64, 32)
    assert (masking(e_tq, (left, right)) >= e_tq).all()


def test_gaussian_kernels_differ_between_locations_and_sum_to_one():
    torch.manual_seed(0)
    masking = GaussianMasking(32)
    kernels = masking._kernels(torch.randn(1, 4, 8, 8))
    torch.testing.assert_close(kernels.sum(dim=1), torch.ones(1, 64))
    assert kernels.std(dim=2).max() > 1e-3


def test_the_prompting_map_depends_on_the_prompt():
    torch.manual_seed(0)
    parser = PromptParser(32)
    e_t, e_q, p1, p2 = torch.randn(4, 1, 16, 32)
    maps = [left @ right.transpose(1, 2) for left, right in (parser(e_t, p, p2, e_q)[1] for p in (p1, -p1))]
    assert maps[0].shape == (1, 16, 16)
    assert not torch.allclose(*maps, atol=1e-3)

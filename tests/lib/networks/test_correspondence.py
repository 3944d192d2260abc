"""Dense correspondence: what is carried from template to query, and where to."""

from __future__ import annotations

import numpy as np
import torch

from lib.imaging.prompts import SEGLAB, Prompt, rasterise
from lib.networks.correspondence import AFFINITY_CHANNELS, Affinity, PromptMaps, Prototypes, support

SIZE = 64


def square() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:24, 8:24] = True
    return mask


def maps(prompt: Prompt) -> PromptMaps:
    return PromptMaps(torch.from_numpy(rasterise(prompt, (SIZE, SIZE), SIZE))[None])


def test_a_mask_is_carried_to_where_its_features_went():
    torch.manual_seed(0)
    affinity = Affinity(32, 32, max_keys=256)
    with torch.no_grad():
        affinity.position.weight.zero_()  # match by look alone
        affinity.sharpness.fill_(5.0)
    template = torch.randn(1, 32, 8, 8)
    query = template.roll(3, dims=2)
    with torch.no_grad():
        carried = affinity(template, query, maps(Prompt(mask=square())), None)
    assert carried.shape == (1, AFFINITY_CHANNELS, 8, 8)
    expected = torch.zeros(8, 8)
    expected[4:6, 1:3] = 1  # rows 1..2 of the coarse grid, moved down by three
    torch.testing.assert_close(carried[0, SEGLAB], expected, atol=0.05, rtol=0)


def test_support_takes_masks_and_the_outside_of_boxes_for_certain():
    inside, outside = support(maps(Prompt(mask=square())).whole)
    assert torch.equal(inside[0, 0].bool(), torch.from_numpy(square()))
    assert torch.equal(outside[0, 0].bool(), torch.from_numpy(~square()))
    inside, outside = support(maps(Prompt(box=(8, 24, 8, 24))).whole)
    assert inside.max() == 0.5
    assert torch.equal(outside[0, 0].bool(), torch.from_numpy(~square()))


def test_no_prompt_supports_nothing():
    assert all(not region.any() for region in support(maps(Prompt()).whole))


def test_maps_are_the_same_at_a_size_whichever_was_asked_for_before():
    prompt = Prompt(foreground=[(20, 30)], box=(8, 24, 8, 30))
    halved = maps(prompt)
    for size in (32, 16, 8):
        torch.testing.assert_close(halved.at(size), maps(prompt).at(size))
        torch.testing.assert_close(halved.regions(size), maps(prompt).regions(size))
    assert halved.at(24).shape == (1, 10, 24, 24)


def test_prototypes_are_brighter_where_the_query_looks_like_the_structure():
    torch.manual_seed(0)
    prototypes = Prototypes(4)
    query = torch.zeros(1, 4, SIZE, SIZE)
    query[0, 0], query[0, 1] = torch.from_numpy(square()).float(), torch.from_numpy(~square()).float()
    with torch.no_grad():
        inside, _, difference = prototypes(query, query, maps(Prompt(mask=square())))[0]
    mask = torch.from_numpy(square())
    assert inside[mask].mean() > inside[~mask].mean()
    assert difference[mask].mean() > 0 > difference[~mask].mean()

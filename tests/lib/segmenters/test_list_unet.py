import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib.imaging.images import Image
from lib.imaging.volumes import Stack
from lib.inference.control import Cancelled
from lib.inference.templates import Template
from lib.networks.checkpoints import CheckpointError
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.segmenters.list_unet import (
    ListUNet,
    ListUNetSegmenter,
    load_list_unet,
    neighbours,
    of_channels,
    save_list_unet,
    slices_of,
    winners,
    working_shape,
)
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import GreyNetwork, Recorder
from tests.samples import AFFINE, organ_volume


class Bright(torch.nn.Module):
    """Calls what is bright the first structure, and what is very bright the second."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.config = ListUNetConfig(("organ", "core"))
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        middle = images[:, 1]
        return torch.stack([middle - 1, 3 * (middle - 2)], dim=1)


def found_by(specialist, image, name):
    """Where it sees a structure, on the image's own grid."""
    said, stack = specialist.opinion(image), Stack.of(image)
    return stack.restored(said.on(stack, name)) > 0


def test_an_opinion_lies_on_the_image_s_own_grid():
    array, mask = organ_volume(0, (40, 30, 9))
    array[18:22, 13:17, 4] += 12  # a brighter core
    image, specialist = Image(array, AFFINE), ListUNet(Bright(), 0.5, {})
    assert specialist.opinion(image).weight == 0.5
    assert found_by(specialist, image, "core")[19:21, 14:16, 4].all()
    whole = found_by(specialist, image, "organ")
    assert whole.shape == array.shape
    assert 2 * (whole & (mask > 0)).sum() / (whole.sum() + mask.sum()) > 0.8


def test_a_flat_image_is_a_single_slice():
    array, mask = organ_volume(1, (50, 40))
    image = Image(array, np.diag([2.0, 1, 1, 1]))
    whole = found_by(ListUNet(Bright(), 0.5, {}), image, "organ")
    assert whole.shape == (50, 40)
    assert 2 * (whole & (mask > 0)).sum() / (whole.sum() + mask.sum()) > 0.8


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((512, 256), (256, 128)), ((50, 35), (128, 90)), ((200, 150), (200, 150)), ((600, 1), (256, 1))],
)
def test_large_slices_shrink_and_small_ones_grow_in_proportion(shape, expected):
    assert working_shape(shape) == expected


def test_a_slice_is_seen_between_its_neighbours():
    assert neighbours(np.array([2, 0]), 4).tolist() == [[1, 2, 3], [0, 0, 1]]
    assert neighbours(np.array([0]), 1).tolist() == [[0, 0, 0]]


def test_grey_values_are_normalised_over_the_whole_image():
    array, _ = organ_volume(2, (40, 36, 8))
    array[:, :, 3] += 5  # one slice is brighter, and stays so
    slices = slices_of(Stack.of(Image(array, AFFINE)))
    assert slices.shape[0] == 8
    assert slices[3].mean() > slices[5].mean() + 1 or slices[4].mean() > slices[6].mean() + 1


def test_a_part_of_its_structures_answers_as_the_whole_did():
    torch.manual_seed(0)
    network = ListUNetNetwork(ListUNetConfig(("liver", "spleen", "colon"))).eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(of_channels(network, [2, 0])(images), network(images)[:, [2, 0]])


def test_the_strongest_structure_above_the_background_wins():
    logits = torch.tensor([[-1.0, 2, 3], [-2.0, 1, 4]]).reshape(1, 2, 1, 3)
    assert winners(logits).tolist() == [[[0, 1, 2]]]


def test_a_file_brings_the_same_specialist_back(tmp_path):
    torch.manual_seed(0)
    made = ListUNet(ListUNetNetwork(ListUNetConfig(("liver", "spleen"))).eval(), 0.25, {"reason": "it won"})
    save_list_unet(tmp_path / "s.safetensors", made)
    again = load_list_unet(tmp_path / "s.safetensors")
    assert (again.hash, again.structures, again.weight) == (made.hash, made.structures, made.weight)
    assert again.record == made.record
    image = Image(organ_volume(0)[0], AFFINE)
    np.testing.assert_array_equal(again.opinion(image).logits["spleen"], made.opinion(image).logits["spleen"])
    assert dataclasses.replace(made, weight=0.5).hash != made.hash  # masks made with it differ


def test_a_file_of_the_release_before_is_read(tmp_path):
    torch.manual_seed(0)
    network = ListUNetNetwork(ListUNetConfig(("liver", "spleen"))).eval()
    facts = {"structures": ["liver", "spleen"], "share": 0.25, "record": {"reason": "it won"}}
    metadata = {"format": "oneprompt-specialist-2", "told": json.dumps(facts)}
    tensors = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    save_file(tensors, tmp_path / "s.safetensors", metadata)
    again = load_list_unet(tmp_path / "s.safetensors")
    assert (again.structures, again.weight, again.record) == (("liver", "spleen"), 0.25, {"reason": "it won"})
    assert again.hash == ListUNet(network, 0.25, {}).hash


def test_it_answers_beside_one_prompt_on_what_it_learnt_alone():
    array, mask = organ_volume(0, (40, 30, 9))
    image = Image(array, AFFINE)
    template = Template("t", image, (mask + 1).astype(np.uint8), {"rest": 1, "organ": 2})
    settings = SegmenterSettings(precision="float32", quality_slices=0, smoothing=0.0, least_island=0.0)
    base = SliceSegmenter(GreyNetwork(), settings=settings)
    unet = ListUNet(Bright(), 1.0, {})
    both = ListUNetSegmenter(base, unet)
    assert both.fingerprint == f"{base.fingerprint}+{unet.hash}"
    prediction = both.segment(image, [template], {"organ": 1})
    np.testing.assert_array_equal(prediction.mask == 1, found_by(unet, image, "organ"))
    assert prediction.provenance["model"] == both.capabilities.name == "oneprompt_specialist"
    assert prediction.provenance["specialist"] == {"weights": unet.hash, "share": 1.0, "structures": ["organ"]}
    alone = both.segment(image, [template], {"rest": 1})
    np.testing.assert_array_equal(alone.mask, base.segment(image, [template], {"rest": 1}).mask)
    assert "specialist" not in alone.provenance


def test_other_files_are_refused_with_the_reason(tmp_path, tiny_weights):
    (tmp_path / "torn").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_list_unet(tmp_path / "torn")
    with pytest.raises(CheckpointError, match="of the architecture"):
        load_list_unet(tiny_weights)


def test_segmenting_can_be_interrupted():
    unet, image = ListUNet(Bright(), 0.5, {}), Image(organ_volume(0, (24, 20, 18))[0], AFFINE)
    with pytest.raises(Cancelled):
        unet.opinion(image, None, Recorder(until=-1.0))

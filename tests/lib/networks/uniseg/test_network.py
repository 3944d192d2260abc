"""UniSeg against the published network: names, shapes, number of parameters, and what a small one of it answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.networks.uniseg.published import config_of, network_of, published_names

HERE = Path(__file__).parent
TINY = UniSegConfig(tasks=3, outputs=4, patch=(8, 16, 16), base=2, most_features=8, strides=((1, 2, 2), (2, 2, 2)))


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(HERE / "uniseg_small_reference.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published(reference: dict[str, np.ndarray]) -> UniSeg:
    state = {name[7:]: torch.from_numpy(value) for name, value in reference.items() if name.startswith("weight/")}
    return network_of(state)


def test_the_published_size_has_the_published_names_shapes_and_number_of_parameters() -> None:
    told = json.loads((HERE / "uniseg_state_dict.json").read_text())
    config = UniSegConfig.published()
    with torch.device("meta"):
        own = UniSeg(config).state_dict()
    shapes = {theirs: list(own[ours].shape) for ours, theirs in published_names(config).items()}
    assert shapes == told["state_dict"]
    assert sum(value.numel() for value in own.values()) == told["parameters"] == 32_136_845


def test_the_configuration_follows_from_the_published_weights() -> None:
    told = json.loads((HERE / "uniseg_state_dict.json").read_text())["state_dict"]
    found = config_of({name: torch.empty(shape, device="meta") for name, shape in told.items()})
    assert found == UniSegConfig(**{**UniSegConfig.published().as_dict(), "fuse_features": 82})


@pytest.mark.parametrize("case", ["case_a", "case_b", "case_c"])
def test_a_network_with_the_published_weights_gives_the_published_logits(
    case: str, reference: dict[str, np.ndarray], published: UniSeg
) -> None:
    image = torch.from_numpy(reference[f"{case}/input"]).float()
    task = int(reference[f"{case}/task"])
    with torch.inference_mode():
        logits = published(image, task)
        together = published.decode_tasks(published.encode(image), [0, 1, 2])
    np.testing.assert_allclose(logits[0][..., ::4, ::4, ::4], reference[f"{case}/logits_every_4th"], atol=1e-3)
    np.testing.assert_allclose(logits[2], reference[f"{case}/deep_2"], atol=1e-3)
    np.testing.assert_allclose(together[task], logits[0], atol=1e-4)


def test_weights_of_another_network_or_of_a_part_are_refused(reference: dict[str, np.ndarray]) -> None:
    state = {name[7:]: torch.from_numpy(value) for name, value in reference.items() if name.startswith("weight/")}
    with pytest.raises(ValueError, match="of another network"):
        network_of({"layer.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"1 are missing \(fusion_layer.blocks.1.conv.bias\)"):
        network_of({name: value for name, value in state.items() if name != "fusion_layer.blocks.1.conv.bias"})
    with pytest.raises(ValueError, match="do not fit together"):
        network_of({**state, "tu.2.weight": torch.zeros(16, 9, 2, 2, 2)})


@pytest.mark.parametrize("conditioning", ["universal", "one-hot", "heads"])
def test_the_answer_depends_on_the_task_however_the_network_is_told(conditioning: str) -> None:
    torch.manual_seed(0)
    network = UniSeg(UniSegConfig(**{**TINY.as_dict(), "conditioning": conditioning})).eval()
    image = torch.randn(2, 1, 8, 16, 16)
    with torch.inference_mode():
        alone = [network(image, task) for task in range(3)]
        together = network.decode_tasks(network.encode(image), [0, 1, 2])
    assert [tuple(level.shape) for level in alone[0]] == [(2, 4, 8, 16, 16), (2, 4, 8, 8, 8)]
    assert not torch.allclose(alone[0][0], alone[1][0])
    for logits, other in zip(alone, together, strict=True):
        torch.testing.assert_close(logits[0], other)


def test_every_parameter_but_the_other_stems_is_trained() -> None:
    network = UniSeg(TINY)
    sum(level.square().mean() for level in network(torch.randn(1, 2, 8, 16, 16), 1)).backward()
    idle = {name for name, value in network.named_parameters() if value.grad is None}
    assert idle == {f"stem.convolutions.{count}.{kind}" for count in (1, 4) for kind in ("weight", "bias")}


def test_a_smaller_window_than_the_patch_is_answered_too() -> None:
    network = UniSeg(TINY).eval()
    with torch.inference_mode():
        [logits, _] = network(torch.randn(1, 1, 4, 8, 12), 0)
    assert logits.shape == (1, 4, 4, 8, 12)


def test_images_and_tasks_that_the_network_does_not_know_are_refused() -> None:
    network = UniSeg(TINY)
    with pytest.raises(ValueError, match="1 or 2 or 4 channels"):
        network.encode(torch.zeros(1, 3, 8, 16, 16))
    with pytest.raises(ValueError, match="multiples of"):
        network.encode(torch.zeros(1, 1, 8, 16, 15))
    with pytest.raises(ValueError, match="knows the tasks 0 to 2, got 3"):
        network(torch.zeros(1, 1, 8, 16, 16), 3)


def test_a_configuration_survives_json_and_refuses_what_makes_no_network() -> None:
    assert UniSegConfig.from_dict(json.loads(json.dumps(TINY.as_dict()))) == TINY
    with pytest.raises(ValueError, match="unknown"):
        UniSegConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="multiples of"):
        UniSegConfig(patch=(32, 96, 90))
    with pytest.raises(ValueError, match="conditioning"):
        UniSegConfig.from_dict({"conditioning": "text"})

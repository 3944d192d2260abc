"""UniSeg on whole studies: the mask lies where it should, whatever the grid, and work can be followed and ended."""

import numpy as np
import pytest
import torch

from lib.imaging.images import Image, ImageError
from lib.imaging.prompts import Prompt, PromptError
from lib.inference.control import Cancelled, Control
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.model import UniSegModel, load_model, save_model
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.study import Study
from lib.segmenters.uniseg.tasks import Channel, Task, TaskError
from tests.lib.segmenters.uniseg.fakes import CONFIG, GREY, Thresholds, thresholds
from tests.lib.segmenters.uniseg.test_study import ORIENTATIONS, oriented

ORGAN = Task("organ", ("organ", "lesion"), (GREY,), (2.0, 1.0, 1.0))
BODY = Task("body", ("body",), (GREY,), (2.0, 1.0, 1.0))
FINE = Task("fine", ("fine",), (GREY,), (1.0, 1.0, 1.0))
BOTH = Task("both", ("hot",), (GREY, Channel("PT", GREY.window)), (2.0, 1.0, 1.0))


def phantom() -> np.ndarray:
    """A body of 18 with an organ of 50 and a lesion of 100 in it; axes right, anterior, superior."""
    array = np.full((24, 30, 12), 1.0)
    array[3:21, 4:26, 1:11] = 18.0
    array[6:16, 8:20, 3:9] = 50.0
    array[8:12, 10:15, 4:7] = 100.0
    return array


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_mask_lies_on_the_voxels_of_its_image_whatever_their_order(codes: str) -> None:
    image = oriented(phantom(), codes, (1.0, 1.0, 2.0))
    found = UniSegSegmenter(thresholds([ORGAN])).segment_study(Study((image,)), {"organ": 7, "lesion": 3})
    # class 1 above 10; class 2 above 80, where it also beats class 1
    expected = np.where(image.array == 100, 3, np.where(image.array > 10, 7, 0))
    np.testing.assert_array_equal(found.mask, expected)
    assert found.mask.dtype == np.uint8


def test_an_image_of_another_spacing_is_resampled_there_and_back() -> None:
    fine = np.repeat(np.repeat(np.repeat(phantom(), 2, 0), 3, 1), 2, 2)
    image = oriented(fine, "LPS", (0.5, 1 / 3, 1.0))
    found = UniSegSegmenter(thresholds([ORGAN])).segment_study(Study((image,)), {"lesion": 1})
    truth = image.array == 100
    overlap = 2 * (truth & (found.mask == 1)).sum() / (truth.sum() + (found.mask == 1).sum())
    assert overlap > 0.8


def test_tasks_that_see_one_image_share_one_pass_of_the_encoder() -> None:
    model = thresholds([ORGAN, BODY, FINE])
    assert isinstance(model.network, Thresholds)
    study = Study((oriented(phantom(), "RAS", (1.0, 1.0, 2.0)),))
    segmenter = UniSegSegmenter(model)
    segmenter.segment_study(study, {"organ": 1})
    alone = len(model.network.encoded)
    segmenter.segment_study(study, {"organ": 1, "body": 2})
    assert len(model.network.encoded) == 2 * alone
    segmenter.segment_study(study, {"organ": 1, "fine": 2})
    assert len(model.network.encoded) > 3 * alone


def test_the_smaller_of_two_structures_that_claim_a_voxel_has_it() -> None:
    image = oriented(phantom(), "RAS", (1.0, 1.0, 2.0))
    model = thresholds([Task("low", ("low",), (GREY,), (2, 1, 1)), Task("high", ("high",), (GREY,), (2, 1, 1))])
    found = UniSegSegmenter(model).segment_study(Study((image,)), {"high": 1, "low": 300})
    np.testing.assert_array_equal(found.mask == 1, image.array > 20)
    np.testing.assert_array_equal(found.mask == 300, image.array == 18)
    assert found.mask.dtype == np.uint16


def test_a_task_of_two_channels_takes_two_and_refuses_one() -> None:
    image, second = (oriented(array, "LAS", (1, 1, 2)) for array in (phantom(), phantom()[::-1]))
    model = thresholds([ORGAN, BOTH])
    found = UniSegSegmenter(model).segment_study(Study((image, second)), {"hot": 1})
    assert found.mask.any()
    assert found.provenance["tasks"] == ["both"]
    with pytest.raises(TaskError, match=r"both takes 2 channels \(CT, PT\), got 1"):
        UniSegSegmenter(model).segment_study(Study((image,)), {"organ": 1, "hot": 2})


def test_unknown_structures_are_refused_with_the_known_ones() -> None:
    study = Study((oriented(phantom(), "RAS", (1, 1, 2)),))
    with pytest.raises(TaskError, match=r"does not know heart: its tasks are organ \(organ, lesion; CT\)"):
        UniSegSegmenter(thresholds([ORGAN])).segment_study(study, {"heart": 1, "organ": 2})
    with pytest.raises(TaskError, match="at least one structure"):
        UniSegSegmenter(thresholds([ORGAN])).segment_study(study, {})
    with pytest.raises(ImageError, match="is its spacing in mm"):
        UniSegSegmenter(thresholds([ORGAN])).segment_study(
            Study((oriented(phantom(), "RAS", (0.001, 0.001, 0.002)),)), {"organ": 1}
        )


class Recorder(Control):
    """Remembers what was reported, and stops after some reports."""

    def __init__(self, most: int | None = None) -> None:
        self.fractions: list[float] = []
        self._most = most

    def report(self, fraction: float) -> None:
        self.fractions.append(fraction)

    @property
    def stopped(self) -> bool:
        return self._most is not None and len(self.fractions) >= self._most


def test_the_work_is_followed_and_ends_between_two_windows_when_it_is_stopped() -> None:
    study, model = Study((oriented(phantom(), "RAS", (1, 1, 2)),)), thresholds([ORGAN, FINE])
    control = Recorder()
    UniSegSegmenter(model).segment_study(study, {"organ": 1, "fine": 2}, control=control)
    assert control.fractions == sorted(control.fractions)
    assert control.fractions[0] == 0
    assert 0.9 < control.fractions[-1] <= 1
    assert isinstance(model.network, Thresholds)
    model.network.encoded.clear()
    with pytest.raises(Cancelled):
        UniSegSegmenter(model).segment_study(study, {"organ": 1}, control=Recorder(most=3))
    assert 0 < len(model.network.encoded) <= 3


def test_without_memory_a_smaller_window_is_tried_once_and_then_the_message_says_what_to_do() -> None:
    image = oriented(phantom(), "RAS", (1, 1, 2))
    study, model = Study((image,)), thresholds([ORGAN])
    assert isinstance(model.network, Thresholds)
    model.network.most_voxels = 8 * 8 * 8
    found = UniSegSegmenter(model).segment_study(study, {"organ": 1, "lesion": 2})
    assert {shape[2:] for shape in model.network.encoded} == {(8, 8, 8)}
    np.testing.assert_array_equal(found.mask == 2, image.array == 100)
    model.network.most_voxels = 1
    with pytest.raises(MemoryError, match=r"also with windows of \(8, 8, 8\) voxels: free some"):
        UniSegSegmenter(model).segment_study(study, {"organ": 1})


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory() -> None:
    class Broken(Thresholds):
        def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raise RuntimeError("shapes do not match")

    model = UniSegModel(Broken(CONFIG), (ORGAN,), {})
    with pytest.raises(RuntimeError, match="shapes do not match"):
        UniSegSegmenter(model).segment_study(Study((oriented(phantom(), "RAS", (1, 1, 2)),)), {"organ": 1})


def test_a_volume_smaller_than_a_patch_is_segmented_by_a_real_network() -> None:
    torch.manual_seed(0)
    config = UniSegConfig(**{**CONFIG.as_dict(), "patch": (16, 32, 32)})
    model = UniSegModel(UniSeg(config).eval(), (ORGAN,), {})
    image = Image(np.random.default_rng(0).normal(50, 20, (6, 7, 5)), np.eye(4))
    assert UniSegSegmenter(model).segment_study(Study((image,)), {"organ": 1}).mask.shape == (6, 7, 5)


def test_a_model_names_itself_and_its_licence_in_the_provenance_and_survives_its_file(tmp_path) -> None:
    torch.manual_seed(0)
    model = UniSegModel(UniSeg(CONFIG).eval(), (ORGAN,), {"licence": "non-commercial"})
    save_model(tmp_path / "own.safetensors", model)
    again = load_model(tmp_path / "own.safetensors")
    assert again.hash == model.hash
    assert again.tasks == model.tasks
    study = Study((oriented(phantom(), "RAS", (1, 1, 2)),))
    one, other = (UniSegSegmenter(own).segment_study(study, {"organ": 1}) for own in (model, again))
    np.testing.assert_array_equal(one.mask, other.mask)
    assert one.provenance["model"] == "uniseg"
    assert one.provenance["weights"] == model.hash == again.hash
    assert one.provenance["tasks"] == ["organ"]
    assert one.provenance["licence"] == "non-commercial"
    assert not one.quality
    assert UniSegSegmenter(model).fingerprint == UniSegSegmenter(again).fingerprint


def test_it_says_what_it_can_do_and_refuses_prompts() -> None:
    segmenter = UniSegSegmenter(thresholds([ORGAN, BOTH]))
    assert segmenter.capabilities.vocabulary == ("organ", "lesion", "hot")
    assert segmenter.capabilities.channels == (1, 2)
    image = oriented(phantom(), "RAS", (1, 1, 2))
    assert segmenter.segment(image, [], {"organ": 1}).mask.any()
    with pytest.raises(PromptError, match="uniseg segments without prompts"):
        segmenter.interact(image, {"organ": Prompt(foreground=((1, 1, 1),))}, {"organ": 1})


def test_other_tasks_make_another_fingerprint() -> None:
    torch.manual_seed(0)
    network = UniSeg(CONFIG).eval()
    one, other = (UniSegModel(network, (Task("organ", ("organ",), (GREY,), (side, 1, 1)),), {}) for side in (1, 2))
    assert one.hash == other.hash
    assert one.fingerprint != other.fingerprint


def test_network_and_tasks_must_belong_together() -> None:
    with pytest.raises(ValueError, match="a network of 1 tasks"):
        UniSegModel(UniSeg(CONFIG), (ORGAN, BODY), {})
    with pytest.raises(ValueError, match="has 3 structures"):
        UniSegModel(UniSeg(CONFIG), (Task("many", ("a", "b", "c"), (GREY,), (1, 1, 1)),), {})
    with pytest.raises(ValueError, match="has 3 channels"):
        UniSegModel(UniSeg(CONFIG), (Task("odd", ("a",), (GREY,) * 3, (1, 1, 1)),), {})

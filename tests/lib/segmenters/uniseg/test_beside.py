"""UniSeg and a segmenter by templates together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lib.imaging.images import Image
from lib.segmenters.contract import Capabilities, Prediction
from lib.segmenters.uniseg.beside import UniSegBeside
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from tests.lib.segmenters.uniseg.fakes import thresholds
from tests.lib.segmenters.uniseg.test_segmenter import ORGAN, phantom
from tests.lib.segmenters.uniseg.test_study import oriented


class Everywhere:
    """Claims every voxel for the last structure that is wanted."""

    capabilities = Capabilities("oneprompt", dimensions=2, most_templates=4)
    fingerprint = "templates"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def segment(self, image: Image, templates: Any, labels: Mapping[str, int], **options: Any) -> Prediction:
        self.asked.append(list(labels))
        mask = np.full(image.array.shape, max(labels.values()), np.uint8)
        return Prediction(mask, dict(labels), dict.fromkeys(labels, 0.5), {"model": "oneprompt", "weights": "w"})

    def interact(self, image: Image, prompts: Any, labels: Mapping[str, int], **options: Any) -> Prediction:
        return self.segment(image, (), labels)


@pytest.fixture
def both() -> UniSegBeside:
    return UniSegBeside(Everywhere(), UniSegSegmenter(thresholds([ORGAN])))


IMAGE = oriented(phantom(), "RAS", (1.0, 1.0, 2.0))


def test_each_answers_for_what_it_knows_and_the_record_names_both(both: UniSegBeside) -> None:
    found = both.segment(IMAGE, [], {"organ": 1, "lesion": 2, "spleen": 3})
    np.testing.assert_array_equal(found.mask, np.where(IMAGE.array == 100, 2, np.where(IMAGE.array > 10, 1, 3)))
    assert both.other.asked == [["spleen"]]  # type: ignore[attr-defined]
    assert found.provenance["model"] == "uniseg"
    assert found.provenance["uniseg"]["structures"] == ["lesion", "organ"]
    assert found.provenance["weights"] == "w"
    assert found.quality == {"spleen": 0.5}  # nothing predicts UniSeg's


def test_one_of_them_is_not_asked_where_the_other_knows_everything(both: UniSegBeside) -> None:
    assert both.segment(IMAGE, [], {"organ": 1}).provenance["tasks"] == ["organ"]
    assert both.other.asked == []  # type: ignore[attr-defined]
    assert set(np.unique(both.segment(IMAGE, [], {"spleen": 4}).mask)) == {4}


def test_flat_images_and_prompts_are_for_the_other(both: UniSegBeside) -> None:
    flat = Image(IMAGE.array[..., 5], np.eye(4))
    assert set(np.unique(both.segment(flat, [], {"organ": 1}).mask)) == {1}
    assert set(np.unique(both.interact(IMAGE, {}, {"organ": 5}).mask)) == {5}


def test_the_fingerprint_is_of_both_and_templates_are_still_asked_for(both: UniSegBeside) -> None:
    assert both.fingerprint == f"templates+{both.uniseg.fingerprint}"
    assert both.capabilities.name == "uniseg"
    assert both.capabilities.most_templates == 4

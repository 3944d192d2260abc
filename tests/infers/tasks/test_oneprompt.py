"""What OHIF's point prompts mean: the structure chosen in its table, with and without points."""

from types import SimpleNamespace

import numpy as np
import pytest

from infers.names import LabelMap
from infers.serving.priority_lock import PriorityLock
from infers.tasks.oneprompt import tasks
from lib.imaging.images import Image
from lib.segmenters.contract import Prediction

SHAPE = (12, 10, 6)


class Clicked:
    """A predictor that marks the voxels that were clicked."""

    def interact(self, image, prompts, labels, *, axis=None, only_slice=False):
        mask = np.zeros(image.array.shape, np.uint8)
        for name, prompt in prompts.items():
            for point in prompt.foreground:
                mask[point] = labels[name]
        return Prediction(mask, labels, {}, {"only_slice": only_slice, "background": prompts[name].background})


@pytest.fixture
def points(tmp_path):
    """The two tasks, on a study list with two structures and one stored mask."""
    stored = np.full(SHAPE, 2, np.uint8)
    studies = SimpleNamespace(
        automatic=lambda image_id: None,
        segment=lambda image_id, image, wanted: Prediction(stored, dict(wanted), {}, {}),
    )
    labels = LabelMap(tmp_path / "labels.json", ("liver", "spleen"))
    engine = SimpleNamespace(
        studies=studies, labels=labels, gate=PriorityLock(), model=SimpleNamespace(segmenter=Clicked()), acceptance=None
    )
    found = tasks(engine)
    return found["oneprompt_points"], found["oneprompt_points_slice"]


IMAGE = Image(np.arange(np.prod(SHAPE)).reshape(SHAPE), np.eye(4))
CLICKS = {"points": [[1, 2, 3], [4, 5, 3]], "point_labels": [1, 0], "label_prompt": [2]}


def test_clicks_are_for_the_structure_that_was_chosen(points):
    prediction = points[0].predict(CLICKS, IMAGE)
    assert prediction.labels == {"spleen": 2}
    assert prediction.mask[1, 2, 3] == 2
    assert prediction.provenance == {"only_slice": False, "background": ((4, 5, 3),)}


def test_its_twin_stays_on_the_clicked_slices(points):
    assert points[1].predict(CLICKS, IMAGE).provenance["only_slice"] is True


@pytest.mark.parametrize("request_", [{}, {"label_prompt": [1, 2]}, {**CLICKS, "label_prompt": [1, 2]}])
def test_without_a_click_of_this_request_the_templates_answer(points, request_):
    prediction = points[0].predict(request_, IMAGE)
    assert prediction.labels == {"liver": 1, "spleen": 2}
    assert (prediction.mask == 2).all()

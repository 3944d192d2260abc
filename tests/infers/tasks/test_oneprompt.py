"""What OHIF's point prompts mean: the structure chosen in its table, with and without points."""

import numpy as np
import pytest

from infers.tasks.oneprompt import tasks
from lib.imaging.images import Image
from tests.infers.tasks.fakes import make_engine

SHAPE = (12, 10, 6)


@pytest.fixture
def points(tmp_path):
    """The two tasks, on a study list with two structures and one stored mask."""
    found = tasks(make_engine(tmp_path, "liver", "spleen", answer=np.full(SHAPE, 2, np.uint8)))
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

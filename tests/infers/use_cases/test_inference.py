import nibabel
import numpy as np
import pytest

from infers.errors import ClientError
from infers.use_cases.inference import Inference
from tests.infers.fakes import FakePredictor, make_studies
from tests.samples import AFFINE, organ_volume


@pytest.fixture
def asked(tmp_path):
    """An inference whose task notes what it was asked, and the requests."""
    volumes = np.stack([organ_volume(seed)[0] for seed in range(3)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volumes, AFFINE), tmp_path / "times.nii.gz")
    requests = []

    def task(request):
        requests.append(request)
        return str(tmp_path / "mask.nii.gz"), {}

    return Inference(make_studies(str(tmp_path), FakePredictor()), {"oneprompt": task}), requests


def test_another_volume_of_a_study_is_answered_as_an_image_that_is_no_study(asked):
    inference, requests = asked
    inference.run({"model": "oneprompt", "image": "times", "frame": 2})
    inference.run({"model": "oneprompt", "image": "times", "frame": 0})
    assert [request.get("image_id") for request in requests] == [None, "times"]
    assert all(request["image"].endswith("times.nii.gz") for request in requests)


@pytest.mark.parametrize("wish", [{"save_label": True}, {"use_as_template": True}])
def test_only_the_first_volume_of_a_study_can_have_labels(asked, wish):
    with pytest.raises(ClientError, match="first volume"):
        asked[0].run({"model": "oneprompt", "image": "times", "frame": 1, **wish})

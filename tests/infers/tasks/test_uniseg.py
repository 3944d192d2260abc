"""`uniseg` as clients see it."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from infers.errors import ClientError
from infers.names import LabelMap
from infers.tasks.uniseg import ALL, UniSegTask
from lib.imaging.images import read_image, read_label
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.infers.tasks.fakes import FakeServedUniSeg, FakeStudies, make_engine
from tests.lib.segmenters.uniseg.fakes import GREY, thresholds
from tests.lib.segmenters.uniseg.test_study import oriented

TASKS = (
    Task("organ", ("organ", "lesion"), (GREY,), (2.0, 1.0, 1.0)),
    Task("nodule", ("nodule",), (GREY,), (2.0, 1.0, 1.0)),
    Task("prostate", ("prostate",), (Channel("MR"),), (2.0, 1.0, 1.0)),
    Task("both", ("hot",), (GREY, Channel("PT", GREY.window)), (2.0, 1.0, 1.0)),
)


def write(path: Path, values: np.ndarray) -> Path:
    image = oriented(values[..., 0] if values.ndim == 4 else values, "LPS", (1.0, 1.0, 2.0))
    array = values if values.ndim == 4 else image.array
    nibabel.Nifti1Image(array.astype(np.float32), image.affine).to_filename(path)
    return path


@pytest.fixture
def volume() -> np.ndarray:
    array = np.full((24, 30, 12), -300.0)
    array[6:16, 8:20, 3:9] = 50.0
    array[8:12, 10:15, 4:7] = 100.0
    return array


@pytest.fixture
def task(tmp_path: Path) -> UniSegTask:
    model = thresholds(TASKS)
    engine = replace(make_engine(tmp_path), studies=FakeStudies(tmp_path))
    return UniSegTask(engine, FakeServedUniSeg(model, UniSegSegmenter(model)))


def test_clients_see_tasks_structures_and_licence_while_there_is_a_model(task: UniSegTask) -> None:
    info = task.info()
    assert task.is_valid()
    assert info["labels"] == {"organ": 1, "lesion": 2, "nodule": 3, "prostate": 4, "hot": 5}
    assert info["config"]["task"] == [ALL, "organ", "nodule", "prostate", "both"]
    assert "Licence: for tests" in info["description"]
    assert task.engine.labels.names == {}  # nothing was wanted yet
    task.served.model = None
    assert not task.is_valid()
    assert task.info()["labels"] == {}


def test_the_answer_is_written_on_the_grid_of_the_image_with_its_provenance(
    task: UniSegTask, volume: np.ndarray, tmp_path: Path
) -> None:
    source = write(tmp_path / "ct.nii.gz", volume)
    path, params = task({"image": str(source)})
    image = read_image(source)
    mask = read_label(path, image)
    # of organ and nodule, which claim the same voxels, the smaller one has them
    np.testing.assert_array_equal(mask > 0, image.array > 0)
    np.testing.assert_array_equal(mask == params["label_names"]["lesion"], image.array == 100)
    assert set(params["structures"]) == {"lesion", "organ"}
    assert params["model"] == "uniseg"
    assert params["tasks"] == ["organ", "nodule"]
    assert params["licence"] == "for tests"
    assert params["quality"] == {}
    Path(path).unlink()


@pytest.mark.parametrize(
    ("request_", "tasks"),
    [
        ({"task": "nodule"}, ["nodule"]),
        ({"task": ALL}, ["organ", "nodule"]),
        ({"task": [ALL, "organ"]}, ["organ", "nodule"]),  # a client that sends its choices back chose none
        ({"label": "lesion"}, ["organ"]),
        ({"label_prompt": [3]}, ["nodule"]),
        ({"modality": "MR"}, ["prostate"]),
    ],
)
def test_a_request_chooses_tasks_by_name_by_structure_or_by_modality(
    task: UniSegTask, volume: np.ndarray, tmp_path: Path, request_: dict[str, object], tasks: list[str]
) -> None:
    source = write(tmp_path / "ct.nii.gz", volume)
    found = task.predict({"image": str(source), **request_}, read_image(source))
    assert found.provenance["tasks"] == tasks


def test_channels_come_from_a_4d_file_or_from_further_studies(
    task: UniSegTask, volume: np.ndarray, tmp_path: Path
) -> None:
    together = write(tmp_path / "both.nii.gz", np.stack([volume, volume], axis=-1))
    found = task.predict({"image": str(together)}, task.read({"image": str(together)}))
    assert found.provenance["tasks"] == ["both"]
    assert found.mask.shape == volume.shape
    first, _ = write(tmp_path / "ct.nii.gz", volume), write(tmp_path / "pet.nii.gz", volume)
    request = {"image": str(first), "channels": "pet", "task": "both"}
    assert task.predict(request, read_image(first)).provenance["tasks"] == ["both"]
    with pytest.raises(ClientError, match=r"both takes 2 channels \(CT, PT\), got 1"):
        task.predict({"image": str(first), "task": "both"}, read_image(first))
    with pytest.raises(ClientError, match="tasks of up to 2 channels, got 1001"):
        task.predict({"image": str(first), "channels": ",".join(["gone"] * 1000)}, read_image(first))


def test_what_cannot_be_answered_says_what_can(task: UniSegTask, volume: np.ndarray, tmp_path: Path) -> None:
    source = write(tmp_path / "ct.nii.gz", volume)
    image = read_image(source)
    with pytest.raises(
        ClientError, match="task must be 'all that fit' or one of organ, nodule, prostate, both, got 'x'"
    ):
        task.predict({"image": str(source), "task": "x"}, image)
    with pytest.raises(ClientError, match="uniseg knows organ, lesion, nodule, prostate, hot, got 'heart'"):
        task.predict({"image": str(source), "label": "heart"}, image)
    flat = write(tmp_path / "flat.nii.gz", volume[:, :, 5:6])
    with pytest.raises(ClientError, match="use One-Prompt or PromptSeg"):
        task.predict({"image": str(flat)}, image)
    task.served.segmenter = None
    with pytest.raises(ClientError, match="POST /train/uniseg") as refused:
        task.predict({"image": str(source)}, image)
    assert refused.value.status == 409


def test_on_a_list_with_configured_structures_only_those_are_offered(
    task: UniSegTask, volume: np.ndarray, tmp_path: Path
) -> None:
    object.__setattr__(task.engine, "labels", LabelMap(tmp_path / "own.json", ("lesion", "spleen")))
    assert task.info()["labels"] == {"lesion": 1}
    source = write(tmp_path / "ct.nii.gz", volume)
    assert task.predict({"image": str(source)}, read_image(source)).labels == {"lesion": 1}

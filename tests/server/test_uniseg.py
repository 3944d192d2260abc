"""UniSeg through the real server: served from a file, asked about NIfTI, 4-D NIfTI and DICOM, uploaded, withdrawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from lib.segmenters.uniseg.model import UniSegModel, save_model
from lib.segmenters.uniseg.tasks import Channel, Task
from scripts.phantoms.dicom_series import write_series
from tests.lib.segmenters.uniseg.fakes import untrained
from tests.samples import AFFINE, organ_volume, write_nifti
from tests.server.conftest import Server

SERIES = "1.2.3.500"
MR = Channel("MR")
TASKS = (
    Task("organ", ("organ", "lesion"), (MR,), (1.5, 3.0, 1.25)),
    Task("both", ("tumour",), (MR, MR), (1.5, 3.0, 1.25)),
)


def model(seed: int) -> UniSegModel:
    return untrained(seed, TASKS, (1, 2), "for tests only")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uniseg") / "studies"
    folder.mkdir()
    volume = organ_volume(0)[0]
    write_nifti(folder / "one.nii.gz", volume)
    write_nifti(folder / "three.nii.gz", organ_volume(1)[0])
    write_nifti(folder / "two.nii.gz", np.stack([volume, -volume], axis=-1))
    write_series(
        folder / "series", (100 * (volume + 10)).astype(np.int16), AFFINE, uid=SERIES, patient="P", modality="MR"
    )
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, start_server: Callable[..., Server]) -> Server:
    save_model(studies.parent / "uniseg.safetensors", model(1))
    return start_server(studies, uniseg=str(studies.parent / "uniseg.safetensors"))


def test_clients_are_offered_the_task_the_trainer_and_the_licence(server: Server) -> None:
    info = server.get("/info/")
    told = info["models"]["uniseg"]
    assert told["type"] == "segmentation"
    assert set(told["labels"]) == {"organ", "lesion", "tumour"}
    assert "Licence: for tests only" in told["description"]
    assert told["config"]["task"] == ["all that fit", "organ", "both"]
    assert "uniseg" in info["trainers"]


def test_a_mask_lies_on_its_image_and_says_where_it_comes_from(server: Server, tmp_path: Path) -> None:
    answer = server.infer("uniseg", "one", {"result_extension": ".nii.gz"}, output="image")
    assert answer.status_code == 200, answer.text
    (tmp_path / "mask.nii.gz").write_bytes(answer.content)
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.shape == (24, 20, 8)
    np.testing.assert_allclose(mask.affine, AFFINE)
    params = server.infer("uniseg", "one", {}, output="json").json()
    assert params["model"] == "uniseg"
    assert params["weights"] == model(1).hash
    assert params["tasks"] == ["organ"]
    assert params["licence"] == "for tests only"


def test_a_4d_file_brings_its_channels(server: Server) -> None:
    params = server.infer("uniseg", "two", {}, output="json").json()
    assert params["tasks"] == ["both"]
    refused = server.infer("uniseg", "one", {"task": "both"}, output="json")
    assert refused.status_code == 400
    assert "both takes 2 channels (MR, MR), got 1" in refused.text


def test_a_mask_of_a_dicom_series_is_a_dicom_seg_with_its_provenance(server: Server) -> None:
    answer = server.infer("uniseg", SERIES, {}, output="dicom_seg")
    assert answer.status_code == 200, answer.text
    instance = pydicom.dcmread(io.BytesIO(answer.content))
    assert instance.Modality == "SEG"
    made = instance.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    for said in ("for tests only", model(1).hash, "uniseg"):
        assert said in str(made)


def test_a_training_is_published_if_it_is_better_and_then_served(server: Server, studies: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "three"), start=1):
        write_nifti(tmp_path / f"{name}.nii.gz", organ_volume(number - 1)[1])
        assert server.save_label(name, tmp_path / f"{name}.nii.gz", ["organ"]).status_code == 200

    def trained(**numbers: Any) -> dict[str, Any]:
        fixed = {"keep": False, "max_epochs": 1, "train_batch_size": 2}
        assert server.request("POST", "/train/uniseg", json={**fixed, **numbers}).status_code == 200
        server.wait_for(lambda _: server.get("/oneprompt/training")["uniseg"]["state"] not in ("idle", "running"))
        return server.get("/oneprompt/training")["uniseg"]

    refused = trained(steps_per_epoch=1, learning_rate=0.0)
    assert (refused["state"], refused["offered"]["hash"]) == ("candidate", model(1).hash), refused
    better = trained(steps_per_epoch=60, learning_rate=0.01)
    assert better["state"] == "published", better
    assert better["after"]["dice"] > better["before"]["dice"]
    offered = better["offered"]["hash"]
    assert server.infer("uniseg", "one", {}, output="json").json()["weights"] == offered
    assert server.request("DELETE", "/model/uniseg").status_code == 200


def test_an_upload_is_served_at_once_and_withdrawn_again(server: Server, tmp_path: Path) -> None:
    save_model(tmp_path / "other.safetensors", model(2))
    with (tmp_path / "other.safetensors").open("rb") as file:
        assert server.request("PUT", "/model/uniseg", files={"file": ("w.safetensors", file)}).status_code == 200
    offered = server.get("/oneprompt/training")["uniseg"]["offered"]
    assert offered["hash"] == model(2).hash
    assert server.infer("uniseg", "one", {}, output="json").json()["weights"] == model(2).hash
    assert server.request("DELETE", "/model/uniseg").status_code == 200
    assert server.get("/oneprompt/training")["uniseg"]["offered"]["hash"] == model(1).hash
    assert server.request("DELETE", "/model/uniseg").status_code == 404

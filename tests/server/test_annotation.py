"""An annotator's session, over HTTP against the real server: prompt, save, let the list be segmented, correct."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from requests_toolbelt import MultipartDecoder

from tests.infers.fakes import wait_until
from tests.samples import AFFINE, organ_volume, write_nifti
from tests.server.conftest import Server

SHAPE = (24, 20, 8)
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes, and labels beside them."""
    folder = tmp_path_factory.mktemp("annotation")
    (folder / "studies").mkdir()
    for number in range(6):
        image, mask = organ_volume(number, SHAPE)
        write_nifti(folder / "studies" / f"s{number}.nii.gz", image)
        write_nifti(folder / f"label{number}.nii.gz", mask)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    """A server on the volumes."""
    return start_server(folder / "studies", quiet_seconds="0.5")


def read_nrrd(content: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Array (i, j, k) and header of an NRRD answer."""
    file = io.BytesIO(content)
    header = nrrd.read_header(file)
    return nrrd.read_data(header, file, index_order="F"), header


def test_info_lists_the_models_and_the_trainer(server: Server) -> None:
    info = server.get("/info/")
    types = {name: (model["type"], model["dimension"]) for name, model in info["models"].items()}
    assert types == {
        "oneprompt": ("segmentation", 3),
        "oneprompt_points": ("vista3d", 3),
        "oneprompt_points_slice": ("vista3d", 2),
        "oneprompt_submit": ("segmentation", 3),
        "oneprompt_click": ("deepgrow", 3),
        "oneprompt_slice": ("deepgrow", 2),
        "oneprompt_scribbles": ("scribbles", 3),
    }
    assert next(iter(info["models"])) == "oneprompt"
    assert list(info["trainers"]) == [
        "oneprompt",
        "oneprompt_specialist",
        "promptseg",
        "uniseg",
    ]  # Slicer shows the first one's statistics
    assert "config" not in info  # with that key Slicer asks for a newer server


def test_without_a_template_the_automatic_model_asks_for_one(server: Server) -> None:
    answer = server.infer("oneprompt", "s1", {})
    assert answer.status_code == 409
    assert "save one study first" in answer.json()["detail"]


def test_a_click_is_answered_on_the_images_own_grid(server: Server) -> None:
    params = {"foreground": [[12, 10, 4]], "background": [[1, 1, 4]], "label": "organ", "result_extension": ".nrrd"}
    answer = server.infer("oneprompt_click", "s1", params)
    assert answer.status_code == 200, answer.text
    mask, header = read_nrrd(answer.content)
    assert mask.shape == SHAPE
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(np.array(header["space directions"]).T, (RAS_TO_LPS @ AFFINE)[:3, :3])
    np.testing.assert_array_equal(header["space origin"], (RAS_TO_LPS @ AFFINE)[:3, 3])


def test_the_full_answer_names_its_labels_in_a_dict(server: Server) -> None:
    params = {"foreground": [[12, 10, 4]], "label": "organ", "result_extension": ".nii.gz"}
    answer = server.infer("oneprompt_click", "s1", params, output="json")
    told = answer.json()
    assert told["label_names"] in ({"organ": 1}, {})  # Slicer needs a dict, and only what the mask holds
    assert told["weights"] == server.status()["weights"]


def test_slicer_gets_parameters_and_mask_in_one_answer(server: Server) -> None:
    params = {"foreground": [[12, 10, 4]], "label": "organ", "result_extension": ".nrrd", "client_id": "slicer"}
    answer = server.infer("oneprompt_click", "s1", params, output="all")
    assert answer.headers["content-type"].startswith("multipart/form-data")
    told, mask = MultipartDecoder.from_response(answer).parts
    params = json.loads(told.content)
    assert params["slice_errors"].keys() == params["centroids"].keys() <= {"organ"}
    assert read_nrrd(mask.content)[0].shape == SHAPE


def test_the_slice_model_answers_on_the_clicked_slice_only(server: Server) -> None:
    answer = server.infer("oneprompt_slice", "s1", {"foreground": [[12, 10, 4]], "slice": 4})
    assert answer.status_code == 200, answer.text
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content)).get_fdata()
    assert not mask[..., [0, 1, 2, 3, 5, 6, 7]].any()


def test_a_box_with_reversed_corners_is_sorted(server: Server) -> None:
    answer = server.infer("oneprompt_click", "s1", {"roi": [18, 6, 15, 5, 6, 2], "label": "organ"})
    assert answer.status_code == 200, answer.text


def test_scribbles_are_understood_by_name(server: Server, tmp_path: Path) -> None:
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[10:14, 10, 4], strokes[1:4, 1, 4] = 3, 2
    names = ["organ", "background_scribbles", "foreground_scribbles"]
    info = [{"name": name, "id": number} for number, name in enumerate(names, start=1)]
    params = {"label_info": info, "selected_label_name": "organ", "roi": [], "result_extension": ".nrrd"}
    strokes_file = write_nifti(tmp_path / "strokes.nii.gz", strokes)
    answer = server.infer("oneprompt_scribbles", "s1", params, label=strokes_file)
    assert answer.status_code == 200, answer.text
    assert read_nrrd(answer.content)[0].shape == SHAPE


@pytest.mark.parametrize(
    ("model", "params", "hint"),
    [
        ("oneprompt_click", {}, "foreground click"),
        ("oneprompt_click", {"foreground": [[24, 0, 0]]}, "outside the image"),
        ("oneprompt_click", {"foreground": [[1, 2]]}, "3 voxel indices"),
        ("oneprompt_click", {"foreground": "here"}, "must be a list"),
        ("oneprompt_click", {"roi": [30, 40, 0, 5, 0, 5]}, "outside the image"),
        ("oneprompt_click", {"foreground": [[1, 1, 1]], "label": "background"}, "no structure"),
        ("oneprompt_click", {"foreground": [[1, 1, 1]], "result_extension": ".exe"}, "result_extension"),
        ("oneprompt_click", {"foreground": [[1, 1, 1]], "label_prompt": [99]}, "label_prompt"),
        ("oneprompt_scribbles", {}, "label map"),
    ],
)
def test_bad_prompts_are_refused_with_what_to_do(server: Server, model: str, params: dict[str, Any], hint: str) -> None:
    answer = server.infer(model, "s1", params)
    assert answer.status_code == 400, answer.text
    assert hint in answer.json()["detail"]


def test_an_unknown_model_or_study_is_not_found(server: Server) -> None:
    assert server.infer("other", "s1", {}).status_code == 404
    assert server.infer("oneprompt_click", "s99", {"foreground": [[1, 1, 1]]}).status_code == 404
    for query, params in (({}, "{}"), ({"image": "s1"}, "{not json"), ({"image": "s1"}, "[]")):
        answer = server.request("POST", "/infer/oneprompt_click", params=query, data={"params": params})
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        (np.zeros(SHAPE, np.uint8), "empty"),
        (np.ones((4, 4, 4), np.uint8), "shape"),
        (np.full(SHAPE, 0.5, np.float32), "whole numbers"),
        (np.full(SHAPE, 2, np.uint8), "label_info"),
    ],
)
def test_a_label_that_cannot_be_a_template_is_refused(
    server: Server, tmp_path: Path, label: np.ndarray, hint: str
) -> None:
    answer = server.save_label("s0", write_nifti(tmp_path / "label.nii.gz", label), ["organ"])
    assert answer.status_code == 400, answer.text
    assert hint in answer.json()["detail"]
    assert server.status()["templates"] == []


def test_a_saved_label_lets_the_rest_be_segmented_with_identical_geometry(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    answer = server.save_label("s0", folder / "label0.nii.gz", ["organ"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["template"] is True
    status = server.wait_for_masks(templates=1)
    assert status["job"]["failed"] == {}
    assert status["labels"] == {"organ": 1}
    for image in ("s1", "s5"):
        mask = nibabel.load(server.mask(image, tmp_path))
        original = nibabel.load(folder / "studies" / f"{image}.nii.gz")
        np.testing.assert_array_equal(mask.affine, original.affine)
        assert mask.shape == original.shape
    told = server.get("/datastore/?output=all")["objects"]["s1"]["labels"]["original"]["info"]["params"]
    assert isinstance(told["label_names"], dict)
    assert told["templates"] == ["s0"]


def test_the_automatic_model_returns_the_stored_mask_at_once(server: Server, tmp_path: Path) -> None:
    stored = nibabel.load(server.mask("s2", tmp_path)).get_fdata()
    answer = server.infer("oneprompt", "s2", {"result_extension": ".nrrd"})
    np.testing.assert_array_equal(read_nrrd(answer.content)[0], stored)
    told = server.infer("oneprompt", "s2", {}, output="json").json()
    assert told["stored"] is True
    server.mask("s2", tmp_path)  # the answer was a copy: the stored mask is still there


def test_a_second_label_has_the_others_segmented_again(server: Server, folder: Path) -> None:
    run = server.status()["job"]["run"]
    assert server.save_label("s3", folder / "label3.nii.gz", ["organ"]).status_code == 200
    status = server.wait_for_masks(templates=2)
    assert status["job"]["run"] > run
    for image in ("s1", "s2", "s4", "s5"):
        told = server.get(f"/datastore/label/info?label={image}&tag=original")["params"]
        assert sorted(told["templates"]) == ["s0", "s3"]


def test_batch_inference_on_a_cpu_gives_the_same_masks(server: Server, tmp_path: Path) -> None:
    before = nibabel.load(server.mask("s4", tmp_path)).get_fdata()
    assert server.request("DELETE", "/datastore/label", params={"id": "s4", "tag": "original"}).status_code == 200
    server.wait_for_masks(templates=2)  # the job notices, too
    answer = server.request("POST", "/batch/infer/oneprompt", json={"label_tag": "batch"})
    assert answer.status_code == 200, answer.text
    wait_until(lambda: server.get("/batch/infer")["status"] not in ("SUBMITTED", "RUNNING"), 120)
    assert server.get("/batch/infer")["status"] == "DONE"
    after = nibabel.load(server.mask("s4", tmp_path, tag="batch")).get_fdata()
    np.testing.assert_array_equal(after, before)


def test_a_result_marked_as_template_becomes_one_after_quiet(server: Server, folder: Path) -> None:
    params = {"label_info": [{"name": "organ", "id": 1}], "use_as_template": True}
    # The mask itself is the prompt, so that an untrained network has a result
    server.infer("oneprompt_scribbles", "s5", params, label=folder / "label5.nii.gz")
    status = server.wait_for(lambda status: "s5" in status["templates"])
    assert status["studies"]["s5"]["status"] == "template"
    assert server.get("/datastore/label/info?label=s5&tag=final")["accepted"]


def test_a_marked_result_never_replaces_a_submitted_label(server: Server, folder: Path, tmp_path: Path) -> None:
    params = {"label_info": [{"name": "organ", "id": 1}], "use_as_template": True}
    answer = server.infer("oneprompt_scribbles", "s0", params, label=folder / "label3.nii.gz")
    assert answer.status_code == 200, answer.text
    wait_until(lambda: "the result for s0 does not replace the label" in server.log.read_text())
    assert server.mask("s0", tmp_path, "final").read_bytes() == (folder / "label0.nii.gz").read_bytes()


def test_a_study_that_is_removed_or_broken_stops_nothing(server: Server, folder: Path) -> None:
    (folder / "studies" / "s2.nii.gz").unlink()
    broken = np.full(SHAPE, np.nan, np.float32)
    write_nifti(folder / "studies" / "nan.nii.gz", broken)
    write_nifti(folder / "studies" / "time.nii.gz", np.zeros((4, 4, 4, 3), np.float32))
    write_nifti(folder / "studies" / "flat.nii.gz", np.zeros(SHAPE, np.float32))
    (folder / "studies" / "torn.nii.gz").write_bytes(b"no image")
    server.wait_for(lambda status: "torn" in status["studies"] and "s2" not in status["studies"])
    assert server.save_label("s4", folder / "label4.nii.gz", ["organ"]).status_code == 200
    status = server.wait_for(
        lambda status: (
            status["studies"]["s1"]["status"] == "automatic"
            and status["job"]["state"] == "done"
            and len(status["job"]["failed"]) == 4
        )
    )
    assert set(status["job"]["failed"]) == {"nan", "time", "flat", "torn"}
    assert "NaN" in status["studies"]["nan"]["reason"]
    assert server.infer("oneprompt_click", "nan", {"foreground": [[1, 1, 1]]}).status_code == 400
    assert server.infer("oneprompt_click", "s2", {"foreground": [[1, 1, 1]]}).status_code == 404


def test_an_uploaded_image_is_read_before_it_is_taken(server: Server, tmp_path: Path) -> None:
    image, _ = organ_volume(9, SHAPE)
    with write_nifti(tmp_path / "new.nii.gz", image).open("rb") as file:
        answer = server.request("PUT", "/datastore/", params={"image": "new"}, files={"file": ("new.nii.gz", file)})
    assert answer.json() == {"image": "new"}
    server.wait_for(lambda status: status["studies"]["new"]["status"] == "automatic")
    with write_nifti(tmp_path / "flat.nii.gz", np.zeros((4, 4, 4), np.float32)).open("rb") as file:
        answer = server.request("PUT", "/datastore/", params={"image": "flat2"}, files={"file": ("flat.nii.gz", file)})
    assert answer.status_code == 400
    assert "at least two grey values" in answer.json()["detail"]


def test_an_upload_session_can_be_segmented(server: Server, tmp_path: Path) -> None:
    image, _ = organ_volume(8, SHAPE)
    with write_nifti(tmp_path / "up.nii.gz", image).open("rb") as file:
        session = server.request("PUT", "/session/", files={"files": ("up.nii.gz", file)}).json()["session_id"]
    data = {"params": json.dumps({"foreground": [[12, 10, 4]], "label": "organ"})}
    for known, status in ((session, 200), ("nobody", 404)):
        answer = server.request("POST", "/infer/oneprompt_click", params={"session_id": known}, data=data)
        assert answer.status_code == status, answer.text


def test_the_interface_describes_itself(server: Server) -> None:
    paths = server.get("/openapi.json")["paths"]
    assert {"/oneprompt/status", "/oneprompt/job", "/infer/{model}", "/datastore/label"} <= paths.keys()


@pytest.mark.parametrize("strategy", ["oneprompt_next", "oneprompt_first", "random", "first"])
def test_next_sample_tells_what_clients_open(server: Server, strategy: str) -> None:
    sample = server.request("POST", f"/activelearning/{strategy}", json={"client_id": "tests"}).json()
    assert server.status()["studies"][sample["id"]]["status"] not in ("template", "accepted")
    assert sample["name"] == f"{sample['id']}.nii.gz"
    assert Path(sample["path"]).is_file()  # Slicer reads it where it can, else it downloads the image
    noted = server.get(f"/datastore/image/info?image={sample['id']}")["strategy"]
    assert noted[strategy]["client_id"] == "tests"


def test_next_sample_and_info_agree_with_the_list(server: Server) -> None:
    assert list(server.get("/info/")["strategies"]) == ["oneprompt_next", "oneprompt_first", "random", "first"]
    assert server.get("/info/")["labels"] == ["organ"]
    assert server.request("POST", "/activelearning/magic", json={}).status_code == 404
    assert json.loads(server.request("GET", "/datastore/").text)["completed"] == len(server.status()["templates"])

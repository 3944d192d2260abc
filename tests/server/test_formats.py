"""Study lists as people have them: NIfTI, NRRD, pictures and DICOM series in sub-folders, all in one list."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK

from lib.imaging.images import read_image, read_label, write_label
from scripts.phantoms.dicom_series import write_series
from tests.samples import AFFINE, organ_volume, write_nifti
from tests.server.conftest import Server

SHAPE = (24, 20, 8)
FLAT = (40, 30)
ALONE, FIRST, SECOND = "1.2.3.100", "1.2.3.201", "1.2.3.202"


def write_dicom(folder: Path, seed: int, uid: str) -> None:
    """A series of an organ."""
    grey = (100 * (organ_volume(seed, SHAPE)[0] + 10)).astype(np.int16)
    write_series(folder, grey, AFFINE, uid=uid, patient=f"P{seed}", modality="MR")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study of each kind, and a folder with two series in it."""
    folder = tmp_path_factory.mktemp("formats") / "studies"
    folder.mkdir()
    volume = organ_volume(0, SHAPE)[0]
    write_nifti(folder / "nifti.nii.gz", volume)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume.transpose()), str(folder / "nrrd.nrrd"))
    plane = organ_volume(1, FLAT)[0]
    write_nifti(folder / "flat.nii.gz", plane, np.diag([0.5, 0.7, 1, 1]))
    grey = np.interp(plane, (plane.min(), plane.max()), (0, 255)).astype(np.uint8)
    PIL.Image.fromarray(np.ascontiguousarray(grey.T)).save(folder / "picture.png")
    write_dicom(folder / "patient" / "series", 2, ALONE)
    mixed = folder / "mixed"
    for seed, uid in ((3, FIRST), (4, SECOND)):
        write_dicom(folder / uid, seed, uid)
        mixed.mkdir(exist_ok=True)
        for file in (folder / uid).iterdir():
            file.rename(mixed / f"{uid}-{file.name}")
        (folder / uid).rmdir()
    (folder / "readme.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, start_server: Callable[..., Server]) -> Server:
    """A server on that list."""
    return start_server(studies)


def test_every_study_is_listed_once(server: Server) -> None:
    assert set(server.status()["studies"]) == {"nifti", "nrrd", "flat", "picture", ALONE, FIRST, SECOND}
    info = server.get(f"/datastore/image/info?image={ALONE}")
    assert info["Modality"] == "MR"
    assert "path" not in info  # Slicer on this machine would open the folder as one file
    assert info["name"] == f"{ALONE}.nii.gz"


def test_a_label_of_a_dicom_series_is_a_template_for_all_formats(server: Server, studies: Path, tmp_path: Path) -> None:
    image = read_image(studies / "patient" / "series")
    write_label(tmp_path / "label.nii.gz", organ_volume(2, SHAPE)[1], image)
    answer = server.save_label(ALONE, tmp_path / "label.nii.gz", ["organ"])
    assert answer.status_code == 200, answer.text
    status = server.wait_for_masks(templates=1)
    assert status["job"]["failed"] == {}
    assert status["job"]["total"] == 6
    for name, file in (("nifti", "nifti.nii.gz"), ("nrrd", "nrrd.nrrd"), ("flat", "flat.nii.gz")):
        like = read_image(studies / file)
        mask = read_image_grid(server.mask(name, tmp_path))
        assert mask[0] == like.array.shape
        np.testing.assert_allclose(mask[1], like.affine, atol=1e-6)
    assert read_label(server.mask("picture", tmp_path), read_image(studies / "picture.png")).shape == FLAT


def read_image_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of a NIfTI file."""
    file = nibabel.load(path)
    return file.shape, file.affine


def test_a_dicom_series_is_downloaded_as_one_file_on_the_masks_grid(server: Server, tmp_path: Path) -> None:
    answer = server.request("GET", "/datastore/image", params={"image": FIRST})
    assert answer.status_code == 200
    assert f"{FIRST}.nii.gz" in answer.headers["content-disposition"]
    (tmp_path / "image.nii.gz").write_bytes(answer.content)
    image, mask = (read_image_grid(path) for path in (tmp_path / "image.nii.gz", server.mask(FIRST, tmp_path)))
    assert image[0] == mask[0] == SHAPE
    np.testing.assert_array_equal(image[1], mask[1])
    assert server.request("HEAD", "/datastore/image", params={"image": FIRST}).status_code == 200


@pytest.mark.parametrize(("output", "modality"), [("rtstruct", "RTSTRUCT"), ("dicom_seg", "SEG")])
def test_a_mask_of_a_dicom_series_can_be_had_as_dicom(
    server: Server, studies: Path, tmp_path: Path, output: str, modality: str
) -> None:
    write_label(tmp_path / "painted.nii.gz", organ_volume(2, SHAPE)[1], read_image(studies / "patient" / "series"))
    painted = {"label_info": [{"name": "organ", "id": 1}]}
    answer = server.infer("oneprompt_scribbles", ALONE, painted, output=output, label=tmp_path / "painted.nii.gz")
    assert answer.status_code == 200, answer.text
    made = pydicom.dcmread(io.BytesIO(answer.content))
    assert made.Modality == modality
    assert "organ" in str(made)
    (source, *_) = (studies / "patient" / "series").iterdir()
    assert made.StudyInstanceUID == pydicom.dcmread(source).StudyInstanceUID
    refused = server.infer("oneprompt_click", "nifti", {"foreground": [[12, 10, 4]]}, output=output)
    assert refused.status_code == 406
    assert f"output={output} needs image=ID of a study that is a DICOM series" in refused.json()["detail"]


def test_the_two_series_of_one_folder_are_not_mixed(server: Server, studies: Path, tmp_path: Path) -> None:
    for seed, uid in ((3, FIRST), (4, SECOND)):
        content = server.request("GET", "/datastore/image", params={"image": uid}).content
        (tmp_path / "image.nii.gz").write_bytes(content)
        expected = (100 * (organ_volume(seed, SHAPE)[0] + 10)).astype(np.int16)
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "image.nii.gz").dataobj), expected)


def test_clicks_with_a_third_index_work_on_pictures(server: Server) -> None:
    for model in ("oneprompt_click", "oneprompt_slice"):
        click = {"foreground": [[20, 15, 0]], "label": "organ", "slice": 0, "result_extension": ".nrrd"}
        answer = server.infer(model, "picture", click)
        assert answer.status_code == 200, answer.text
        assert server.infer(model, "picture", {"foreground": [[20, 15, 1]]}).status_code == 400


def test_a_series_that_is_copied_in_later_is_segmented_too(server: Server, studies: Path) -> None:
    write_dicom(studies / "late", 5, "1.2.3.300")
    status = server.wait_for(lambda status: status["studies"].get("1.2.3.300", {}).get("status") == "automatic")
    assert status["studies"]["1.2.3.300"]["quality"].keys() == {"organ"}


def test_a_removed_series_leaves_the_list_and_no_files(server: Server, studies: Path) -> None:
    assert server.request("DELETE", "/datastore/image", params={"id": FIRST}).status_code == 200
    assert FIRST not in server.status()["studies"]
    assert SECOND in server.status()["studies"]
    assert not list((studies / "mixed").glob(f"{FIRST}-*"))
    assert not list((studies / "labels").rglob(f"{FIRST}*"))
    shutil.rmtree(studies / "late")
    server.wait_for(lambda status: "1.2.3.300" not in status["studies"])

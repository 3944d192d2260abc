"""An annotator's session in OHIF, unmodified, on DICOM studies of an Orthanc: from connecting to the next study's mask.

The tests follow each other, as the annotator's steps do. What is proven is that masks lie, in OHIF's array and on its
screen, on the voxels that the server meant.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from selenium.webdriver.common.keys import Keys

from infers.dicom.dicomseg import AUTOMATIC_SERIES, FINAL_SERIES, Maker, read_headers, write_seg
from lib.imaging.dicom_seg import read_seg
from lib.imaging.images import read_label
from scripts.servers.orthanc import Orthanc
from tests.infers.fakes import wait_until
from tests.ohif.conftest import PHANTOMS, Phantom
from tests.ohif.viewer import Viewer, Viewport
from tests.server.annotation_page import AnnotationPage
from tests.server.conftest import Server
from tests.server.proxies import caddy
from tests.server.test_board import Board

pytestmark = pytest.mark.needs("Orthanc", "chromium", "chromedriver")

FIRST, OBLIQUE = "axial_ct", "oblique_ct"
NAMED = "oneprompt_points"
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


def to_lps(phantom: Phantom, voxel: tuple[float, ...]) -> np.ndarray:
    """LPS millimetres of a voxel's middle."""
    return (RAS_TO_LPS @ phantom.image.affine @ [*voxel, 1])[:3]


def inside(phantom: Phantom, structure: int = 1) -> tuple[int, int, int]:
    """A voxel well inside a structure."""
    voxels = np.argwhere(phantom.truth == structure)
    middle = voxels[np.argmin(np.abs(voxels - voxels.mean(0)).sum(1))]
    return int(middle[0]), int(middle[1]), int(middle[2])


def click(viewer: Viewer, phantom: Phantom, voxel: tuple[int, int, int]) -> None:
    """Show a voxel in all views and click it in the first."""
    viewer.jump(to_lps(phantom, voxel))
    viewer.click(viewer.viewports()[0].id, to_lps(phantom, voxel))


def both_structures_are_saved(server: Server, phantom: Phantom, folder: Path) -> bool:
    """Whether the study's final label has two structures."""
    if not server.status()["templates"]:
        return False
    return set(np.unique(read_label(server.mask(phantom.series, folder, "final"), phantom.image))) == {0, 1, 2}


def made(server: Server, entry: dict[str, Any]) -> str:
    """When a segmentation was made, by its own headers."""
    study, series = (entry[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
    (header,) = server.get(f"/proxy/dicom/wado/studies/{study}/series/{series}/metadata")
    return header["00080023"]["Value"][0] + header["00080033"]["Value"][0]


def array_of(content: bytes) -> np.ndarray:
    """Array (i, j, k) of an NRRD answer."""
    file = io.BytesIO(content)
    return nrrd.read_data(nrrd.read_header(file), file, index_order="F")


def shown_mask(viewer: Viewer, model: str = "") -> np.ndarray:
    """The mask that a model gives without prompts, which OHIF must show where it lies; by default the first one's."""
    viewer.choose("Auto-Segmentation", model)
    answer = viewer.run("Auto-Segmentation")
    assert answer.status == 200, answer.answer
    mask = array_of(answer.answer)
    assert mask.any()
    np.testing.assert_array_equal(viewer.labelmap() > 0, mask > 0)
    return mask


def mask_under(view: Viewport, mask: np.ndarray, phantom: Phantom) -> np.ndarray:
    """Whether the mask's voxel that lies under each of a view's pixels is set: nearest neighbour, by geometry alone."""
    to_voxel = np.linalg.inv(RAS_TO_LPS @ phantom.image.affine)
    index = np.rint(view.places() @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    there = np.all((index >= 0) & (index < mask.shape), axis=-1)
    i, j, k = np.moveaxis(np.where(there[..., None], index, 0), -1, 0)
    return there & (mask[i, j, k] > 0)


def agreement(viewer: Viewer, mask: np.ndarray, phantom: Phantom) -> list[float]:
    """Dice, for each view, of the pixels that the label map colours and those under which the mask lies."""
    views = viewer.viewports()
    shown = [viewer.grey(view) for view in views]
    viewer.toggle_labels()
    plain = [viewer.grey(view) for view in views]
    viewer.toggle_labels()
    found = []
    for view, with_labels, without in zip(views, shown, plain, strict=True):
        coloured = np.abs(with_labels - without).max(-1) > 8
        expected = mask_under(view, mask, phantom)[: coloured.shape[0], : coloured.shape[1]]
        assert expected.sum() > 50, "the plane must cut the mask, or nothing is proven"
        found.append(2 * float((coloured & expected).sum()) / float(coloured.sum() + expected.sum()))
    return found


def test_the_study_list_counts_all_modalities(server: Server, phantoms: dict[str, Phantom]) -> None:
    assert set(server.status()["studies"]) == {phantom.series for phantom in phantoms.values()}
    assert server.get("/info/")["datastore"] == {"total": len(PHANTOMS), "completed": 0, "label_tags": {}}


def test_the_proxy_searches_as_asked(server: Server, phantoms: dict[str, Phantom]) -> None:
    found = server.get("/proxy/dicom/qido/studies?PatientID=mr&limit=10&fuzzymatching=true&includefield=00081030")
    assert [study["0020000D"]["Value"][0] for study in found] == [phantoms["mr"].study]
    assert len(server.get("/proxy/dicom/qido/studies?limit=2")) == 2


def test_ohif_connects_and_lists_the_models(viewer: Viewer, phantoms: dict[str, Phantom]) -> None:
    viewer.open(phantoms[OBLIQUE].study)
    viewer.connect()
    models = viewer.models()
    named = ["oneprompt_points", "oneprompt_points_slice"]  # which are told the structure with the points
    further = ["oneprompt_submit", "promptseg", "uniseg"]
    assert models["Auto-Segmentation"] == models["Class Prompts"] == ["oneprompt", *named, *further]
    assert models["Point Prompts"] == [*named, "oneprompt_click", "oneprompt_slice"]


def test_a_mask_of_uniseg_is_shown_and_the_trainers_are_listed(viewer: Viewer) -> None:
    assert {"oneprompt", "promptseg", "uniseg"} <= set(viewer.choices("train"))
    shown_mask(viewer, "uniseg")


@pytest.mark.parametrize(
    ("patient", "model", "key"), [(OBLIQUE, "oneprompt_click", "foreground"), (FIRST, NAMED, "points")]
)
def test_a_click_arrives_as_the_voxel_under_it_and_the_answer_is_shown_there(
    viewer: Viewer, phantoms: dict[str, Phantom], patient: str, model: str, key: str
) -> None:
    phantom = phantoms[patient]
    viewer.open(phantom.study)
    viewer.connect()
    voxel = inside(phantom)
    viewer.choose("Point Prompts", model, "liver")
    click(viewer, phantom, voxel)
    answer = viewer.run("Point Prompts")
    assert answer.status == 200, answer.answer
    assert answer.params[key] == [list(voxel)]
    mask = array_of(answer.answer)
    assert mask[voxel], "the mask must hold the voxel that was clicked"
    np.testing.assert_array_equal(viewer.labelmap() > 0, mask > 0)
    set_voxels = np.argwhere(mask > 0)
    viewer.jump(to_lps(phantom, tuple(set_voxels[np.argmin(np.abs(set_voxels - set_voxels.mean(0)).sum(1))])))
    assert min(agreement(viewer, mask, phantom)) > 0.85


def test_clicks_are_for_the_chosen_structure_and_background_ones_against_it(
    viewer: Viewer, phantoms: dict[str, Phantom]
) -> None:
    phantom, before = phantoms[FIRST], viewer.labelmap()
    voxel = inside(phantom, 2)
    outside = (3, 3, voxel[2])
    for structure, place in (("spleen", voxel), ("background", outside)):
        viewer.choose("Point Prompts", NAMED, structure)
        click(viewer, phantom, place)
    viewer.choose("Point Prompts", NAMED, "spleen")
    answer = viewer.run("Point Prompts")
    assert answer.status == 200, answer.answer
    assert answer.params["points"] == [list(voxel), list(outside)]
    assert (answer.params["point_labels"], answer.params["label_prompt"]) == ([1, 0], [2])
    mask, shown = array_of(answer.answer), viewer.labelmap()
    assert set(np.unique(mask)) == {0, 2}
    assert mask[voxel] == 2
    np.testing.assert_array_equal(shown[before > 0], before[before > 0])  # the liver, another structure, stays
    new = (shown > 0) & (before == 0)
    np.testing.assert_array_equal(new, (mask == 2) & (before == 0))
    assert set(np.unique(shown[new])).isdisjoint(np.unique(before))


def test_the_slice_model_answers_on_the_clicked_slice_only(viewer: Viewer, phantoms: dict[str, Phantom]) -> None:
    voxel = inside(phantoms[FIRST], 2)
    viewer.choose("Point Prompts", "oneprompt_points_slice", "spleen")
    click(viewer, phantoms[FIRST], voxel)
    answer = viewer.run("Point Prompts")
    mask = array_of(answer.answer)
    assert mask[voxel] == 2
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == [voxel[2]]
    shown = viewer.labelmap()
    spleen = shown == shown[voxel]
    assert np.flatnonzero(spleen.any(axis=(0, 1))).tolist() == [voxel[2]]


def test_with_the_option_the_result_becomes_a_template_and_the_others_are_segmented(
    viewer: Viewer, server: Server, phantoms: dict[str, Phantom], tmp_path: Path
) -> None:
    phantom, masks = phantoms[FIRST], {}
    viewer.set_option(NAMED, "use_as_template")
    for structure, value in (("spleen", 2), ("liver", 1)):
        viewer.choose("Point Prompts", NAMED, structure)
        click(viewer, phantom, inside(phantom, value))
        answer = viewer.run("Point Prompts")
        assert answer.params["use_as_template"] is True
        masks[value] = array_of(answer.answer) == value
    server.wait_for(lambda status: both_structures_are_saved(server, phantom, tmp_path))
    server.wait_for_masks(templates=1)
    assert server.status()["templates"] == [phantom.series]
    stored = read_label(server.mask(phantom.series, tmp_path, "final"), phantom.image)
    np.testing.assert_array_equal(stored == 1, masks[1])
    np.testing.assert_array_equal(stored == 2, masks[2] & ~masks[1])  # a voxel is the newer answer's
    assert server.get("/info/")["datastore"]["completed"] == 1


def test_the_template_is_in_the_archive_as_dicom_seg_for_every_viewer(
    server: Server, orthanc: Orthanc, phantoms: dict[str, Phantom], tmp_path: Path
) -> None:
    phantom = phantoms[FIRST]
    found = server.get("/proxy/dicom/qido/series?Modality=SEG")
    newest = max(found, key=lambda entry: made(server, entry))
    series = requests.get(f"{orthanc.url}/series", timeout=30, params={"expand": ""}).json()
    uid = newest["0020000E"]["Value"][0]
    (entry,) = [entry for entry in series if entry["MainDicomTags"]["SeriesInstanceUID"] == uid]
    content = requests.get(f"{orthanc.url}/instances/{entry['Instances'][0]}/file", timeout=30).content
    seg = pydicom.dcmread(io.BytesIO(content))
    assert (seg.SeriesDescription, seg.StudyInstanceUID) == (FINAL_SERIES, phantom.study)
    label, names = read_seg(seg, phantom.image)
    stored = read_label(server.mask(phantom.series, tmp_path, "final"), phantom.image)
    assert names == {"liver": 1, "spleen": 2}
    np.testing.assert_array_equal(label, stored)


def test_an_automatic_mask_in_the_archive_is_told_apart_and_is_no_template(
    server: Server, phantoms: dict[str, Phantom]
) -> None:
    series = phantoms["pet"].series
    answer = server.infer("oneprompt", series, {"result_extension": ".nii.gz"}, output="dicom_seg")
    assert answer.status_code == 200, answer.text
    client = DICOMwebClient(f"http://127.0.0.1:{server.port}/proxy/dicom/wado")
    client.store_instances([pydicom.dcmread(io.BytesIO(answer.content))])
    found = server.get("/proxy/dicom/qido/series?Modality=SEG&includefield=0008103E")
    assert {entry["0008103E"]["Value"][0] for entry in found} == {FINAL_SERIES, AUTOMATIC_SERIES}
    assert server.status()["templates"] == [phantoms[FIRST].series]
    assert server.get("/info/")["datastore"]["completed"] == 1


@pytest.mark.parametrize("way", ["next sample", "its address"])
def test_the_mask_made_meanwhile_is_shown_at_once(
    viewer: Viewer, server: Server, phantoms: dict[str, Phantom], tmp_path: Path, way: str
) -> None:
    others = [phantom for name, phantom in phantoms.items() if name != FIRST]
    if way == "next sample":
        viewer.next_sample()
    else:
        viewer.open(next(phantom.study for phantom in others if phantom.study != viewer.study()))
    phantom = next(phantom for phantom in others if phantom.study == viewer.study())
    viewer.connect()
    mask = shown_mask(viewer)
    np.testing.assert_array_equal(mask, read_label(server.mask(phantom.series, tmp_path), phantom.image))


def test_a_mask_of_promptseg_is_shown(viewer: Viewer) -> None:
    shown_mask(viewer, "promptseg")


def test_update_model_starts_a_training(viewer: Viewer, server: Server) -> None:
    viewer.update_model()
    server.wait_for(lambda _: server.get("/oneprompt/training")["state"] != "idle")
    assert server.request("DELETE", "/train/").status_code == 200


def test_a_segmentation_that_another_viewer_stores_is_the_next_template(
    server: Server, phantoms: dict[str, Phantom]
) -> None:
    phantom = phantoms["mr"]
    seg = write_seg(read_headers(phantom.folder), phantom.image, phantom.truth == 2, {"spleen": 1}, by=Maker.MANUAL)
    client = DICOMwebClient(f"http://127.0.0.1:{server.port}/proxy/dicom/wado")
    client.store_instances([seg])
    status = server.wait_for(lambda status: len(status["templates"]) == 2)
    assert phantom.series in status["templates"]
    assert status["labels"] == {"liver": 1, "spleen": 2}


@pytest.mark.needs("caddy")
def test_behind_the_documented_proxy_one_login_opens_ohif_board_and_annotation_page(
    viewer: Viewer, server: Server, phantoms: dict[str, Phantom], tmp_path: Path
) -> None:
    phantom = phantoms[OBLIQUE]
    with caddy(tmp_path, server.port, "ward.example", "annotator", "a pass word") as proxy:
        viewer.log_in(f"https://localhost:{proxy.port}", "annotator", "a pass word")
        board = Board(viewer.browser, server)
        board.address = f"https://localhost:{proxy.port}/oneprompt/"
        board.open()
        board.wait(lambda: len(board.all(".card img[src^='blob:']")) == len(phantoms))
        page = AnnotationPage(viewer.browser, server)
        page.address = f"https://localhost:{proxy.port}/oneprompt/annotate"
        page.load(phantom.series)
        if page.all(".tour"):
            page.press(Keys.ESCAPE)
        page.structure("liver")
        page.look_at(inside(phantom))
        page.click(*page.middle())
        page.answered()
        page.wait(lambda: page.count() > 0)
        viewer.open(phantom.study)
        viewer.connect()
        viewer.choose("Point Prompts", NAMED, "liver")
        click(viewer, phantom, inside(phantom))
        answer = viewer.run("Point Prompts")
        assert (answer.status, array_of(answer.answer)[inside(phantom)]) == (200, 1)
        assert viewer.browser.current_url.startswith(f"https://localhost:{proxy.port}/ohif/")


def test_while_the_archive_is_away_the_server_says_so_and_goes_on_when_it_is_back(
    server: Server, orthanc: Orthanc, phantoms: dict[str, Phantom]
) -> None:
    orthanc.stop()
    wait_until(lambda: server.request("GET", "/info/").status_code == 502)  # its list is remembered for a while
    answer = server.request("GET", "/info/")
    assert "cannot be reached: see that it runs, or correct --studies" in answer.json()["detail"]
    assert server.request("GET", "/proxy/dicom/qido/studies").status_code == 502
    orthanc.start()
    assert server.get("/info/")["datastore"]["total"] == len(phantoms)

"""The annotation loop on the real server where things go wrong: too little, two at once, gone, broken."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.samples import organ_volume, write_nifti
from tests.server.conftest import Server

COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study, the others beside it, and labels of two people."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "studies").mkdir()
    for number in range(COUNT):
        place = folder / "studies" if number == 0 else folder
        write_nifti(place / f"s{number}.nii.gz", organ_volume(number)[0])
    mask = organ_volume(0)[1]
    write_nifti(folder / "anna.nii.gz", mask)
    write_nifti(folder / "bert.nii.gz", np.roll(mask, 1, axis=0))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    """A server with a single study; the tests of this module follow each other."""
    return start_server(folder / "studies", anew=True, quiet_seconds="3600")


def next_sample(server: Server, strategy: str = "oneprompt_next") -> dict[str, Any]:
    """What a client is given."""
    answer = server.request("POST", f"/activelearning/{strategy}", json={})
    assert answer.status_code == 200, answer.text
    return answer.json()


def voxels(server: Server, folder: Path, tag: str) -> np.ndarray:
    """A stored label of s0."""
    return nibabel.load(server.mask("s0", folder, tag)).get_fdata()


def test_a_single_study_without_a_template_has_nothing_to_do_and_says_so(server: Server) -> None:
    assert [next_sample(server, name)["id"] for name in ("oneprompt_next", "random", "random")] == ["s0"] * 3
    for path in ("/oneprompt/job", "/train/oneprompt", "/batch/infer/oneprompt"):
        answer = server.request("POST", path)
        assert (answer.status_code, "save one study first" in answer.json()["detail"]) == (409, True), path
    assert server.request("POST", "/oneprompt/accept", json={"bound": 0.0}).json() == {"done": [], "refused": {}}
    assert server.request("POST", "/oneprompt/job/undo").json()["removed"] == []


def test_a_single_slice_is_no_template_of_a_volume(server: Server) -> None:
    click = {"foreground": [[12, 10, 4]], "label": "organ", "use_as_template": True}
    answer = server.infer("oneprompt_slice", "s0", click)
    assert answer.status_code == 400
    assert "oneprompt_click" in answer.json()["detail"]
    models = server.get("/info/")["models"]
    assert "use_as_template" in models["oneprompt_click"]["config"]
    assert "use_as_template" not in models["oneprompt_slice"]["config"]


def test_two_annotators_who_save_the_same_study_lose_nothing(server: Server, folder: Path, tmp_path: Path) -> None:
    answers: dict[str, Any] = {}

    def save(person: str) -> None:
        with (folder / f"{person}.nii.gz").open("rb") as file:
            params = f'{{"label_info": [{{"name": "organ", "idx": 1}}], "client_id": "{person}"}}'
            answers[person] = server.request(
                "PUT", "/datastore/label", params={"image": "s0"}, data={"params": params}, files={"label": file}
            )

    people = [threading.Thread(target=save, args=(person,)) for person in ("anna", "bert")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [answer.status_code for answer in answers.values()] == [200, 200]
    last = server.get("/datastore/label/info?label=s0&tag=final")["client_id"]
    first = {"anna": "bert", "bert": "anna"}[last]
    told = {person: answer.json().get("replaced", {}).get("client_id") for person, answer in answers.items()}
    assert told[last] == first  # who came second is told whose label was replaced
    for person, tag in ((last, "final"), (first, "former")):
        expected = nibabel.load(folder / f"{person}.nii.gz").get_fdata()
        np.testing.assert_array_equal(voxels(server, tmp_path, tag), expected)


def test_a_list_whose_only_study_has_a_label_has_no_next_one(server: Server) -> None:
    assert next_sample(server) == {}
    assert server.status()["templates"] == ["s0"]


def test_a_corrupt_label_is_reported_and_the_others_are_segmented(server: Server, folder: Path) -> None:
    (folder / "studies" / "labels" / "final" / "s1.nii.gz").write_bytes(b"torn")
    for number in range(1, COUNT):
        shutil.copy(folder / f"s{number}.nii.gz", folder / "studies")
    status = server.wait_for(
        lambda status: (
            {"s2", "s3"} <= status["studies"].keys()
            and {status["studies"][name]["status"] for name in ("s2", "s3")} == {"automatic"}
        )
    )
    assert status["studies"]["s1"]["status"] == "failed"
    assert "s1" in status["studies"]["s1"]["reason"]
    assert server.request("GET", "/oneprompt/studies/s1/thumbnail.png").status_code == 400
    assert status["templates"] == ["s0"]


def test_a_removed_study_is_gone_everywhere(server: Server, folder: Path) -> None:
    (folder / "studies" / "s3.nii.gz").unlink()
    server.wait_for(lambda status: "s3" not in status["studies"])
    assert next_sample(server)["id"] == "s2"
    for method, path, body in (
        ("GET", "/oneprompt/studies/s3/thumbnail.png", None),
        ("POST", "/oneprompt/accept", {"ids": ["s3"]}),
        ("POST", "/oneprompt/again", {"ids": ["s3"]}),
    ):
        answer = server.request(method, path, json=body)
        assert answer.status_code == 404, answer.text
        assert "s3" in answer.json()["detail"]
    assert server.infer("oneprompt_click", "s3", {"foreground": [[12, 10, 4]]}).status_code == 404


def test_the_job_is_undone_and_done_again_when_asked(server: Server, folder: Path, tmp_path: Path) -> None:
    label = voxels(server, tmp_path, "final")
    answer = server.request("POST", "/oneprompt/job/undo").json()
    assert (answer["removed"], answer["state"]) == (["s2"], "cancelled")
    assert server.status()["studies"]["s2"] == {"status": "unlabelled"}
    assert not list((folder / "studies" / "labels" / "original").glob("s2*"))
    np.testing.assert_array_equal(voxels(server, tmp_path, "final"), label)
    assert server.request("POST", "/oneprompt/job").status_code == 202
    server.wait_for(lambda status: status["studies"]["s2"]["status"] == "automatic")

"""`scripts/serve --ohif` as a newcomer runs it: from nothing to an address at which OHIF finds its first study."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

import scripts.ohif
from scripts.servers.orthanc import DicomServerError
from tests.server.conftest import ROOT, START_SECONDS

WORDS = (ROOT / "docs" / "ohif.md").read_text()
STEPS = {  # of docs/ohif.md: the tests that take them
    1: ("test_without_orthanc_the_command_says_how_to_get_it",),
    2: ("test_one_command_starts_everything_and_prints_where_ohif_is",),
    3: ("test_one_command_starts_everything_and_prints_where_ohif_is", "test_ohif_connects_and_lists_the_models"),
    4: ("test_ohif_connects_and_lists_the_models",),
    5: (
        "test_a_click_arrives_as_the_voxel_under_it_and_the_answer_is_shown_there",
        "test_clicks_are_for_the_chosen_structure_and_background_ones_against_it",
        "test_the_slice_model_answers_on_the_clicked_slice_only",
    ),
    6: ("test_with_the_option_the_result_becomes_a_template_and_the_others_are_segmented",),
    7: ("test_the_mask_made_meanwhile_is_shown_at_once",),
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_every_step_of_the_walk_through_is_taken_by_a_test() -> None:
    steps = [int(number) for number in re.findall(r"^(\d+)\. ", WORDS, re.MULTILINE)]
    assert steps == list(STEPS)
    taken = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert {name for names in STEPS.values() for name in names} <= taken


def test_what_the_walk_through_names_is_what_the_tests_press() -> None:
    pressed = (Path(__file__).parent / "test_ohif.py").read_text() + (Path(__file__).parent / "viewer.py").read_text()
    walk = WORDS[WORDS.index("\n5. ") : WORDS.index("![OHIF")]
    for name in ("Point Prompts", "oneprompt_points", "oneprompt_points_slice", "background", "Run", "use_as_template",
                 "Options / Configurations", "infer", "Confirm", "Active Learning", "Next Sample",
                 "Auto-Segmentation"):  # fmt: skip
        assert name in walk, name
        assert name in pressed, name


def test_without_orthanc_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("scripts.servers.orthanc._PLUGIN_FOLDERS", ())
    assert scripts.ohif.main(["--ohif", "--orthanc", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "sudo apt-get install orthanc orthanc-dicomweb" in told
    assert "docs/ohif.md has the line for a container" in told
    assert re.search(r"^docker run .* orthancteam/orthanc$", WORDS, re.MULTILINE)
    assert "sudo apt-get install orthanc orthanc-dicomweb" in WORDS


@pytest.mark.needs("Orthanc")
def test_one_command_starts_everything_and_prints_where_ohif_is(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [
        sys.executable,
        "-m",
        "scripts.ohif",
        "--ohif",
        "--port",
        str(port),
        "--orthanc",
        str(tmp_path / "orthanc"),
    ]
    command += ["--orthanc-port", str(orthanc := free_port()), "--conf", "models", str(tmp_path / "models")]
    with log.open("wb") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=told, stderr=told, env={**os.environ, "HOME": str(tmp_path)}
        )
    try:
        address = wait_for_address(process, log)
        page = requests.get(address, timeout=30)
        assert (page.status_code, "<title>OHIF" in page.text or "ohif" in page.text.lower()) == (200, True)
        study = address.partition("StudyInstanceUIDs=")[2]
        base = f"http://127.0.0.1:{port}"
        found = requests.get(f"{base}/proxy/dicom/qido/series", {"StudyInstanceUID": study}, timeout=30).json()
        assert found[0]["00080060"]["Value"][0] in ("CT", "MR")
        status = requests.get(f"{base}/oneprompt/status", timeout=30).json()
        assert len(status["studies"]) == scripts.ohif.DEMO_SERIES
        assert "liver" in status["labels"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{orthanc}/system", timeout=5)


def wait_for_address(process: subprocess.Popen, log: Path) -> str:
    """The address that the command prints, once it does."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"http://\S+/ohif/monai-label\?StudyInstanceUIDs=[\d.]+", log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise DicomServerError(f"no address was printed:\n{log.read_text()[-3000:]}")

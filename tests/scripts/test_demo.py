import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from PIL import Image as Pillow
from scipy.ndimage import zoom

from scripts.demo import main, parse_arguments
from scripts.make_demo_data import write_demo_data
from scripts.servers.client import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Three studies, the first of them a DICOM series."""
    folder = tmp_path_factory.mktemp("list") / "phantoms"
    write_demo_data(folder, count=3, size=(32, 32, 6))
    return folder


def arguments(phantoms, weights, output):
    folders = ["--studies", str(phantoms / "studies"), "--truth", str(phantoms / "truth")]
    return [*folders, "--weights", str(weights), "--output", str(output)]


@pytest.fixture(scope="module")
def forked(nursery):
    """The command's servers are forked; `test_ctrl_c_stops_the_server_and_removes_the_copy` starts one anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.demo.Server", partial(Server, launch=nursery.launch))
        yield


@pytest.fixture(scope="module")
def demo(phantoms, tiny_weights, forked, tmp_path_factory):
    """One run of the command with each of two studies as the template: its JSON and its output folder."""
    folder = tmp_path_factory.mktemp("demo")
    before = {path: path.read_bytes() for path in phantoms.rglob("*") if path.is_file()}
    options = ["--templates", "2", "--json", str(folder / "result.json")]
    assert main([*arguments(phantoms, tiny_weights, folder / "pictures"), *options]) == 0
    assert {path: path.read_bytes() for path in phantoms.rglob("*") if path.is_file()} == before
    return json.loads((folder / "result.json").read_text()), folder / "pictures"


def test_every_other_study_is_segmented_with_each_template(demo, phantoms):
    summary, _ = demo
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (phantoms / "truth").iterdir())
    first, second, third = ids
    pairs = [(study["template"], study["id"]) for study in summary["studies"]]
    assert pairs == [(first, second), (first, third), (second, first), (second, third)]


def test_each_study_has_its_figures_and_the_means_follow_from_them(demo):
    summary, _ = demo
    for study in summary["studies"]:
        assert 0 <= study["dice"] <= 100
        assert 0 <= study["predicted_dice"] <= 100
        assert study["seconds"] > 0
        assert study["labels"].keys() == {"liver", "spleen", "aorta", "spine"} | {
            f"{side}_{organ}" for side in ("left", "right") for organ in ("kidney", "lung")
        }
    for mean, column in (("mean_dice", "dice"), ("mean_dice_copy", "dice_copy")):
        assert summary[mean] == pytest.approx(np.mean([study[column] for study in summary["studies"]]), abs=0.01)


def test_copying_is_measured_with_the_templates_mask_stretched_to_the_studys_grid(demo, phantoms):
    summary, _ = demo
    study = summary["studies"][0]
    template, truth = (
        np.asarray(nib.load(phantoms / "truth" / f"{study[which]}.nii.gz").dataobj) for which in ("template", "id")
    )
    factors = np.divide(truth.shape, template.shape)
    copied = zoom(template, factors, order=0, mode="nearest", grid_mode=True)
    both, either = ((copied == 1) & (truth == 1)).sum(), (copied == 1).sum() + (truth == 1).sum()
    assert study["labels"]["liver"]["dice_copy"] == pytest.approx(200 * both / either, abs=0.01)


def test_each_template_gets_a_folder_with_a_picture_of_every_study(demo, phantoms):
    summary, pictures = demo
    ids = {path.name.removesuffix(".nii.gz") for path in (phantoms / "truth").iterdir()}
    assert {path.name for path in pictures.iterdir()} == {study["template"] for study in summary["studies"]}
    for folder in pictures.iterdir():
        assert {path.name for path in folder.iterdir()} == {"contact_sheet.png", *(f"{id}.png" for id in ids)}
        with Pillow.open(folder / "contact_sheet.png") as sheet:
            assert len(set(sheet.convert("L").tobytes())) > 20


def command_of(process):
    """A process's command line; empty where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_ctrl_c_stops_the_server_and_removes_the_copy(phantoms, tiny_weights, tmp_path):
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "scripts.demo", *arguments(phantoms, tiny_weights, tmp_path / "out")]
    demo = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        text=True,
        # a suite that was started in the background ignores the signal, and its children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    servers = []
    try:
        end = time.monotonic() + 300
        while not servers and time.monotonic() < end:  # an import may have a short-lived child of its own
            children = psutil.Process(demo.pid).children()
            servers = [child for child in children if "monailabel" in command_of(child)]
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=300)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert "stopped, and the server with it" in errors
    assert servers
    assert not any(server.is_running() for server in servers)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("forked")
def test_a_server_that_does_not_start_is_shown_with_the_end_of_its_log(phantoms, tmp_path, capsys):
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert main(arguments(phantoms, tmp_path / "broken.safetensors", tmp_path / "out")) == 1
    errors = capsys.readouterr().err
    assert "the server ended with code" in errors
    assert "broken.safetensors" in errors


def test_a_template_without_truth_is_refused_before_any_server_starts(phantoms, tiny_weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    options = arguments(phantoms, tiny_weights, tmp_path / "out")
    options[options.index("--truth") + 1] = str(tmp_path / "empty")
    assert main(options) == 1
    assert "needs its truth to be the template: a label map called 2.25." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--studies", "somewhere"], "--studies and --truth go together"),
        (["--limit", "0"], "must be a whole number from 1 on, got 0"),
        (["--weights", "absent.safetensors"], "there is none at absent.safetensors"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_a_reason(options, reason, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(options)
    assert reason in capsys.readouterr().err


def test_more_templates_than_studies_are_refused(phantoms, tiny_weights, tmp_path, capsys):
    assert main([*arguments(phantoms, tiny_weights, tmp_path / "out"), "--templates", "4"]) == 1
    assert "at least 4 studies are needed, and there are 3" in capsys.readouterr().err


def test_templates_together_segment_what_none_of_them_is(phantoms, tiny_weights, forked, tmp_path):
    options = ["--templates", "2", "--together", "--model", "oneprompt", "--json", str(tmp_path / "result.json")]
    assert main([*arguments(phantoms, tiny_weights, tmp_path / "pictures"), *options]) == 0
    (study,) = json.loads((tmp_path / "result.json").read_text())["studies"]
    third = sorted(path.name.removesuffix(".nii.gz") for path in (phantoms / "truth").iterdir())[2]
    assert study["id"] == third
    assert (tmp_path / "pictures" / f"{third}.png").exists()

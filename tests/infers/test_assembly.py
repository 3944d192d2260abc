"""What each process of MONAI Label's builds of the app."""

import numpy as np
import pytest

from infers.assembly import Assembly
from lib.imaging.images import read_image
from lib.networks.checkpoints import load_network, weights_hash
from lib.segmenters.contract import Prediction
from tests.infers.fakes import wait_until
from tests.samples import organ_volume, write_nifti
from trainers.list_unet import ListUNetTrainer
from trainers.oneprompt import OnePromptTrainer
from trainers.promptseg import PromptSegTrainer


@pytest.fixture
def assembly(tmp_path, tiny_weights):
    (tmp_path / "studies").mkdir()
    write_nifti(tmp_path / "studies" / "s0.nii.gz", organ_volume(0)[0])
    conf = {"weights": str(tiny_weights), "device": "cpu", "models": str(tmp_path / "models")}
    return Assembly(str(tmp_path / "app"), str(tmp_path / "studies"), conf)


def test_a_training_builds_neither_board_nor_network(assembly):
    OnePromptTrainer(**assembly.for_training())
    ListUNetTrainer(**assembly.for_list_unet())
    PromptSegTrainer(**assembly.for_promptseg())
    assert assembly.for_training()["studies"]() == []
    assert {"oneprompt", "oneprompt_click"} <= assembly.infers.keys()  # which MONAI Label asks every process for
    assert assembly.strategies()
    assert assembly.scoring()
    assert not {"board", "desk", "job", "trainings", "status", "publishing"} & vars(assembly).keys()
    assert assembly.model._served.loaded is None


def test_promptseg_is_offered_beside_the_weights_that_it_was_better_with_wherever_they_lie(
    assembly, tiny_weights, monkeypatch
):
    pair = ("of a PromptSeg", weights_hash(load_network(tiny_weights)))
    monkeypatch.setattr("lib.segmenters.promptseg.BETTER_FROM", {pair: 2})
    assert assembly.infers["promptseg"].is_valid()
    asked = [one.capabilities.usual_templates for one in (assembly.promptseg.segmenter, assembly.model.segmenter)]
    assert asked == [8, 4]


def test_promptseg_is_not_offered_beside_weights_that_it_was_not_measured_with(assembly):
    assert not assembly.infers["promptseg"].is_valid()


def test_a_batch_builds_the_network_once_it_infers(assembly):
    with pytest.raises(Exception, match="save one study first"):
        assembly.inference.run({"model": "oneprompt", "image": "s0"})
    assert "board" not in vars(assembly)


def test_nothing_that_is_remembered_of_a_list_is_written_into_an_empty_folder_in_its_place(assembly, tmp_path):
    studies, acceptance = assembly.studies, assembly.acceptance
    mask = np.ones(read_image(tmp_path / "studies" / "s0.nii.gz").array.shape, np.uint8)
    root = tmp_path / "studies"
    root.rename(tmp_path / "away")
    root.mkdir()
    for act in (
        lambda: studies.labels.learn(["liver"]),
        lambda: acceptance.put("s0", Prediction(mask, {"liver": 1}, {})),
    ):
        with pytest.raises(FileNotFoundError, match="another folder"):
            act()
    assembly.job.start()
    assembly.job.trigger()
    wait_until(lambda: assembly.job.status().state == "failed")
    assert "another folder" in assembly.job.status().failed[""]
    assert not list(root.iterdir())

"""What each process of MONAI Label's builds of the app."""

import pytest

from infers.assembly import Assembly
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


def test_a_batch_builds_the_network_once_it_infers(assembly):
    with pytest.raises(Exception, match="save one study first"):
        assembly.inference.run({"model": "oneprompt", "image": "s0"})
    assert "board" not in vars(assembly)

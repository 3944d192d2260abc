"""What each process of MONAI Label's builds of the app."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from infers.assembly import Assembly
from lib.imaging.images import read_image
from lib.networks import OnePrompt
from lib.networks.checkpoints import load_network, save_network, weights_hash
from lib.segmenters.contract import Prediction
from lib.segmenters.promptseg import PromptSegBeside
from tests.infers.fakes import wait_until
from tests.samples import TINY, organ_volume, write_nifti
from trainers.list_unet import ListUNetTrainer
from trainers.oneprompt import OnePromptTrainer
from trainers.promptseg import PromptSegTrainer


@pytest.fixture
def make(tmp_path, tiny_weights):
    """An app on a list of one study; the same list each time."""
    (tmp_path / "studies").mkdir()
    write_nifti(tmp_path / "studies" / "s0.nii.gz", organ_volume(0)[0])

    def assembly(**conf):
        own = {"weights": str(tiny_weights), "device": "cpu", "models": str(tmp_path / "models")}
        return Assembly(str(tmp_path / "app"), str(tmp_path / "studies"), {**own, **conf})

    return assembly


@pytest.fixture
def assembly(make):
    return make()


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


def test_a_training_decides_who_segments_the_list_beside_its_weights_and_that_outlasts_restarts_and_going_back(
    make, tiny_weights, promptseg_weights, tmp_path, monkeypatch
):
    base, own = (weights_hash(load_network(path, "cpu", nn.Module)) for path in (tiny_weights, promptseg_weights))
    monkeypatch.setattr("lib.segmenters.promptseg.BETTER_FROM", {(own, base): 2})

    def segments(assembly):
        segmenter = assembly._segmenter()
        return segmenter.least if isinstance(segmenter, PromptSegBeside) else 0

    def trained(seed, parent, learnt, **decision):
        torch.manual_seed(seed)
        record = {"base": base, "parent": parent, "studies": dict.fromkeys(learnt, "c"), "state": "published"}
        return app.versions.add(OnePrompt(TINY), {**record, **decision})

    app = make(promptseg=str(promptseg_weights))
    asked = app.for_training()["promptseg"]()
    assert (asked.base, asked.least, asked.most, asked.most_one_prompt, asked.known) == (own, 2, 8, 4, frozenset())
    assert segments(app) == 2
    goes_on = trained(1, base, ["s0"], promptseg={"base": own, "least": 2})
    better = trained(2, goes_on, ["s1"], promptseg={"base": own, "least": 0})
    of_an_earlier_release = trained(3, base, ["s0"])
    served = {goes_on: 2, better: 0, of_an_earlier_release: 0, "base": 2}
    for version, least in served.items():
        app.model.serve(version, app.versions)
        assert segments(app) == segments(make(promptseg=str(promptseg_weights))) == least
        assert (app.for_training()["promptseg"]() is None) == (least == 0)
    app.model.serve(goes_on, app.versions)
    for again in (app, make(promptseg=str(promptseg_weights))):  # with the network in memory, and without
        assert again.for_training()["promptseg"]() == replace(asked, known=frozenset({"s0"}))
        assert again.for_list_unet()["promptseg"]() == again.for_training()["promptseg"]()
    settled = make(promptseg=str(promptseg_weights), model="promptseg:3")
    assert segments(settled) == 3
    assert settled.for_training()["promptseg"]() is None  # nothing that is measured would change it
    upload = tmp_path / "upload.safetensors"
    torch.manual_seed(4)
    save_network(upload, OnePrompt(TINY), {"promptseg": {"base": own, "least": 2}})
    app.model.publish(upload, app.versions)
    assert segments(app) == 0  # what it says of itself is of another list


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

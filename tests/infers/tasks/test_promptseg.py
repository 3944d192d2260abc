"""`promptseg` as clients see it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infers.errors import ClientError
from infers.serving.promptseg import ServedPromptSeg
from infers.tasks.promptseg import PromptSegTask
from lib.networks.checkpoints import CheckpointError, load_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.segmenters.contract import Segmenter
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG, PromptSegBeside
from lib.segmenters.settings import SegmenterSettings
from tests.infers.fakes import FakePredictor
from tests.infers.tasks.fakes import FakeStudies, make_engine
from tests.samples import organ_volume, write_nifti


class NotedStudies(FakeStudies):
    """Notes which model was asked."""

    def segment(self, image_id, image, only=None, control=None, model=None):
        self.model = model
        return super().segment(image_id, image, only)


def served(file: Path | None, prompted: Segmenter | None = None) -> ServedPromptSeg:
    predictor = prompted or FakePredictor()
    return ServedPromptSeg(file, lambda: predictor, "cpu", SegmenterSettings())


def test_the_list_s_templates_are_asked_through_promptseg(tmp_path: Path, promptseg_weights: Path) -> None:
    engine = replace(make_engine(tmp_path), studies=NotedStudies(tmp_path, np.zeros((24, 20, 8), np.uint8)))
    engine.labels.learn(["liver"])
    task = PromptSegTask(engine, served(promptseg_weights))
    path, params = task({"image": str(write_nifti(tmp_path / "one.nii.gz", organ_volume(0)[0]))})
    Path(path).unlink()
    assert task.is_valid()
    assert task.info()["labels"] == {"liver": 1}
    assert task.get_path() == str(promptseg_weights)
    assert isinstance(engine.studies, NotedStudies)
    assert engine.studies.model is task.served.segmenter
    assert params["label_names"] == {"liver": 1}


def test_it_is_not_listed_without_weights(tmp_path: Path) -> None:
    task = PromptSegTask(make_engine(tmp_path), served(None))
    assert not task.is_valid()
    with pytest.raises(ClientError, match="--conf promptseg FILE, or --conf model promptseg"):
        task({"image": str(write_nifti(tmp_path / "one.nii.gz", organ_volume(0)[0]))})


def test_another_model_s_weights_are_refused_at_start(tiny_weights: Path) -> None:
    with pytest.raises(CheckpointError, match="holds those of 'oneprompt'"):
        served(tiny_weights)


def test_new_weights_of_what_answers_prompts_make_a_new_segmenter_of_the_same_network(promptseg_weights: Path) -> None:
    answers = [FakePredictor("first")]
    source = ServedPromptSeg(promptseg_weights, lambda: answers[0], "cpu", SegmenterSettings())
    first = source.segmenter
    assert source.segmenter is first
    answers[0] = FakePredictor("second")
    second = source.segmenter
    assert first is not None
    assert second is not None
    assert first.weights_hash == second.weights_hash
    assert first.fingerprint != second.fingerprint


def test_the_list_is_its_own_from_the_number_of_templates_on_that_it_was_told(promptseg_weights: Path) -> None:
    other = FakePredictor()

    def beside(least: int | None) -> Segmenter:
        source = ServedPromptSeg(promptseg_weights, lambda: other, "cpu", SegmenterSettings(), least=least)
        return source.beside(other, "measured with")

    chosen = beside(3)
    assert isinstance(chosen, PromptSegBeside)
    assert (chosen.other, chosen.least) == (other, 3)
    assert beside(0) is other
    assert beside(None) is other  # nothing was measured of these weights


def test_weights_that_measured_better_are_the_list_s_from_there_on(promptseg_weights: Path, monkeypatch) -> None:
    better = {(weights_hash(load_network(promptseg_weights, "cpu", PromptSeg)), "measured with"): 4}
    monkeypatch.setattr("lib.segmenters.promptseg.BETTER_FROM", better)
    monkeypatch.setattr("infers.serving.promptseg.SHIPPED_PROMPTSEG", promptseg_weights)
    other = FakePredictor()

    def source(configured: str, least: int | None = None) -> ServedPromptSeg:
        return ServedPromptSeg(
            None, lambda: other, "cpu", SegmenterSettings(), least=least, one_prompt=lambda: configured
        )

    offered = source("measured with")
    assert offered.file == promptseg_weights
    chosen = offered.beside(other, "measured with")
    assert isinstance(chosen, PromptSegBeside)
    assert chosen.least == 4
    assert offered.beside(other, "fine-tuned on the list") is other
    assert source("other weights").file is None
    assert source("measured with", least=0).file is None


def test_the_shipped_weights_are_served_where_the_list_shall_be_segmented_with_them() -> None:
    source = ServedPromptSeg(None, FakePredictor, "cpu", SegmenterSettings(), least=1)
    assert source.file == SHIPPED_PROMPTSEG
    assert source.file.exists()

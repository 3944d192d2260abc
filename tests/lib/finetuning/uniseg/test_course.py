"""A whole training on phantoms: it learns, is examined on unseen studies, goes on after a kill, and keeps tasks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.finetuning.course import run
from lib.finetuning.course_checkpoint import load_progress, save_progress
from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.phases import Phase
from lib.finetuning.uniseg.course import KEPT, UniSegSettings, UniSegTraining
from lib.imaging.images import read_channels
from lib.networks.checkpoints import SHIPPED_WEIGHTS, load_network
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.segmenter import UniSegSegmenter
from lib.segmenters.uniseg.study import Study
from lib.segmenters.uniseg.tasks import Channel, Task, TaskError
from tests.lib.finetuning.uniseg.phantoms import study

SIZES = UniSegConfig(base=4, most_features=16, patch=(8, 16, 16), strides=((1, 2, 2), (2, 2, 2)))
QUICK = UniSegSettings(epochs=1, steps=3, batch=1, sure=0.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledStudy]:
    folder = tmp_path_factory.mktemp("studies")
    return [study(folder, seed) for seed in range(4)]


def training(studies: list[LabelledStudy], folder: Path, settings: UniSegSettings = QUICK, **more) -> UniSegTraining:
    return UniSegTraining(studies, settings, folder=folder, sizes=SIZES, **more)


def weights(course: UniSegTraining) -> torch.Tensor:
    return torch.cat([value.flatten() for value in course.learner.network.state_dict().values()])


def test_it_learns_from_partly_labelled_studies_and_segments_one_that_it_has_not_seen(tmp_path: Path) -> None:
    learnt = [study(tmp_path, seed, names) for seed, names in enumerate([{"ball": 3}, {"stone": 1}] * 3)]
    unseen = study(tmp_path, 77)
    settings = UniSegSettings(epochs=1, steps=120, batch=2, rate=4e-3)
    phases = [Phase("all", tuple(range(6)), (6,))]
    course = run(training([*learnt, unseen], tmp_path, settings, phases=phases))
    assert course.after.dice["ball"][0] > 0.7
    assert course.after.dice["stone"][0] > 0.7
    better, reason = course.verdict()
    assert better
    assert "One-Prompt cannot be asked" in reason
    found = UniSegSegmenter(course.model({})).segment_study(Study(read_channels(unseen.image).channels), {"stone": 6})
    assert set(np.unique(found.mask)) == {0, 6}


def test_all_patches_of_a_step_are_of_one_task_and_the_tasks_take_turns(
    studies: list[LabelledStudy], tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, apart=True, batch=2)
    course = training(studies, tmp_path, settings, others={"far": [study(tmp_path, 9, {"stone": 1})]})
    assert [task.name for task in course.start.tasks] == ["this list: ball", "this list: stone", "far: stone"]
    course.begin_epoch()
    drawn = [[course.draw().task for _ in range(2)] for _ in range(6)]
    assert all(len(set(step)) == 1 for step in drawn)
    assert [step[0] for step in drawn] == [0, 1, 2, 0, 1, 2]


def test_a_training_that_was_interrupted_goes_on_as_if_nothing_had_been(
    studies: list[LabelledStudy], tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, epochs=2)
    whole = run(training(studies, tmp_path, settings))
    first = training(studies, tmp_path, settings)
    first.begin_epoch()
    for _ in range(first.steps):
        first.step(first.learner, [first.draw() for _ in range(first.batch)])
    first.end_epoch()
    save_progress(tmp_path / "progress.safetensors", first)
    again = training(studies, tmp_path, settings)
    assert load_progress(tmp_path / "progress.safetensors", again)
    run(again)
    torch.testing.assert_close(weights(again), weights(whole))
    other = training(studies, tmp_path, dataclasses.replace(settings, rate=1e-3))
    assert not load_progress(tmp_path / "progress.safetensors", other)


OLD = Task("old", ("old thing", "older thing"), (Channel("other"),), (2.0, 1.0, 1.0))


@pytest.fixture
def start() -> UniSegModel:
    torch.manual_seed(5)
    return UniSegModel(UniSeg(dataclasses.replace(SIZES, outputs=3)).eval(), (OLD,), {})


def test_tasks_of_the_start_are_kept_and_repeated(
    studies: list[LabelledStudy], tmp_path: Path, start: UniSegModel
) -> None:
    course = training(studies, tmp_path, dataclasses.replace(QUICK, replay=0.5, steps=12), start=start)
    assert [task.name for task in course.start.tasks] == ["old", "this list"]
    course.begin_epoch()
    assert {course.draw().task for _ in range(12)} == {0, 1}
    before = UniSegSegmenter(start).segment_study(Study(read_channels(studies[0].image).channels), {"old thing": 1})
    after = UniSegSegmenter(course.model({})).segment_study(
        Study(read_channels(studies[0].image).channels), {"old thing": 1}
    )
    np.testing.assert_array_equal(before.mask, after.mask)
    run(course)
    assert {f"{KEPT}old thing", f"{KEPT}older thing"} <= set(course.after.dice)


def test_what_forgets_a_kept_task_is_not_better(
    studies: list[LabelledStudy], tmp_path: Path, start: UniSegModel
) -> None:
    course = training(studies, tmp_path, start=start)
    course.results = [Scores({"ball": (0.2,)}), Scores({"ball": (0.9,), f"{KEPT}old thing": (0.5,)})]
    assert course.verdict() == (False, "old thing is no longer answered as before (0.500 Dice)")
    course.results = [Scores({"ball": (0.2,)}), Scores({"ball": (0.9,), f"{KEPT}old thing": (0.95,)})]
    assert course.verdict() == (True, "One-Prompt 0.200 Dice from its templates, 0.900 with UniSeg")
    course.results = [Scores({"ball": (0.9,)}), Scores({"ball": (0.8,), f"{KEPT}old thing": (1.0,)})]
    assert not course.verdict()[0]


def test_a_start_gives_encoder_and_decoder_where_its_tasks_are_not_kept(
    studies: list[LabelledStudy], tmp_path: Path, start: UniSegModel
) -> None:
    course = training(studies, tmp_path, dataclasses.replace(QUICK, keep=False), start=start)
    assert [task.name for task in course.start.tasks] == ["this list"]
    own, theirs = course.learner.network.state_dict(), start.network.state_dict()
    assert torch.equal(own["encoder.1.0.conv.weight"], theirs["encoder.1.0.conv.weight"])
    assert not torch.equal(own["universal.prompt"], theirs["universal.prompt"])


def test_a_start_that_does_not_fit_the_studies_is_refused(
    studies: list[LabelledStudy], tmp_path: Path, start: UniSegModel
) -> None:
    three = [study(tmp_path, seed, channels=3) for seed in (1, 2)]
    with pytest.raises(TaskError, match=r"images of \(1, 2, 4\) channels, and this list have others"):
        training(three, tmp_path, start=start)
    named = UniSegModel(start.network, (dataclasses.replace(OLD, name="this list"),), {})
    with pytest.raises(TaskError, match="knows a task named this list already"):
        training(studies, tmp_path, start=named)


def test_studies_of_several_channels_are_learnt_without_one_prompt(tmp_path: Path) -> None:
    both = [study(tmp_path, seed, channels=2) for seed in (1, 2)]
    course = run(training(both, tmp_path, dataclasses.replace(QUICK, folds=2)))
    assert len(course.start.tasks[0].channels) == 2
    assert not course.before.dice
    assert set(course.after.dice) == {"ball", "stone"}


def test_it_is_compared_with_one_prompt_from_the_studies_that_it_learnt_from(
    studies: list[LabelledStudy], tmp_path: Path
) -> None:
    phases = [Phase("all", (0, 1), (2,))]
    course = run(training(studies, tmp_path, phases=phases, parent=load_network(SHIPPED_WEIGHTS)))
    assert set(course.before.dice) == set(course.after.dice) == {"ball", "stone"}
    assert course.before.dice["ball"][0] > 0.3
    assert "from its templates" in course.verdict()[1]

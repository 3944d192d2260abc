import dataclasses
import json

import numpy as np
import pytest
import torch

from lib.finetuning.course import HELD_OUT, run
from lib.finetuning.course_checkpoint import load_progress, save_progress
from lib.finetuning.episode_course import VIEWS, slices_of
from lib.finetuning.examination import Scores
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.oneprompt import FineTune, compare
from lib.finetuning.phases import phase_epochs, plan
from lib.finetuning.tuning import FineTuning
from lib.imaging.prompts import PromptType
from lib.networks.checkpoints import load_network, weights_hash
from tests.samples import organ_volume, write_nifti

QUICK = FineTuning(epochs=1, steps=8, batch=2, rates={"full": 0.03})


@pytest.fixture
def studies(tmp_path):
    """Four studies that show an organ; its value differs from study to study, its name does not."""
    found = []
    for number in range(4):
        image, mask = organ_volume(number, (40, 36, 6))
        files = [write_nifti(tmp_path / f"s{number}.nii.gz", image),
                 write_nifti(tmp_path / f"l{number}.nii.gz", mask * (number + 3))]  # fmt: skip
        found.append(LabelledStudy(f"s{number}", *files, {"organ": number + 3}, f"c{number}"))
    return found


@pytest.mark.parametrize(("count", "phases"), [(1, 1), (2, 3), (4, 3), (8, 3), (9, 1), (40, 1)])
def test_every_study_is_held_out_once_while_they_are_few(count, phases):
    found = plan([True] * count, FineTuning())
    assert len(found) == phases
    for phase in found:
        assert not set(phase.training) & set(phase.held_out)
        assert phase.training
    asked = [place for phase in found for place in phase.held_out]
    assert len(set(asked)) == len(asked)
    if 1 < count <= 8:
        assert sorted(asked) == list(range(count))
        assert found[-1].training == tuple(range(count))
    if count > 8:
        assert 1 <= len(asked) <= count / 2


def test_one_phase_over_many_studies_is_as_long_as_cross_validation_of_few():
    settings = FineTuning(epochs=4)
    many, few = (phase_epochs([True] * count, settings) * len(plan([True] * count, settings)) for count in (40, 8))
    assert many == few == 12


@pytest.mark.parametrize(
    ("drawn", "phases"),
    [
        ([False, True, False, True, True], 3),
        ([True] + [False] * 8, 2),  # what holds it out, and what learns from it
        ([False] * 20 + [True] * 5, 3),
        ([False, True] * 10, 1),
    ],
)
def test_accepted_masks_are_learnt_from_and_never_asked_about(drawn, phases):
    found = plan(drawn, FineTuning())
    assert len(found) == phases
    asked = [place for phase in found for place in phase.held_out]
    assert asked
    assert all(drawn[place] for place in asked)
    assert all(not set(phase.training) & set(phase.held_out) for phase in found)
    assert set(found[-1].training) >= {n for n, own in enumerate(drawn) if not own}
    assert any(drawn[place] for place in found[-1].training)


def test_where_all_labels_are_accepted_masks_they_are_asked_about_all_the_same():
    assert plan([False] * 4, FineTuning()) == plan([True] * 4, FineTuning())


def test_no_study_is_nothing_to_learn_from():
    with pytest.raises(ValueError, match="save one first"):
        plan([], FineTuning())


def test_a_study_becomes_its_labelled_slices_with_common_indices(studies):
    [tasks] = slices_of(studies[2].read(), {"lesion": 1, "organ": 2}, most=40).values()
    assert tasks.images.shape == tasks.labels.shape == (len(tasks.images), 160, 160)
    assert 3 <= len(tasks.images) < 40
    assert set(np.unique(tasks.labels)) == {0, 2}
    assert (np.diff(tasks.places) > 0).all()


def test_an_even_volume_is_learnt_in_the_planes_it_is_cut_in(tmp_path):
    image, mask = organ_volume(0, (24, 24, 24))
    files = [write_nifti(tmp_path / f"{name}.nii.gz", array, np.eye(4)) for name, array in
             (("image", image), ("label", mask))]  # fmt: skip
    found = slices_of(LabelledStudy("s", *files, {"organ": 1}).read(), {"organ": 1}, most=3)
    assert sorted(found) == [0, 1, 2]
    assert all(len(tasks.images) == 3 for tasks in found.values())


def test_what_helps_is_learnt_from_all_and_the_parent_is_untouched(studies, tiny_weights):
    parent = load_network(tiny_weights)
    before = weights_hash(parent)
    tuning = run(FineTune(parent, studies, QUICK))
    assert tuning.verdict()[0]
    assert tuning.question_source == HELD_OUT
    assert len(tuning.after.dice["organ"]) == 4
    assert [point["phase"] for point in tuning.curve] == ["fold 1 of 2", "fold 2 of 2", "all studies"]
    assert weights_hash(parent) == before != weights_hash(tuning.network)


def test_what_does_not_help_is_not_learnt_further(studies, tiny_weights):
    tuning = run(FineTune(load_network(tiny_weights), studies, dataclasses.replace(QUICK, rates={"full": 0.0})))
    better, reason = tuning.verdict()
    assert not better
    assert "not better" in reason
    assert tuning.epoch == 2


def test_a_single_study_is_asked_about_copies(studies, tiny_weights):
    tuning = run(FineTune(load_network(tiny_weights), studies[:1], QUICK))
    assert tuning.question_source == VIEWS
    assert len(tuning.after.dice["organ"]) >= 3


def test_from_a_single_study_only_half_the_way_is_gone(studies, tiny_weights):
    parent = load_network(tiny_weights).state_dict()
    whole, half = (
        run(FineTune(load_network(tiny_weights), studies[:1], dataclasses.replace(QUICK, alone=share))).network
        for share in (1.0, FineTuning().alone)
    )
    whole, half = whole.state_dict(), half.state_dict()
    assert any((whole[name] - parent[name]).abs().max() > 1e-3 for name in parent)
    for name in parent:
        torch.testing.assert_close(half[name], (parent[name] + whole[name]) / 2)


def test_the_same_seed_gives_the_same_weights(studies, tiny_weights):
    once, again = (run(FineTune(load_network(tiny_weights), studies[:1], QUICK)).network for _ in range(2))
    assert weights_hash(once) == weights_hash(again)


def test_a_checkpoint_is_taken_by_the_same_training_only(studies, tiny_weights, tmp_path):
    def fresh(studies, settings=QUICK):
        return FineTune(load_network(tiny_weights), studies, settings)

    tuning = fresh(studies[:2])
    tuning.begin_epoch()
    tuning.step(tuning.learner, [tuning.draw(), tuning.draw()])
    tuning.end_epoch()
    path = tmp_path / "progress.safetensors"
    assert not load_progress(path, fresh(studies[:2]))
    save_progress(path, tuning)
    changed = dataclasses.replace(studies[1], checksum="another label")
    assert not load_progress(path, fresh([studies[0], changed]))
    assert not load_progress(path, fresh(studies[:2], dataclasses.replace(QUICK, steps=5)))
    resumed = fresh(studies[:2])
    assert load_progress(path, resumed)
    assert (resumed.epoch, resumed.curve, resumed.after) == (1, tuning.curve, tuning.after)
    assert weights_hash(resumed.network) == weights_hash(tuning.network)
    path.write_bytes(path.read_bytes()[:1000])
    assert not load_progress(path, fresh(studies[:2]))


def test_promptseg_that_segments_the_list_is_asked_beside_and_the_answers_outlast_a_kill(
    studies, tiny_weights, promptseg_weights
):
    def fresh():
        promptseg = ListPromptSeg(promptseg_weights, "base", least=2, most=8, most_one_prompt=4)
        return FineTune(load_network(tiny_weights), studies, dataclasses.replace(QUICK, steps=2), promptseg=promptseg)

    def one_epoch(course):
        course.begin_epoch()
        for _ in range(course.steps):
            course.step(course.learner, [course.draw() for _ in range(course.batch)])
        course.end_epoch()
        return course

    begun = one_epoch(fresh())
    tensors, record = begun.state()
    record = json.loads(json.dumps(record))
    resumed, of_an_earlier_release = fresh(), fresh()
    resumed.restore(tensors, record)
    whole, after_a_kill = one_epoch(begun), one_epoch(resumed)
    assert [len(scores.dice["organ"]) for scores in whole.comparison.scores] == [4, 4]
    assert after_a_kill.comparison.scores == whole.comparison.scores
    assert after_a_kill.results == whole.results
    del record["comparison"]
    of_an_earlier_release.restore(tensors, record)
    assert [one.dice for one in of_an_earlier_release.comparison.scores] == [{}, {}]
    assert of_an_earlier_release.epoch == 1


GOOD = Scores({"a": (0.5, 0.7), "b": (0.6,)}, (3.0, 4.0))


@pytest.mark.parametrize(
    ("after", "better", "word"),
    [
        (Scores({"a": (0.6, 0.8), "b": (0.7,)}, (3.0, 3.0)), True, "clicks 3.5 to 3.0"),
        (GOOD, False, "not better"),
        (Scores({"a": (0.5, 0.7), "b": (0.595,)}, (3.0, 3.5)), True, "clicks 3.5 to 3.2"),
        (Scores({"a": (0.5, 0.7), "b": (0.58,)}, (1.0, 1.0)), False, "not better"),
        (Scores({"a": (0.9, 0.9), "b": (0.5,)}, (3.0, 4.0)), False, "b loses 0.100"),
        (Scores({"a": (0.9, 0.9), "b": (0.6,)}, (5.0, 6.0)), False, "more clicks"),
        (Scores(), False, "share no structure"),
    ],
)
def test_better_means_more_dice_without_more_clicks_or_a_structure_lost(after, better, word):
    found, reason = compare(GOOD, after, FineTuning())
    assert found is better
    assert word in reason


def test_copies_of_what_was_learnt_need_fewer_clicks_and_prove_nothing_by_it():
    found, reason = compare(GOOD, Scores(GOOD.dice, (1.0, 1.0)), FineTuning(), by_clicks=False)
    assert not found
    assert "not better" in reason


def test_settings_are_read_from_words():
    settings = FineTuning.parse("epochs=2, steps=3,mode=norms,rate=0.01,masks=0.7,optimizer=muon")
    assert (settings.epochs, settings.steps) == (2, 3)
    training = settings.training(6)
    assert (training.learning_rate, training.optimizer) == (0.01, "muon")
    assert training.template_types[PromptType.SEGLAB] == 0.7
    assert sum(training.template_types.values()) == pytest.approx(1)
    assert FineTuning.parse("") == FineTuning()
    for wrong in (
        "epoch=2",
        "epochs=two",
        "mode=half",
        "steps=0",
        "longer=0",
        "optimizer=sgd",
        "folds=1",
        "held_out=0",
        "most_queries=0",
    ):
        with pytest.raises(ValueError, match="must be"):
            FineTuning.parse(wrong)

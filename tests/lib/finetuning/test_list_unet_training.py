import dataclasses

import numpy as np
import pytest
import torch

from lib.finetuning.comparison import compare
from lib.finetuning.course import HELD_OUT, run
from lib.finetuning.course_checkpoint import key_of, load_progress, save_progress
from lib.finetuning.examination import Scores, answers_dice
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.list_unet_training import HALVES, ListUNetSettings, ListUNetTraining, parts_of
from lib.finetuning.network_course import TemplateExamination
from lib.finetuning.patches import Material
from lib.finetuning.phases import Phase
from lib.inference.templates import TemplateError
from lib.networks.checkpoints import load_network
from lib.segmenters.list_unet import PATCH
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.samples import organ_volume, write_nifti

QUICK = ListUNetSettings(epochs=1, steps=25, batch=2, rate=0.005)


@pytest.fixture
def studies(tmp_path):
    found = []
    for number in range(3):
        image, mask = organ_volume(number, (48, 40, 6))
        files = (
            write_nifti(tmp_path / f"s{number}.nii.gz", image),
            write_nifti(tmp_path / f"l{number}.nii.gz", mask * (number + 3)),
        )
        found.append(LabelledStudy(f"s{number}", *files, {"organ": number + 3}, f"c{number}"))
    return found


def test_it_learns_the_structure_and_an_untrained_one_prompt_is_better_with_it_on_held_out_studies(
    studies, tiny_weights
):
    course = run(ListUNetTraining(load_network(tiny_weights), studies, QUICK))
    better, reason = course.verdict()
    assert better, reason
    assert course.question_source == HELD_OUT
    assert [point["phase"] for point in course.curve] == ["fold 1 of 2", "fold 2 of 2", "all studies"]
    assert course.after.mean_dice > 0.55
    assert len(course.after.dice["organ"]) == 3
    made = course.list_unet
    assert made.weight in QUICK.tried_weights
    assert course.after == course.results[1 + QUICK.tried_weights.index(made.weight)]
    assert course.after.mean_dice > max(found.mean_dice for found in course.results[1:]) - QUICK.nearly
    query, template = (study.read() for study in studies[:2])
    predictor = SliceSegmenter(course.parent, settings=SegmenterSettings(quality_slices=0))
    alone, both = answers_dice(predictor, [template], query, [None, made.opinion(query.image)])
    assert both["organ"] > alone["organ"] + 0.1


def test_where_promptseg_segments_the_list_it_is_what_one_prompt_with_the_list_unet_must_beat(
    studies, tiny_weights, promptseg_weights, monkeypatch
):
    promptseg = ListPromptSeg(promptseg_weights, "base", least=2, most=8, most_one_prompt=4)
    quick = dataclasses.replace(QUICK, steps=2)

    def fresh(promptseg=promptseg):
        return ListUNetTraining(load_network(tiny_weights), studies, quick, promptseg=promptseg)

    examination = TemplateExamination.dices

    def perfect(self, query, seconds=(None,)):
        """PromptSeg knows everything, and no U-Net adds anything to it."""
        answers = examination(self, query, seconds)
        return [dict.fromkeys(answer, 1.0) for answer in answers] if self.least == 2 else answers

    monkeypatch.setattr(TemplateExamination, "dices", perfect)
    course = run(fresh())
    better, reason = course.verdict()
    assert not better
    assert "PromptSeg beside One-Prompt" in reason
    # The one study that two templates show is PromptSeg's, those that one template shows stay One-Prompt's
    assert sorted(dice == 1.0 for dice in course.before.dice["organ"]) == [False, False, True]
    assert key_of(course) != key_of(fresh(promptseg=None))


def test_the_same_seed_gives_the_same_specialist(studies, tiny_weights):
    quick = dataclasses.replace(QUICK, steps=3)
    once, again = (run(ListUNetTraining(load_network(tiny_weights), studies[:2], quick)) for _ in range(2))
    assert once.list_unet.hash == again.list_unet.hash
    assert once.curve == again.curve


def test_an_interrupted_training_goes_on_and_ends_the_same(studies, tiny_weights, tmp_path):
    def fresh():
        quick = dataclasses.replace(QUICK, epochs=2, steps=3, least_gain=-1.0, sure=-100.0, most_loss=1.0)
        return ListUNetTraining(load_network(tiny_weights), studies[:2], quick)

    whole, path = fresh(), tmp_path / "progress.safetensors"
    run(whole, lambda course: save_progress(path, course) if course.epoch == 3 else None)
    resumed = fresh()
    assert load_progress(path, resumed)
    assert resumed.epoch == 3
    assert run(resumed).list_unet.hash == whole.list_unet.hash


def test_a_checkpoint_that_says_less_than_is_needed_leaves_the_course_as_it_was(studies, tiny_weights, tmp_path):
    quick = dataclasses.replace(QUICK, epochs=2, steps=1)
    begun, fresh = (ListUNetTraining(load_network(tiny_weights), studies[:2], quick) for _ in range(2))
    begun.begin_epoch()
    begun.step(begun.learner, [begun.draw()])
    begun.end_epoch()
    tensors, told = begun.state()
    del told["results"]
    begun.state = lambda: (tensors, told)
    save_progress(tmp_path / "progress.safetensors", begun)
    before = fresh.list_unet.hash
    assert not load_progress(tmp_path / "progress.safetensors", fresh)
    assert (fresh.epoch, fresh.curve, fresh.list_unet.hash) == (0, [], before)


def test_a_single_study_is_held_out_by_halves_that_show_about_as_much_of_the_label(studies, tiny_weights):
    whole, (first, second) = studies[0].read(), (half.read() for half in studies[0].halves())
    np.testing.assert_array_equal(np.concatenate([first.label, second.label], axis=2), whole.label)
    np.testing.assert_array_equal(np.concatenate([first.image.array, second.image.array], axis=2), whole.image.array)
    corner = whole.image.affine @ [0, 0, first.label.shape[2], 1]
    np.testing.assert_allclose(second.image.affine[:3, 3], corner[:3])
    shown = (whole.label > 0).sum(axis=(0, 1)).cumsum()
    assert abs((first.label > 0).sum() - shown[-1] / 2) == np.abs(shown - shown[-1] / 2).min()
    assert parts_of(studies) == studies
    assert parts_of(studies[:1]) == [*studies[0].halves(), studies[0]]
    quick = dataclasses.replace(QUICK, steps=3, least_gain=-1.0, most_loss=1.0)
    course = run(ListUNetTraining(load_network(tiny_weights), parts_of(studies[:1]), quick))
    assert course.question_source == HALVES
    assert course.verdict()[0]  # without the certainty that is asked of several studies
    assert [point["phase"] for point in course.curve] == ["first half", "second half", "the whole study"]
    assert len(course.after.dice["organ"]) == 2


def test_of_a_single_study_one_prompt_sees_the_answer_so_that_half_an_object_does_not_speak_for_the_list_unet(
    studies, tiny_weights, monkeypatch
):
    shown = []

    def answers(predictor, templates, query, seconds, least):
        shown.append([template.image.checksum for template in templates] == [query.image.checksum])
        return [{"organ": 0.5} for _ in seconds]

    monkeypatch.setattr("lib.finetuning.network_course.answers_dice", answers)
    quick = dataclasses.replace(QUICK, steps=1)
    run(ListUNetTraining(load_network(tiny_weights), parts_of(studies[:1]), quick))
    run(ListUNetTraining(load_network(tiny_weights), studies[:2], quick))
    assert shown == [True, True, False, False]


def test_a_structure_in_one_half_alone_is_neither_learnt_as_background_nor_compared(tmp_path, tiny_weights):
    image, label = np.random.default_rng(0).normal(size=(32, 32, 6)).astype(np.float32), np.zeros((32, 32, 6), np.uint8)
    label[5:12, 5:12, :3], label[20:28, 20:28, 3:], label[2:4, 20:24] = 1, 2, 3
    files = write_nifti(tmp_path / "s.nii.gz", image), write_nifti(tmp_path / "l.nii.gz", label)
    study = LabelledStudy("s", *files, {"low": 1, "high": 2, "rod": 3}, "c")
    quick = dataclasses.replace(QUICK, steps=1, least_gain=-1.0, sure=-100.0, most_loss=1.0)
    course = run(ListUNetTraining(load_network(tiny_weights), parts_of([study]), quick))
    assert set(course.before.dice) == set(course.after.dice) == {"rod"}
    assert course.list_unet.structures == ("rod",)


def test_a_gain_that_one_question_alone_makes_is_no_gain():
    before = Scores({"a": (0.3, 0.4, 0.4, 0.5)})
    settings = ListUNetSettings()
    assert compare(before, Scores({"a": (0.33, 0.42, 0.43, 0.54)}), settings)[0]
    better, reason = compare(before, Scores({"a": (0.13, 0.52, 0.18, 0.9)}), settings)
    assert not better
    assert "differs too much from study to study" in reason
    assert not compare(Scores({"a": (0.3,)}), Scores({"a": (0.9,)}), settings)[0]


def test_halves_of_a_single_study_are_too_few_for_a_standard_error(studies, tiny_weights):
    network = load_network(tiny_weights)
    found = [Scores({"a": (0.5, 0.5)}), *[Scores({"a": (0.52, 0.7)})] * len(QUICK.tried_weights)]
    for own, better in ((studies[:2], False), (parts_of(studies[:1]), True)):
        course = ListUNetTraining(network, own, QUICK)
        course.results = found
        assert course.verdict()[0] is better


def test_the_smallest_weight_that_is_nearly_the_best_is_chosen_of_those_that_may_be_published(studies, tiny_weights):
    course = ListUNetTraining(load_network(tiny_weights), studies, QUICK)
    assert course.best_weight == 1.0  # nothing was asked yet

    def share(*found):
        # eight times the same answer, and two structures: what they gain is as sure as their difference is small
        course.results = [Scores({"a": (0.8,) * 8, "b": (0.5,) * 8})]
        course.results += [Scores({"a": (a,) * 8, "b": (b,) * 8}) for a, b in found]
        return course.best_weight, course.verdict()[0]

    assert share((0.8, 0.55), (0.8, 0.62), (0.8, 0.63), (0.8, 0.6)) == (0.5, True)
    assert share((0.8, 0.51), (0.8, 0.515), (0.8, 0.526), (0.8, 0.5)) == (0.75, True)  # the smaller gain too little
    assert share((0.8, 0.53), (0.7, 0.9), (0.6, 0.9), (0.6, 0.9)) == (0.25, True)  # the others lose a structure
    assert share((0.7, 0.5), (0.7, 0.4), (0.7, 0.3), (0.6, 0.3)) == (0.25, False)


@pytest.mark.parametrize(("shape", "axis"), [((30, 60), 1), ((70, 40), 0), ((40, 60, 1), 1)])
def test_a_flat_study_is_cut_along_the_longer_side_of_its_label(shape, axis, tmp_path):
    image, label = np.random.default_rng(0).normal(size=shape).astype(np.float32), np.zeros(shape, np.uint8)
    label[5:-5, 5:-5] = 1
    files = write_nifti(tmp_path / "s.nii.gz", image), write_nifti(tmp_path / "l.nii.gz", label)
    parts = [half.read().label for half in LabelledStudy("s", *files, {"organ": 1}).halves()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=axis), label)
    assert all(part.any() for part in parts)


def test_a_label_in_one_slice_of_a_volume_is_cut_within_it_and_a_dot_is_refused(tmp_path):
    image, label = np.random.default_rng(0).normal(size=(30, 40, 8)).astype(np.float32), np.zeros((30, 40, 8), np.uint8)
    files = write_nifti(tmp_path / "s.nii.gz", image), tmp_path / "l.nii.gz"
    study = LabelledStudy("s", *files, {"organ": 1})
    label[10, 10, 3] = 1
    write_nifti(files[1], label)
    with pytest.raises(TemplateError, match="too small to be held out by halves: label more"):
        study.halves()[0].read()
    label[10:14, 10:30, 3] = 1
    write_nifti(files[1], label)
    first, second = (half.read().label for half in study.halves())
    assert first.any()
    assert second.any()
    assert first.shape[2] == second.shape[2] == 8


def test_a_structure_that_a_label_does_not_have_is_not_learnt_as_background(studies, tiny_weights, tmp_path):
    image, mask = organ_volume(5, (48, 40, 6))
    label = mask * 1
    label[2:8, 2:8] = 2
    files = write_nifti(tmp_path / "x.nii.gz", image), write_nifti(tmp_path / "y.nii.gz", label)
    both = LabelledStudy("x", *files, {"organ": 1, "corner": 2}, "c")
    course = ListUNetTraining(load_network(tiny_weights), [both, studies[0]], QUICK)
    assert course.names == ["corner", "organ"]
    material = [Material.of(study.read(), course.names, 10) for study in (both, studies[0])]
    assert [own.known.tolist() for own in material] == [[True, True], [False, True]]
    course.begin_epoch()
    patches = [course.draw() for _ in range(4)]
    assert all(not patch.known[0] for patch in patches)  # the first phase learns from one of them only
    loss, _ = course.learner(patches, course.settings.training(10), np.random.default_rng(0))
    loss.backward()
    last = list(course.learner.network.output_block.parameters())
    gradients = [parameter.grad for parameter in last]
    assert all(torch.count_nonzero(gradient[0]) == 0 for gradient in gradients)
    assert any(torch.count_nonzero(gradient[1]) for gradient in gradients)


@pytest.mark.parametrize("shape", [(300, 260), (40, 30)])
def test_patches_have_one_size_and_their_labels_fit(shape, tmp_path, tiny_weights):
    image, mask = organ_volume(0, shape)
    files = write_nifti(tmp_path / "s.nii.gz", image), write_nifti(tmp_path / "l.nii.gz", mask)
    two = [LabelledStudy(name, *files, {"organ": 1}, name) for name in "ab"]
    course = ListUNetTraining(load_network(tiny_weights), two, QUICK)
    course.begin_epoch()
    patches = [course.draw() for _ in range(12)]
    assert {patch.image.shape for patch in patches} == {(3, PATCH, PATCH)}
    assert {patch.label.shape for patch in patches} == {(PATCH, PATCH)}
    shown = [patch for patch in patches if patch.label.any() and not patch.label.all()]
    assert len(shown) > 4
    assert all(patch.image[1][patch.label > 0].mean() > patch.image[1][patch.label == 0].mean() for patch in shown)


def test_the_border_of_an_image_is_seen_as_often_as_what_lies_inside(tmp_path, tiny_weights):
    image, label = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32), np.zeros((200, 200), np.uint8)
    label[:, 195:] = 1
    files = write_nifti(tmp_path / "s.nii.gz", image), write_nifti(tmp_path / "l.nii.gz", label)
    material = Material.of(LabelledStudy("s", *files, {"edge": 1}).read(), ["edge"], 10)
    inner = (round(PATCH * 1.25) - PATCH) // 2
    for seed in range(20):
        _, found = material.draw(np.random.default_rng(seed), 1.0)
        assert found[0, inner:-inner, inner:-inner].any()


def test_a_label_that_is_smaller_than_a_pixel_is_no_question(studies, tiny_weights, tmp_path):
    image, label = (
        np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32),
        np.zeros((1024, 1024), np.uint8),
    )
    label[501, 501] = 1
    files = write_nifti(tmp_path / "s.nii.gz", image), write_nifti(tmp_path / "l.nii.gz", label)
    small = LabelledStudy("small", *files, {"organ": 1}, "c")
    course = ListUNetTraining(load_network(tiny_weights), [studies[0], small], QUICK, phases=[Phase("x", (0,), (1,))])
    course.begin_epoch()
    course.step(course.learner, [course.draw()])
    assert course.end_epoch() == 0
    assert not course.verdict()[0]


def test_a_structure_that_no_label_learnt_from_has_is_left_to_one_prompt(studies, tiny_weights, tmp_path):
    files = studies[0].image, write_nifti(tmp_path / "l.nii.gz", organ_volume(0, (48, 40, 6))[1] * 2)
    other = LabelledStudy("other", *files, {"tumour": 2}, "c")
    course = ListUNetTraining(
        load_network(tiny_weights), [*studies[:2], other], QUICK, phases=[Phase("one", (0, 1), (2,))]
    )
    assert course.names == ["organ", "tumour"]
    course.begin_epoch()
    course.step(course.learner, [course.draw()])
    course.end_epoch()
    assert course.list_unet.structures == ("organ",)
    assert course.before.dice == course.after.dice == {}
    assert not course.verdict()[0]


def test_it_is_better_only_where_the_gain_is_clear_and_no_structure_loses_much():
    before = Scores({"a": (0.8, 0.8), "b": (0.5, 0.5)})
    settings = ListUNetSettings()
    assert compare(before, Scores({"a": (0.83, 0.84), "b": (0.58, 0.6)}), settings)[0]
    assert not compare(before, Scores({"a": (0.8, 0.8), "b": (0.51, 0.51)}), settings)[0]
    better, reason = compare(before, Scores({"a": (0.7, 0.8), "b": (0.9, 0.9)}), settings)
    assert not better
    assert "a loses 0.050 Dice" in reason
    assert "share no structure" in compare(Scores(), Scores(), settings)[1]

import dataclasses
import itertools
import json
import threading

import nibabel
import numpy as np
import pytest
import torch

from lib.imaging.images import Image, ImageError
from lib.imaging.prompts import CLICK, DOODLE, PREVIOUS, SEGLAB, Prompt, PromptError
from lib.imaging.volumes import Stack
from lib.inference.control import Cancelled
from lib.inference.interaction import InteractionSettings
from lib.inference.matching import MatchSettings
from lib.inference.templates import Template, TemplateError
from lib.quality.estimator import Estimator
from lib.segmenters.second_opinion import SecondOpinion
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from tests.lib.fakes import SIZE, GreyNetwork, Recorder

EXACT = SegmenterSettings(smoothing=0.0, least_island=0.0, precision="float32")
LABELS = {"bright": 1, "dark": 2}
DEPTH = 12


def anatomy(shift=0, depth=DEPTH):
    """A bright body and a dark one, thicker in their middles, as a label map in left-posterior-inferior order."""
    label = np.zeros((SIZE, SIZE, depth), np.uint8)
    for value, (i, j), first, last in ((1, (10 + shift, 12), 2, 8), (2, (22, 20 - shift), 4, 9)):
        for k in range(first, last + 1):
            half = 4 if first + 2 <= k <= last - 2 else 3
            label[i - half : i + half, j - half : j + half, k] = value
    return label


def study(label, codes="LPI", dtype=np.float32, spacing=(1.0, 1.0, 2.0)):
    """An image that shows a label map, and the label, both stored as `codes` say."""
    grey = np.select([label == 1, label == 2], [900, 100], 500)
    affine = np.diag([-spacing[0], -spacing[1], -spacing[2], 1.0])
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(tuple("LPI")), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    stored = [nibabel.Nifti1Image(a, affine).as_reoriented(turn) for a in (grey.astype(dtype), label)]
    return Image(np.asarray(stored[0].dataobj), stored[0].affine), np.asarray(stored[1].dataobj)


def template_of(label, id="t", **stored):
    image, stored_label = study(label, **stored)
    return Template(id, image, stored_label, LABELS)


def predictor(settings=EXACT, **changes):
    return SliceSegmenter(GreyNetwork(), "cpu", dataclasses.replace(settings, **changes), Estimator.shipped())


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("codes", ["LPI", "RAS", "SAR", "PIR"])
def test_volume_is_segmented_on_its_own_grid_whatever_the_templates_orientation(codes):
    image, truth = study(anatomy(shift=3), codes)
    for template_codes in ("RAS", "ILP"):
        prediction = predictor().segment(image, [template_of(anatomy(), codes=template_codes)], LABELS)
        np.testing.assert_array_equal(prediction.mask, truth)
    assert prediction.mask.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_any_type_of_voxel_is_segmented(dtype):
    label = anatomy()
    image, truth = study(label)
    scaled = Image((image.array / 4).astype(dtype), image.affine)
    np.testing.assert_array_equal(predictor().segment(scaled, [template_of(label)], LABELS).mask, truth)


def test_oblique_anisotropic_volume_of_odd_size_comes_back_on_its_grid():
    label = anatomy()[:27, 1:]
    image, truth = study(label)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    oblique = Image(image.array, turn @ image.affine)
    prediction = predictor().segment(oblique, [template_of(anatomy())], LABELS)
    assert prediction.mask.shape == truth.shape
    for value in LABELS.values():
        assert dice(prediction.mask == value, truth == value) > 0.85  # resized to the network's square and back


def test_flat_image_is_segmented_flat():
    label = anatomy()[:, :, 5]
    grey = np.select([label == 1, label == 2], [900, 100], 500)
    image = Image(grey, np.diag([-1.0, -1.0, 1.0, 1.0]))
    template = Template("t", image, label, LABELS)
    np.testing.assert_array_equal(predictor().segment(image, [template], LABELS).mask, label)


def flat_study(times=1):
    """A flat image of so many pixels for one of the network's, and its label."""
    label = anatomy()[:, :, 5].repeat(times, 0).repeat(times, 1)
    grey = np.select([label == 1, label == 2], [900, 100], 500)
    return Image(grey, np.diag([-1.0, -1.0, 1.0, 1.0])), label


class SizeNetwork(GreyNetwork):
    """Keeps the sizes that it was asked at."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def decode(self, query, template, template_prompts, query_prompts=None):
        self.sizes.append(query[0].shape[-1])
        return super().decode(query, template, template_prompts, query_prompts)


@pytest.mark.parametrize(("times", "finer", "sizes"), [(1, 2, {SIZE}), (2, 2, {SIZE, 2 * SIZE}), (2, 1, {SIZE})])
def test_flat_image_with_more_pixels_than_the_network_sees_is_asked_at_a_finer_resolution_too(times, finer, sizes):
    network, (image, label) = SizeNetwork(), flat_study(times)
    segmenter = SliceSegmenter(network, settings=dataclasses.replace(EXACT, finer=finer, quality_slices=0))
    mask = segmenter.segment(image, [Template("t", image, label, LABELS)], LABELS).mask
    assert min(dice(mask == value, label == value) for value in LABELS.values()) > 0.8
    assert set(network.sizes) == sizes
    network.sizes.clear()
    clicked = segmenter.interact(image, {"bright": Prompt(foreground=((10 * times, 12 * times),))}, {"bright": 1}).mask
    assert set(network.sizes) == sizes
    assert clicked[10 * times, 12 * times]


def test_details_that_the_networks_square_does_not_show_come_from_the_finer_resolution():
    image, label = flat_study(2)
    label = label.copy()
    label[:, ::2] = np.where(label[:, ::2] == 1, 0, label[:, ::2])  # stripes one pixel wide
    image = Image(np.select([label == 1, label == 2], [900, 100], 500), image.affine)
    template = Template("t", image, label, LABELS)
    both, one = (
        dice(predictor(finer=finer, quality_slices=0).segment(image, [template], LABELS).mask == 1, label == 1)
        for finer in (2, 1)
    )
    assert both > one


def test_slices_of_a_volume_are_asked_once_however_many_pixels_they_have():
    network = SizeNetwork()
    image, label = study(anatomy().repeat(2, 0).repeat(2, 1))
    template = Template("t", image, label, LABELS)
    SliceSegmenter(network, settings=dataclasses.replace(EXACT, quality_slices=0)).segment(image, [template], LABELS)
    assert set(network.sizes) == {SIZE}


def test_slices_beyond_the_organ_stay_empty():
    label = np.concatenate(
        [np.zeros((SIZE, SIZE, 6), np.uint8), anatomy(), np.zeros((SIZE, SIZE, 9), np.uint8)], axis=2
    )
    image, truth = study(label)
    np.testing.assert_array_equal(predictor().segment(image, [template_of(anatomy())], LABELS).mask, truth)


def test_equal_spacings_can_be_cut_in_all_planes():
    label = anatomy(depth=SIZE)
    image, truth = study(label, spacing=(1.0, 1.0, 1.0))
    one, three = GreyNetwork(), GreyNetwork()
    template = template_of(label, spacing=(1.0, 1.0, 1.0))
    settings = dataclasses.replace(EXACT, quality_slices=0)
    SliceSegmenter(one, settings=dataclasses.replace(settings, all_planes=False)).segment(image, [template], LABELS)
    prediction = SliceSegmenter(three, settings=settings).segment(image, [template], LABELS)
    np.testing.assert_array_equal(prediction.mask, truth)
    assert one.encoded < 3 * SIZE <= three.encoded


def test_volume_with_equal_spacings_is_cut_across_the_structures_length():
    label = np.zeros((SIZE, SIZE, SIZE), np.uint8)
    label[12:18, 4:28, 10:16] = 1
    image, truth = study(label, "PIR", spacing=(1.0, 1.0, 1.0))
    template = template_of(label, spacing=(1.0, 1.0, 1.0))
    network = GreyNetwork()
    settings = dataclasses.replace(EXACT, all_planes=False, quality_slices=0)
    prediction = SliceSegmenter(network, settings=settings).segment(image, [template], {"bright": 1})
    np.testing.assert_array_equal(prediction.mask, truth)
    assert network.decoded > 24 * 2  # 24 slices show it, each compared with up to 3; across the others it is 6


def test_templates_that_disagree_still_find_something():
    image, truth = study(anatomy())
    templates = [template_of(anatomy(shift), f"t{shift}") for shift in range(4)]

    class Hesitant(GreyNetwork):
        """Sure in one answer of four."""

        def decode(self, query, template, template_prompts, query_prompts=None):
            logits = super().decode(query, template, template_prompts, query_prompts)
            turn = torch.arange(self.decoded, self.decoded + len(logits)) % 4 == 0
            return torch.where(turn[:, None, None, None], logits, -3.0)

    settings = dataclasses.replace(EXACT, quality_slices=0, match=MatchSettings(slices_per_query=1))
    cut = {
        least: SliceSegmenter(Hesitant(), settings=dataclasses.replace(settings, least_probability=least, batch_size=1))
        for least in (0.2, 0.5)
    }
    found = {least: one.segment(image, templates, {"bright": 1}).mask > 0 for least, one in cut.items()}
    assert not found[0.5].any()
    assert dice(found[0.2], truth == 1) > 0.5


def test_template_without_a_structure_says_nothing_about_it():
    image, truth = study(anatomy(2))
    bright = template_of(np.where(anatomy() == 1, anatomy(), 0), "b")
    both = template_of(anatomy(1), "both")
    prediction = predictor().segment(image, [bright, both], LABELS)
    np.testing.assert_array_equal(prediction.mask, truth)
    assert prediction.provenance["templates"] == ["b", "both"]


def test_structure_that_no_template_shows_is_refused_with_those_that_are_shown():
    image, _ = study(anatomy())
    with pytest.raises(TemplateError, match=r"\['bright', 'dark'\], got \['spleen'\]"):
        predictor().segment(image, [template_of(anatomy())], {"spleen": 3})


@pytest.mark.parametrize("labels", [{}, {"bright": 0}, {"bright": 1, "dark": 1}])
def test_labels_that_cannot_be_told_apart_are_refused(labels):
    image, _ = study(anatomy())
    with pytest.raises(TemplateError, match="got"):
        predictor().segment(image, [template_of(anatomy())], labels)


def test_islands_go_unless_the_template_shows_some_too():
    label = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    label[4:14, 4:14, 2:8] = 1
    scattered = label.copy()
    scattered[22:26, 22:26, 5:7] = 1
    image, truth = study(scattered)
    tidy = predictor(least_island=0.2)
    np.testing.assert_array_equal(tidy.segment(image, [template_of(label)], {"bright": 1}).mask, label[::1])
    np.testing.assert_array_equal(tidy.segment(image, [template_of(scattered)], {"bright": 1}).mask, truth)


def test_large_indices_get_a_wider_mask():
    image, truth = study(anatomy())
    prediction = predictor().segment(image, [template_of(anatomy())], {"bright": 300})
    assert prediction.mask.dtype == np.uint16
    np.testing.assert_array_equal(prediction.mask == 300, truth == 1)


def test_all_structures_share_one_encoding_and_template_encodings_are_kept():
    network = GreyNetwork()
    tool = SliceSegmenter(network, "cpu", EXACT)
    template = template_of(anatomy())
    images = [study(anatomy(shift))[0] for shift in (1, 2)]
    tool.segment(images[0], [template], LABELS)
    shown = 8  # template slices with a structure; a few more may be measured for the quality
    copies = 8  # at most, of template slices; made once
    assert DEPTH + shown <= network.encoded <= 2 * DEPTH + copies
    network.encoded = 0
    tool.segment(images[1], [template], LABELS)
    assert DEPTH <= network.encoded <= DEPTH + 4


def test_cache_has_a_bound_and_answers_do_not_depend_on_it():
    image, truth = study(anatomy(1))
    network = GreyNetwork()
    tool = SliceSegmenter(network, "cpu", dataclasses.replace(EXACT, cache_bytes=0))
    for _ in range(2):
        np.testing.assert_array_equal(tool.segment(image, [template_of(anatomy())], LABELS).mask, truth)
    assert network.encoded > 3 * DEPTH


def test_batches_stay_within_their_size():
    network = GreyNetwork()
    image, _ = study(anatomy(1))
    SliceSegmenter(network, "cpu", dataclasses.replace(EXACT, batch_size=3)).segment(
        image, [template_of(anatomy())], LABELS
    )
    assert network.largest_batch == 3


def test_templates_per_query_bounds_the_work():
    image, _ = study(anatomy(1))
    templates = [template_of(anatomy(shift), f"t{shift}") for shift in range(3)]
    prediction = predictor(templates_per_query=2).segment(image, templates, LABELS)
    assert prediction.provenance["templates"] == ["t0", "t1"]


def test_progress_rises_to_one_and_a_cancelled_prediction_ends():
    image, _ = study(anatomy(1))
    control = Recorder()
    predictor().segment(image, [template_of(anatomy())], LABELS, control=control)
    assert control.fractions == sorted(control.fractions)
    assert 0 <= control.fractions[0] < control.fractions[-1] <= 1
    with pytest.raises(Cancelled):
        predictor().segment(image, [template_of(anatomy())], LABELS, control=Recorder(until=0.5))


def test_provenance_is_json_and_says_where_the_mask_comes_from():
    image, _ = study(anatomy(1))
    tool = predictor()
    prediction = tool.segment(image, [template_of(anatomy())], LABELS)
    stored = json.loads(json.dumps(prediction.provenance))
    assert stored["templates"] == ["t"]
    assert stored["weights"] == tool.weights_hash
    assert stored["network"] == "grey"
    assert stored["prompt_types"] == {"bright": ["seglab"], "dark": ["seglab"]}
    assert stored["quality"] == prediction.quality


def test_predicted_quality_tells_a_good_mask_from_a_bad_one():
    found, _ = study(anatomy(1))
    missed, _ = study(np.where(anatomy(1) == 2, 2, 0).astype(np.uint8))  # a patient without the bright body
    quality = [
        predictor().segment(image, [template_of(anatomy())], {"bright": 1}).quality["bright"]
        for image in (found, missed)
    ]
    assert quality[0] > 0.6
    assert quality[1] == 0


def test_weights_that_nothing_was_valid_for_have_alarms_and_no_predicted_quality():
    image, _ = study(anatomy(1))
    tool = SliceSegmenter(GreyNetwork(), "cpu", EXACT)
    prediction = tool.segment(image, [template_of(anatomy())], LABELS)
    assert prediction.quality == {} == prediction.provenance["quality"]
    assert "nothing was fitted for these weights" in prediction.provenance["quality_reason"]["bright"]
    missed, _ = study(np.where(anatomy(1) == 2, 2, 0).astype(np.uint8))
    empty = tool.segment(missed, [template_of(anatomy())], {"bright": 1}).provenance
    assert empty["quality_reason"]["bright"] == empty["alarms"]["bright"][0] == "nothing was found"


def test_an_image_of_more_channels_than_the_network_takes_is_refused():
    image, _ = study(anatomy())
    both = Image(image.array, image.affine, further=(image,))
    with pytest.raises(ImageError, match="takes images of 1 channels, got 2"):
        predictor().segment(both, [template_of(anatomy())], LABELS)
    with pytest.raises(ImageError, match="takes images of 1 channels, got 2"):
        predictor().interact(both, {"bright": Prompt(foreground=((10, 12, 5),))}, LABELS)


def test_settings_that_change_masks_change_the_fingerprint_and_others_do_not():
    weights = predictor(SegmenterSettings()).weights_hash
    assert predictor(SegmenterSettings()).fingerprint == weights
    assert predictor(SegmenterSettings(), batch_size=2, templates_per_query=1).fingerprint == weights
    changed = {predictor(SegmenterSettings(), smoothing=value).fingerprint for value in (0.0, 2.0)}
    assert len({weights, *changed}) == 3


def opinion(image, mask, share, plane=2):
    """Somebody else who is sure of a mask of the bright body, and was asked on slices of a plane."""
    stack = Stack.of(image, plane=plane)
    return SecondOpinion(stack, {"bright": stack.slices_of(np.where(mask, 9, -9)).astype(np.float16)}, share)


@pytest.mark.parametrize("codes", ["LPI", "SAR"])
@pytest.mark.parametrize("plane", [0, 2])
def test_a_second_opinion_counts_by_its_share_on_the_image_s_own_grid(codes, plane):
    image, _ = study(anatomy(), codes)
    templates = [template_of(anatomy(shift=1))]
    elsewhere = study(np.roll(anatomy(), 9, axis=1), codes)[1] == 1
    own = predictor().segment(image, templates, LABELS)
    little, much = (
        predictor().segment(image, templates, LABELS, second=opinion(image, elsewhere, share, plane))
        for share in (0.05, 0.95)
    )
    np.testing.assert_array_equal(little.mask, own.mask)
    np.testing.assert_array_equal(much.mask == 1, elsewhere)
    np.testing.assert_array_equal((much.mask == 2)[~elsewhere], (own.mask == 2)[~elsewhere])  # it is silent on these


def test_a_mask_that_the_templates_speak_against_is_judged_worse():
    image, truth = study(anatomy())
    templates = [template_of(anatomy(shift=1))]
    right, wrong = (
        predictor().segment(image, templates, LABELS, second=opinion(image, mask, 0.9)).quality["bright"]
        for mask in (truth == 1, np.roll(truth == 1, 9, axis=1))
    )
    assert wrong < right


def test_masks_with_several_second_opinions_are_those_of_one_after_the_other():
    image, truth = study(anatomy())
    templates = [template_of(anatomy(shift=1))]
    seconds = [None, opinion(image, np.roll(truth == 1, 9, axis=1), 0.95)]
    together = predictor().masks(image, templates, LABELS, seconds)
    for mask, second in zip(together, seconds, strict=True):
        np.testing.assert_array_equal(mask, predictor().segment(image, templates, LABELS, second=second).mask)


def test_prompted_template_first_answers_for_itself():
    template_image, _ = study(anatomy())
    template = Template("t", template_image, None, {}, {"bright": Prompt(foreground=((10, 12, 5),))})
    image, truth = study(anatomy(2))
    prediction = predictor().segment(image, [template], {"bright": 1})
    np.testing.assert_array_equal(prediction.mask == 1, truth == 1)
    assert prediction.provenance["prompt_types"] == {"bright": ["click"]}


class PromptNetwork(GreyNetwork):
    """Keeps which prompts on templates it was shown, by their channels."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def decode(self, query, template, template_prompts, query_prompts=None):
        if query_prompts is None:
            self.shown += [tuple(np.flatnonzero(one.amax(dim=(0, 2, 3)))) for one in template_prompts.cpu()]
        return super().decode(query, template, template_prompts, query_prompts)


STROKE = np.zeros((SIZE, SIZE), bool)
STROKE[9:12, 10:14] = True


@pytest.mark.parametrize(
    ("prompt", "channels"),
    [
        (Prompt(foreground=((10, 12),)), (CLICK, PREVIOUS)),
        (Prompt(doodle=STROKE), (DOODLE, PREVIOUS)),
        (Prompt(box=(6, 14, 8, 16)), (SEGLAB,)),
        (Prompt(), (SEGLAB,)),
    ],
)
def test_clicks_and_strokes_on_a_flat_template_are_shown_with_the_answer_to_them_and_all_else_as_a_mask(
    prompt, channels
):
    network, (image, label) = PromptNetwork(), flat_study()
    segmenter = SliceSegmenter(network, settings=dataclasses.replace(EXACT, quality_slices=0))
    painted = prompt.is_empty
    template = Template("t", image, label if painted else None, LABELS, {} if painted else {"bright": prompt})
    mask = segmenter.segment(image, [template], {"bright": 1}).mask
    np.testing.assert_array_equal(mask == 1, label == 1)
    assert network.shown[-1] == channels


def test_a_template_of_one_slice_in_a_volumes_file_is_flat_too():
    network, (image, label) = PromptNetwork(), study(anatomy()[:, :, 5:6], "RAS")
    segmenter = SliceSegmenter(network, settings=dataclasses.replace(EXACT, quality_slices=0))
    point = tuple(np.argwhere(label == 1)[20].tolist())
    template = Template("t", image, None, {}, {"bright": Prompt(foreground=(point,))})
    mask = segmenter.segment(image, [template], {"bright": 1}).mask
    np.testing.assert_array_equal(mask == 1, label == 1)
    assert network.shown[-1] == (CLICK, PREVIOUS)


def test_a_template_that_is_a_volume_is_shown_by_the_mask_that_its_prompt_gave():
    network, (image, _) = PromptNetwork(), study(anatomy())
    segmenter = SliceSegmenter(network, settings=dataclasses.replace(EXACT, quality_slices=0))
    template = Template("t", image, None, {}, {"bright": Prompt(foreground=((10, 12, 5),))})
    segmenter.segment(image, [template], {"bright": 1})
    assert set(network.shown) == {(SEGLAB,)}


def test_the_answer_to_a_templates_prompt_is_asked_for_once():
    network, (image, _) = PromptNetwork(), flat_study()
    segmenter = SliceSegmenter(network, settings=dataclasses.replace(EXACT, quality_slices=0))
    template = Template("t", image, None, {}, {"bright": Prompt(foreground=((10, 12),))})
    costs = []
    for _ in range(2):
        before = network.decoded
        segmenter.segment(image, [template], {"bright": 1})
        costs.append(network.decoded - before)
    assert costs[1] == 1 < costs[0]


def test_threads_get_the_same_answers_as_one_caller():
    tool = predictor(cache_bytes=200_000)
    template = template_of(anatomy())
    studies = [study(anatomy(shift)) for shift in range(4)]
    results = {}

    def work(number):
        results[number] = tool.segment(studies[number][0], [template], LABELS).mask

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (_, truth) in enumerate(studies):
        np.testing.assert_array_equal(results[number], truth)


# Prompts on the image itself


def clicked(*points, **more):
    return {"bright": Prompt(foreground=points, **more)}


@pytest.mark.parametrize("codes", ["LPI", "RAS", "PIR"])
def test_click_segments_the_volume_on_its_own_grid(codes):
    image, truth = study(anatomy(), codes)
    point = tuple(np.argwhere(truth == 1)[(truth == 1).sum() // 2].tolist())
    prediction = predictor().interact(image, clicked(point), LABELS)
    np.testing.assert_array_equal(prediction.mask, np.where(truth == 1, 1, 0))
    assert dict(prediction.labels) == {"bright": 1}
    assert 0 <= prediction.quality["bright"] <= 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_task_answers_only_the_clicked_slice_of_the_clients_axis(axis):
    image, truth = study(anatomy(), "RSA")
    point = tuple(np.argwhere(truth == 1)[40].tolist())
    prediction = predictor().interact(image, clicked(point), LABELS, axis=axis, only_slice=True)
    others = np.arange(truth.shape[axis]) != point[axis]
    assert not prediction.mask.compress(others, axis=axis).any()
    answered = np.take(prediction.mask, point[axis], axis=axis)
    expected = np.take(truth == 1, point[axis], axis=axis)
    assert dice(answered == 1, expected) > 0.8


def test_several_structures_answer_at_once():
    image, truth = study(anatomy())
    prompts = {"bright": Prompt(foreground=((10, 12, 5),)), "dark": Prompt(box=(18, 26, 16, 24, 6, 7))}
    np.testing.assert_array_equal(predictor().interact(image, prompts, LABELS).mask, truth)


def test_mask_stops_where_the_structure_ends_and_does_not_jump_a_gap():
    label = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    label[8:14, 8:14, 2:5] = 1
    label[8:14, 8:14, 8:11] = 1
    image, _ = study(label)
    mask = predictor().interact(image, clicked((10, 10, 3)), LABELS).mask
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == [2, 3, 4]


def test_mask_that_no_longer_leads_back_goes_no_further():
    label = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    label[8:14, 8:14, :6] = 1
    label[20:26, 20:26, 6:] = 1  # equally bright, elsewhere: its reverse answer is another place
    image, _ = study(label)

    def reached(bound):
        tool = predictor(interaction=InteractionSettings(least_agreement=bound))
        return np.flatnonzero(tool.interact(image, clicked((10, 10, 3)), LABELS).mask.any(axis=(0, 1))).max()

    assert reached(0.0) == DEPTH - 1
    assert reached(1.01) == 3  # a bound that nothing passes


def test_box_over_several_slices_limits_the_extent():
    label = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    label[8:14, 8:14, :] = 1
    image, _ = study(label)
    mask = predictor().interact(image, {"bright": Prompt(box=(6, 16, 6, 12, 3, 9))}, LABELS).mask
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == [3, 4, 5, 6, 7, 8]
    assert np.flatnonzero(mask.any(axis=(0, 2))).tolist() == [8, 9, 10, 11]


def test_box_on_one_slice_passes_outward():
    image, truth = study(anatomy())
    mask = predictor().interact(image, {"bright": Prompt(box=(5, 16, 7, 18, 5, 6))}, LABELS).mask
    np.testing.assert_array_equal(mask == 1, truth == 1)


def test_doodle_passes_outward_and_a_painted_slice_stays_as_painted():
    image, truth = study(anatomy())
    strokes = np.zeros(truth.shape, bool)
    strokes[9:12, 12, 5] = True
    np.testing.assert_array_equal(
        predictor().interact(image, {"bright": Prompt(doodle=strokes)}, LABELS).mask == 1, truth == 1
    )
    painted = np.zeros(truth.shape, bool)
    painted[7:14, 9:16, 5] = True
    mask = predictor().interact(image, {"bright": Prompt(mask=painted)}, LABELS).mask
    np.testing.assert_array_equal(mask[..., 5] == 1, painted[..., 5])
    np.testing.assert_array_equal(mask[..., 4] == 1, truth[..., 4] == 1)


def test_a_correction_changes_its_neighbours_in_its_direction_and_leaves_far_slices():
    image, truth = study(anatomy())
    previous = np.zeros(truth.shape, bool)
    previous[6:14, 8:14, 2:9] = True  # too short on one side, on every slice
    mask = predictor().interact(image, clicked((10, 15, 3), previous=previous), LABELS).mask
    assert (mask[..., 3] == 1)[truth[..., 3] == 1].all()
    for index in (2, 4):
        wanted, before, after = truth[..., index] == 1, previous[..., index], mask[..., index] == 1
        assert after[before].all()
        assert dice(after, wanted) > dice(before, wanted)
    np.testing.assert_array_equal(mask[..., 9:] == 1, previous[..., 9:])


@pytest.mark.parametrize("kind", ["doodle", "background_doodle"])
def test_a_stroke_that_the_network_does_not_take_up_corrects_the_mask_all_the_same(kind):
    image, truth = study(anatomy())
    body = truth == 1
    strokes = np.zeros(truth.shape, bool)
    strokes[7:13, 8 if kind == "background_doodle" else 17, 5] = True  # bright, and outside: grey
    answer = predictor().interact(image, {"bright": Prompt(**{kind: strokes}, previous=body)}, LABELS).mask == 1
    assert (answer[strokes] == (kind == "doodle")).mean() > 0.5


def test_slices_that_agree_with_their_clicks_stand_as_they_are():
    image, truth = study(anatomy())
    previous = np.zeros(truth.shape, bool)
    previous[5:9, 5:9, 2:9] = True
    tool = predictor()
    mask = tool.interact(image, clicked((6, 6, 5), (7, 7, 3), previous=previous), LABELS).mask
    np.testing.assert_array_equal(mask == 1, previous)


def test_a_correction_never_changes_painted_slices():
    image, truth = study(anatomy())
    painted = np.zeros(truth.shape, bool)
    painted[7:12, 9:13, 4] = True
    previous = np.zeros(truth.shape, bool)
    previous[6:14, 8:14, 2:9] = True
    prompts = {"bright": Prompt(foreground=((10, 15, 3), (10, 15, 5)), mask=painted, previous=previous)}
    mask = predictor().interact(image, prompts, LABELS).mask
    np.testing.assert_array_equal(mask[..., 4] == 1, painted[..., 4])
    assert (mask[..., 6] == 1).sum() > previous[..., 6].sum()


def test_undoing_a_click_brings_back_the_mask_before_to_the_voxel():
    image, truth = study(anatomy())
    previous = np.zeros(truth.shape, bool)
    previous[6:14, 8:14, 2:9] = True
    tool = predictor()
    before = tool.interact(image, clicked((10, 15, 3), previous=previous), LABELS).mask.copy()
    after = tool.interact(image, clicked((10, 15, 3), (10, 4, 6), previous=before == 1), LABELS).mask
    assert (after != before).any()
    again = tool.interact(image, clicked((10, 15, 3), previous=previous), LABELS).mask
    np.testing.assert_array_equal(again, before)


def test_contradictory_clicks_and_a_mask_that_is_clicked_away_have_answers():
    image, truth = study(anatomy())
    previous = np.zeros(truth.shape, bool)
    previous[9:11, 11:13, 5] = True
    both = {"bright": Prompt(foreground=((9, 11, 5),), background=((9, 11, 5),), previous=previous)}
    assert predictor().interact(image, both, LABELS).mask.shape == truth.shape
    away = {"bright": Prompt(background=((9, 11, 5), (10, 12, 5)), previous=previous)}
    mask = predictor().interact(image, away, LABELS).mask
    assert not mask[9, 11, 5]
    assert not mask[10, 12, 5]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_confirmed_slices_stand_whichever_way_they_lie_and_whatever_is_clicked(axis):
    image, truth = study(anatomy(), "RSA")
    body = truth == 1
    previous = np.roll(body, 2, axis=(axis + 1) % 3)
    index = int(np.argwhere(body)[:, axis].mean())
    place = (slice(None),) * axis + (index,)
    mask, confirmed = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    mask[place], confirmed[place] = previous[place], True
    clicks = [tuple(point) for point in np.argwhere(body & ~previous)[::9].tolist()]
    wrong = [tuple(point) for point in np.argwhere(previous & ~body)[::9].tolist()]
    prompt = Prompt(foreground=clicks, background=wrong, mask=mask, confirmed=confirmed, previous=previous)
    answer = predictor().interact(image, {"bright": prompt}, LABELS).mask
    np.testing.assert_array_equal(answer[place] == 1, previous[place])
    assert ((answer == 1) != previous).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_painted_slice_leaves_the_rest_of_the_mask_standing_whichever_way_it_lies(axis):
    image, truth = study(anatomy())
    body = truth == 1
    previous = body.copy()
    previous[6:8] = False  # too short on one side
    place = (slice(None),) * axis + (int(np.argwhere(previous)[:, axis].mean()),)
    mask, confirmed = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    mask[place], confirmed[place] = body[place], True
    prompts = {"bright": Prompt(mask=mask, confirmed=confirmed, previous=previous)}
    for options in ({}, {"axis": 2}):  # cut as it was painted, and across
        answer = predictor().interact(image, prompts, LABELS, **options).mask == 1
        np.testing.assert_array_equal(answer[place], body[place])
        assert answer[previous].all()
        assert dice(answer, body) >= dice(previous, body)


def test_a_confirmed_slice_without_the_structure_stays_empty_also_on_a_first_answer():
    image, truth = study(anatomy())
    confirmed = np.zeros(truth.shape, bool)
    confirmed[..., 7] = True
    mask = predictor().interact(image, clicked((10, 12, 5), confirmed=confirmed), LABELS).mask
    assert (mask[..., 6] == 1).any()
    assert not mask[..., 7].any()


def test_a_painted_slice_carries_to_its_neighbours_and_taking_it_back_is_exact():
    image, truth = study(anatomy())
    previous = np.zeros(truth.shape, bool)
    previous[6:14, 8:12, 2:9] = True  # too short on one side, on every slice
    painted, confirmed = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    painted[..., 5], confirmed[..., 5] = truth[..., 5] == 1, True
    prompt = Prompt(mask=painted, confirmed=confirmed, previous=previous)
    tool = predictor()
    mask = tool.interact(image, {"bright": prompt}, LABELS).mask == 1
    np.testing.assert_array_equal(mask[..., 5], painted[..., 5])
    for index in (4, 6):
        assert dice(mask[..., index], truth[..., index] == 1) > dice(previous[..., index], truth[..., index] == 1)
    back = tool.interact(image, {"bright": Prompt(foreground=((7, 9, 5),), previous=previous)}, LABELS).mask == 1
    np.testing.assert_array_equal(back, previous)  # the mask before and a click that it agrees with


def test_a_correction_of_a_volume_of_one_slice_or_outside_a_structures_reach_has_an_answer():
    label = anatomy()[:, :, 5:6]
    image, truth = study(label)
    previous = np.zeros(truth.shape, bool)
    previous[6:14, 8:12] = True
    mask = predictor().interact(image, clicked((10, 14, 0), previous=previous), LABELS).mask
    assert mask[10, 14, 0] == 1
    image, truth = study(anatomy())
    previous = truth == 1
    outside = Prompt(foreground=((10, 12, 11),), box=(4, 18, 4, 20, 2, 9), previous=previous)
    mask = predictor().interact(image, {"bright": outside}, LABELS).mask
    assert not mask[..., 9:].any()  # the box says how far the structure reaches


def test_empty_previous_mask_is_a_first_answer():
    image, truth = study(anatomy())
    mask = predictor().interact(image, clicked((10, 12, 5), previous=np.zeros(truth.shape, bool)), LABELS).mask
    np.testing.assert_array_equal(mask == 1, truth == 1)


def test_background_click_acts_on_the_slice_where_it_was_made():
    image, truth = study(anatomy())
    prompt = {"bright": Prompt(foreground=((10, 12, 5),), background=((12, 12, 4),))}
    mask = predictor().interact(image, prompt, LABELS).mask
    assert truth[12, 12, 4] == 1
    assert mask[12, 12, 4] == 0
    assert mask[12, 12, 5] == 1


def test_second_click_encodes_nothing():
    network = GreyNetwork()
    tool = SliceSegmenter(network, "cpu", EXACT)
    image, _ = study(anatomy())
    tool.interact(image, clicked((10, 12, 5)), LABELS, only_slice=True, axis=2)
    encoded = network.encoded
    tool.interact(image, clicked((10, 12, 5), (11, 12, 5)), LABELS, only_slice=True, axis=2)
    assert encoded == network.encoded == 1


def test_flat_image_answers_a_click():
    label = anatomy()[:, :, 5]
    image = Image(np.select([label == 1, label == 2], [900, 100], 500), np.eye(4))
    mask = predictor().interact(image, clicked((10, 12)), LABELS).mask
    np.testing.assert_array_equal(mask == 1, label == 1)


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ({}, "at least one structure"),
        ({"bright": Prompt()}, "at least one structure"),
        ({"bright": Prompt(foreground=((40, 0, 0),))}, r"\(40, 0, 0\) lies outside.*\(31, 31, 11\)"),
        ({"bright": Prompt(box=(0, 40, 0, 4, 0, 4))}, r"\(0, 32\), got \(0, 40\)"),
        ({"bright": Prompt(foreground=((4, 5),))}, "3-D like the image"),
        ({"bright": Prompt(background=((4, 5, 6),))}, "background only"),
        ({"spleen": Prompt(foreground=((4, 5, 6),))}, r"\['bright', 'dark'\], got \['spleen'\]"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused_with_the_reason(prompts, reason):
    image, _ = study(anatomy())
    with pytest.raises(PromptError, match=reason):
        predictor().interact(image, prompts, LABELS)


def test_settings_do_not_change_what_is_certain():
    image, truth = study(anatomy(1))
    for step, slices in itertools.product([1.0, 4.0], [1, 5]):
        settings = dataclasses.replace(EXACT, match=MatchSettings(spread=step, slices_per_query=slices))
        mask = predictor(settings).segment(image, [template_of(anatomy())], LABELS).mask
        for value in (1, 2):
            assert dice(mask == value, truth == value) > 0.9

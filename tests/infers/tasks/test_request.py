import numpy as np
import pytest

from infers.errors import ClientError
from infers.prompts import parse_prompts
from infers.tasks.request import (
    LabelMasks,
    click_prompts,
    one_structure_from_slicer,
    scribble_prompts,
    slice_axis,
    structures,
)
from lib.imaging.runs import runs_of

SHAPE = (20, 16, 8)
LABELS = {"liver": 1, "spleen": 2}


def test_slicers_clicks_become_a_prompt_of_the_named_structure():
    request = {"label": "spleen", "foreground": [[1, 2, 3], [4, 5, 6]], "background": [[7, 8, 0]]}
    prompts = click_prompts(request, SHAPE, LABELS)
    assert list(prompts) == ["spleen"]
    assert prompts["spleen"].foreground == ((1, 2, 3), (4, 5, 6))
    assert prompts["spleen"].background == ((7, 8, 0),)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"client_id": "user-xyz", "label": "spleen"}, True),
        ({"client_id": "user-xyz", "selected_label_name": "liver"}, True),
        ({"client_id": "user-xyz"}, False),  # automatic segmentation
        ({"label_prompt": [2], "points": [[1, 2, 3]]}, False),  # OHIF
    ],
)
def test_slicers_prompts_are_known_by_signature_and_segment(request_, expected):
    assert one_structure_from_slicer(request_) is expected


def test_ohifs_nameless_clicks_mean_the_first_structure():
    assert list(click_prompts({"foreground": [[1, 2, 3]], "background": []}, SHAPE, LABELS)) == ["liver"]
    assert list(click_prompts({"foreground": [[1, 2, 3]], "background": []}, SHAPE, {})) == ["label_1"]


def test_points_with_point_labels_mean_the_structure_in_label_prompt():
    request = {"points": [[1, 2, 3], [4, 5, 6]], "point_labels": [1, 0], "label_prompt": [2]}
    prompts = click_prompts(request, SHAPE, LABELS)
    assert list(prompts) == ["spleen"]
    assert prompts["spleen"].foreground == ((1, 2, 3),)
    assert prompts["spleen"].background == ((4, 5, 6),)


def test_one_key_per_structure_prompts_several_at_once():
    prompts = click_prompts({"liver": [[1, 1, 1]], "spleen": [[2, 2, 2]], "background": [[3, 3, 3]]}, SHAPE, LABELS)
    assert {name: prompt.foreground for name, prompt in prompts.items()} == {
        "liver": ((1, 1, 1),),
        "spleen": ((2, 2, 2),),
    }
    assert prompts["liver"].background == prompts["spleen"].background == ((3, 3, 3),)


def test_points_are_rounded_to_the_nearest_voxel():
    prompts = click_prompts({"foreground": [[1.5, 2.4, 3.6]]}, SHAPE, LABELS)
    assert prompts["liver"].foreground == ((2, 2, 4),)


def test_slicers_box_has_corners_in_any_order_and_includes_both():
    box = click_prompts({"roi": [12, 3, 2, 9, 7, 5]}, SHAPE, LABELS)["liver"].box
    assert box == (3, 13, 2, 10, 5, 8)


def test_a_box_that_sticks_out_is_cut_at_the_image():
    assert click_prompts({"roi": [-5, 30, 2, 4, 1, 1]}, SHAPE, LABELS)["liver"].box == (0, 20, 2, 5, 1, 2)


def test_a_slice_leaves_out_the_clicks_of_other_slices():
    request = {"foreground": [[1, 2, 3], [4, 5, 6]], "roi": [1, 5, 1, 5, 0, 7], "slice": 6}
    prompt = click_prompts(request, SHAPE, LABELS)["liver"]
    assert prompt.foreground == ((4, 5, 6),)
    assert prompt.box == (1, 6, 1, 6, 6, 7)


def test_a_picture_takes_the_third_index_that_slicer_always_sends():
    request = {"foreground": [[3, 4, 0]], "roi": [1, 9, 2, 8, 0, 0], "slice": 0}
    prompt = click_prompts(request, (20, 16), LABELS)["liver"]
    assert prompt.foreground == ((3, 4),)
    assert prompt.box == (1, 10, 2, 9)
    with pytest.raises(ClientError, match="2 voxel indices"):
        click_prompts({"foreground": [[3, 4, 1]]}, (20, 16), LABELS)


def test_an_uploaded_mask_is_refined():
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 2:5, 2:5] = True
    prompt = click_prompts({"label": "liver", "background": [[3, 3, 3]]}, SHAPE, LABELS, {"liver": mask})["liver"]
    np.testing.assert_array_equal(np.array(prompt.previous), mask)
    assert prompt.background == ((3, 3, 3),)


@pytest.mark.parametrize(
    ("request_", "hint"),
    [
        ({}, "foreground click"),
        ({"background": [[1, 1, 1]]}, "foreground click"),
        ({"foreground": [[20, 0, 0]]}, "outside the image"),
        ({"foreground": [[-1, 0, 0]]}, "outside the image"),
        ({"foreground": [[1, 1]]}, "3 voxel indices"),
        ({"foreground": [[1, float("nan"), 1]]}, "voxel indices"),
        ({"foreground": [[1, "x", 1]]}, "voxel indices"),
        ({"foreground": 7}, "must be a list"),
        ({"roi": [1, 2, 3]}, "first and last voxel"),
        ({"roi": [30, 40, 0, 1, 0, 1]}, "outside the image"),
        ({"points": [[1, 1, 1]], "point_labels": [1, 0]}, "point_labels"),
        ({"points": [[1, 1, 1]], "label_prompt": [9]}, "label_prompt"),
        ({"points": [[1, 1, 1]], "label_prompt": [None]}, "choose a structure in the table"),
        ({"foreground": [[1, 1, 1]], "slice": "top"}, "slice"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused_with_what_to_do(request_, hint):
    with pytest.raises(ClientError, match=hint) as caught:
        click_prompts(request_, SHAPE, LABELS)
    assert caught.value.status == 400


def scribbles():
    """Structure 1, background strokes 2, foreground strokes 3."""
    painted = np.zeros(SHAPE, np.uint8)
    painted[2:6, 2:6, 2:6], painted[0, 0, 0], painted[8:10, 5, 5] = 1, 2, 3
    info = [
        {"name": name, "id": n} for n, name in enumerate(["liver", "background_scribbles", "foreground_scribbles"], 1)
    ]
    return painted, {"label_info": info, "selected_label_name": "liver", "roi": []}


def test_strokes_refine_the_mask_of_the_selected_structure():
    painted, request = scribbles()
    prompts = scribble_prompts(request, painted, SHAPE, ())
    assert list(prompts) == ["liver"]
    np.testing.assert_array_equal(np.array(prompts["liver"].doodle), painted == 3)
    np.testing.assert_array_equal(np.array(prompts["liver"].background_doodle), painted == 2)
    np.testing.assert_array_equal(np.array(prompts["liver"].previous), painted == 1)
    assert prompts["liver"].mask is None


def test_without_strokes_the_masks_are_the_prompts():
    painted, request = scribbles()
    painted[painted > 1] = 0
    prompts = scribble_prompts({**request, "selected_label_name": None}, painted, SHAPE, ())
    np.testing.assert_array_equal(np.array(prompts["liver"].mask), painted == 1)


def test_values_without_label_info_are_the_configured_structures():
    painted = np.zeros(SHAPE, np.uint8)
    painted[1, 1, 1], painted[2, 2, 2] = 2, 3
    prompts = scribble_prompts({}, painted, SHAPE, ("liver", "spleen"))
    assert set(prompts) == {"spleen", "label_3"}


def test_an_empty_scribble_map_is_refused():
    with pytest.raises(ClientError, match="painted mask"):
        scribble_prompts({}, np.zeros(SHAPE, np.uint8), SHAPE, ())


def test_strokes_need_a_structure_and_not_a_helper_segment():
    painted, request = scribbles()
    with pytest.raises(ClientError, match="selected_label_name"):
        scribble_prompts({**request, "selected_label_name": "foreground_scribbles"}, painted, SHAPE, ())


def test_class_prompts_choose_structures_by_index():
    assert structures({"label_prompt": [2]}, LABELS) == ("spleen",)
    assert structures({}, LABELS) == ("liver", "spleen")
    with pytest.raises(ClientError, match="label_prompt"):
        structures({"label_prompt": [3]}, LABELS)


def test_prompts_of_every_kind_come_in_one_object():
    told = {
        "liver": {"foreground": [[1, 2, 3]], "background": [[4, 5, 6]], "roi": [9, 0, 2, 8, 3, 3]},
        " spleen ": {"foreground_scribbles": [[1, 1, 1], [2, 1, 1]], "background_scribbles": [[0, 0, 0]]},
        "nothing": {"background": [[0, 0, 0]]},
    }
    previous = {"liver": np.ones(SHAPE, bool)}
    prompts = click_prompts({"prompts": told, "label": "liver"}, SHAPE, LABELS, previous)
    assert list(prompts) == ["liver", "spleen"]
    liver, spleen = prompts["liver"], prompts["spleen"]
    assert (liver.foreground, liver.background) == (((1, 2, 3),), ((4, 5, 6),))
    assert liver.box == (0, 10, 2, 9, 3, 4)
    assert liver.previous is not None
    assert np.argwhere(np.array(spleen.doodle)).tolist() == [[1, 1, 1], [2, 1, 1]]
    assert np.argwhere(np.array(spleen.background_doodle)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_painted_slices_are_told_as_runs_and_an_empty_one_is_confirmed_too(axis):
    shape = np.delete(SHAPE, axis)
    pixels = np.zeros(shape, bool)
    pixels[2:5, 1] = pixels[3, 2] = True
    told = {"liver": {"painted": {"axis": axis, "slices": {"1": runs_of(pixels), "3": []}}}}
    prompt = parse_prompts(told, SHAPE)["liver"]
    mask, confirmed = (np.moveaxis(np.array(array), axis, 0) for array in (prompt.mask, prompt.confirmed))
    np.testing.assert_array_equal(mask[1], pixels)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [1]
    assert np.flatnonzero(confirmed.all(axis=(1, 2))).tolist() == [1, 3]
    assert confirmed.sum() == 2 * pixels.size


def test_painted_slices_of_one_request_lie_along_one_axis():
    told = {name: {"painted": {"axis": axis, "slices": {"1": [0, 4]}}} for axis, name in enumerate(("liver", "spleen"))}
    with pytest.raises(ClientError, match="one axis"):
        parse_prompts(told, SHAPE)


def test_slices_of_a_picture_cannot_be_painted():
    with pytest.raises(ClientError, match="one slice"):
        parse_prompts({"liver": {"painted": {"slices": {"0": [0, 4]}}}}, SHAPE[:2])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([1], "each optional"),
        ("no json", "each optional"),
        ({"liver": [[1, 2, 3]]}, "each optional"),
        ({"liver": {"clicks": [[1, 2, 3]]}}, "got 'clicks'"),
        ({"liver": {"foreground_scribbles": [[20, 0, 0]]}}, "inside the image"),
        ({"liver": {"foreground": [[1, 2]]}}, "3 voxel indices"),
        ({"liver": {"background": [[1, 2, 3]]}}, "where the structure is"),
        ({"liver": {"painted": {"axis": 3, "slices": {"0": []}}}}, "axis, 0, 1 or 2"),
        ({"liver": {"painted": {"slices": {"99": [0, 1]}}}}, "got 99"),
        ({"liver": {"painted": {"slices": {"0": [0, 1, 2]}}}}, "slice 0: runs must be pairs"),
        ({"liver": {"painted": {"slices": {"0": [0, 10**6]}}}}, "slice 0: runs must be pairs"),
        ({"liver": {"painted": {"slices": [1]}}}, "an object of runs"),
    ],
)
def test_prompts_of_another_form_are_refused_with_the_right_one(told, message):
    with pytest.raises(ClientError, match=message):
        parse_prompts(told, SHAPE)


@pytest.mark.parametrize(
    "request_",
    [
        {"foreground": [[1, 2, 3]] * 501},
        {"background": [[1, 2, 3]] * 501, "foreground": [[1, 2, 3]]},
        {"points": [[1, 2, 3]] * 501, "label_prompt": [1]},
        {"liver": [[1, 2, 3]] * 501},
        {"prompts": {"liver": {"foreground": [[1, 2, 3]] * 501}}},
        {"prompts": {str(number): {"foreground": [[1, 2, 3]]} for number in range(255)}},
    ],
)
def test_more_clicks_or_structures_than_anybody_makes_are_refused(request_):
    with pytest.raises(ClientError, match=r"up to 500 points|of 254 structures"):
        click_prompts(request_, SHAPE, LABELS)


@pytest.mark.parametrize(
    ("parts", "volumes"),
    [
        ({"foreground_scribbles": [[0, 0, 0]], "background_scribbles": [[1, 0, 0]]}, 2),
        ({"painted": {"slices": {"0": [0, 1]}}}, 2),
        ({"foreground": [[1, 1, 1]]}, 1),  # with a mask that was uploaded
    ],
)
def test_prompts_take_no_more_memory_than_an_image_may(parts, volumes, monkeypatch):
    monkeypatch.setattr("infers.prompts.allowed", lambda: 6 * volumes * np.prod(SHAPE))
    told = {f"organ {number}": parts for number in range(7)}
    label = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 8
    info = [{"name": f"organ {number}", "idx": number + 1} for number in range(7)]
    previous = LabelMasks(label, {"label_info": info}, ()) if "foreground" in parts else {}
    assert len(parse_prompts(dict(list(told.items())[:6]), SHAPE, previous)) == 6
    with pytest.raises(ClientError, match="send fewer structures at once") as refused:
        parse_prompts(told, SHAPE, previous)
    assert refused.value.status == 413
    if previous:
        for act in (
            lambda: scribble_prompts({"label_info": info}, label, SHAPE, ()),
            lambda: click_prompts({one["name"]: [[1, 1, 1]] for one in info}, SHAPE,
                                  {one["name"]: one["idx"] for one in info}, previous),
        ):  # fmt: skip
            with pytest.raises(ClientError, match="send fewer structures at once"):
                act()


def test_of_a_label_map_with_many_values_only_the_masks_that_are_asked_for_are_made():
    label = np.zeros(SHAPE, np.int32)
    label.ravel()[:1000] = np.arange(1000)
    masks = LabelMasks(label, {"label_info": [{"name": f"L{n}", "idx": n} for n in range(1, 1000)]}, (), str.lower)
    assert len(masks) == len(list(masks)) == 999
    assert "l7" in masks
    assert masks.get("L7") is None
    np.testing.assert_array_equal(masks["l7"], label == 7)
    assert not any(isinstance(value, np.ndarray) for value in vars(masks).values() if value is not label)


def test_a_single_slice_is_cut_along_the_axis_that_was_said():
    assert slice_axis({}, 2) == 2
    assert slice_axis({"slice_axis": 0}, 2) == 0
    for wrong in (3, -1, "1", True):
        with pytest.raises(ClientError, match="slice_axis"):
            slice_axis({"slice_axis": wrong}, 2)

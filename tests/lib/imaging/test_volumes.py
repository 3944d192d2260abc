import itertools

import nibabel
import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt, PromptError
from lib.imaging.volumes import Stack, align, long_axis, remove_small_components, smallest_part, smooth

SHAPE = (6, 8, 5)
ORIENTATIONS = ["RAS", "LPS", "LPI", "SAR", "PIR", "IRA"]


def volume(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def affine_of(codes, spacing=(1.0, 1.0, 3.0), tilt=0.2):
    """Spacing belongs to the array's axes; a small tilt makes it oblique without changing the closest axes."""
    signed = nibabel.orientations.axcodes2ornt(tuple(codes))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (target, direction) in enumerate(signed.astype(int)):
        affine[target, axis] = direction * spacing[axis]
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    return affine


def same_patient(codes):
    """One RAS volume stored with its axes as `codes` say, spacing following the anatomy."""
    ras = nibabel.Nifti1Image(volume(), np.diag([1.0, 1.0, 3.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(tuple("RAS")), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    stored = ras.as_reoriented(turn)
    return Image(np.asarray(stored.dataobj), stored.affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_same_patient_gives_the_same_slices_however_it_is_stored(codes):
    reference, stack = Stack.of(same_patient("LPI")), Stack.of(same_patient(codes))
    assert stack.axis == reference.axis == 2
    assert stack.spacing == (1.0, 1.0, 3.0)
    np.testing.assert_array_equal(stack.array, reference.array)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_restored_undoes_slices_of(codes, axis):
    image = Image(volume(), affine_of(codes))
    stack = Stack.of(image, axis=axis)
    slices = stack.slices_of(image.array)
    assert len(slices) == len(stack) == SHAPE[axis]
    np.testing.assert_array_equal(slices[3], stack.slice(3))
    np.testing.assert_array_equal(stack.restored(slices), image.array)


def test_flat_image_is_a_stack_of_one_and_comes_back_flat():
    image = Image(volume((6, 8)), np.diag([-1.0, -1.0, 0.0, 1.0]))
    stack = Stack.of(image, axis=0)
    assert len(stack) == 1
    np.testing.assert_array_equal(stack.slice(0), image.array)
    np.testing.assert_array_equal(stack.restored(stack.slices_of(image.array)), image.array)


def test_one_slice_volume_is_never_cut_across_its_slice():
    image = Image(volume((6, 8, 1)), affine_of("LAS"))
    for stack in (Stack.of(image), Stack.of(image, axis=0), Stack.of(image, plane=1)):
        assert len(stack) == 1
        assert stack.slice(0).shape == (6, 8)


@pytest.mark.parametrize(
    ("codes", "spacing", "canonical_axis"),
    [
        ("RAS", (1, 1, 1), 2),  # nothing stands out: axial
        ("PSR", (1, 1, 1), 2),
        ("PSR", (1, 1, 4), 0),  # thick sagittal slices
        ("RAS", (1, 4, 1), 1),  # thick coronal slices
        ("RAS", (0.5, 0.5, 0.52), 2),
        ("RAS", (0.52, 0.5, 0.5), 2),  # no more than rounding
        ("RAS", (2, 2, 1), 0),  # two equal and thick, neither axial
    ],
)
def test_slices_follow_the_largest_spacing_else_patient_z(codes, spacing, canonical_axis):
    assert Stack.of(Image(volume(), affine_of(codes, spacing, tilt=0.0))).axis == canonical_axis


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_structure_is_cut_across_its_length_where_no_spacing_stands_out(codes):
    image = same_patient(codes)
    stack = Stack.of(Image(image.array, affine_of(codes, (1, 1, 1), tilt=0.0)))

    def shaped(*size):
        mask = np.zeros(stack.array.shape, bool)
        mask[tuple(slice(n) for n in size)] = True
        return stack.restored(np.moveaxis(mask, stack.axis, 0))

    assert long_axis(stack, shaped(6, 2, 2)) == 0
    assert long_axis(stack, shaped(2, 7, 3)) == 1
    assert long_axis(stack, shaped(3, 3, 5)) == 2
    assert long_axis(stack, shaped(5, 4, 5)) == 2  # nothing stands out: axial
    assert Stack.of(stack.image, otherwise=1).axis == 1
    assert Stack.of(image, otherwise=1).axis == 2  # thick slices leave no choice


def test_plane_makes_another_stack_be_cut_alike():
    query = Stack.of(Image(volume(), affine_of("PSR", (1, 1, 4))))
    template = Stack.of(Image(volume(), affine_of("RAS", (1, 1, 4))), plane=query.axis)
    assert template.axis == query.axis == 0


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_prompt_moves_with_its_image(codes):
    image = Image(volume(), affine_of(codes))
    stack = Stack.of(image)
    marked = volume(seed=1) > 1
    point, box = (4, 1, 3), (1, 4, 2, 7, 0, 2)
    prompt = stack.prompt(Prompt(foreground=(point,), background=((0, 0, 4),), box=box, doodle=marked, mask=marked))
    assert stack.array[prompt.foreground[0]] == image.array[point]
    assert stack.array[prompt.background[0]] == image.array[0, 0, 4]
    inside = np.zeros(SHAPE, bool)
    inside[1:4, 2:7, 0:2] = True
    i0, i1, j0, j1, k0, k1 = prompt.box
    np.testing.assert_array_equal(np.sort(stack.array[i0:i1, j0:j1, k0:k1].ravel()), np.sort(image.array[inside]))
    np.testing.assert_array_equal(stack.array[prompt.doodle], stack.array[prompt.mask])
    np.testing.assert_array_equal(np.sort(stack.array[prompt.mask]), np.sort(image.array[marked]))


def test_flat_prompt_lands_on_the_only_slice():
    image = Image(volume((6, 8)), np.eye(4))
    stack = Stack.of(image)
    flat = stack.prompt(Prompt(foreground=((4, 1),), box=(1, 4, 2, 7))).on_slice(stack.axis, 0)
    assert stack.slice(0)[flat.foreground[0]] == image.array[4, 1]
    i0, i1, j0, j1 = flat.box
    np.testing.assert_array_equal(np.sort(stack.slice(0)[i0:i1, j0:j1].ravel()), np.sort(image.array[1:4, 2:7].ravel()))


def test_prompt_outside_the_image_is_refused_before_it_is_turned():
    with pytest.raises(PromptError, match=r"\(6, 0, 0\) lies outside.*\(5, 7, 4\)"):
        Stack.of(Image(volume(), np.eye(4))).prompt(Prompt(foreground=((6, 0, 0),)))


def stack_similarity(query, template):
    """-1 to 1: how alike two one-number slices are."""
    return 1 - 2 * np.abs(np.subtract.outer(query, template))


def test_equal_stacks_align_slice_by_slice():
    look = np.linspace(0, 1, 9)
    np.testing.assert_array_equal(align(stack_similarity(look, look), (1, 1), 0.1), np.arange(9))


def test_alignment_never_goes_back_where_looks_mislead():
    template = np.linspace(0, 1, 12)
    query = template.copy()
    query[4] = 1.0  # looks like the far end
    path = align(stack_similarity(query, template), (1, 1), 0.1)
    assert (np.diff(path) >= 0).all()
    assert abs(path[4] - 4) <= 1


def test_slices_beyond_the_template_wait_at_its_ends():
    template = np.linspace(0.3, 0.7, 5)
    query = np.concatenate([np.full(4, 0.3), template, np.full(6, 0.7)])
    path = align(stack_similarity(query, template), (1, 1), 0.3)
    np.testing.assert_array_equal(path, [0] * 5 + [1, 2, 3] + [4] * 7)


def test_a_short_query_finds_its_part_of_the_template():
    template = np.linspace(0, 1, 20)
    np.testing.assert_array_equal(align(stack_similarity(template[7:12], template), (1, 1), 0.1), np.arange(7, 12))


@pytest.mark.parametrize(("thick", "thin"), [(5.0, 1.0), (3.0, 2.0)])
def test_alignment_counts_lengths_and_not_slices(thick, thin):
    def anatomy(at):
        return np.cos(at / 9)

    at_thick, at_thin = np.arange(0, 61, thick), np.arange(0, 61, thin)
    for (query, query_side), (template, template_side) in itertools.permutations([(at_thick, thick), (at_thin, thin)]):
        similarity = stack_similarity(anatomy(query), anatomy(template))
        path = align(similarity, (query_side, template_side), 0.1)
        assert np.abs(query - template[path]).max() <= template_side


def test_one_slice_takes_the_most_similar():
    assert align(np.array([[0.1, 0.9, 0.3]]), (1, 1), 0.1).tolist() == [1]
    assert align(np.array([[0.1], [0.9]]), (1, 1), 0.1).tolist() == [0, 0]


def test_smoothing_is_as_wide_in_space_along_every_axis_asked_for():
    spike = np.zeros((9, 9, 9))
    spike[4, 4, 4] = 1
    thin, thick = smooth(spike, (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)), smooth(spike, (2.0, 1.0, 1.0), (1.0, 0.0, 0.0))
    assert thin[3, 4, 4] > thick[3, 4, 4] > 0
    assert thin[:, 0, 0].max() == 0
    assert smooth(spike, (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))[4, 4, 3] > 0
    np.testing.assert_array_equal(smooth(spike, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), spike)
    np.testing.assert_array_equal(smooth(spike[4:5], (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)), spike[4:5])


def test_only_islands_clearly_smaller_than_the_main_part_go():
    mask = np.zeros((12, 12, 6), bool)
    mask[:5, :5, :4] = True  # 100 voxels
    mask[8:11, 8:11, :2] = True  # 18
    mask[11, 0, 5] = True  # 1
    cleaned = remove_small_components(mask, 0.1)
    assert cleaned.sum() == 118
    assert remove_small_components(mask, 0.5).sum() == 100
    np.testing.assert_array_equal(remove_small_components(mask, 0.0), mask)
    assert not remove_small_components(np.zeros_like(mask), 0.1).any()
    flat = mask[:, :, 0]  # 25 pixels and 9
    assert remove_small_components(flat, 0.4).sum() == 25
    assert smallest_part(flat) == 9 / 25
    assert smallest_part(mask) == 0.01
    assert smallest_part(cleaned) == 0.18
    assert smallest_part(mask[:5]) == smallest_part(np.zeros_like(mask)) == 1


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 0.1, 10.0])
def test_alignment_and_smoothing_do_not_hang_on_the_unit_of_length(unit):
    look = np.linspace(0, 1, 13)
    similarity = stack_similarity(look[::2], look)
    np.testing.assert_array_equal(align(similarity, (3.0 * unit, 1.5 * unit), 0.1), align(similarity, (3.0, 1.5), 0.1))
    array = volume()
    np.testing.assert_array_equal(
        smooth(array, (3 * unit, unit, unit), (1, 0.5, 0)), smooth(array, (3.0, 1.0, 1.0), (1, 0.5, 0))
    )


@pytest.mark.parametrize("unit", [1e-6, 0.1, 0.3, 7.0])
def test_which_axis_is_long_does_not_hang_on_the_unit_where_two_are_about_equal(unit):
    image = Image(volume((8, 8, 8)), np.diag([-unit, -unit, -unit, 1.0]))
    mask = np.zeros((8, 8, 8), bool)
    mask[1:7, 2:5, 2:7] = True  # six voxels against five, just as much as still counts as equal
    assert long_axis(Stack.of(image), mask) == 2


def test_flat_images_are_as_thick_as_their_pixels_are_wide():
    stack = Stack.of(Image(volume((6, 8)), np.diag([2e-4, 3e-4, 1.0, 1.0])))
    assert stack.thickness == pytest.approx(2e-4)

import numpy as np
import pytest

from scripts.phantoms.anatomy import LABELS
from scripts.phantoms.phantom import Variation, grid_affine, make_phantom

SMALL = (48, 48, 12)
SPACING = (8.0, 8.0, 18.0)
STILL = Variation(scale=0, turn=0, shift=0, organ_shift=0, organ_scale=0, bend=0)


def centre_of(phantom, name):
    """RAS mm of a structure's centre."""
    index = np.argwhere(phantom.label == LABELS[name]).mean(axis=0)
    return phantom.affine[:3, :3] @ index + phantom.affine[:3, 3]


def test_the_same_seed_gives_the_same_bytes():
    first, second = make_phantom(3, SMALL, SPACING), make_phantom(3, SMALL, SPACING)
    assert first.array.tobytes() == second.array.tobytes()
    assert first.label.tobytes() == second.label.tobytes()


@pytest.mark.parametrize("what", ["array", "label"])
def test_another_seed_gives_another_patient(what):
    assert not np.array_equal(
        getattr(make_phantom(3, SMALL, SPACING), what), getattr(make_phantom(4, SMALL, SPACING), what)
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_patient_has_every_organ(seed):
    phantom = make_phantom(seed, SMALL, SPACING)
    assert set(np.unique(phantom.label)) == {0, *LABELS.values()}


def test_organs_lie_where_anatomy_puts_them():
    phantom = make_phantom(0, variation=STILL)
    assert centre_of(phantom, "liver")[0] > 30  # right
    assert centre_of(phantom, "spleen")[0] < -30  # left
    assert centre_of(phantom, "spine")[1] < centre_of(phantom, "aorta")[1] < centre_of(phantom, "liver")[1]
    assert centre_of(phantom, "right_lung")[2] > centre_of(phantom, "liver")[2] > centre_of(phantom, "right_kidney")[2]
    assert centre_of(phantom, "right_kidney")[2] < centre_of(phantom, "left_kidney")[2]


def test_ct_shows_lungs_dark_and_bone_brighter_than_the_liver():
    phantom = make_phantom(0, modality="CT", variation=Variation(contrast=0))
    means = {name: phantom.array[phantom.label == value].mean() for name, value in LABELS.items()}
    assert means["right_lung"] < -600 < 50 < means["liver"] < means["spine"]


@pytest.mark.parametrize(
    ("axes", "tilt"), [("RAS", (0, 0, 0)), ("LPS", (0, 0, 0)), ("SAL", (0, 0, 0)), ("LPS", (9, -7, 11))]
)
def test_a_place_in_the_patient_does_not_depend_on_the_grid(axes, tilt):
    shape = {"S": (40, 48, 48)}.get(axes[0], (48, 48, 40))
    usual = make_phantom(1, (48, 48, 40), (8, 8, 6), variation=STILL)
    other = make_phantom(1, shape, (8, 8, 8), axes=axes, tilt=tilt, variation=STILL)
    for name in ("liver", "right_kidney", "left_kidney"):
        np.testing.assert_allclose(centre_of(other, name), centre_of(usual, name), atol=6)


def test_noise_and_shading_can_be_switched_off():
    quiet = Variation(noise=0, shading=0)
    assert make_phantom(2, SMALL, SPACING, variation=quiet).array[0, 0].std() < 1
    assert make_phantom(2, SMALL, SPACING).array[0, 0].std() > 5


def test_shading_changes_mr_brightness_but_no_label():
    plain, shaded = (
        make_phantom(2, SMALL, SPACING, modality="MR", variation=Variation(noise=0, shading=amount))
        for amount in (0.0, 0.4)
    )
    assert np.array_equal(plain.label, shaded.label)
    ratio = shaded.array[plain.array > 100] / plain.array[plain.array > 100]
    assert ratio.min() < 0.9
    assert ratio.max() > 1.1


def test_affine_has_the_spacing_and_directions_asked_for():
    affine = grid_affine((10, 20, 30), (1, 2, 3), "LPS")
    np.testing.assert_allclose(affine[:3, :3], np.diag([-1, -2, 3]))
    np.testing.assert_allclose(affine @ [4.5, 9.5, 14.5, 1], [0, 0, 0, 1])


@pytest.mark.parametrize("axes", ["LPP", "LP", "XYZ"])
def test_axes_that_are_no_frame_are_refused(axes):
    with pytest.raises(ValueError, match="each of R/L, A/P and S/I once"):
        grid_affine((4, 4, 4), (1, 1, 1), axes)


def test_an_unknown_modality_is_refused_by_name():
    with pytest.raises(ValueError, match="CT, MR, PT, got 'PET'"):
        make_phantom(0, modality="PET")

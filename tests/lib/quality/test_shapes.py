import numpy as np
import pytest

from lib.imaging.images import Image
from lib.imaging.volumes import Stack
from lib.quality.shapes import Shape


def shape_of(mask, spacing=(1.0, 1.0, 2.0)):
    image = Image(
        np.random.default_rng(0).normal(size=mask.shape), np.diag([-spacing[0], -spacing[1], -spacing[2], 1.0])
    )
    stack = Stack.of(image)
    return Shape.of(stack, stack.slices_of(mask))


def block(low=4, high=10, size=20):
    mask = np.zeros((size, size, size), bool)
    mask[low:high, low:high, low:high] = True
    return mask


def test_volume_is_in_millimetres_and_the_centre_in_parts_of_the_image():
    found = shape_of(block())
    assert found.volume == pytest.approx(6**3 * 2)
    assert found.share == pytest.approx(6**3 / 20**3)
    assert found.centre == pytest.approx((0.35, 0.35, 0.35))
    assert (found.parts, found.contact) == (1, 0)


def test_only_what_lies_on_the_border_touches_it():
    assert shape_of(block(0, 6)).contact == pytest.approx(0.5)
    assert shape_of(block(1, 7)).contact == 0


def test_a_torn_mask_has_more_parts_and_is_rougher_but_crumbs_do_not_count():
    whole, torn = block(), block()
    torn[6:8] = False
    assert shape_of(torn).parts == 2
    assert shape_of(torn).roughness > shape_of(whole).roughness
    crumb = block()
    crumb[15, 15, 15] = True
    assert shape_of(crumb).parts == 1


def test_a_flat_image_is_measured_flat():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    found = shape_of(mask, (1.0, 1.0, 1.0))
    assert found.volume == 100
    assert found.roughness == pytest.approx(4)


def test_an_empty_mask_has_no_shape():
    found = shape_of(np.zeros((5, 5, 5), bool))
    assert (found.volume, found.parts, found.contact) == (0, 0, 0)

"""Windows around structures."""

import numpy as np

from lib.imaging.images import Image
from lib.inference.closer import cropped, cropped_template, share, window_of
from lib.inference.templates import Template


def test_a_window_holds_the_structure_with_a_margin_and_stays_inside_the_image():
    mask = np.zeros((60, 40), bool)
    mask[20:30, 1:5] = True
    window = window_of(mask)
    assert window == (slice(14, 36), slice(0, 11))
    assert share(window, mask.shape) == 22 / 60
    assert window_of(np.zeros((5, 5), bool)) is None


def test_a_cropped_volume_is_where_it_was_in_space():
    affine = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3, -4], [0, 0, 0, 1]])
    image = Image(np.random.default_rng(0).random((9, 8, 7)), affine)
    part = cropped(image, (slice(2, 6), slice(1, 8), slice(3, 7)))
    np.testing.assert_array_equal(part.array, image.array[2:6, 1:8, 3:7])
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], affine @ [2, 1, 3, 1])
    np.testing.assert_array_equal(part.affine[:3, :3], affine[:3, :3])


def test_a_cropped_picture_moves_in_its_own_plane():
    image = Image(np.random.default_rng(0).random((9, 8)), np.diag([-1.0, -2.0, 1.0, 1.0]))
    part = cropped(image, (slice(2, 6), slice(1, 8)))
    np.testing.assert_array_equal(part.affine[:3, 3], [-2, -2, 0])


def test_a_cropped_template_shows_one_structure_under_its_own_checksum():
    label = np.zeros((30, 30), np.uint8)
    label[5:9, 5:9], label[20:25, 20:25] = 1, 2
    template = Template("t", Image(np.random.default_rng(0).random((30, 30)), np.eye(4)), label, {"a": 1, "b": 2})
    crop = cropped_template(template, "b", label == 2)
    assert crop.structures == ("b",)
    assert crop.prompt_of("b").mask.sum() == 25
    assert crop.image.array.shape == (11, 11)
    assert crop.checksum != template.checksum
    assert cropped_template(template, "b", label == 9) is None

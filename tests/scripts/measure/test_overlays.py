import numpy as np
import pytest
from PIL import Image as Pillow

from scripts.measure.overlays import Gallery, Picture

AFFINES = {"RAS": np.diag([1.0, 1.0, 4.0, 1.0]), "LPS": np.diag([-1.0, -1.0, 4.0, 1.0])}


def volume(affine):
    """A dark volume with a mask at the patient's right front, described on the grid of `affine`."""
    image = np.zeros((40, 40, 5), np.float32)
    mask = np.zeros(image.shape, np.uint8)
    right, front = (slice(30, 38) if side > 0 else slice(2, 10) for side in (affine[0, 0], affine[1, 1]))
    mask[right, front] = 1
    return Picture("a study", image, mask, None, affine)


def coloured(path):
    """Mean row and column, as fractions of the picture, of the pixels that are neither grey nor white."""
    pixels = np.asarray(Pillow.open(path).convert("RGB")).astype(int)
    rows, columns = np.nonzero(pixels.max(axis=2) - pixels.min(axis=2) > 40)
    return rows.mean() / pixels.shape[0], columns.mean() / pixels.shape[1], len(rows)


@pytest.mark.parametrize("axes", AFFINES)
def test_the_patients_right_front_is_shown_at_the_upper_left(tmp_path, axes):
    gallery = Gallery(tmp_path)
    gallery.add("one", volume(AFFINES[axes]))
    row, column, _ = coloured(gallery.save_contact_sheet())
    assert row < 0.5
    assert column < 0.5


def test_a_picture_file_is_shown_as_it_lies(tmp_path):
    mask = np.zeros((60, 30), np.uint8)
    mask[40:, :10] = 1  # (i, j): right end of the upper rows
    gallery = Gallery(tmp_path)
    gallery.add("flat", Picture("flat", mask * 0.0, mask, None, np.eye(4)))
    row, column, _ = coloured(gallery.save_contact_sheet())
    assert column > 0.6
    assert row < 0.55


def test_every_study_gets_a_picture_and_the_sheet_shows_at_most_eighteen(tmp_path):
    gallery = Gallery(tmp_path)
    for number in range(20):
        gallery.add(f"study_{number}", volume(AFFINES["RAS"]))
    gallery.save_contact_sheet()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"contact_sheet.png", *(f"study_{number}.png" for number in range(20))}
    with Pillow.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width == pytest.approx(6 * 2.2 * 110, abs=2)


def test_an_empty_mask_still_gets_a_picture(tmp_path):
    gallery = Gallery(tmp_path)
    empty = np.zeros((20, 20, 3), np.uint8)
    gallery.add("empty", Picture("empty", np.ones(empty.shape), empty, empty, np.eye(4)))
    with Pillow.open(tmp_path / "empty.png") as picture:
        assert picture.width > 100


def test_the_truth_is_a_white_line_around_its_structure(tmp_path):
    image = np.zeros((40, 40, 5), np.float32)
    nothing, truth = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    truth[10:30, 10:30] = 1
    for name, target in (("without", None), ("with", truth)):
        Gallery(tmp_path).add(name, Picture("", image, nothing, target, AFFINES["RAS"]))
    whites = [
        (np.asarray(Pillow.open(tmp_path / f"{name}.png").convert("L")) > 200).sum() for name in ("without", "with")
    ]
    assert whites[1] > whites[0] + 100

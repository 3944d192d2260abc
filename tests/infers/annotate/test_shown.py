"""A study's image on its way to the browser."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from infers.annotate.shown import ShownStudies, compressed
from lib.imaging.images import read_image
from tests.samples import AFFINE, organ_volume, write_nifti


def sent(path, shrink=1):
    """What arrives of a study: the NIfTI image."""
    length, parts = ShownStudies().of(path).nifti(shrink)
    content = gzip.decompress(b"".join(compressed(parts)))
    assert len(content) == length
    return nibabel.Nifti1Image.from_bytes(content)


def test_a_volume_arrives_with_its_own_axes_and_place(tmp_path: Path) -> None:
    array, _ = organ_volume(0, (24, 20, 8))
    arrived = sent(write_nifti(tmp_path / "a.nii.gz", array))
    assert np.array_equal(arrived.affine, AFFINE)
    step = (array.max() - array.min()) / 65535
    np.testing.assert_allclose(arrived.get_fdata(), array, atol=0.51 * step + 1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.int32])
def test_whole_numbers_arrive_as_they_are(tmp_path: Path, kind: type) -> None:
    array = np.arange(6 * 5 * 4).reshape(6, 5, 4).astype(kind)
    arrived = sent(write_nifti(tmp_path / "a.nii.gz", array))
    assert arrived.get_data_dtype().itemsize <= 2
    assert np.array_equal(np.asanyarray(arrived.dataobj), array)


def test_colours_arrive_as_colours_where_the_picture_shows_them(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Pillow.fromarray(picture).save(tmp_path / "a.png")
    arrived = sent(tmp_path / "a.png")
    voxels = np.asanyarray(arrived.dataobj)
    assert voxels.shape == (30, 20, 1)
    assert np.array_equal(np.stack([voxels[name][..., 0] for name in "RGB"], -1).swapaxes(0, 1), picture)
    Pillow.fromarray(np.repeat(picture[..., :1], 3, 2)).save(tmp_path / "grey.png")
    assert sent(tmp_path / "grey.png").get_data_dtype().names is None


def test_a_coarser_volume_lies_in_the_same_place(tmp_path: Path) -> None:
    array = np.zeros((150, 131, 7), np.int16)
    array[:, :65] = 100
    path = write_nifti(tmp_path / "a.nii.gz", array)
    shown = ShownStudies().of(path)
    assert shown.steps(2) == (2, 2, 1)
    arrived = sent(path, 2)
    assert arrived.shape == (75, 66, 7)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(arrived.affine @ corner, AFFINE @ corner, atol=1e-4)
    values = np.asanyarray(arrived.dataobj)
    assert np.array_equal(np.unique(values), [0, 50, 100])  # the block on the edge is half of either
    assert (values[:, -1] == 0).all()


def test_a_study_is_read_once_until_it_changes(tmp_path: Path) -> None:
    studies = ShownStudies()
    path = write_nifti(tmp_path / "a.nii.gz", organ_volume(0)[0])
    first = studies.of(path)
    assert studies.of(path) is first
    write_nifti(path, organ_volume(1)[0])
    assert studies.of(path).image.checksum == read_image(path).checksum != first.image.checksum


def test_only_the_last_studies_are_kept(tmp_path: Path) -> None:
    studies = ShownStudies(capacity=1)
    one, two = (write_nifti(tmp_path / f"{n}.nii.gz", organ_volume(n)[0]) for n in (1, 2))
    first = studies.of(one)
    studies.of(two)
    assert studies.of(one) is not first


def test_a_picture_has_no_slices_and_lies_as_in_its_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30) % 251).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    shown = ShownStudies().of(tmp_path / "a.png")
    assert shown.slice_axis is None
    assert np.array_equal(sent(tmp_path / "a.png").affine, np.diag([-1, -1, 1, 1]))

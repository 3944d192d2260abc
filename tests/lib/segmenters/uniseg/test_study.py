"""From a study's grid to a task's and back."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from lib.imaging.images import Image, ImageError, read_channels
from lib.segmenters.uniseg.study import Study, normalised, prepare
from lib.segmenters.uniseg.tasks import Channel, Task, Window

MR = Channel("MR")
ORIENTATIONS = ["".join(own) for own in itertools.product("RL", "AP", "SI")] + ["ASR", "SRA", "IPL", "PSL"]


def oriented(array: np.ndarray, codes: str, spacing: tuple[float, float, float]) -> Image:
    """A volume given with axes right, anterior, superior, as a file with other axes holds it."""
    affine = np.diag([*spacing, 1.0])
    turn = nibabel.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = nibabel.orientations.apply_orientation(array, turn)
    return Image(np.ascontiguousarray(turned), affine @ inv_ornt_aff(turn, array.shape))


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_orientation_gives_one_volume_and_the_way_back_is_exact(codes: str, depth: int) -> None:
    array = np.arange(1, 4 * 5 * 6 + 1, dtype=np.float32).reshape(4, 5, 6)
    study = Study((oriented(array, codes, (1.0, 2.0, 3.0)),))
    turned = study.turned(study.grid.array, depth)
    axes = (depth, *(axis for axis in (2, 1, 0) if axis != depth))
    np.testing.assert_array_equal(turned, array.transpose(axes))
    np.testing.assert_allclose(study.spacing(depth), np.array([1.0, 2.0, 3.0])[list(axes)])
    np.testing.assert_array_equal(study.turned_back(turned, depth), study.grid.array)


def test_what_is_zero_around_the_body_is_cut_away_and_comes_back_as_background() -> None:
    array = np.zeros((10, 12, 14), np.float32)
    array[2:7, 3:9, 4:12] = 5.0
    array[3, 4, 5] = 6.0
    prepared = prepare(Study((oriented(array, "LPS", (1, 1, 1)),)), Task("t", ("a",), (MR,), (2.0, 1.0, 1.0)))
    assert prepared.box_shape == (8, 6, 5)
    assert tuple(prepared.image.shape) == (1, 4, 6, 5)
    label = prepared.back(np.ones(prepared.box_shape, np.uint8))
    np.testing.assert_array_equal(label > 0, prepared.study.grid.array > 0)


def test_grey_values_are_normalised_on_a_window_or_by_the_image() -> None:
    values = torch.tensor([[[-1000.0, -325.0, 0.0, 325.0, 2000.0]]])
    window = Channel("CT", Window(-325, 325, -325, 650))
    torch.testing.assert_close(normalised(values, window), torch.tensor([[[0.0, 0.0, 0.5, 1.0, 1.0]]]))
    own = normalised(values, MR)
    assert float(own.mean()) == pytest.approx(0, abs=1e-6)
    assert float(own.std(correction=0)) == pytest.approx(1)
    assert not normalised(torch.ones(1, 1, 3), MR).any()


def test_images_that_are_no_volume_on_one_grid_are_refused() -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    with pytest.raises(ImageError, match="use One-Prompt or PromptSeg"):
        Study((Image(array[..., 0], np.eye(4)),))
    with pytest.raises(ImageError, match="use One-Prompt or PromptSeg"):
        Study((Image(array[..., :1], np.eye(4)),))
    with pytest.raises(ImageError, match="channel 2 of shape"):
        Study((Image(array, np.eye(4)), Image(array[:3], np.eye(4))))
    with pytest.raises(ImageError, match="on one grid"):
        Study((Image(array, np.eye(4)), Image(array, np.diag([1.2, 1, 1, 1]))))
    with pytest.raises(ImageError, match="at least one channel"):
        Study(())


def test_a_spacing_that_differs_by_more_than_ten_times_is_refused() -> None:
    study = Study((oriented(np.random.default_rng(0).normal(size=(4, 5, 6)), "RAS", (0.001, 0.001, 0.003)),))
    with pytest.raises(ImageError, match=r"liver works at 3 x 1.5 x 1.5 mm.*is its spacing in mm\?"):
        prepare(study, Task("liver", ("liver",), (MR,), (3.0, 1.5, 1.5)))


def test_the_fourth_axis_of_a_nifti_file_is_the_channel(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 2)).astype(np.int16)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.Nifti1Image(array, affine).to_filename(tmp_path / "both.nii.gz")
    nibabel.Nifti1Image(array[..., 0], affine).to_filename(tmp_path / "one.nii.gz")
    both = read_channels(tmp_path / "both.nii.gz").channels
    assert len(both) == 2
    np.testing.assert_array_equal(both[1].array, array[..., 1])
    np.testing.assert_array_equal(both[1].affine, affine)
    assert len(read_channels(tmp_path / "one.nii.gz").channels) == 1
    nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), affine).to_filename(tmp_path / "empty.nii.gz")
    with pytest.raises(ImageError, match=r"empty\.nii\.gz: an image needs at least two grey values"):
        read_channels(tmp_path / "empty.nii.gz")


def test_channels_change_the_checksum_and_must_share_a_shape() -> None:
    rng = np.random.default_rng(0)
    first, second = (Image(rng.normal(size=(4, 5, 6)), np.eye(4)) for _ in range(2))
    both = Image(first.array, first.affine, further=(second,))
    assert both.channels == (both, second)
    assert len({first.checksum, both.checksum, Image(first.array, first.affine, further=(first,)).checksum}) == 3
    with pytest.raises(ImageError, match="first one's shape"):
        Image(first.array, first.affine, further=(Image(second.array[:2], np.eye(4)),))

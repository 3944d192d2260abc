"""Each kind of DICOM series is read right, or refused with a reason."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from lib.imaging.dicom import arrange, read_header
from lib.imaging.images import ImageError, read_image
from scripts.phantoms.dicom_series import write_series
from tests import dicom_samples as samples
from tests.dicom_samples import AXIAL, CORONAL, SAGITTAL, SHAPE, VIDEO, change, packed, single, volume, write


def note(folder):
    return arrange([read_header(path) for path in sorted(folder.iterdir())]).note


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    "affine", [AXIAL, CORONAL, SAGITTAL, samples.oblique()], ids=["axial", "cor", "sag", "oblique"]
)
def test_a_series_lies_where_its_headers_say(tmp_path, affine, modality):
    image = read_image(write(tmp_path / "s", affine, modality))
    np.testing.assert_array_equal(image.array, volume())
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert note(tmp_path / "s") == ""


def test_the_order_of_the_files_names_means_nothing(tmp_path):
    folder = write(tmp_path / "s")
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{(number * 5) % 6}-shuffled.dcm")
    np.testing.assert_array_equal(read_image(folder).array, volume())


def test_a_tilted_gantry_becomes_a_sheared_affine(tmp_path):
    image = read_image(samples.tilted(tmp_path / "s", shift=0.7))
    np.testing.assert_array_equal(image.array, volume())
    wanted = AXIAL.copy()
    wanted[1, 2] -= 0.7  # LPS to RAS
    np.testing.assert_allclose(image.affine, wanted, atol=1e-6)


def test_missing_slices_keep_the_order_and_the_ends_and_are_noted(tmp_path):
    folder = samples.incomplete(tmp_path / "s", missing=2)
    image = read_image(folder)
    np.testing.assert_array_equal(image.array, np.delete(volume(), 2, axis=2))
    np.testing.assert_allclose(image.affine @ [0, 0, 4, 1], AXIAL @ [0, 0, 5, 1], atol=1e-6)
    assert "4 to 8 mm apart (missing or uneven slices)" in note(folder)


def test_the_frames_of_an_enhanced_object_are_put_in_order(tmp_path):
    image = read_image(samples.enhanced(tmp_path / "s", samples.oblique()))
    np.testing.assert_array_equal(image.array, volume())
    np.testing.assert_allclose(image.affine, samples.oblique(), atol=1e-6)


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_a_radiograph_is_one_slice_with_its_pixel_size(tmp_path, modality):
    image = read_image(single(tmp_path / "s", modality, ImagerPixelSpacing=[0.2, 0.3]))
    np.testing.assert_array_equal(image.array, volume()[:, :, :1])
    assert image.spacing == pytest.approx((0.3, 0.2, 1.0))


def test_where_low_values_are_bright_they_are_turned_round(tmp_path):
    image = read_image(single(tmp_path / "s", "DX", PhotometricInterpretation="MONOCHROME1"))
    turned = image.array.max() - image.array.astype(int)
    np.testing.assert_array_equal(turned, volume()[:, :, :1])


def test_ultrasound_in_colour_is_grey_with_its_scale(tmp_path):
    image = read_image(samples.colour_ultrasound(tmp_path / "s"))
    np.testing.assert_allclose(image.array, volume()[:, :, :1] // 2, atol=1e-4)
    assert image.spacing[:2] == pytest.approx((0.5, 0.4))


def test_a_cine_loop_is_a_stack_of_its_frames(tmp_path):
    folder = samples.cine(tmp_path / "s")
    np.testing.assert_array_equal(read_image(folder).array, volume())
    assert "no place" in note(folder)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_compressed_series_are_unpacked(tmp_path, syntax):
    np.testing.assert_array_equal(read_image(packed(tmp_path / "s", syntax)).array, volume())


def test_jpeg_ls_is_unpacked(tmp_path):
    folder = packed(tmp_path / "s", JPEGLSLossless)  # which has the first slice's pixels in each
    np.testing.assert_array_equal(read_image(folder).array, np.repeat(volume()[:, :, :1], SHAPE[2], axis=2))


def test_lossy_jpeg_is_unpacked(tmp_path):
    read = read_image(packed(tmp_path / "s", JPEGBaseline8Bit)).array
    np.testing.assert_allclose(read, np.minimum(volume() // 2, 255), atol=4)


def test_a_packing_that_nothing_here_knows_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"0001\.dcm.*cannot be unpacked.*send it again as"):
        read_image(packed(tmp_path / "s", VIDEO))


def test_a_localizer_is_refused(tmp_path):
    folder = write(tmp_path / "s")
    change(folder, lambda d, k: setattr(d, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]) if k > 3 else None)
    with pytest.raises(ImageError, match=r"2 of 6 do not \(a localizer\?\)"):
        read_image(folder)


def test_several_time_points_in_one_series_are_refused(tmp_path):
    folder = write(tmp_path / "s")
    places = [pydicom.dcmread(path).ImagePositionPatient for path in sorted(folder.iterdir())]
    change(folder, lambda d, k: setattr(d, "ImagePositionPatient", places[k // 2]))
    with pytest.raises(ImageError, match="3 of 6 images lie where another one lies"):
        read_image(folder)


def test_a_copied_instance_counts_once(tmp_path):
    folder = write(tmp_path / "s")
    (folder / "copy.dcm").write_bytes((folder / "0002.dcm").read_bytes())
    np.testing.assert_array_equal(read_image(folder).array, volume())


def test_images_of_several_sizes_or_without_a_place_are_refused(tmp_path):
    write(tmp_path / "sizes")
    write_series(tmp_path / "other", volume((8, 8, 2)), AXIAL, uid="1.2.3", patient="P", modality="MR")
    other = pydicom.dcmread(tmp_path / "other" / "0001.dcm")
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    other.save_as(tmp_path / "sizes" / "x.dcm")
    with pytest.raises(ImageError, match="must have one size"):
        read_image(tmp_path / "sizes")
    change(write(tmp_path / "views"), lambda d, k: delattr(d, "ImagePositionPatient"))
    with pytest.raises(ImageError, match="6 images of one series do not say where they lie"):
        read_image(tmp_path / "views")


@pytest.mark.parametrize("edit", [samples.remove_pixels, samples.remove_image])
def test_a_series_without_pixel_data_is_named(tmp_path, edit):
    with pytest.raises(ImageError, match=r"0001\.dcm.*no pixel data.*choose a series with images"):
        read_image(change(write(tmp_path / "s"), edit))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-60])


def overwrite(path):
    path.write_bytes(b"\0" * 500)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut_short, overwrite, empty])
def test_a_corrupt_instance_is_named(tmp_path, spoil):
    folder = write(tmp_path / "s")
    spoil(folder / "0004.dcm")
    with pytest.raises(ImageError, match=r"0004\.dcm.*send"):
        read_image(folder)


def test_an_empty_folder_holds_no_series(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ImageError, match="at least one image, got none"):
        read_image(tmp_path / "s")

"""Each kind of DICOM series is read right, or refused with a reason."""

import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from lib.imaging.dicom import arrange
from lib.imaging.dicom_headers import read_header
from lib.imaging.images import ImageError, read_image, read_label, write_label
from lib.imaging.raw import affine_of
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


def test_of_several_time_points_in_one_series_the_first_is_taken_or_the_one_asked_for(tmp_path):
    folder = write(tmp_path / "s")
    places = [pydicom.dcmread(path).ImagePositionPatient for path in sorted(folder.iterdir())]

    def edit(dataset, k):
        dataset.ImagePositionPatient, dataset.AcquisitionNumber = places[k // 2], 2 - k % 2

    change(folder, edit)
    assert "shows every place 2 times" in read_image(folder).note
    np.testing.assert_array_equal(read_image(folder).array, volume()[:, :, 1::2])
    np.testing.assert_array_equal(read_image(folder, frame=1).array, volume()[:, :, ::2])
    with pytest.raises(ImageError, match=r"0 to 1.*got 2"):
        read_image(folder, frame=2)


def test_places_that_are_not_shown_as_often_as_others_are_refused(tmp_path):
    folder = write(tmp_path / "s")
    places = [pydicom.dcmread(path).ImagePositionPatient for path in sorted(folder.iterdir())]
    change(folder, lambda d, k: setattr(d, "ImagePositionPatient", places[max(k, 3)]))
    with pytest.raises(ImageError, match="3 of 6 images lie where another one lies"):
        read_image(folder)


@pytest.mark.parametrize("uid", ["1.2.9", ""])
def test_instances_of_one_uid_are_told_apart_by_their_places(tmp_path, uid):
    folder = change(write(tmp_path / "s"), lambda d, k: setattr(d, "SOPInstanceUID", uid))
    np.testing.assert_array_equal(read_image(folder).array, volume())


def test_instances_of_one_uid_and_place_with_other_pixels_are_volumes_and_no_copies(tmp_path):
    folder = write(tmp_path / "s")
    for path in sorted(folder.iterdir()):
        other = pydicom.dcmread(path)
        other.PixelData = (volume()[:, :, 0].T + 5).astype("<u2").tobytes()
        other.save_as(folder / f"again-{path.name}")
    assert "shows every place 2 times" in read_image(folder).note


def modality_values(path):
    """As pydicom has them, (I, J, frames)."""
    dataset = pydicom.dcmread(path)
    array = np.atleast_3d(dataset.pixel_array.T)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
    planes = []
    for frame in range(array.shape[2]):
        rule = dataset
        if groups[0] is not None and "PixelValueTransformationSequence" in groups[frame]:
            rule = groups[frame].PixelValueTransformationSequence[0]
        planes.append(apply_modality_lut(array[:, :, frame], rule))
    return np.stack(planes, axis=2)


RULES = st.tuples(st.sampled_from([1, 1, 2, 0.5, -1, 1e-5, 3e4]), st.sampled_from([0, 0, -1024, 0.25, 1e-3]))


@hypothesis.given(
    rules=st.lists(RULES, min_size=3, max_size=3),
    signed=st.lists(st.booleans(), min_size=3, max_size=3),
    stored=st.sampled_from([12, 16]),
)
def test_every_slice_has_pydicoms_modality_values_whatever_the_first_one_says(rules, signed, stored):
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / "s"
        write_series(folder, volume((6, 5, 3)), AXIAL, uid="1.2.3", patient="P", modality="PT")

        def edit(dataset, k):
            dataset.RescaleSlope, dataset.RescaleIntercept = rules[k]
            dataset.PixelRepresentation = int(signed[k])
            dataset.BitsStored, dataset.HighBit = stored, stored - 1
            low = -(2 ** (stored - 1)) if signed[k] else 0
            values = np.linspace(low, low + 2**stored - 1, 30).round().reshape(5, 6)
            dataset.PixelData = values.astype("<i2" if signed[k] else "<u2").tobytes()

        change(folder, edit)
        expected = np.concatenate([modality_values(path) for path in sorted(folder.iterdir())], axis=2)
        found = read_image(folder).array
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def rescaled_frames(folder, rules):
    def edit(dataset, k):
        for frame, (slope, intercept) in zip(dataset.PerFrameFunctionalGroupsSequence, rules, strict=True):
            rule = Dataset()
            rule.RescaleSlope, rule.RescaleIntercept, rule.RescaleType = slope, intercept, "HU"
            frame.PixelValueTransformationSequence = pydicom.Sequence([rule])

    return change(samples.enhanced(folder), edit)


def test_each_frame_of_an_enhanced_object_has_its_own_rescale(tmp_path):
    folder = rescaled_frames(tmp_path / "s", [(1 + n, -10 * n) for n in range(6)])
    path = next(folder.iterdir())
    image, order = read_image(folder), np.argsort(samples.FRAME_ORDER)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array, modality_values(path)[:, :, order])


def test_frames_with_fractional_rules_are_real_numbers(tmp_path):
    folder = rescaled_frames(tmp_path / "s", [(0.5 + n, 0.25) for n in range(6)])
    path = next(folder.iterdir())
    expected = modality_values(path)[:, :, np.argsort(samples.FRAME_ORDER)]
    np.testing.assert_allclose(read_image(folder).array, expected, rtol=1e-6)


def test_a_table_of_modality_values_is_applied(tmp_path):
    def edit(dataset, k):
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [512, 0, 16], "US"
        table.add_new("LUTData", "US", [3 * n + 1 for n in range(512)])
        dataset.ModalityLUTSequence = pydicom.Sequence([table])

    folder = change(write(tmp_path / "s"), edit)
    np.testing.assert_array_equal(read_image(folder).array, 3 * np.minimum(volume(), 511) + 1)


def test_an_enhanced_series_in_several_files_is_one_volume(tmp_path):
    image = read_image(samples.in_several_files(samples.enhanced(tmp_path / "s", samples.oblique())))
    np.testing.assert_array_equal(image.array, volume())
    np.testing.assert_allclose(image.affine, samples.oblique(), atol=1e-6)


def test_a_series_of_mixed_bit_depths_keeps_every_value(tmp_path):
    def edit(dataset, k):
        if k % 2:
            dataset.BitsAllocated = dataset.BitsStored = 8
            dataset.HighBit = 7
            dataset.PixelData = (volume()[:, :, k] // 4).T.astype(np.uint8).tobytes()

    expected = volume()
    expected[:, :, 1::2] //= 4
    np.testing.assert_array_equal(read_image(change(write(tmp_path / "s"), edit)).array, expected)


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


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    "kind",
    [
        lambda folder: write(folder, samples.oblique()),
        lambda folder: write(folder, SAGITTAL),
        lambda folder: samples.tilted(folder, shift=0.7),
        lambda folder: samples.incomplete(folder, missing=2),
    ],
    ids=["oblique", "sagittal", "tilted", "incomplete"],
)
def test_a_label_that_itk_makes_on_a_series_is_read_back_on_its_voxels(tmp_path, kind, suffix):
    folder = kind(tmp_path / "s")
    image = read_image(folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # ITK finds slices missing
    seen = reader.Execute()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(seen).transpose(), image.array)
    label = (image.array > np.median(image.array)).astype(np.uint8)
    drawn = SimpleITK.GetImageFromArray(label.transpose())
    drawn.CopyInformation(seen)
    SimpleITK.WriteImage(drawn, str(tmp_path / f"label{suffix}"))
    np.testing.assert_array_equal(read_label(tmp_path / f"label{suffix}", image), label)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_label_that_nibabel_or_this_app_makes_on_a_tilted_series_is_read_back(tmp_path, suffix):
    image = read_image(samples.tilted(tmp_path / "s", shift=0.7))
    label = (image.array > np.median(image.array)).astype(np.uint8)
    write_label(tmp_path / f"own{suffix}", label, image)
    np.testing.assert_array_equal(read_label(tmp_path / f"own{suffix}", image), label)
    nibabel.save(nibabel.Nifti1Image(label, image.affine), tmp_path / "nibabel.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "nibabel.nii", image), label)


@hypothesis.given(
    turn=st.tuples(*[st.sampled_from([0, 10, -35, 90, 180])] * 3),
    sides=st.tuples(*[st.sampled_from([1e-3, 0.5, 1, 7])] * 3),
    origin=st.tuples(*[st.sampled_from([0, -120.25, 1e3])] * 3),
    names=st.permutations("012"),
)
@hypothesis.settings(max_examples=15)
def test_any_series_lies_on_itks_voxels(turn, sides, origin, names):
    with tempfile.TemporaryDirectory() as there:
        folder, affine = Path(there) / "s", np.eye(4)
        rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
        affine[:3, :3], affine[:3, 3] = rotation * sides, np.multiply(origin, min(sides))
        write_series(folder, volume((6, 5, 3)), affine, uid="1.2.3", patient="P", modality="MR")
        for path, name in zip(sorted(folder.iterdir()), names, strict=True):
            path.rename(folder / name)
        image, reader = read_image(folder), SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        seen = reader.Execute()
        np.testing.assert_array_equal(image.array, SimpleITK.GetArrayFromImage(seen).transpose())
        np.testing.assert_allclose(image.affine, affine_of(seen), atol=1e-3 * min(sides))


def test_siemens_mosaics_are_no_slices(tmp_path):
    folder = write(tmp_path / "s")
    change(folder, lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]))
    with pytest.raises(ImageError, match=r"mosaics.*dcm2niix"):
        read_image(folder)


def test_pet_whose_first_slice_has_another_slope_keeps_its_values(tmp_path):
    folder = write(tmp_path / "s", modality="PT")
    slopes = [1, *(1e-5 * (1 + k) for k in range(1, SHAPE[2]))]
    change(folder, lambda d, k: setattr(d, "RescaleSlope", slopes[k]))
    np.testing.assert_allclose(read_image(folder).array, volume() * slopes, rtol=1e-5)


def mixed_signs(dataset, k):
    if k % 2:
        dataset.PixelRepresentation = 1
        dataset.PixelData = (volume()[:, :, k] - 300).T.astype("<i2").tobytes()


def bits_without_their_sign(dataset, k):
    """Twelve bits of two's complement in sixteen, whose upper four are 0."""
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 12, 11
    dataset.PixelData = ((volume()[:, :, k] - 300) & 0xFFF).T.astype("<u2").tobytes()


def overlay_in_the_upper_bits(dataset, k):
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = (volume()[:, :, k] | 0x1000).T.astype("<u2").tobytes()


def slope_that_is_empty(dataset, k):
    dataset.RescaleSlope, dataset.RescaleIntercept = None, None


def more_than_sixteen_bits(dataset, k):
    dataset.RescaleSlope, dataset.RescaleIntercept = 1000, 2**20


def big_endian(dataset, k):
    dataset.PixelData = volume()[:, :, k].T.astype(">u2").tobytes()
    dataset.is_little_endian = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


@pytest.mark.parametrize(("edit", "expected"), [
    (mixed_signs, lambda: np.where(np.arange(SHAPE[2]) % 2, volume() - 300, volume())),
    (bits_without_their_sign, lambda: volume() - 300),
    (overlay_in_the_upper_bits, volume),
    (slope_that_is_empty, volume),
    (more_than_sixteen_bits, lambda: volume().astype(int) * 1000 + 2**20),
    (big_endian, volume),
])  # fmt: skip
def test_pixels_of_every_kind_are_their_values(tmp_path, edit, expected):
    np.testing.assert_array_equal(read_image(change(write(tmp_path / "s"), edit)).array, expected())


def test_low_values_that_are_bright_are_turned_round_alike_on_every_slice(tmp_path):
    folder = write(tmp_path / "s")
    change(folder, lambda d, k: setattr(d, "PhotometricInterpretation", "MONOCHROME1"))
    array = read_image(folder).array.astype(int)
    np.testing.assert_array_equal(array + volume(), np.full(SHAPE, 2**16 - 1))


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_side_by_side_or_one_after_the_other_are_the_same_grey(tmp_path, planar):
    folder = samples.colour_ultrasound(tmp_path / "s")
    colours = np.stack([volume()[:, :, 0] // 3, volume()[:, :, 0] // 4, volume()[:, :, 0] // 2], axis=-1).astype(
        np.uint8
    )

    def edit(dataset, k):
        dataset.PlanarConfiguration = planar
        rows = colours.transpose(1, 0, 2)
        dataset.PixelData = (rows.transpose(2, 0, 1) if planar else rows).tobytes()

    expected = colours @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(read_image(change(folder, edit)).array[:, :, 0], expected, atol=1e-4)


def without_preamble(folder):
    """As older archives keep instances: nothing before the data set, which says not how it is packed."""
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        plain = DicomBytesIO()
        plain.is_little_endian, plain.is_implicit_VR = True, True
        write_dataset(plain, dataset)
        path.write_bytes(plain.getvalue())
    return folder


@pytest.mark.parametrize("slope", [1, 0.5])
def test_instances_without_a_preamble_are_read(tmp_path, slope):
    folder = change(write(tmp_path / "s"), lambda d, k: setattr(d, "RescaleSlope", slope))
    image = read_image(without_preamble(folder))
    np.testing.assert_array_equal(image.array, volume() * slope)
    np.testing.assert_allclose(image.affine, AXIAL, atol=1e-6)
    (tmp_path / "x.dcm").write_bytes(b"\0" * 3000)
    with pytest.raises(ImageError, match=r"x\.dcm: cannot be read"):
        read_image(tmp_path / "x.dcm")

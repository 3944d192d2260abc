import gzip
import os

import nibabel
import nrrd
import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from lib.imaging.formats import label_head, read_raw
from lib.imaging.images import Image, ImageError, read_image, read_label, write_label
from lib.imaging.nifti import nifti_bytes
from tests.samples import AFFINE

SHAPE = (5, 7, 4)


def values(shape=SHAPE, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def oblique_affine(flips=(1, -1, 1), spacing=(0.7, 0.9, 3.1)):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(flips) * np.array(spacing)
    affine[:3, 3] = (-12.34567, 101.1, 7.7)
    return affine


def some_label(shape=SHAPE, top=3):
    label = values(shape, np.uint16, seed=1) % (top + 1)
    label.flat[0] = top
    return label


def dicom_series(folder, volume, spacing=(0.8, 0.6, 2.5), orientation=(1, 0, 0, 0, 1, 0), reverse=True):
    """Axial or oblique MR slices of a volume (i, j, k), written in an order that no reader may rely on."""
    folder.mkdir()
    series, study = generate_uid(), generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    order = range(volume.shape[2])
    for number, k in enumerate(reversed(order) if reverse else order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        item.is_little_endian, item.is_implicit_VR = True, False
        item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        item.SeriesInstanceUID, item.StudyInstanceUID, item.Modality = series, study, "MR"
        item.PatientID, item.InstanceNumber = "phantom", number + 1
        item.Columns, item.Rows = volume.shape[0], volume.shape[1]
        item.PixelSpacing = [spacing[1], spacing[0]]
        item.ImageOrientationPatient = list(orientation)
        item.ImagePositionPatient = [float(v) for v in np.array([-10.0, 5.0, 30.0]) + normal * spacing[2] * k]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        item.PixelData = volume[:, :, k].T.astype("<u2").tobytes()
        pydicom.dcmwrite(folder / f"{number:03d}.dcm", item, write_like_original=False)


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "<u2", ">i4", "<u4", ">f4", "<f8", "i8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_of_any_type_and_byte_order_keeps_values_and_affine(tmp_path, dtype, suffix):
    array, affine = values(dtype=dtype), oblique_affine().astype(np.float32).astype(np.float64)
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    nibabel.save(nibabel.Nifti1Image(array, affine, header, dtype=dtype), tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array, array)
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_allclose(image.spacing, (0.7, 0.9, 3.1), rtol=1e-6)


def test_one_slice_nifti_stays_a_volume(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values((5, 7, 1)), np.eye(4)), tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").array.shape == (5, 7, 1)


def test_trailing_single_axis_is_dropped(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values((5, 7, 4, 1)), np.eye(4)), tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").array.shape == SHAPE


def test_flat_nifti_is_2d(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values((5, 7)), np.diag([2.0, 3.0, 1.0, 1.0])), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert image.array.shape == (5, 7)
    assert image.spacing == (2.0, 3.0)


def test_nrrd_has_itks_voxel_order_and_place(tmp_path):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    written = SimpleITK.GetImageFromArray(values().transpose())
    written.SetSpacing((0.7, 0.9, 3.1))
    written.SetDirection(turn.ravel().tolist())
    written.SetOrigin((-12.3, 101.1, 7.7))
    SimpleITK.WriteImage(written, str(tmp_path / "a.nrrd"))
    image = read_image(tmp_path / "a.nrrd")
    assert image.array[1, 5, 2] == written.GetPixel(1, 5, 2)
    assert image.array.shape == written.GetSize()
    for voxel in [(0, 0, 0), (4, 6, 3), (1, 5, 2)]:
        lps = np.array(written.TransformIndexToPhysicalPoint(voxel))
        np.testing.assert_allclose((image.affine @ (*voxel, 1))[:3], lps * (-1, -1, 1), atol=1e-9)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("right-anterior-superior", (1, 1, 1)), ("LPS", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
def test_nrrd_space_decides_the_signs(tmp_path, space, signs):
    header = {"space": space, "space directions": np.diag([2.0, 3.0, 4.0]), "space origin": np.array([1.0, 2.0, 3.0])}
    nrrd.write(str(tmp_path / "a.nrrd"), values(), header)
    affine = read_image(tmp_path / "a.nrrd").affine
    np.testing.assert_array_equal(affine[:3, :3], np.diag(np.array([2.0, 3.0, 4.0]) * signs))
    np.testing.assert_array_equal(affine[:3, 3], np.array([1.0, 2.0, 3.0]) * signs)


def test_unknown_nrrd_space_is_refused_with_the_known_ones(tmp_path):
    header = {"space": "scanner-xyz", "space directions": np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "a.nrrd"), values(), header)
    with pytest.raises(ImageError, match=r"left-posterior-superior.*scanner-xyz"):
        read_image(tmp_path / "a.nrrd")


def test_colour_nrrd_becomes_luminance(tmp_path):
    colours = values((3, *SHAPE), np.uint8)
    directions = np.vstack([np.full(3, np.nan), np.eye(3)])
    header = {
        "space": "LPS",
        "space directions": directions,
        "space origin": np.zeros(3),
        "kinds": ["RGB-color"] + ["domain"] * 3,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), colours, header)
    expected = 0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2]
    np.testing.assert_allclose(read_image(tmp_path / "a.nrrd").array, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_axes_are_column_then_row(tmp_path, dtype):
    rows_columns = values((4, 6), dtype)
    PIL.Image.fromarray(rows_columns).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.array.dtype == dtype
    np.testing.assert_array_equal(image.array, rows_columns.T)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_picture_becomes_luminance(tmp_path, suffix):
    colours = values((4, 6, 3), np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / f"a{suffix}")
    expected = colours.astype(float) @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}").array, expected.T, rtol=1e-6)


def test_palette_picture_is_colours_as_an_image_and_indices_as_a_label(tmp_path):
    picture = PIL.Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8))
    picture = picture.convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.png")
    np.testing.assert_allclose(
        read_image(tmp_path / "a.png").array, np.array([[0, 255], [0.299 * 255, 255]]), rtol=1e-6
    )
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), [[0, 2], [1, 2]])


def test_dicom_series_folder_is_ordered_by_position(tmp_path):
    volume = values(dtype=np.uint16)
    dicom_series(tmp_path / "series", volume)
    image = read_image(tmp_path / "series")
    np.testing.assert_array_equal(image.array, volume)
    expected = np.diag([-0.8, -0.6, 2.5, 1.0])
    expected[:3, 3] = (10.0, -5.0, 30.0)
    np.testing.assert_allclose(image.affine, expected, atol=1e-9)


def test_oblique_dicom_series_lies_where_its_slices_say(tmp_path):
    tilt = np.deg2rad(20)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), np.sin(tilt)])
    dicom_series(tmp_path / "series", values(), orientation=(*row.tolist(), *column.tolist()))
    image = read_image(tmp_path / "series")
    np.testing.assert_array_equal(image.array, values())
    lps = np.stack([0.8 * row, 0.6 * column, 2.5 * np.cross(row, column), [-10.0, 5.0, 30.0]], axis=1)
    np.testing.assert_allclose(image.affine[:3], lps * [[-1], [-1], [1]], atol=1e-9)


def test_single_dicom_file_is_one_slice(tmp_path):
    volume = values(dtype=np.uint16)
    dicom_series(tmp_path / "series", volume, reverse=False)
    image = read_image(tmp_path / "series" / "002.dcm")
    np.testing.assert_array_equal(image.array, volume[:, :, 2:3])


def test_two_series_in_a_folder_are_refused(tmp_path):
    dicom_series(tmp_path / "series", values())
    dicom_series(tmp_path / "other", values())
    for name in os.listdir(tmp_path / "other"):
        (tmp_path / "other" / name).rename(tmp_path / "series" / f"other{name}")
    with pytest.raises(ImageError, match="exactly one DICOM series, got 2"):
        read_image(tmp_path / "series")


def test_of_a_series_of_volumes_the_first_is_taken_or_the_one_asked_for_and_said(tmp_path):
    array = values((5, 7, 4, 3))
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.array, array[..., 0])
    assert "3 volumes" in image.note
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii", frame=2).array, array[..., 2])
    for frame in (3, -1):
        with pytest.raises(ImageError, match=rf"a\.nii.*0 to 2.*got {frame}"):
            read_image(tmp_path / "a.nii", frame=frame)


def test_a_frame_of_a_single_volume_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values(), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="one volume; got 1"):
        read_image(tmp_path / "a.nii", frame=1)


def test_several_channels_are_no_series_of_volumes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values((5, 7, 4, 1, 3)), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"a\.nii.*\(5, 7, 4, 1, 3\).*channels"):
        read_image(tmp_path / "a.nii")


def test_a_label_of_several_volumes_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(some_label((5, 7, 4, 3)), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="one volume, got 3"):
        read_label(tmp_path / "a.nii")


@pytest.mark.parametrize("outside", [np.nan, -np.inf])
def test_voxels_without_a_number_count_as_the_lowest_value_and_are_said(tmp_path, outside):
    array = values(dtype=np.float32)
    array[:, :, 0] = outside
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert (image.array[:, :, 0] == array[:, :, 1:].min()).all()
    np.testing.assert_array_equal(image.array[:, :, 1:], array[:, :, 1:])
    assert "25% of its voxels are no numbers" in image.note


@pytest.mark.parametrize("bad", [[np.inf, np.inf], [np.nan, np.inf]])
def test_infinite_values_are_refused_with_their_number(tmp_path, bad):
    array = values(dtype=np.float32)
    array.flat[:2] = bad
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="finite grey values, got 2"):
        read_image(tmp_path / "a.nii")


def test_nothing_but_nan_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, np.nan, np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="finite grey values, got 140"):
        read_image(tmp_path / "a.nii")


def test_labels_that_are_almost_whole_numbers_are_rounded_and_others_refused(tmp_path):
    label = some_label()
    for error, name in ((5e-4, "near.nii"), (5e-3, "far.nii")):
        nibabel.save(nibabel.Nifti1Image((label + error).astype(np.float32), np.eye(4)), tmp_path / name)
    found = read_label(tmp_path / "near.nii", Image(values(), np.eye(4)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)
    with pytest.raises(ImageError, match="fractions"):
        read_label(tmp_path / "far.nii")
    nibabel.save(nibabel.Nifti1Image(np.where(label == 1, np.nan, 0).astype(np.float32), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(ImageError, match=f"{(label == 1).sum()} voxels that are no numbers"):
        read_label(tmp_path / "x.nii")


@pytest.mark.parametrize("shape", [(9,), (9, 1), (1, 9), (9, 1, 1)])
def test_an_image_that_is_one_row_is_an_image(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(values(shape), np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.array.ravel(), values(shape).ravel())
    write_label(tmp_path / "label.nii", (image.array > 50), image)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", image), image.array > 50)


def test_constant_image_is_refused_with_its_value(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, 7, np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="two grey values, got 7"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.png", "a.dcm"])
def test_torn_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"not an image at all")[:-5])
    with pytest.raises(ImageError, match=f"{name}: cannot be read"):
        read_image(tmp_path / name)


def test_unknown_suffix_and_missing_file_are_refused(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"1")
    with pytest.raises(ImageError, match=r"allowed are files ending in .*\.nii"):
        read_image(tmp_path / "a.xyz")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "b.nii")


def test_degenerate_affine_is_refused():
    with pytest.raises(ImageError, match="different directions"):
        Image(values(), np.diag([1.0, 1.0, 0.0, 1.0]))


def test_checksum_depends_on_values_type_and_place():
    image = Image(values(), np.eye(4))
    assert image.checksum == Image(values(), np.eye(4)).checksum
    others = [
        Image(values(seed=5), np.eye(4)),
        Image(values(dtype=np.int32), np.eye(4)),
        Image(values(), 2 * np.eye(4)),
    ]
    assert len({image.checksum, *(other.checksum for other in others)}) == 4


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("source", [".nii", ".nrrd"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_label_round_trip_keeps_the_affine_bit_for_bit(tmp_path, suffix, source, flips):
    affine = oblique_affine(flips)
    if source == ".nii":
        nibabel.save(nibabel.Nifti1Image(values(), affine), tmp_path / "image.nii")
    else:
        header = {"space": "LPS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
        nrrd.write(str(tmp_path / "image.nrrd"), values(), header)
    image = read_image(tmp_path / f"image{source}")
    label = some_label()
    write_label(tmp_path / f"label{suffix}", label, image)
    np.testing.assert_array_equal(read_label(tmp_path / f"label{suffix}", image), label)
    if source == suffix or suffix == ".nrrd":
        np.testing.assert_array_equal(read_image(tmp_path / f"label{suffix}").affine, image.affine)


def test_label_repeats_the_form_codes_of_an_image_placed_by_its_qform(tmp_path):
    file = nibabel.Nifti1Image(values(), None)
    file.header.set_qform(oblique_affine(), code=1, strip_shears=True)
    file.header.set_sform(None, code=0)
    file.header.set_xyzt_units("mm", "sec")
    nibabel.save(nibabel.Nifti1Image(values(), None, file.header), tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz")
    write_label(tmp_path / "label.nii.gz", some_label(), image)
    saved = nibabel.load(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(saved.affine, image.affine)
    assert int(saved.header["sform_code"]) == 0
    assert int(saved.header["qform_code"]) == 1
    assert saved.header.get_xyzt_units() == ("mm", "sec")


def test_nrrd_label_of_a_2d_image_keeps_its_place_and_itk_reads_its_pixels(tmp_path):
    image = Image(values((5, 7)), np.diag([0.5, 0.25, 1.0, 1.0]))
    label = some_label((5, 7))
    write_label(tmp_path / "label.nrrd", label, image)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nrrd", image), label)
    np.testing.assert_array_equal(read_image(tmp_path / "label.nrrd").affine, image.affine)
    read_by_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "label.nrrd")))
    np.testing.assert_array_equal(read_by_itk.T.reshape(5, 7), label)


@pytest.mark.parametrize("top", [3, 300])
def test_png_label_round_trips(tmp_path, top):
    PIL.Image.fromarray(values((4, 6), np.uint8)).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    label = some_label((6, 4), top)
    write_label(tmp_path / "label.png", label, image)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png", image), label)


def test_volume_label_cannot_be_a_png(tmp_path):
    with pytest.raises(ImageError, match="PNG holds 2-D"):
        write_label(tmp_path / "label.png", some_label(), Image(values(), np.eye(4)))


def test_label_of_another_shape_is_not_written(tmp_path):
    with pytest.raises(ImageError, match=r"\(5, 7, 4\), got \(5, 7, 5\)"):
        write_label(tmp_path / "label.nii", some_label((5, 7, 5)), Image(values(), np.eye(4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("label", "reason"), [(np.full(SHAPE, 0.5), "whole numbers"), (np.full(SHAPE, -1), "between 0 and 65535")]
)
def test_values_that_are_no_labels_are_refused(tmp_path, label, reason):
    with pytest.raises(ImageError, match=reason):
        write_label(tmp_path / "label.nii", label, Image(values(), np.eye(4)))


def test_label_saved_in_another_axis_order_is_turned_onto_the_image(tmp_path):
    image = Image(values(), oblique_affine())
    label = some_label()
    file = nibabel.Nifti1Image(label, image.affine)
    turned = nibabel.as_closest_canonical(file)
    assert turned.shape != label.shape or not np.array_equal(turned.affine, file.affine)
    nibabel.save(turned, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz", image), label)


def test_label_from_another_place_is_refused(tmp_path):
    image = Image(values(), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 2.0
    nibabel.save(nibabel.Nifti1Image(some_label(), moved), tmp_path / "label.nii")
    with pytest.raises(ImageError, match="2 mm away"):
        read_label(tmp_path / "label.nii", image)


def test_label_of_another_size_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(some_label((5, 7, 5)), np.eye(4)), tmp_path / "label.nii")
    with pytest.raises(ImageError, match=r"\(5, 7, 4\), got \(5, 7, 5\)"):
        read_label(tmp_path / "label.nii", Image(values(), np.eye(4)))


def test_picture_takes_the_one_slice_volume_a_viewer_makes_of_its_label(tmp_path):
    PIL.Image.fromarray(values((4, 6), np.uint8)).save(tmp_path / "image.png")
    label = some_label((6, 4))
    nibabel.save(nibabel.Nifti1Image(label[..., None], np.eye(4)), tmp_path / "label.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", read_image(tmp_path / "image.png")), label)


def test_failed_write_leaves_the_old_label_and_no_debris(tmp_path, monkeypatch):
    image, label = Image(values(), np.eye(4)), some_label()
    write_label(tmp_path / "label.nii", label, image)

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_label(tmp_path / "label.nii", 0 * label, image)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", image), label)
    assert [path.name for path in tmp_path.iterdir()] == ["label.nii"]


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_head_of_a_label_is_how_the_whole_label_file_begins(version):
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1, 2, 3] = 1
    header = version(np.zeros((4, 5, 6), np.float64), AFFINE).header
    suffix, head = label_head(mask.shape, header.get_best_affine(), header)
    assert suffix == ".nii.gz"
    assert head + mask.tobytes("F") == nifti_bytes(mask, header.get_best_affine(), header)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_the_head_of_a_label_of_another_format_holds_its_affine_bit_for_bit(tmp_path, shape):
    affine = np.vstack([AFFINE[:3] / 3, AFFINE[3:]])
    mask = np.zeros(shape, np.uint8)
    mask[1, 2] = 1
    suffix, head = label_head(shape, affine, None)
    path = tmp_path / f"label{suffix}"
    path.write_bytes(head + gzip.compress(mask.tobytes("F")))
    like = Image(np.arange(mask.size).reshape(shape), affine)
    assert np.array_equal(read_label(path, like), mask)
    assert np.array_equal(read_raw(path).affine, affine)

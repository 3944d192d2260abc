"""Headers that two readers place differently: SimpleITK plays 3D Slicer's and OHIF's part, nibabel Python's."""

import gzip
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import nibabel
import nrrd
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from lib.imaging.images import ImageError, read_image, read_label, write_label

SHAPE = (5, 7, 4)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(autouse=True, scope="module")
def _quiet_itk():
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    yield
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)


def values():
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)


def some_label():
    return (np.random.default_rng(1).integers(0, 3, SHAPE)).astype(np.uint8)


def turned(degrees, about=2):
    a, affine = np.radians(degrees), np.eye(4)
    i, j = [axis for axis in range(3) if axis != about]
    affine[[i, i, j, j], [i, j, i, j]] = np.cos(a), -np.sin(a), np.sin(a), np.cos(a)
    return affine


def nifti(path, sform=None, qform=None, codes=(0, 0), **fields):
    """A file whose header says exactly that, also what no library would write."""
    file = nibabel.Nifti1Image(values(), None)
    header = file.header
    if qform is not None:
        header.set_qform(qform, 1, strip_shears=True)
    if sform is not None:
        header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    block = bytearray(file.to_bytes())
    raw = nibabel.Nifti1Header(bytes(block[:348]), check=False)
    for name, value in fields.items():
        raw[name] = value
    block[:348] = raw.binaryblock
    path.write_bytes(gzip.compress(bytes(block)) if path.suffix == ".gz" else bytes(block))
    return path


CASES = {
    "conflicting forms": dict(sform=np.eye(4), qform=turned(20), codes=(2, 1)),
    "no form": dict(),
    "sheared sform beside a qform": dict(
        sform=np.array([[1, 0, 0.15, 1.15], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1.0]]), qform=np.eye(4), codes=(1, 1)
    ),
    "negative voxel side": dict(qform=np.eye(4), codes=(0, 1), pixdim=[1, 1, 1, -1, 1, 1, 1, 1]),
    "micrometres": dict(sform=np.diag([20.0, 20, 30, 1]), codes=(1, 0), xyzt_units=3),
    "metres": dict(
        qform=np.diag([0.5, 0.5, 0.5, 1]), codes=(0, 1), pixdim=[1, 0.5, 0.5, 0.5, 1, 1, 1, 1], xyzt_units=1
    ),
    "forms of other sizes": dict(sform=np.diag([2.0, 2, 2, 1]), qform=np.eye(4), codes=(1, 1)),
}


def itk_place(image):
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return RAS_TO_LPS @ lps


def apart(one, other):
    """Largest distance of two placements of a corner, in shortest voxel sides."""
    corners = np.array([[i, j, k, 1] for i in (0, SHAPE[0]) for j in (0, SHAPE[1]) for k in (0, SHAPE[2])])
    side = min(np.linalg.norm(affine[:3, :3], axis=0).min() for affine in (one, other))
    return np.abs(corners @ (one - other).T).max() / side


def by_itk(path, like):
    """Save a label as ITK does: on the grid that it read."""
    label = SimpleITK.GetImageFromArray(some_label().transpose())
    label.CopyInformation(like)
    SimpleITK.WriteImage(label, str(path))


def check_everyone_agrees(path, folder):
    """Every label that ITK or nibabel make on an image is read back on its voxels, and every answer lies on them."""
    image, label = read_image(path), some_label()
    np.testing.assert_array_equal(image.array, values())
    try:
        seen = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        seen = None
        assert "cannot place it" in image.note
    if seen is not None:
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(seen).transpose(), values())
        assert apart(image.affine, itk_place(seen)) < 0.2
        for name in ("itk.nii.gz", "itk.nrrd", "itk.mha"):
            by_itk(folder / name, seen)
            np.testing.assert_array_equal(read_label(folder / name, image), label)
        write_label(folder / "answer.nrrd", label, image)
        answer = SimpleITK.ReadImage(str(folder / "answer.nrrd"))
        again = SimpleITK.Resample(answer, seen, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again).transpose(), label)
    if path.name.endswith((".nii", ".nii.gz")):
        loaded = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(label, loaded.affine), folder / "nibabel.nii.gz")
        np.testing.assert_array_equal(read_label(folder / "nibabel.nii.gz", image), label)
        nibabel.save(nibabel.Nifti1Image(label, loaded.affine, loaded.header), folder / "copy.nii.gz")
        np.testing.assert_array_equal(read_label(folder / "copy.nii.gz", image), label)
        write_label(folder / "stored.nii.gz", label, image)
        np.testing.assert_array_equal(nibabel.load(folder / "stored.nii.gz").affine, loaded.affine)
        if seen is not None:
            stored = SimpleITK.ReadImage(str(folder / "stored.nii.gz"))
            np.testing.assert_allclose(itk_place(stored), itk_place(seen), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(read_label(folder / "stored.nii.gz", image), label)


@pytest.mark.parametrize("case", CASES)
def test_masks_lie_on_the_voxels_and_labels_of_either_reader_are_taken(tmp_path, case):
    path = nifti(tmp_path / "image.nii.gz", **CASES[case])
    check_everyone_agrees(path, tmp_path)
    assert "in two ways" in read_image(path).note


def test_an_image_that_both_read_alike_keeps_its_affine_to_the_bit_and_has_no_note(tmp_path):
    affine = turned(12) @ np.diag([0.7, 0.9, 3.1, 1])
    affine[:3, 3] = (-12.34567, 101.1, 7.7)
    nibabel.save(nibabel.Nifti1Image(values(), affine), tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(image.affine, nibabel.load(tmp_path / "image.nii.gz").affine)
    assert not image.note


def test_axes_that_no_viewer_can_place_are_said_and_still_segmented(tmp_path):
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    path = nifti(tmp_path / "image.nii", sform=sheared, codes=(1, 0))
    assert "at right angles" in read_image(path).note
    write_label(tmp_path / "label.nii", some_label(), read_image(path))
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", read_image(path)), some_label())


def test_a_label_that_fits_no_reading_is_refused(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii", **CASES["conflicting forms"]))
    nibabel.save(nibabel.Nifti1Image(some_label(), turned(45)), tmp_path / "label.nii")
    with pytest.raises(ImageError, match="where its image lies"):
        read_label(tmp_path / "label.nii", image)


FORMS = st.builds(
    lambda side, degrees, about, signs, origin, shear: _form(side, degrees, about, signs, origin, shear),
    st.sampled_from([1e-3, 0.4, 1.0, 3.0]),
    st.sampled_from([0, 3, 20, 90]),
    st.integers(0, 2),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
    st.tuples(*[st.sampled_from([0.0, -7.5, 130.2])] * 3),
    st.sampled_from([0, 0, 0, 0.2]),
)


def _form(side, degrees, about, signs, origin, shear):
    affine = turned(degrees, about) @ np.diag(
        [*(side * sign * scale for sign, scale in zip(signs, (1, 1.2, 2), strict=True)), 1]
    )
    affine[:3, 2] += shear * affine[:3, 0]
    affine[:3, 3] = np.multiply(origin, side)
    return affine


@hypothesis.given(
    sform=FORMS,
    qform=FORMS,
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    negative=st.sampled_from([None, None, 1, 3]),
    units=st.sampled_from([0, 1, 2, 3]),
)
def test_any_nifti_header_gives_the_same_voxels_to_everyone(sform, qform, codes, negative, units):
    with tempfile.TemporaryDirectory() as folder:
        path = nifti(Path(folder) / "image.nii", sform, qform, codes, xyzt_units=units)
        if negative:
            block = bytearray(path.read_bytes())
            raw = nibabel.Nifti1Header(bytes(block[:348]), check=False)
            raw["pixdim"][negative] *= -1
            block[:348] = raw.binaryblock
            path.write_bytes(bytes(block))
        check_everyone_agrees(path, Path(folder))


@hypothesis.given(
    space=st.sampled_from([None, "left-posterior-superior", "right-anterior-superior", "LAS", "scanner-xyz"]),
    place=FORMS,
    fields=st.sampled_from(["directions", "spacings", "nothing"]),
)
def test_any_nrrd_header_gives_itks_voxels_or_a_refusal_with_the_reason(space, place, fields):
    with tempfile.TemporaryDirectory() as folder:
        header = {"kinds": ["domain"] * 3}
        if fields == "directions":
            header |= {"space directions": place[:3, :3].T, "space origin": place[:3, 3]}
            header |= {"space": space} if space else {"space dimension": 3}
        elif fields == "spacings":
            header["spacings"] = np.linalg.norm(place[:3, :3], axis=0)
        path = Path(folder) / "image.nrrd"
        nrrd.write(str(path), values(), header, index_order="F")
        if fields == "directions" and space == "scanner-xyz":
            with pytest.raises(ImageError, match="scanner-xyz"):
                read_image(path)
            return
        check_everyone_agrees(path, Path(folder))


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nhdr", ".hdr"])
def test_formats_that_only_itk_reads_lie_where_itk_puts_them(tmp_path, suffix):
    written = SimpleITK.GetImageFromArray(values().transpose())
    written.SetSpacing((0.7, 0.9, 3.1))
    written.SetOrigin((1.0, 2.0, 3.0))
    path = tmp_path / f"image{suffix}"
    SimpleITK.WriteImage(written, str(path))
    check_everyone_agrees(path, tmp_path)


def test_analyze_without_any_place_lies_where_itk_puts_it(tmp_path):
    nibabel.save(nibabel.Spm2AnalyzeImage(values(), None), tmp_path / "image.img")
    check_everyone_agrees(tmp_path / "image.hdr", tmp_path)


def test_metaimage_of_several_volumes_gives_the_first_or_the_one_asked_for(tmp_path):
    array = np.stack([values(), values() + 1, values() + 2], axis=-1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.transpose(), isVector=False), str(tmp_path / "image.mha"))
    assert "3 volumes" in read_image(tmp_path / "image.mha").note
    np.testing.assert_array_equal(read_image(tmp_path / "image.mha", frame=2).array, values() + 2)


def test_nrrd_of_several_volumes_is_no_colour_image(tmp_path):
    array = np.stack([values(), values() + 1, values() + 2])
    directions = np.vstack([np.full(3, np.nan), np.eye(3)])
    header = {
        "space": "LPS",
        "space directions": directions,
        "space origin": np.zeros(3),
        "kinds": ["list"] + ["domain"] * 3,
    }
    nrrd.write(str(tmp_path / "image.nrrd"), array, header, index_order="F")
    np.testing.assert_array_equal(read_image(tmp_path / "image.nrrd").array, values())
    np.testing.assert_array_equal(read_image(tmp_path / "image.nrrd", frame=1).array, values() + 1)


NRRD_HEADER = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 7 4\nencoding: raw\n"
META_HEADER = "ObjectType = Image\nNDims = 3\nDimSize = 5 7 4\nElementType = MET_UCHAR\n"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nhdr", NRRD_HEADER + "data file: {elsewhere}\n"),
        ("a.nrrd", NRRD_HEADER + "data file: ../secret.raw\n\n"),
        ("a.mhd", META_HEADER + "ElementDataFile = {elsewhere}\n"),
        ("a.mha", META_HEADER + "ElementDataFile = LIST\n../secret.raw\n"),
    ],
)
def test_a_header_cannot_show_files_from_outside_its_folder(tmp_path, name, header):
    (tmp_path / "secret.raw").write_bytes(bytes(range(140)))
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / name).write_text(header.format(elsewhere=tmp_path / "secret.raw"))
    with pytest.raises(ImageError, match="must lie in a file beside it"):
        read_image(tmp_path / "studies" / name)


def test_a_header_without_its_voxels_says_which_file_to_copy(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values()), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ImageError, match=r"copy a\.raw beside it"):
        read_image(tmp_path / "a.mhd")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_pictures_lie_where_itk_lays_them_by_their_resolution(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    PIL.Image.fromarray(values()[:, :, 0].T.astype(np.uint8)).save(path, dpi=(300, 150))
    image, seen = read_image(path), SimpleITK.ReadImage(str(path))
    assert image.spacing == pytest.approx(seen.GetSpacing()[:2])
    label = some_label()[:, :, 0]
    write_label(tmp_path / "answer.nrrd", label, image)
    answer = SimpleITK.ReadImage(str(tmp_path / "answer.nrrd"))
    assert answer.GetSpacing()[:2] == pytest.approx(seen.GetSpacing()[:2])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(answer)[0].transpose(), label)


def test_pages_of_a_tiff_are_slices_where_itk_lays_them_unless_they_differ(tmp_path):
    pages = [PIL.Image.fromarray(values()[:, :, k].T.astype(np.uint8)) for k in range(SHAPE[2])]
    pages[0].save(tmp_path / "image.tif", save_all=True, append_images=pages[1:], dpi=(300, 150))
    check_everyone_agrees(tmp_path / "image.tif", tmp_path)
    pages[0].save(tmp_path / "pyramid.tif", save_all=True, append_images=[pages[1].resize((2, 3))])
    with pytest.raises(ImageError, match="must be alike"):
        read_image(tmp_path / "pyramid.tif")


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.nii.gz"])
def test_volumes_that_itk_keeps_along_a_fourth_axis_are_a_series(tmp_path, name):
    array = np.stack([values(), values() + 1, values() + 2], axis=-1)
    written = SimpleITK.GetImageFromArray(array.transpose(), isVector=False)
    written.SetSpacing((0.7, 0.9, 3.1, 5.0))
    written.SetOrigin((1.0, 2.0, 3.0, 4.0))
    SimpleITK.WriteImage(written, str(tmp_path / name))
    image = read_image(tmp_path / name, frame=1)
    np.testing.assert_array_equal(image.array, values() + 1)
    assert image.spacing == pytest.approx((0.7, 0.9, 3.1))
    np.testing.assert_allclose(image.affine[:3, 3], (-1, -2, 3), atol=1e-6)
    assert "3 volumes" in read_image(tmp_path / name).note


@pytest.mark.parametrize("space", ["left-posterior-superior-time", "LPST"])
def test_a_space_with_time_in_it_is_that_space(tmp_path, space):
    array = np.stack([values(), values() + 1], axis=-1)
    header = {"space": space, "space directions": np.diag([2.0, 3, 4, 1]), "space origin": [5.0, 6, 7, 0],
              "kinds": ["domain"] * 3 + ["time"]}  # fmt: skip
    nrrd.write(str(tmp_path / "a.nrrd"), array, header, index_order="F")
    image = read_image(tmp_path / "a.nrrd", frame=1)
    np.testing.assert_array_equal(image.array, values() + 1)
    np.testing.assert_array_equal(image.affine, RAS_TO_LPS @ [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("content", [b"", b"short", gzip.compress(b"")], ids=["empty", "short", "an empty gzip"])
def test_a_file_that_ends_within_its_header_says_so(tmp_path, content):
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="ends within its header"):
            read_image(tmp_path / name)

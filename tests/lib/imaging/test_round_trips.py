"""A label that a usual program makes on an image of any format that is taken is read back on the same voxels."""

import gzip

import nibabel
import nrrd
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from lib.imaging.images import IMAGE_SUFFIXES, read_image, read_label
from tests import dicom_samples as samples

SHAPE = (5, 7, 4)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(autouse=True, scope="module")
def _quiet_itk():
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it finds slices missing
    yield
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)


def by_nibabel(kind=nibabel.Nifti1Image):
    def make(path):
        nibabel.save(kind(values(), samples.oblique()), path)

    return make


def by_itk(path):
    lps = LPS_TO_RAS @ samples.oblique()
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(values().transpose())
    image.SetSpacing(sides.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))


def as_picture(path):
    PIL.Image.fromarray(values()[:, :, 0].T.astype(np.uint8)).save(path)


def as_pages(path):
    first, *others = (PIL.Image.fromarray(values()[:, :, k].T.astype(np.uint8)) for k in range(SHAPE[2]))
    first.save(path, save_all=True, append_images=others, dpi=(300, 150))


def misnamed(path):
    """NIfTI that is packed although its name does not say so, or the other way round."""
    by_nibabel()(path.with_name("right.nii"))
    content = path.with_name("right.nii").read_bytes()
    path.write_bytes(content if path.name.endswith(".gz") else gzip.compress(content))


def in_capitals(path):
    by_itk(path.with_name(path.name.lower()))
    path.with_name(path.name.lower()).rename(path)


def single_file(folder):
    samples.write(folder.with_name("series"), samples.oblique())
    (folder.with_name("series") / "0003.dcm").rename(folder)


def values():
    return np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)


FILES = {
    **dict.fromkeys(["a.nii", "a.nii.gz"], by_nibabel()),
    "pair.hdr": lambda path: by_nibabel(nibabel.Nifti1Pair)(path.with_suffix(".img")),
    "analyze.hdr": lambda path: by_nibabel(nibabel.Spm99AnalyzeImage)(path.with_suffix(".img")),
    "second.nii": by_nibabel(nibabel.Nifti2Image),
    **dict.fromkeys(["a.nrrd", "a.nhdr", "a.mha", "a.mhd"], by_itk),
    **dict.fromkeys(["a.png", "a.jpg", "a.jpeg", "a.tif", "a.tiff", "a.bmp"], as_picture),
    "pages.tif": as_pages,
    "a.dcm": single_file,
    **dict.fromkeys(["packed.nii", "plain.nii.gz"], misnamed),
    **dict.fromkeys(["A.NII.GZ", "A.NRRD", "A.MHA"], in_capitals),
}
CANNOT_OPEN = {"second.nii": "ITK", "packed.nii": "ITK nibabel", "plain.nii.gz": "nibabel", "A.MHA": "ITK"}
SERIES = {
    "axial": lambda folder: samples.write(folder, modality="CT"),
    "oblique": lambda folder: samples.write(folder, samples.oblique()),
    "sagittal": lambda folder: samples.write(folder, samples.SAGITTAL),
    "tilted": samples.tilted,
    "incomplete": samples.incomplete,
    "enhanced": lambda folder: samples.enhanced(folder, samples.oblique(), order=tuple(range(6))),
    "radiograph": lambda folder: samples.single(folder, "CR", ImagerPixelSpacing=[0.2, 0.3]),
    "cine": samples.cine,
}


def seen_by_itk(path):
    """The image as ITK's programs open it."""
    if not path.is_dir():
        return SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(path))
    reader.SetFileNames(names)
    return reader.Execute() if len(names) > 1 else SimpleITK.ReadImage(names[0])


def itk_label(label, image, path, folder, suffix):
    seen = seen_by_itk(path)
    drawn = SimpleITK.GetImageFromArray(label.reshape(seen.GetSize()).transpose())
    drawn.CopyInformation(seen)
    SimpleITK.WriteImage(drawn, str(folder / f"itk{suffix}"))
    return folder / f"itk{suffix}"


def nibabel_label(label, image, path, folder, keep_header):
    """With the affine that nibabel reads, or that a converter to NIfTI wrote."""
    own = path.name.lower().endswith((".nii", ".nii.gz", ".hdr"))
    loaded = nibabel.load(path) if own else None
    header = loaded.header if own and keep_header and isinstance(loaded, nibabel.Nifti1Pair) else None
    affine = loaded.affine if own else image.affine
    target = folder / "nibabel.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.reshape((*label.shape, 1)[:3]), affine, header), target)
    return target


def pynrrd_label(label, image, path, folder):
    header = {}
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        known = nrrd.read_header(str(path))
        header = {key: known[key] for key in ("space", "space directions", "space origin", "kinds") if key in known}
    elif label.ndim == 3:
        lps = LPS_TO_RAS @ image.affine
        header = {"space": "LPS", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(folder / "pynrrd.nrrd"), label.reshape((*label.shape, 1)[:3]), header, index_order="F")
    return folder / "pynrrd.nrrd"


PROGRAMS = {
    **{
        f"ITK {suffix}": lambda *told, suffix=suffix: itk_label(*told, suffix)
        for suffix in (".nii.gz", ".nrrd", ".mha")
    },
    "nibabel": lambda *told: nibabel_label(*told, False),
    "nibabel with the image's header": lambda *told: nibabel_label(*told, True),
    "pynrrd": pynrrd_label,
}


def check(path, folder):
    image = read_image(path)
    label = np.random.default_rng(1).integers(0, 3, image.array.shape).astype(np.uint8)
    for program, write in PROGRAMS.items():
        if program.split()[0] in CANNOT_OPEN.get(path.name, ""):
            continue
        written = write(label, image, path, folder)
        np.testing.assert_array_equal(read_label(written, image), label, err_msg=program)


def test_every_format_that_is_taken_is_among_these():
    assert {suffix for suffix in IMAGE_SUFFIXES if not any(name.endswith(suffix) for name in FILES)} == set()


@pytest.mark.parametrize("name", FILES)
def test_labels_of_every_program_come_back_on_a_file_s_voxels(tmp_path, name):
    FILES[name](tmp_path / name)
    check(tmp_path / name, tmp_path)


@pytest.mark.parametrize("kind", SERIES)
def test_labels_of_every_program_come_back_on_a_series_voxels(tmp_path, kind):
    SERIES[kind](tmp_path / "series")
    check(tmp_path / "series", tmp_path)


@pytest.mark.parametrize(("name", "words"), [
    ("second.nii", "cannot open it"), ("packed.nii", "it is gzipped"), ("plain.nii.gz", "it is not gzipped"),
])  # fmt: skip
def test_what_other_programs_will_not_open_is_said(tmp_path, name, words):
    FILES[name](tmp_path / name)
    assert words in read_image(tmp_path / name).note

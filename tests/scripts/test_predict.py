import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.imaging.images import read_image, read_label, write_label
from scripts.phantoms.dicom_series import write_series
from scripts.predict import main
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An image, and a labelled template with two structures."""
    for number, name in enumerate(("template", "image")):
        array, mask = organ_volume(number)
        write_nifti(tmp_path / f"{name}.nii.gz", array)
        mask[:, :, 4:] *= 3
        write_nifti(tmp_path / f"{name}_label.nii.gz", mask)
    return tmp_path


@pytest.fixture
def predict(files: Path, tiny_weights: Path):
    def run(*more: object, image: str = "image.nii.gz", out: str = "mask.nii.gz") -> int:
        words = [files / image, "--template", files / "template.nii.gz", "--label", files / "template_label.nii.gz"]
        return main([str(word) for word in (*words, "--out", files / out, "--weights", tiny_weights, *more)])

    return run


def test_the_mask_lies_where_the_image_does_with_the_labels_values(files, predict, capsys):
    assert predict("--names", "liver,other,spleen", "--device", "cpu") == 0
    image = read_image(files / "image.nii.gz")
    mask = read_label(files / "mask.nii.gz", image)  # refuses another grid
    assert mask.shape == image.array.shape
    assert set(np.unique(mask)) <= {0, 1, 3}
    assert "spleen: value 3" in capsys.readouterr().out


def test_the_record_beside_it_says_how_it_was_made(files, predict):
    assert predict() == 0
    record = json.loads((files / "mask.json").read_text())
    assert record["labels"] == {"label_1": 1, "label_3": 3}
    assert record["image"] == {"name": "image.nii.gz", "checksum": read_image(files / "image.nii.gz").checksum}
    assert record["templates"] == ["template.nii.gz"]
    assert len(record["weights"]) == 12
    assert record["quality"].keys() == record["voxels"].keys() == {"label_1", "label_3"}


def test_a_dicom_folder_is_an_image_too(files, predict):
    array = np.random.default_rng(0).integers(0, 500, (24, 20, 8)).astype(np.int16)
    write_series(files / "series", array, np.diag([-1.5, -1.5, 3, 1]), uid="1.2.3", patient="P", modality="MR")
    assert predict(image="series", out="mask.nrrd") == 0
    assert read_label(files / "mask.nrrd", read_image(files / "series")).shape == (24, 20, 8)


def test_an_older_mask_stays_unless_forced(files, predict, capsys):
    (files / "mask.nii.gz").write_text("mine")
    assert predict() == 1
    assert "exists already: name another file, or replace it with --force" in capsys.readouterr().err
    assert (files / "mask.nii.gz").read_text() == "mine"
    assert predict("--force") == 0
    assert read_label(files / "mask.nii.gz").shape == read_image(files / "image.nii.gz").array.shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "nowhere.nii.gz"}, "no such file"),
        ({"out": "mask.jpg"}, "a mask's name must end in one of"),
        ({"out": "nowhere/mask.nii.gz"}, "does not exist: make it"),
        ({"more": ("--label", "image.nii.gz")}, "image.nii.gz"),
        ({"more": ("--names", "a,a")}, "names must be different"),
        ({"more": ("--weights", "image.nii.gz")}, "not a whole safetensors file"),
        ({"more": ("--device", "cuda:9")}, "cuda:9"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_and_leaves_no_file(files, predict, capsys, change, words):
    more = [str(files / word) if word.endswith(".nii.gz") else word for word in change.pop("more", ())]
    assert predict(*more, **change) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(files.rglob("mask.*"))


def test_an_empty_template_is_refused(files, predict, capsys):
    image = read_image(files / "template.nii.gz")
    write_label(files / "template_label.nii.gz", np.zeros(image.array.shape, np.uint8), image)
    assert predict() == 1
    assert "must hold a structure" in capsys.readouterr().err


def test_the_affine_is_the_images_own_bit_for_bit(files, predict):
    assert predict() == 0
    affines = [nibabel.load(files / name).affine for name in ("mask.nii.gz", "image.nii.gz")]
    np.testing.assert_array_equal(*affines)


def test_promptseg_reads_several_templates_and_records_their_weights(files, promptseg_weights, capsys):
    out, label = files / "mask.nii.gz", files / "template_label.nii.gz"
    several = ["--template", files / "template.nii.gz", files / "image.nii.gz", "--label", label, label]
    words = [files / "image.nii.gz", *several, "--out", out, "--model", "promptseg"]
    assert main([str(word) for word in (*words, "--weights", promptseg_weights)]) == 0
    record = json.loads((files / "mask.json").read_text())
    assert record["model"] == "promptseg"
    assert record["templates"] == ["template.nii.gz", "image.nii.gz"]
    assert [one["name"] for one in record["template_files"]] == record["templates"]
    for weights in record["template_weights"].values():
        assert weights.keys() == set(record["templates"])
    assert main([str(word) for word in (*words, "--label", label, "--weights", promptseg_weights, "--force")]) == 1
    assert "every template needs its label, got 2 images and 1 labels" in capsys.readouterr().err

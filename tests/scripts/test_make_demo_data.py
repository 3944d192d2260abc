import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from scripts.make_demo_data import main, plan_studies, write_demo_data, write_demo_series
from scripts.phantoms.dicom_series import make_uid, write_series
from scripts.phantoms.phantom import grid_affine, make_phantom

SMALL = (32, 32, 8)


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_series(folder):
    """Array (i, j, k) and RAS affine, as a reader that knows nothing of this project sees the series."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.fixture(scope="module")
def study_list(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "demo"
    write_demo_data(out, count=8, seed=5, size=SMALL, modality="mixed")
    return out


def test_same_arguments_give_the_same_files(study_list, tmp_path):
    write_demo_data(tmp_path / "again", count=8, seed=5, size=SMALL, modality="mixed")
    assert files_in(tmp_path / "again") == files_in(study_list)


def test_a_list_of_series_alone_has_the_same_series_of_both_modalities(study_list, tmp_path):
    plan = write_demo_series(tmp_path / "series", count=2, seed=5, size=SMALL, modality="mixed")
    assert [study.modality for study in plan] == ["CT", "MR"]
    assert [any(study.tilt) for study in plan] == [False, True]
    made = files_in(tmp_path / "series" / "studies")
    assert {path.parts[0] for path in made} == {study.id for study in plan}
    assert made.items() <= files_in(study_list / "studies").items()


def test_a_study_does_not_depend_on_how_many_follow_it(study_list, tmp_path):
    write_demo_data(tmp_path / "short", count=2, seed=5, size=SMALL, modality="mixed")
    whole = files_in(study_list / "studies")
    assert all(whole[name] == content for name, content in files_in(tmp_path / "short" / "studies").items())


def test_another_seed_gives_other_studies(study_list, tmp_path):
    write_demo_data(tmp_path / "other", count=1, seed=6, size=SMALL, modality="mixed")
    name = "studies/phantom_001.nii.gz"
    assert (tmp_path / "other" / name).read_bytes() != (study_list / name).read_bytes()


def test_every_study_has_its_truth_on_the_same_grid(study_list):
    studies = sorted((study_list / "studies").iterdir())
    assert len(studies) == 8
    for study in studies:
        truth = nib.load(study_list / "truth" / f"{study.name.removesuffix('.nii.gz')}.nii.gz")
        if study.is_dir():
            array, affine = read_series(study)
        else:
            image = nib.load(study)
            array, affine = np.asarray(image.dataobj), image.affine
        assert truth.shape == array.shape
        np.testing.assert_allclose(truth.affine, affine, atol=1e-4)


def test_truth_holds_only_values_that_the_list_names(study_list):
    names = json.loads((study_list / "dataset.json").read_text())["labels"]
    assert names["1"] == "liver"
    for path in (study_list / "truth").iterdir():
        assert set(np.unique(np.asarray(nib.load(path).dataobj))) <= {0, *map(int, names)}


def test_a_series_folder_is_named_by_the_id_that_readers_find_inside(study_list):
    folders = [study for study in (study_list / "studies").iterdir() if study.is_dir()]
    assert len(folders) == 2
    for folder in folders:
        assert {pydicom.dcmread(path).SeriesInstanceUID for path in folder.iterdir()} == {folder.name}


def test_the_list_has_series_and_oblique_and_flipped_studies_and_both_modalities():
    plan = plan_studies(8, 0, SMALL, "mixed")
    assert [study.dicom for study in plan].count(True) == 2
    assert any(study.dicom and any(study.tilt) for study in plan)
    assert {study.axes for study in plan} == {"RAS", "LPS", "LAS"}
    assert {study.modality for study in plan} == {study.modality for study in plan if study.dicom} == {"CT", "MR"}
    assert all(study.spacing[2] > 1.5 * study.spacing[0] for study in plan)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_series_reads_back_as_the_array_it_was_written_from(tmp_path, modality):
    phantom = make_phantom(1, SMALL, (11, 11.5, 26), modality=modality, tilt=(8, -5, 10))
    write_series(
        tmp_path / "series", phantom.array, phantom.affine, uid=str(make_uid("one")), patient="one", modality=modality
    )
    array, affine = read_series(tmp_path / "series")
    np.testing.assert_array_equal(array, phantom.array)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-4)


def test_a_series_has_one_uid_and_the_modality(tmp_path):
    phantom = make_phantom(1, SMALL, (11, 11, 26))
    write_series(
        tmp_path / "series", phantom.array, phantom.affine, uid=str(make_uid("one")), patient="one", modality="CT"
    )
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "series").iterdir())]
    assert {s.SeriesInstanceUID for s in slices} == {make_uid("one")} != {make_uid("two")}
    assert len({s.SOPInstanceUID for s in slices}) == len(slices) == SMALL[2]
    assert {s.Modality for s in slices} == {"CT"}


def test_a_series_whose_slices_would_be_read_in_reverse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="right-handed"):
        write_series(
            tmp_path / "series",
            np.zeros((4, 4, 4), np.int16),
            grid_affine((4, 4, 4), (1, 1, 1), "LPI"),
            uid="2.25.1",
            patient="x",
            modality="CT",
        )


def test_values_that_the_modality_cannot_store_are_refused(tmp_path):
    with pytest.raises(ValueError, match="MR values must be 0 or more, got -1"):
        write_series(
            tmp_path / "series",
            np.full((4, 4, 4), -1, np.int16),
            grid_affine((4, 4, 4), (1, 1, 1)),
            uid="2.25.1",
            patient="x",
            modality="MR",
        )


def test_a_folder_with_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert main([str(tmp_path), "--studies", "1"]) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "reason"), [(["--studies", "0"], "1 or more, got 0"), (["--size", "8", "8", "2"], "at least")]
)
def test_arguments_that_make_no_list_are_refused_and_leave_nothing(tmp_path, capsys, arguments, reason):
    assert main([str(tmp_path / "new"), *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_says_what_it_made(tmp_path, capsys):
    assert main([str(tmp_path / "new"), "--studies", "3", "--size", "32", "32", "8"]) == 0
    assert "3 studies, 1 of them DICOM series" in capsys.readouterr().out

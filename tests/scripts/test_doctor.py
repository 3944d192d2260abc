import numpy as np
import pytest

from scripts import doctor
from scripts.phantoms.dicom_series import write_series
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    write_nifti(studies / "s1.nii.gz", organ_volume(0)[0])
    write_nifti(studies / "labels" / "final" / "s1.nii.gz", organ_volume(0)[1])
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(studies / "d", array, np.eye(4), uid="1.2.1", patient="P", modality="MR")
    return studies


def run(folder, capsys, *options):
    code = doctor.main([str(folder), *options])
    return code, capsys.readouterr().out


def test_a_healthy_folder_is_listed_and_left_as_it_is(folder, capsys):
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    code, out = run(folder, capsys)
    assert code == 0
    assert "  s1.nii.gz: image of s1" in out
    assert "  labels/final/s1.nii.gz: label of s1" in out
    assert "d/0001.dcm: image of 1.2.1 (one of 3 files of a DICOM series)" in out
    assert "s1: 24 x 20 x 8 voxels" in out
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_what_is_left_out_or_cannot_be_read_is_told_with_the_reason(folder, capsys):
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    write_nifti(folder / "labels" / "final" / "s1-label.nii.gz", organ_volume(0)[1])
    (folder / "torn.nii.gz").write_bytes(b"torn")
    code, out = run(folder, capsys)
    assert code == 1
    for line in (
        "! gone.nii.gz: left out",
        "! labels/final/s1-label.nii.gz: left out (no image",
        "! torn: torn.nii.gz",
    ):
        assert line in out


def test_a_label_that_lies_elsewhere_is_told(folder, capsys):
    write_nifti(folder / "labels" / "final" / "s1.nii.gz", organ_volume(0)[1], np.eye(4))
    code, out = run(folder, capsys)
    assert code == 1
    assert "! s1: its label `final`: s1.nii.gz: a label must lie where its image lies" in out
    assert run(folder, capsys, "--list-only")[0] == 0


def test_a_folder_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        doctor.main([str(tmp_path / "none")])
    assert "must be a folder" in capsys.readouterr().err


def test_linked_folders_are_looked_into_as_the_server_does(folder, capsys, tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    write_series(tmp_path / "archive" / "x", array, np.eye(4), uid="1.2.2", patient="P", modality="MR")
    (folder / "linked").symlink_to(tmp_path / "archive")
    (folder / "again").symlink_to(folder / "d")
    code, out = run(folder, capsys, "--list-only")
    assert code == 0
    assert "  linked/x/0001.dcm: image of 1.2.2" in out
    assert "  again: copy (a link to a folder that is shown by another way)" in out

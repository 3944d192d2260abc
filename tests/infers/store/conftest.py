import pytest

from tests.samples import organ_volume, write_nifti


@pytest.fixture
def folder(tmp_path):
    """A study folder with three volumes, and a label file beside it."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(3):
        write_nifti(studies / f"s{number}.nii.gz", organ_volume(number)[0])
    write_nifti(tmp_path / "label.nii.gz", organ_volume(0)[1])
    return studies

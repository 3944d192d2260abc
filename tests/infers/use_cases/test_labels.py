from dataclasses import replace

import numpy as np
import pytest

from infers.dicom.dicomseg import Maker, read_headers, write_seg
from infers.errors import ClientError
from infers.label_records import FINAL, Statement
from infers.study_list.changes import Changes
from infers.use_cases.labels import Labels
from lib.imaging.images import read_image, read_label, write_label
from tests import dicom_samples as samples
from tests.infers.fakes import FakePredictor, make_studies


@pytest.fixture
def folder(tmp_path):
    samples.write(tmp_path / "studies" / "s", samples.oblique())
    return tmp_path / "studies"


def segmentation(folder, path, structures):
    """A DICOM SEG of the series, and the label that it shows."""
    image = read_image(folder / "s")
    label = np.zeros(image.array.shape, np.uint8)
    label[2:6, 3:7, 1:4] = 1
    label[7:9, 1:3, 2:5] = len(structures)
    write_seg(read_headers(folder / "s"), image, label, structures, by=Maker.MANUAL).save_as(path)
    return label


@pytest.mark.parametrize("structures", [{"liver": 1}, {"liver": 1, "spleen": 2}])
def test_a_dicom_seg_is_saved_with_the_labels_of_its_segments_and_found_again(folder, tmp_path, structures):
    label = segmentation(folder, tmp_path / "a.dcm", structures)
    studies = make_studies(str(folder), FakePredictor())
    (series,) = studies.store.list_images()
    answer = Labels(studies, Changes()).save(series, tmp_path / "a.dcm", FINAL, Statement(), "me")
    assert answer["template"]
    (folder / "datastore_v2.json").unlink()
    again = make_studies(str(folder), FakePredictor())
    assert again.templates().keys() == {series}
    assert set(again.bank.get(series).structures) == set(structures)
    stored = again.store.label(series, FINAL)
    assert stored.path.name.endswith(".nii.gz")
    np.testing.assert_array_equal(read_label(stored.path, again.image(series)), label)


def test_a_dicom_seg_that_somebody_puts_there_is_read_where_it_is(folder):
    studies = make_studies(str(folder), FakePredictor())
    (series,) = studies.store.list_images()
    label = segmentation(folder, folder / "labels" / FINAL / f"{series}.dcm", {"liver": 1, "spleen": 2})
    studies.store.refresh()
    assert studies.templates().keys() == {series}
    template = studies.bank.get(series)
    np.testing.assert_array_equal(np.array(template.prompt_of("spleen").mask), label == 2)


def test_a_label_of_names_in_other_capitals_joins_the_known_structure(folder, tmp_path):
    studies = make_studies(str(folder), FakePredictor())
    (series,) = studies.store.list_images()
    studies.labels.learn(["Liver"])
    image = studies.image(series)
    write_label(tmp_path / "l.nii.gz", np.ones(image.array.shape, np.uint8), image)
    told = Statement(label_info=[{"name": " liver", "idx": 1}])
    Labels(studies, Changes()).save(series, tmp_path / "l.nii.gz", FINAL, told, "me")
    assert studies.store.records(series)[FINAL].structures == {"Liver": 1}
    assert studies.labels.names == {"Liver": 1}


def test_a_label_that_is_sent_again_because_its_answer_was_lost_is_no_conflict(folder, tmp_path):
    studies = make_studies(str(folder), FakePredictor())
    (series,) = studies.store.list_images()
    image = studies.image(series)
    labels, mine, others = Labels(studies, Changes()), tmp_path / "mine.nii.gz", tmp_path / "others.nii.gz"
    label = np.zeros(image.array.shape, np.uint8)
    label[2:6, 3:7, 1:4] = 1
    write_label(mine, label, image)
    write_label(others, label[::-1], image)
    told = Statement(label_info=[{"name": "liver", "idx": 1}], client_id="anna")

    first = labels.save(series, mine, FINAL, told, "me", seen="")
    assert labels.save(series, mine, FINAL, told, "me", seen="")["version"] == first["version"]
    for path, statement in ((others, told), (mine, replace(told, client_id="ben"))):
        with pytest.raises(ClientError, match="meanwhile"):
            labels.save(series, path, FINAL, statement, "me", seen="")
    assert labels.save(series, others, FINAL, told, "me", seen=first["version"])["version"] != first["version"]

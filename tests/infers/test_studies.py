from pathlib import Path

import numpy as np
import pytest

from infers.datastore import AUTOMATIC, FINAL
from infers.errors import ClientError
from infers.studies import result_params
from lib.predictor import Prediction
from tests.infers.fakes import FakePredictor, make_studies
from tests.samples import organ_volume, write_nifti


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(3):
        write_nifti(studies / f"s{number}.nii.gz", organ_volume(number)[0])
    mask = organ_volume(0)[1]
    write_nifti(tmp_path / "one.nii.gz", mask)
    write_nifti(tmp_path / "two.nii.gz", mask * 2)
    return studies


def save(studies, image_id, file, info):
    path = Path(studies.store._datastore_path).parent / file
    studies.store.save_label(image_id, str(path), FINAL, {"label_info": info} if info else {})


def test_labels_are_mapped_by_name_for_each_study(folder):
    studies = make_studies(str(folder), FakePredictor())
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    save(studies, "s1", "two.nii.gz", [{"name": "spleen", "idx": 1}, {"name": "liver", "idx": 2}])
    studies.templates()
    assert studies.labels.names == {"liver": 1}  # spleen is named but not painted
    template = studies.bank.get("s1")
    assert template.structures == ("liver",)
    np.testing.assert_array_equal(template.prompt_of("liver").mask, organ_volume(0)[1] == 1)


def test_values_that_nothing_names_are_the_configured_labels(folder):
    studies = make_studies(str(folder), FakePredictor(), "liver", "spleen")
    save(studies, "s0", "two.nii.gz", None)
    assert studies.templates().keys() == {"s0"}
    assert studies.bank.get("s0").structures == ("spleen",)
    other = make_studies(str(folder), FakePredictor())
    other.labels.path.unlink()
    assert other.bank.ids == ()
    other.templates()
    assert other.bank.get("s0").structures == ("label_2",)


def test_a_broken_final_label_is_reported_and_the_others_serve(folder):
    studies = make_studies(str(folder), FakePredictor())
    (folder / "labels" / "final" / "s2.nii.gz").write_bytes(b"torn")
    write_nifti(folder / "labels" / "final" / "s1.nii.gz", np.zeros((24, 20, 8), np.uint8))
    studies.store.refresh()
    save(studies, "s0", "one.nii.gz", None)
    assert studies.templates().keys() == {"s0"}
    assert studies.problems.keys() == {"s1", "s2"}
    assert "empty" in studies.problems["s1"]


def test_a_study_is_not_its_own_template_while_there_are_others(folder):
    studies = make_studies(str(folder), FakePredictor())
    save(studies, "s0", "one.nii.gz", None)
    assert studies.segment("s0", studies.image("s0")).provenance["templates"] == ["s0"]
    save(studies, "s1", "one.nii.gz", None)
    assert studies.segment("s0", studies.image("s0")).provenance["templates"] == ["s1"]
    assert studies.segment(None, studies.image("s0")).provenance["templates"] == ["s0", "s1"]


def test_only_what_was_asked_for_is_segmented(folder):
    studies = make_studies(str(folder), FakePredictor())
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    with pytest.raises(ClientError, match="for spleen: save one study first") as caught:
        studies.segment("s2", studies.image("s2"), {"spleen": 7})
    assert caught.value.status == 409


def test_the_key_follows_templates_weights_and_names(folder):
    predictor = FakePredictor()
    studies = make_studies(str(folder), predictor)
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    keys = [studies.key(), studies.key()]
    predictor.weights_hash = "second"
    keys.append(studies.key())
    save(studies, "s0", "one.nii.gz", [{"name": "spleen", "idx": 1}])
    keys.append(studies.key())
    save(studies, "s1", "one.nii.gz", None)
    keys.append(studies.key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_stored_mask_counts_only_while_it_is_what_would_be_made_now(folder):
    predictor = FakePredictor()
    studies = make_studies(str(folder), predictor)
    save(studies, "s0", "one.nii.gz", None)
    image = studies.image("s1")
    assert studies.automatic("s1") is None
    assert studies.store_automatic("s1", image, studies.segment("s1", image))
    assert studies.automatic("s1").path == folder / "labels" / AUTOMATIC / "s1.nii.gz"
    assert studies.pending() == ["s2"]
    predictor.weights_hash = "second"
    assert studies.automatic("s1") is None
    assert studies.pending() == ["s1", "s2"]


def test_label_names_hold_only_what_the_mask_holds_in_the_order_of_indices():
    mask = np.array([[0, 5], [2, 0]], np.uint8)
    told = result_params(Prediction(mask, {"a": 5, "b": 3, "c": 2}, {"a": 0.5}, {"weights": "w", "quality": {}}))
    assert list(told["label_names"].items()) == [("c", 2), ("a", 5)]
    assert told["quality"] == {"a": 0.5}
    assert told["weights"] == "w"

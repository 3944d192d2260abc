from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infers.errors import ClientError
from infers.label_records import AUTOMATIC, FINAL, ON_BOARD, LabelRecord, Statement
from infers.study_list.studies import Studies, result_params
from lib.imaging.images import read_label
from lib.imaging.volumes import Stack
from lib.segmenters.contract import Prediction
from lib.segmenters.list_unet import ListUNetSegmenter
from lib.segmenters.second_opinion import SecondOpinion
from tests.infers.fakes import FakeClosedSet, FakePredictor, make_studies
from tests.samples import organ_volume, segmentation, write_nifti


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
    np.testing.assert_array_equal(np.array(template.prompt_of("liver").mask), organ_volume(0)[1] == 1)


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


@pytest.mark.parametrize(("most", "expected"), [(None, ["s1"]), (2, ["s1", "s0"])])
def test_a_study_gets_as_many_templates_as_the_model_asks_unless_the_list_says_how_many(folder, most, expected):
    predictor = FakePredictor()
    predictor.capabilities = replace(predictor.capabilities, usual_templates=1)
    studies = make_studies(str(folder), predictor, most=most)
    save(studies, "s0", "one.nii.gz", None)
    save(studies, "s1", "one.nii.gz", None)
    assert studies.segment("s2", studies.image("s2")).provenance["templates"] == expected


def test_the_key_follows_templates_weights_and_names(folder):
    predictor = FakePredictor()
    studies = make_studies(str(folder), predictor)
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    keys = [studies.state(), studies.state()]
    predictor.weights_hash = "second"
    keys.append(studies.state())
    save(studies, "s0", "one.nii.gz", [{"name": "spleen", "idx": 1}])
    keys.append(studies.state())
    save(studies, "s1", "one.nii.gz", None)
    keys.append(studies.state())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_stored_mask_counts_only_while_it_is_what_would_be_made_now(folder):
    predictor = FakePredictor()
    studies = make_studies(str(folder), predictor)
    save(studies, "s0", "one.nii.gz", None)
    image = studies.image("s1")
    assert studies.automatic("s1", image) is None
    assert studies.store_automatic("s1", image, studies.segment("s1", image))
    assert studies.automatic("s1", image).path == folder / "labels" / AUTOMATIC / "s1.nii.gz"
    assert studies.pending() == ["s2"]
    predictor.weights_hash = "second"
    assert studies.automatic("s1", image) is None
    assert studies.pending() == ["s1", "s2"]


class Corner:
    """A specialist that finds its structure in the first corner of every image."""

    structures, weight = ("liver", "elsewhere"), 0.75

    def __init__(self, hash):
        self.hash = hash

    def opinion(self, image, names=None, control=None):
        stack = Stack.of(image)
        corner = np.full(image.array.shape, -9.0)
        corner[:2, :2, :2] = 9
        return SecondOpinion(stack, {"liver": stack.slices_of(corner), "elsewhere": stack.slices_of(-corner)}, 0.75)


def test_a_specialist_is_heard_on_what_it_learnt_and_named_in_the_record_of_the_masks(folder):
    plain = make_studies(str(folder), FakePredictor())
    save(plain, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    offered, alone = [], FakePredictor()
    studies = Studies(
        plain.store,
        plain.labels,
        lambda: ListUNetSegmenter(alone, offered[0]) if offered else alone,
        4,
        plain.descriptors,
        by_templates=lambda: alone,
    )
    image = studies.image("s1")
    before = studies.segment("s1", image)
    assert "specialist" not in before.provenance
    assert studies.state() == plain.state()  # masks of lists without one are not made again
    studies.store_automatic("s1", image, before)
    assert studies.automatic("s1", image)
    offered.append(Corner("one"))
    assert studies.automatic("s1", image) is None
    assert sorted(studies.pending()) == ["s1", "s2"]
    after = studies.segment("s1", image)
    assert np.argwhere(after.mask == 1).max() == 1
    assert after.provenance["specialist"] == {"weights": "one", "share": 0.75, "structures": ["liver"]}
    assert "specialist" not in studies.segment("s1", image, by_templates_alone=True).provenance
    studies.store_automatic("s1", image, after)
    assert studies.automatic("s1", image)
    offered[:] = [Corner("another")]
    assert studies.automatic("s1", image) is None


def test_a_model_of_a_closed_vocabulary_segments_the_list_without_templates(folder):
    model = FakeClosedSet("liver", "spleen")
    studies = make_studies(str(folder), model, "kidney", "liver")
    assert studies.pending() == ["s0", "s1", "s2"]
    image = studies.image("s1")
    made = studies.segment("s1", image)
    assert (dict(made.labels), model.asked) == ({"liver": 2}, [0])
    studies.store_automatic("s1", image, made)
    assert studies.automatic("s1", image)
    assert studies.pending() == ["s0", "s2"]
    with pytest.raises(ClientError, match="no template yet for kidney"):
        studies.segment("s1", image, {"kidney": 1})


def test_accepted_masks_are_told_apart_from_labels_that_somebody_drew(folder):
    studies = make_studies(str(folder), FakePredictor())
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    path = Path(studies.store._datastore_path).parent / "one.nii.gz"
    named = {"label_info": [{"name": "liver", "idx": 1}]}
    studies.store.save_label("s1", str(path), FINAL, {"accepted": ON_BOARD, **named})
    studies.store.save_label("s2", str(path), FINAL, {"accepted": "interactive result", **named})
    assert {study.id: study.manually_annotated for study in studies.labelled()} == {"s0": True, "s1": False, "s2": True}


def test_label_names_number_every_index_in_order_as_slicer_counts_them():
    mask = np.array([[0, 5], [2, 0]], np.uint8)
    prediction = Prediction(mask, {"a": 5, "b": 3, "c": 2}, {"a": 0.5}, {"weights": "w", "quality": {}})
    told = result_params(prediction, {"first": 1, "c": 2, "later": 9})
    assert list(told["label_names"].items()) == [("first", 1), ("c", 2), ("b", 3), ("label_4", 4), ("a", 5)]
    assert told["structures"] == {"c": 2, "a": 5}  # those that are there
    assert told["quality"] == {"a": 0.5}
    assert told["weights"] == "w"


def segment_all(studies, qualities):
    """Automatic masks with a predicted Dice."""
    for image_id, quality in qualities.items():
        image = studies.image(image_id)
        made = studies.segment(image_id, image)
        studies.store_automatic(
            image_id, image, Prediction(made.mask, made.labels, {"liver": quality}, made.provenance)
        )


def test_masks_of_older_weights_are_made_again_worst_predicted_first(folder):
    write_nifti(folder / "s3.nii.gz", organ_volume(3)[0])
    studies = make_studies(str(folder), FakePredictor(), "liver")
    save(studies, "s3", "one.nii.gz", None)
    segment_all(studies, {"s0": 0.9, "s1": 0.2})
    assert studies.pending() == ["s2"]
    segment_all(studies, {"s2": 0.5})
    assert studies.pending() == []
    assert make_studies(str(folder), FakePredictor("other"), "liver").pending() == ["s1", "s2", "s0"]


def test_a_mask_of_older_weights_answers_until_it_is_made_again(folder):
    studies = make_studies(str(folder), FakePredictor(), "liver")
    save(studies, "s0", "one.nii.gz", None)
    segment_all(studies, {"s1": 0.9})
    newer = make_studies(str(folder), FakePredictor("other"), "liver")
    image = newer.image("s1")
    assert newer.automatic("s1", image) is None
    assert newer.automatic("s1", image, older_weights=True) is not None
    # Where nothing is made again by itself, it would answer for ever
    still = Studies(newer.store, newer.labels, lambda: FakePredictor("other"), 4, newer.descriptors, refreshed=False)
    assert still.automatic("s1", image, older_weights=True) is None
    save(newer, "s2", "one.nii.gz", None)  # another template is another matter
    assert newer.automatic("s1", image, older_weights=True) is None


def named(studies):
    save(studies, "s0", "one.nii.gz", [{"name": "liver", "idx": 1}])
    image = studies.image("s1")
    studies.store_automatic("s1", image, studies.segment("s1", image))
    return studies.store.label("s1", AUTOMATIC).path


def test_the_apps_own_mask_that_comes_back_without_names_has_those_of_its_record(folder):
    studies = make_studies(str(folder), FakePredictor())
    mask = named(studies)
    assert studies.check_label("s1", mask, Statement()) == {"liver": 1}
    (folder / "labels" / FINAL / "s1.nii.gz").write_bytes(mask.read_bytes())
    studies.store.refresh()
    studies.templates()
    assert studies.bank.get("s1").structures == ("liver",)
    assert studies.labels.names == {"liver": 1}


def test_a_label_over_a_named_one_has_its_names(folder):
    studies = make_studies(str(folder), FakePredictor())
    named(studies)
    label = folder.parent / "two.nii.gz"
    names = {"spleen": 2}
    studies.store.save("s2", label, FINAL, LabelRecord(structures=names))
    assert studies.check_label("s2", label, Statement()) == names


def test_a_label_in_the_folder_whose_values_fit_nothing_is_a_problem_until_it_is_named(folder):
    studies = make_studies(str(folder), FakePredictor())
    named(studies)
    write_nifti(folder / "labels" / FINAL / "s2.nii.gz", organ_volume(0)[1] * 9)
    studies.store.refresh()
    assert "s2" not in studies.templates()
    assert "label_info" in studies.problems["s2"]
    told = Statement(label_info=[{"name": "Liver", "idx": 9}])
    studies.store.amend("s2", FINAL, lambda record: record.described(told, "me"))
    assert "s2" in studies.templates()
    assert studies.bank.get("s2").structures == ("liver",)
    assert "s2" not in studies.problems


def test_a_segmentation_of_3d_slicer_in_the_folder_names_its_structures(folder):
    studies = make_studies(str(folder), FakePredictor())
    segmentation(folder / "labels" / FINAL / "s2.seg.nrrd", organ_volume(0)[1], studies.image("s2").affine)
    studies.store.refresh()
    assert studies.templates().keys() == {"s2"}
    assert studies.bank.get("s2").structures == ("Kidney",)


def test_a_segmentation_is_saved_as_a_label_map_with_its_names(folder):
    studies = make_studies(str(folder), FakePredictor())
    mask = organ_volume(0)[1]
    segmentation(folder.parent / "a.seg.nrrd", mask, studies.image("s2").affine)
    with studies.as_label_map("s2", folder.parent / "a.seg.nrrd", Statement()) as (path, statement):
        assert path.name.endswith(".nii.gz")
        assert statement.label_names == {"Kidney": 4}
        np.testing.assert_array_equal(read_label(path, studies.image("s2")), mask * 4)
    with studies.as_label_map("s2", folder.parent / "one.nii.gz", Statement()) as (path, statement):
        assert path == folder.parent / "one.nii.gz"
        assert statement == Statement()

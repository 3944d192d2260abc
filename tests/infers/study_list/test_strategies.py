import time
import tracemalloc

import numpy as np
import pytest

from infers.label_records import AUTOMATIC, FINAL
from infers.study_list.predicted_quality import PredictedQuality
from infers.study_list.strategies import HANDED_OUT, strategies
from lib.inference.ranking import representativeness
from tests.infers.fakes import FakePredictor, make_studies, mask_record
from tests.samples import organ_volume, write_nifti

COUNT = 5


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(COUNT):
        write_nifti(folder / f"s{number}.nii.gz", organ_volume(number)[0])
    write_nifti(tmp_path / "label.nii.gz", organ_volume(0)[1])
    return make_studies(str(folder), FakePredictor())


def given(studies, name):
    """What a client is given, noted as MONAI Label notes it."""
    found = strategies(studies)[name]({"strategy": name}, studies.store)
    if found:
        studies.store.update_image_info(found["id"], {"strategy": {name: {"ts": int(time.time()), "client_id": "c"}}})
    return found and found["id"]


def label(studies, image_id, tmp_path, tag=FINAL, **info):
    told = {"label_info": [{"name": "organ", "idx": 1}], **info}
    studies.store.save_label(image_id, str(tmp_path / "label.nii.gz"), tag, told)


def mask(studies, image_id, tmp_path, quality):
    studies.store.save_automatic(
        image_id, tmp_path / "label.nii.gz", mask_record(quality={"organ": quality}), studies.models
    )


def test_the_first_study_is_the_one_most_like_all_others(studies):
    looks = np.stack([studies.descriptors.of(f"s{number}") for number in range(COUNT)])
    assert given(studies, "oneprompt_first") == f"s{representativeness(looks).argmax()}"


def test_the_next_study_is_one_whose_mask_is_predicted_to_be_bad(studies, tmp_path):
    for number in range(COUNT):
        studies.descriptors.of(f"s{number}")
    label(studies, "s0", tmp_path)
    for number in range(1, COUNT):
        mask(studies, f"s{number}", tmp_path, 0.1 if number == 3 else 0.99)
    assert given(studies, "oneprompt_next") == "s3"


def test_a_rejected_mask_is_worth_correcting_whatever_was_predicted(studies, tmp_path):
    for number in range(COUNT):
        studies.descriptors.of(f"s{number}")
    label(studies, "s0", tmp_path)
    for number in range(1, COUNT):
        mask(studies, f"s{number}", tmp_path, 0.99)
    studies.store.update_label_info("s2", AUTOMATIC, {"rejected": {"user": "anna"}})
    assert given(studies, "oneprompt_next") == "s2"


def test_two_annotators_are_given_two_studies(studies, monkeypatch):
    for number in range(COUNT):
        studies.descriptors.of(f"s{number}")
    everyone = [given(studies, "oneprompt_next") for _ in range(COUNT)]
    assert sorted(everyone) == [f"s{number}" for number in range(COUNT)]
    assert given(studies, "oneprompt_next") in everyone  # more annotators than studies: better twice than nothing
    for other_time in (time.time() + HANDED_OUT, time.time() - 86_400):  # the second where the clock was set back
        monkeypatch.setattr("infers.study_list.strategies.time.time", lambda now=other_time: now)
        assert given(studies, "oneprompt_next") == everyone[0]


@pytest.mark.parametrize("name", ["oneprompt_next", "oneprompt_first", "random", "first"])
def test_a_single_study_is_given_until_it_has_a_label(studies, tmp_path, name):
    for number in range(1, COUNT):
        studies.store.remove_image(f"s{number}")
    assert [given(studies, name) for _ in range(3)] == ["s0"] * 3
    label(studies, "s0", tmp_path)
    assert given(studies, name) is None


def test_studies_that_nobody_looked_at_yet_come_in_the_lists_order(studies):
    studies.descriptors.refresh = lambda: None  # nothing in the background
    assert [given(studies, "oneprompt_next") for _ in range(2)] == ["s0", "s1"]
    studies.descriptors.of("s4")
    assert given(studies, "oneprompt_next") == "s4"


class Id(str):
    """Counts how often ids are compared, which a look for one in a list does for each before it."""

    compared = 0

    def __eq__(self, other):
        Id.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_ten_times_the_studies_take_no_more_than_ten_times_the_work():
    def work(count):
        """Comparisons of ids, questions to the datastore, and bytes of memory that one answer takes."""
        looks = np.random.default_rng(0).normal(0, 1, (count, 64)).astype(np.float32)
        ids = [Id(f"s{number}") for number in range(count)]
        record = mask_record(quality={"organ": 0.5})
        questions = 0

        class Store:
            def get_unlabeled_images(self):
                return ids

            def get_image_info(self, image_id):
                nonlocal questions
                questions += 1
                return {}

            def records(self, image_id):
                nonlocal questions
                questions += 1
                return {"original": record}

        class Descriptors:
            def refresh(self):
                raise AssertionError("all are described")

            def known(self, wanted):
                known = list(wanted)
                return known, looks[: len(known)]

        class Studies:
            store, descriptors, models, quality = Store(), Descriptors(), {"oneprompt"}, PredictedQuality()

            def templates(self):
                return dict.fromkeys(ids[:20], "checksum")

        next_to_label = strategies(Studies())["oneprompt_next"]
        Id.compared = 0
        tracemalloc.start()
        assert next_to_label({"strategy": "oneprompt_next"}, None)["id"]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return Id.compared, questions, most

    for few, many in zip(work(1_000), work(10_000), strict=True):
        assert many <= 30 * max(few, 1_000)  # the square would be a hundred times

"""A manifest that grows, is joined, and survives what ends its writer."""

import numpy as np
import pyarrow.dataset
import pytest

from scripts.archive.manifest import FOLDER, Manifest, is_among, study_hash
from scripts.archive.rows import FAILED, SEGMENTED, Row, content_digest
from scripts.archive.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


def rows(*studies, state=SEGMENTED):
    return [Row(study, state, "organ", 1, 5, 0.5, 0.25, 0.75, ["fragments"], key=study) for study in studies]


def test_rows_come_back_as_they_were_given(storage):
    Manifest(storage).append(rows("a"))
    assert Manifest(storage).rows() == [{**rows("a")[0].to_dict(), "templates": []}]


def test_small_parts_are_joined_without_losing_or_doubling_a_row(storage):
    manifest = Manifest(storage)
    for name in "abc":
        manifest.append(rows(name))
    before = content_digest(manifest.rows())
    manifest.join_parts(at_least=3)
    assert len(storage.names(FOLDER)) == 1
    assert content_digest(manifest.rows()) == before


@pytest.mark.parametrize("step", ["remove", "rename"])
def test_a_join_that_was_cut_off_is_finished_by_the_next_start_and_never_shows_a_row_twice(storage, monkeypatch, step):
    manifest = Manifest(storage)
    for name in "abc":
        manifest.append(rows(name))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, step, die)
        with pytest.raises(KeyboardInterrupt):
            manifest.join_parts(at_least=3)
    plain = pyarrow.dataset.dataset(f"{storage.address}/{FOLDER}", format="parquet")
    studies = plain.to_table()["study"].to_pylist() if plain.files else []
    assert len(studies) == len(set(studies))
    assert sorted(row["study"] for row in Manifest(storage).rows()) == ["a", "b", "c"]


def test_studies_of_a_state_are_dropped_to_be_tried_again(storage):
    manifest = Manifest(storage)
    manifest.append([*rows("a"), *rows("b", state=FAILED)])
    assert manifest.drop([FAILED]) == 1
    assert [row["study"] for row in manifest.rows()] == ["a"]


def test_done_studies_are_known_by_eight_bytes_each(storage):
    manifest = Manifest(storage)
    manifest.append(rows("a", "b"))
    known = manifest.studies()
    assert known.dtype == np.uint64
    assert [is_among(name, known) for name in "abc"] == [True, True, False]
    assert not is_among("a", np.zeros(0, np.uint64))
    assert study_hash("a") != study_hash("b")


def test_the_digest_forgets_order_and_what_is_measured_but_nothing_else(storage):
    one, other = rows("a", "b"), rows("b", "a")
    assert content_digest([row.to_dict() for row in one]) == content_digest([row.to_dict() for row in other])
    slow = [{**row.to_dict(), "seconds": 9.0, "worker": "w"} for row in one]
    assert content_digest(slow) == content_digest([row.to_dict() for row in one])
    wrong = [{**row.to_dict(), "dice": 0.4} for row in one]
    assert content_digest(wrong) != content_digest([row.to_dict() for row in one])

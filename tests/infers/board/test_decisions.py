"""Decisions on a study list whose masks come from a predictor that answers at once."""

import io
import threading

import numpy as np
import pytest
from PIL import Image as Pillow

import infers.store.presence
from infers.board.board import Board
from infers.errors import NotFound
from infers.jobs.propagation import Propagation
from infers.label_records import AUTOMATIC, FINAL, WITHDRAWN
from infers.serving.priority_lock import PriorityLock
from infers.store.datastore import StudyStore
from infers.study_list.acceptance import Acceptance
from infers.study_list.pending_results import PendingResults
from infers.study_list.rows import Wanted
from infers.study_list.template_check import TemplateCheck
from lib.imaging.files import write_atomically
from lib.imaging.images import read_label
from lib.segmenters.contract import Prediction
from tests.infers.fakes import FakePredictor, make_studies, mask_record
from tests.samples import organ_volume, write_nifti

COUNT = 5


class Office:
    """A board on five studies: s0 has a person's label, the others have automatic masks; no job runs."""

    def __init__(self, folder):
        (folder / "studies").mkdir()
        for number in range(COUNT):
            write_nifti(folder / "studies" / f"s{number}.nii.gz", organ_volume(number)[0])
        self.label = write_nifti(folder / "label.nii.gz", organ_volume(0)[1])
        self.studies = make_studies(str(folder / "studies"), FakePredictor())
        self.store, self.changes = self.studies.store, []
        offers = PendingResults(self.store.state / "offers")
        self.acceptance = Acceptance(self.store, offers, 60, self.changes.append, self.studies.labels.learn)
        job = Propagation(self.studies, PriorityLock(), self.store.state)
        health = TemplateCheck(self.studies)
        self.board = Board(self.studies, job, self.acceptance, lambda: self.changes.append("changed"), health)
        self.decisions = self.board.decisions
        self.submit("s0")
        self.segment()

    def submit(self, image_id):
        info = {"label_info": [{"name": "organ", "idx": 1}], "user": "a person"}
        self.store.save_label(image_id, str(self.label), FINAL, info)

    def segment(self):
        """What the job does."""
        for image_id in self.studies.pending():
            image = self.studies.image(image_id)
            self.studies.store_automatic(image_id, image, self.studies.segment(image_id, image))

    def status(self):
        return {row.id: row.status for row in self.board.rows()}


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


def test_accepting_makes_a_template_with_its_author_and_what_made_it(office):
    outcome = office.decisions.accept(["s1", "s2"], "Ada", {})
    assert outcome.done == ["s1", "s2"]
    assert outcome.refused == {}
    final, mask = office.store.label("s1", FINAL), office.store.label("s1", AUTOMATIC)
    assert final.checksum == mask.checksum
    assert final.record.to_json()["user"] == "Ada"
    assert final.record.to_json()["provenance"]["templates"] == ["s0"]
    assert final.record.to_json()["provenance"]["weights"] == "first"
    assert office.studies.templates().keys() == {"s0", "s1", "s2"}
    assert office.studies.pending() == ["s3", "s4"]
    assert office.status() == {
        "s0": "template",
        "s1": "accepted",
        "s2": "accepted",
        "s3": "automatic",
        "s4": "automatic",
    }
    assert office.changes == ["changed"]


def test_a_persons_label_is_neither_overwritten_nor_undone(office):
    before = office.store.label("s0", FINAL)
    for outcome in (
        office.decisions.accept(["s0"], "Ada", {}),
        office.decisions.reject(["s0"], "Ada", {}),
        office.decisions.undo(["s0"]),
        office.decisions.run_again(["s0"]),
    ):
        assert outcome.done == []
        assert "s0" in outcome.refused
    assert office.store.label("s0", FINAL) == before


def test_a_label_submitted_over_an_accepted_one_cannot_be_undone(office):
    office.decisions.accept(["s1"], "Ada", {})
    office.submit("s1")
    assert "person submitted" in office.decisions.undo(["s1"]).refused["s1"]
    assert office.store.get_label_info("s1", FINAL)["user"] == "a person"


def test_undoing_an_acceptance_leaves_the_mask_as_it_was(office):
    before = office.store.label("s1", AUTOMATIC)
    office.decisions.accept(["s1"], "Ada", {})
    assert office.decisions.undo(["s1"]).done == ["s1"]
    assert office.store.label("s1", FINAL) is None
    assert office.store.label("s1", AUTOMATIC) == before
    assert office.studies.pending() == []
    assert "neither" in office.decisions.undo(["s1"]).refused["s1"]


def test_a_mask_made_anew_since_it_was_shown_is_not_accepted(office):
    seen = {"s1": "0123456789abcdef"}
    assert "changed since" in office.decisions.accept(["s1"], "Ada", seen).refused["s1"]
    assert "changed since" in office.decisions.reject(["s1"], "Ada", seen).refused["s1"]
    shown = office.store.label("s1", AUTOMATIC).checksum[:16]
    assert office.decisions.accept(["s1"], "Ada", {"s1": shown}).done == ["s1"]


def test_of_two_who_accept_at_once_one_succeeds(office):
    outcomes = []
    both = [
        threading.Thread(target=lambda name=name: outcomes.append(office.decisions.accept(["s1", "s2"], name, {})))
        for name in ("Ada", "Grace")
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(outcomes[0].done + outcomes[1].done) == ["s1", "s2"]


def test_a_rejected_mask_stays_until_the_templates_change(office):
    assert office.decisions.reject(["s1"], "Ada", {}).done == ["s1"]
    assert office.status()["s1"] == "rejected"
    assert office.studies.pending() == []
    assert {row.id: row.author for row in office.board.rows()}["s1"] == "Ada"
    office.submit("s4")
    assert office.studies.pending() == ["s1", "s2", "s3"]
    office.segment()
    assert office.status()["s1"] == "automatic"


def test_undoing_a_rejection_and_accepting_after_one_both_work(office):
    office.decisions.reject(["s1", "s2"], "Ada", {})
    assert office.decisions.undo(["s1"]).done == ["s1"]
    assert office.decisions.accept(["s2"], "Ada", {}).done == ["s2"]
    assert (office.status()["s1"], office.status()["s2"]) == ("automatic", "accepted")


def test_a_label_kept_out_of_the_bank_stays_a_label(office):
    office.submit("s1")
    assert office.decisions.use_as_template(["s1"], False).done == ["s1"]
    assert office.studies.templates().keys() == {"s0"}
    assert office.status()["s1"] == "excluded"
    assert "s1" not in office.studies.pending()
    again = make_studies(
        office.store._datastore_path, FakePredictor()
    )  # recorded beside the label, so a restart keeps it
    assert again.templates().keys() == {"s0"}
    office.decisions.use_as_template(["s1"], True)
    assert office.studies.templates().keys() == {"s0", "s1"}
    assert "no final label" in office.decisions.use_as_template(["s2"], False).refused["s2"]


def test_an_empty_mask_is_not_accepted(office):
    image = office.studies.image("s1")
    empty = Prediction(np.zeros(image.array.shape, np.uint8), {"organ": 1}, {"organ": 0.0}, {})
    office.studies.store_automatic("s1", image, empty)
    assert "empty" in office.decisions.accept(["s1"], "Ada", {}).refused["s1"]
    assert office.store.label("s1", FINAL) is None


def test_a_mask_that_somebody_else_put_there_is_not_accepted(office):
    office.store.save_label("s1", str(office.label), AUTOMATIC, {})
    assert "somebody else" in office.decisions.accept(["s1"], "Ada", {}).refused["s1"]


def test_masks_can_be_made_again_though_nothing_changed(office):
    assert office.decisions.run_again(["s1", "s3"]).done == ["s1", "s3"]
    assert office.studies.pending() == ["s1", "s3"]
    assert [row.id for row in office.board.rows() if row.outdated] == ["s1", "s3"]


@pytest.mark.parametrize("tear", [
    lambda whole: whole[:40], lambda whole: whole[: len(whole) // 2], lambda whole: whole[:-1], lambda whole: b"",
    lambda whole: bytes(len(whole)), lambda whole: b"no mask at all",
], ids=["head", "half", "without its end", "empty", "zeros", "other bytes"])  # fmt: skip
def test_a_torn_mask_that_passes_for_somebody_elses_can_be_made_again(office, tear):
    whole = read_label(office.store.label("s1", AUTOMATIC).path)
    mask = office.store.label("s1", AUTOMATIC).path
    mask.write_bytes(tear(mask.read_bytes()))
    office.store.refresh()
    assert "s1" not in office.studies.pending()  # a mask that somebody else put there is theirs
    assert office.decisions.run_again(["s1"]).done == ["s1"]
    assert "s1" in office.studies.pending()
    assert mask.with_name(f"{mask.name}.broken").exists()
    office.segment()
    np.testing.assert_array_equal(read_label(office.store.label("s1", AUTOMATIC).path), whole)


def test_decisions_on_many_studies_are_written_together(office, monkeypatch):
    written = []

    def counted(path, data, within=None):
        written.extend([path.name] if path.suffix == ".json" and "labels" not in path.parts else [])
        write_atomically(path, data, within)

    office.store.update_image_info("s1", {})  # an index that still had to be written, on a busy machine, is now
    monkeypatch.setattr(infers.store.presence, "write_atomically", counted)
    ids = ["s1", "s2", "s3", "s4"]
    for decide in (
        lambda: office.decisions.reject(ids, "Ada", {}),
        lambda: office.decisions.undo(ids),
        lambda: office.decisions.accept(ids, "Ada", {}),
        lambda: office.decisions.use_as_template(ids, False),
        lambda: office.decisions.undo(ids),
        lambda: office.decisions.run_again(ids),
    ):
        written.clear()
        assert decide().done == ids
        assert written == ["datastore_v2.json"]
        again = StudyStore(office.store._datastore_path, read_only=True)  # another process
        assert [again.records(image_id) for image_id in ids] == [office.store.records(image_id) for image_id in ids]


def test_one_unknown_study_stops_everything_before_anything_is_done(office):
    with pytest.raises(NotFound, match="'gone'"):
        office.decisions.accept(["s1", "gone"], "Ada", {})
    assert office.store.label("s1", FINAL) is None
    with pytest.raises(NotFound, match="'gone'"):
        office.board.thumbnail("gone", 192)


def test_a_waiting_result_is_accepted_at_once_and_can_be_taken_back_without_loss(office):
    mask = np.zeros(organ_volume(0)[0].shape, np.uint8)
    mask[4:9, 4:9, 2:4] = 9
    office.acceptance.put("s1", Prediction(mask, {"organ": 9}, {}, {"templates": []}))
    assert {row.id for row in office.board.rows() if row.offered} == {"s1"}
    assert office.decisions.accept_results(["s1"], "Ada").done == ["s1"]
    final = office.store.label("s1", FINAL)
    assert final.record.to_json()["user"] == "Ada"
    assert "no interactive result" in office.decisions.accept_results(["s1"], "Ada").refused["s1"]
    assert office.decisions.undo(["s1"]).done == ["s1"]
    assert office.store.label("s1", WITHDRAWN).checksum == final.checksum
    assert office.status()["s1"] == "automatic"


def test_a_click_on_an_accepted_study_keeps_its_other_structures(office):
    organ = np.zeros(organ_volume(0)[0].shape, np.uint8)
    organ[4:9, 4:9, 2:4] = 1
    lesion = np.zeros_like(organ)
    lesion[12:15, 4:9, 2:4] = 2
    office.studies.labels.learn(["organ", "lesion"])
    names = {"organ": 1, "lesion": 2}
    mask = write_nifti(office.label.parent / "two.nii.gz", organ + lesion, office.studies.image("s1").affine)
    record = mask_record(label_names=names, structures=names)
    assert office.store.save_automatic("s1", mask, record, office.studies.models)
    assert office.decisions.accept(["s1"], "Ada", {}).done == ["s1"]
    clicked = np.roll(organ, 1, axis=1)
    office.acceptance.put("s1", Prediction(clicked, {"organ": 1}, {}, {"templates": []}))
    assert office.decisions.accept_results(["s1"], "Ada").done == ["s1"]
    final = office.store.label("s1", FINAL)
    assert final.record.to_json()["label_names"] == names
    np.testing.assert_array_equal(read_label(final.path), clicked + lesion)
    assert "s1" in office.studies.templates()
    assert office.studies.problems == {}


def test_pictures_are_kept_until_the_label_changes(office, monkeypatch):
    first = office.board.thumbnail("s1", 192)
    assert Pillow.open(io.BytesIO(first)).size[0] <= 192
    monkeypatch.setattr(office.studies, "image", lambda image_id: pytest.fail("drawn again"))
    assert office.board.thumbnail("s1", 192) is first
    monkeypatch.undo()
    office.store.save_label("s1", str(office.label), FINAL, {"label_info": [{"name": "organ", "idx": 1}]})
    assert office.board.thumbnail("s1", 192) != first


def test_pages_tell_what_the_masks_records_say(office):
    page = office.board.page(Wanted(statuses=("automatic",)))
    assert [row.id for row in page.rows] == ["s1", "s2", "s3", "s4"]
    assert all(row.templates == ("s0",) and not row.outdated for row in page.rows)
    assert page.counts == {"template": 1, "automatic": 4}

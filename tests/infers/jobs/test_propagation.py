import errno
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import infers.jobs.propagation
from infers.board.decisions import Decisions
from infers.jobs.propagation import Propagation
from infers.label_records import AUTOMATIC, FINAL
from infers.serving.priority_lock import PriorityLock
from infers.study_list.acceptance import Acceptance
from infers.study_list.pending_results import PendingResults
from infers.study_list.strategies import strategies
from lib.imaging.images import read_label
from tests.infers.fakes import FakePredictor, make_studies, wait_until
from tests.samples import organ_volume, write_nifti

COUNT = 5
SECONDS = 60  # far more than the job takes


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def studies(tmp_path, predictor):
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(COUNT):
        write_nifti(folder / f"s{number}.nii.gz", organ_volume(number)[0])
        write_nifti(tmp_path / f"label{number}.nii.gz", organ_volume(number)[1])
    return make_studies(str(folder), predictor)


@pytest.fixture
def job(studies, tmp_path):
    job = Propagation(studies, PriorityLock(), tmp_path)
    job.start()
    return job


def save(studies, number, name="organ"):
    path = Path(studies.store._datastore_path).parent / f"label{number}.nii.gz"
    studies.store.save_label(f"s{number}", str(path), FINAL, {"label_info": [{"name": name, "idx": 1}]})


def templates_of(studies, number):
    return studies.store.get_label_info(f"s{number}", AUTOMATIC)["params"]["templates"]


def test_every_other_study_is_segmented_once(job, studies, predictor):
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    status = job.status()
    assert (status.state, status.done, status.total, status.failed) == ("done", COUNT - 1, COUNT - 1, {})
    assert len(predictor.asked) == COUNT - 1
    job.trigger()
    assert job.wait(SECONDS)
    assert len(predictor.asked) == COUNT - 1
    assert studies.pending() == []


def test_a_run_looks_at_the_whole_list_when_it_begins_and_ends_and_not_after_every_study(job, studies, monkeypatch):
    looks, pending = [], studies.pending

    def counted():
        looks.append(1)
        return pending()

    monkeypatch.setattr(studies, "pending", counted)
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, job.status().done, len(looks)) == ("done", COUNT - 1, 2)


def test_without_a_template_nothing_happens(job, predictor):
    job.trigger()
    assert job.wait(SECONDS)
    assert job.status().state == "idle"
    assert predictor.asked == []


def test_a_label_saved_meanwhile_has_everything_done_with_both(job, studies, predictor):
    once = threading.Event()

    def save_another():
        if len(predictor.asked) == 2 and not once.is_set():
            once.set()
            save(studies, 1)
            job.trigger()

    predictor.between_batches = save_another
    save(studies, 0)
    job.trigger()
    wait_until(lambda: once.is_set() and job.status().state == "done")
    assert [sorted(templates_of(studies, number)) for number in (2, 3, 4)] == [["s0", "s1"]] * 3
    assert AUTOMATIC not in studies.store.records("s0")


def test_new_weights_have_everything_done_again(job, studies, predictor):
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    predictor.weights_hash = "second"
    assert len(studies.pending()) == COUNT - 1
    job.trigger(resume=False)
    wait_until(lambda: job.status().run == 2 and job.status().state == "done")
    assert studies.store.get_label_info("s1", AUTOMATIC)["params"]["weights"] == "second"


def test_one_bad_study_is_reported_and_the_rest_goes_on(job, studies, predictor):
    bad = organ_volume(2)[0]
    predictor.fails = lambda image: np.array_equal(image.array, bad)
    (Path(studies.store._datastore_path) / "s4.nii.gz").write_bytes(b"torn")
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    status = job.status()
    assert (status.state, status.done, status.total) == ("done", 2, 4)
    assert set(status.failed) == {"s2", "s4"}
    assert "mend it" in status.failed["s2"]
    job.trigger(resume=False)  # a new file somewhere is no reason to try again
    assert job.wait(SECONDS)
    assert (job.status().run, set(job.status().failed)) == (1, {"s2", "s4"})
    predictor.fails = lambda image: False
    job.trigger()  # somebody who asks is
    wait_until(lambda: job.status().run == 2 and job.status().state == "done")
    assert set(job.status().failed) == {"s4"}


def test_an_image_that_was_read_while_it_was_copied_is_segmented_once_it_is_whole(job, studies):
    folder = Path(studies.store._datastore_path)
    whole = (folder / "s4.nii.gz").read_bytes()
    (folder / "s4.nii.gz").write_bytes(whole[:500])
    studies.store.refresh()
    studies.store.on_change(lambda: job.trigger(resume=False))  # as the server does
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert set(job.status().failed) == {"s4"}
    (folder / "s4.nii.gz").write_bytes(whole)
    studies.store.refresh()  # what the watch of the folder does
    wait_until(lambda: job.status().state == "done" and job.status().done == COUNT - 1)
    assert job.status().failed == {}


def test_a_mask_of_an_image_that_was_replaced_is_not_accepted_and_is_made_again(job, studies, tmp_path):
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    other = organ_volume(9, (12, 10, 6))[0]
    write_nifti(Path(studies.store._datastore_path) / "s1.nii.gz", other)
    studies.store.refresh()
    acceptance = Acceptance(
        studies.store, PendingResults(tmp_path / "offers"), 60, lambda _: None, studies.labels.learn
    )
    decisions = Decisions(studies, acceptance, lambda: None, lambda: None)
    outcome = decisions.accept(["s1", "s2"], "Ada", {})
    assert outcome.done == ["s2"]
    assert "image changed" in outcome.refused["s1"]
    assert studies.automatic("s1", studies.image("s1")) is None
    job.trigger(resume=False)
    wait_until(lambda: decisions.accept(["s1"], "Ada", {}).done == ["s1"])
    np.testing.assert_array_equal(read_label(studies.store.label("s1", FINAL).path, studies.image("s1")), other > 3)


def test_when_every_study_fails_so_does_the_job(job, studies, predictor):
    predictor.fails = lambda image: True
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert job.status().state == "failed"
    assert len(job.status().failed) == COUNT - 1


def test_cancel_stops_between_batches_and_news_do_not_wake_it(job, studies, predictor):
    predictor.between_batches = lambda: job.cancel() if len(predictor.asked) == 2 else None
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, job.status().done) == ("cancelled", 1)
    predictor.between_batches = lambda: None
    job.trigger(resume=False)
    assert job.status().state == "cancelled"
    assert job.idle()
    job.trigger()
    wait_until(lambda: job.status().state == "done")
    assert len(predictor.asked) == 2 + COUNT - 2  # the finished one is not repeated, the interrupted one is


def test_cancel_counts_while_the_job_is_still_looking_for_work(job, studies, predictor, monkeypatch):
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    made, pending = len(predictor.asked), studies.pending

    def cancelled_meanwhile():
        job.cancel()
        return pending()

    monkeypatch.setattr(studies, "pending", cancelled_meanwhile)
    save(studies, 1)  # every mask is to be made again
    job.trigger()
    wait_until(lambda: job.status().state == "cancelled")
    assert len(predictor.asked) == made


def test_cancelling_an_idle_job_changes_nothing(job):
    assert job.cancel().state == "idle"


def test_a_study_removed_while_it_is_segmented_is_no_failure(job, studies, predictor):
    path = Path(studies.store._datastore_path) / "s1.nii.gz"

    def remove():
        if path.exists():
            path.unlink()
            studies.store.refresh()

    predictor.between_batches = remove
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, job.status().done, job.status().failed) == ("done", COUNT - 2, {})


def test_a_persons_label_that_comes_first_is_kept(job, studies, predictor):
    def label_it():
        if len(predictor.asked) == 1 and FINAL not in studies.store.records("s1"):
            save(studies, 1)

    predictor.between_batches = label_it
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert studies.store.records("s1").keys() == {FINAL}


def test_a_mask_that_somebody_else_made_is_not_touched(job, studies, predictor, tmp_path):
    studies.store.save_label("s1", str(tmp_path / "label1.nii.gz"), AUTOMATIC, {"from": "another program"})
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert studies.store.get_label_info("s1", AUTOMATIC)["from"] == "another program"
    assert len(predictor.asked) == COUNT - 2


def test_a_mask_that_somebody_submits_while_its_study_is_segmented_is_kept(job, studies, predictor, tmp_path):
    save(studies, 0)

    def submit():
        predictor.between_batches = lambda: None
        studies.store.save_label("s1", str(tmp_path / "label1.nii.gz"), AUTOMATIC, {"user": "anna"})

    predictor.between_batches = submit
    job.trigger()
    assert job.wait(SECONDS)
    assert studies.store.get_label_info("s1", AUTOMATIC)["user"] == "anna"
    assert len(predictor.asked) == COUNT - 1


def test_people_are_let_in_between_batches(studies, predictor, tmp_path):
    gate, order = PriorityLock(), []
    job = Propagation(studies, gate, tmp_path)
    job.start()

    def person():
        with gate.interactive():
            order.append(("person", len(predictor.asked)))

    def someone_comes():
        if len(predictor.asked) == 2 and not order:
            threading.Thread(target=person, daemon=True).start()
            wait_until(lambda: gate.waiting or order)

    predictor.between_batches = someone_comes
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert order == [("person", 2)]  # during the second study, not after the last


def test_two_servers_on_one_list_do_not_work_at_the_same_time(job, studies, predictor, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="infers.jobs.propagation")
    monkeypatch.setattr("infers.jobs.propagation.ANOTHER_LOOK", 0.05)
    holding, go_on = threading.Event(), threading.Event()
    predictor.between_batches = lambda: (holding.set(), go_on.wait(SECONDS))
    save(studies, 0)
    job.trigger()
    assert holding.wait(SECONDS)
    second = Propagation(studies, PriorityLock(), tmp_path)
    second.start()
    second.trigger()
    wait_until(lambda: caplog.text.count("another server process segments this study list") > 1)
    assert second.status().state == "idle"
    assert not second.idle()  # it looks again until the list is free
    go_on.set()
    assert job.wait(SECONDS)
    assert second.wait(SECONDS)
    assert len(predictor.asked) == COUNT - 1


@pytest.mark.parametrize("how", ["end", "cancel"])
def test_a_job_that_waits_for_another_server_ends_at_once(job, studies, predictor, tmp_path, monkeypatch, how):
    monkeypatch.setattr("infers.jobs.propagation.ANOTHER_LOOK", 10 * SECONDS)
    waits, log = threading.Event(), infers.jobs.propagation.logger
    monkeypatch.setattr(log, "info", lambda *_: waits.set())
    save(studies, 0)
    with FileLock(tmp_path / "job.lock"):
        job.trigger()
        assert waits.wait(SECONDS)
        assert job.status().idle is False
        assert job.end(SECONDS) if how == "end" else job.cancel().state == "cancelling" and job.wait(SECONDS)
        assert job.status().state == "cancelled"
    if how == "cancel":
        job.trigger()
        assert job.wait(SECONDS)
        assert (job.status().state, len(predictor.asked)) == ("done", COUNT - 1)


def test_only_studies_whose_templates_changed_are_segmented_again(tmp_path, predictor):
    folder = tmp_path / "studies"
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = [rng.normal(0, 1, (24, 20, 8)) for _ in range(2)]
    for number in range(6):  # two kinds of study that look alike among themselves
        noise = rng.normal(0, 0.1, (24, 20, 8))
        write_nifti(folder / f"s{number}.nii.gz", (kinds[number % 2] + noise).astype(np.float32))
        write_nifti(tmp_path / f"label{number}.nii.gz", organ_volume(number)[1])
    studies = make_studies(str(folder), predictor, most=1)
    job = Propagation(studies, PriorityLock(), tmp_path)
    job.start()
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert len(predictor.asked) == 5
    save(studies, 1)
    job.trigger()
    wait_until(lambda: job.status().run == 2 and job.status().state == "done")
    assert [templates_of(studies, number) for number in (2, 3, 4, 5)] == [["s0"], ["s1"], ["s0"], ["s1"]]
    assert len(predictor.asked) == 5 + 2


def test_the_whole_job_is_undone_and_stays_so_after_a_restart(job, studies, predictor, tmp_path):
    studies.store.save_label("s4", str(tmp_path / "label4.nii.gz"), AUTOMATIC, {"from": "another program"})
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    final = studies.store.label("s0", FINAL).checksum
    assert job.undo() == ["s1", "s2", "s3"]
    assert studies.store.label("s0", FINAL).checksum == final
    assert studies.store.get_label_info("s4", AUTOMATIC)["from"] == "another program"
    assert [studies.store.records(f"s{number}") for number in (1, 2, 3)] == [{}] * 3
    assert job.status().state == "cancelled"
    after = Propagation(studies, PriorityLock(), tmp_path)
    assert after.trigger(resume=False).state == "cancelled"
    assert after.idle()
    job.trigger()
    wait_until(lambda: job.status().state == "done")
    assert AUTOMATIC in studies.store.records("s1")


def test_a_mask_that_is_just_being_made_is_undone_too(job, studies, predictor):
    undone = []
    predictor.between_batches = lambda: undone.append(job.undo()) if len(predictor.asked) == 2 else None
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert undone[0] == ["s1"]
    assert all(AUTOMATIC not in studies.store.records(f"s{number}") for number in range(COUNT))


def test_undoing_the_job_stops_what_goes_on_after_its_masks(studies, tmp_path):
    began, over = threading.Event(), threading.Event()

    def checks(control):
        began.set()
        while not over.wait(0.01):
            control.advance(0.0)

    job = Propagation(studies, PriorityLock(), tmp_path, after=checks)
    job.start()
    save(studies, 0)
    job.trigger()
    assert began.wait(SECONDS)
    assert job.status().state == "done"
    giving_up = threading.Timer(SECONDS, over.set)  # so that a job that does not stop ends this test
    giving_up.start()
    assert len(job.undo()) == COUNT - 1
    assert not over.is_set()
    giving_up.cancel()
    assert job.status().state == "cancelled"


def test_a_job_that_stopped_goes_on_by_itself(job, studies, monkeypatch):
    pending, asked = studies.pending, []

    def away():
        asked.append(1)
        if len(asked) == 1:
            raise OSError("the drive is away")
        return pending()

    monkeypatch.setattr(studies, "pending", away)
    monkeypatch.setattr(infers.jobs.propagation, "TRY_AGAIN", 0.5)
    save(studies, 0)
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "the drive is away" in job.status().failed[""]
    wait_until(lambda: job.status().state == "done")
    assert job.status().failed == {}


def test_nothing_happens_to_a_list_of_one_study(tmp_path, predictor):
    folder = tmp_path / "studies"
    folder.mkdir()
    write_nifti(folder / "s0.nii.gz", organ_volume(0)[0])
    write_nifti(tmp_path / "label0.nii.gz", organ_volume(0)[1])
    studies = make_studies(str(folder), predictor)
    job = Propagation(studies, PriorityLock(), tmp_path)
    job.start()
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, predictor.asked) == ("idle", [])
    assert job.undo() == []


def test_masks_that_are_all_empty_end_the_job_and_are_not_accepted(tmp_path, predictor):
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).uniform(0, 1, (24, 20, 8)).astype(np.float32)
        write_nifti(folder / f"s{number}.nii.gz", noise)
    write_nifti(tmp_path / "label0.nii.gz", organ_volume(0)[1])
    studies = make_studies(str(folder), predictor)
    job = Propagation(studies, PriorityLock(), tmp_path)
    job.start()
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, job.status().done, job.status().failed) == ("done", 2, {})
    assert studies.pending() == []
    acceptance = Acceptance(
        studies.store, PendingResults(tmp_path / "offers"), 60, lambda id: None, studies.labels.learn
    )
    decisions = Decisions(studies, acceptance, lambda: None, lambda: None)
    refused = decisions.accept(["s1", "s2"], "anna", {}).refused
    assert refused == dict.fromkeys(["s1", "s2"], "its mask is empty: there is nothing to accept")
    assert strategies(studies)["oneprompt_next"]({"strategy": "oneprompt_next"}, studies.store)["id"] in ("s1", "s2")


def test_what_goes_with_a_run_comes_before_and_after_its_masks(studies, predictor, tmp_path):
    order = []
    job = Propagation(
        studies,
        PriorityLock(),
        tmp_path,
        lambda control: order.append(("before", len(predictor.asked))),
        lambda control: order.append(("after", len(predictor.asked))),
    )
    job.start()
    save(studies, 0)
    job.trigger()
    wait_until(lambda: ("after", COUNT - 1) in order)
    assert order[0] == ("before", 0)


def test_masks_that_were_made_beforehand_are_not_made_again(studies, predictor, tmp_path):
    def first_one(control):
        if "s1" in studies.pending():
            image = studies.image("s1")
            studies.store_automatic("s1", image, studies.segment("s1", image, control=control))

    job = Propagation(studies, PriorityLock(), tmp_path, first_one)
    job.start()
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().done, len(predictor.asked)) == (COUNT - 1, COUNT - 1)


def test_a_run_does_not_fail_with_what_goes_with_it(studies, predictor, tmp_path):
    def broken(control):
        raise ValueError("broken")

    job = Propagation(studies, PriorityLock(), tmp_path, broken, broken)
    job.start()
    save(studies, 0)
    job.trigger()
    assert job.wait(SECONDS)
    assert (job.status().state, job.status().done) == ("done", COUNT - 1)


def test_when_the_server_ends_the_job_stops_after_its_batch_and_the_next_server_goes_on(studies, predictor, tmp_path):
    batch, may_go_on = threading.Event(), threading.Event()

    def between():
        batch.set()
        may_go_on.wait(SECONDS)

    predictor.between_batches = between
    save(studies, 0)
    job = Propagation(studies, PriorityLock(), tmp_path)
    job.start()
    job.trigger()
    assert batch.wait(SECONDS)
    assert not job.end(0.01)
    may_go_on.set()
    assert job.end(SECONDS)
    job.trigger()
    assert job.idle()
    assert len(predictor.asked) == 1
    following = Propagation(studies, PriorityLock(), tmp_path)
    assert following.status().state == "idle"  # it ended, and nobody cancelled it
    following.start()
    following.trigger(resume=False)
    assert following.wait(SECONDS)
    assert studies.pending() == []


def test_a_folder_that_goes_and_comes_back_stops_the_job_and_spoils_no_study(job, studies, predictor, monkeypatch):
    monkeypatch.setattr(infers.jobs.propagation, "TRY_AGAIN", 0.05)
    save(studies, 0)
    folder = studies.store.root
    away = folder.with_name("away")

    def unplug():
        if len(predictor.asked) == 2 and folder.exists():
            folder.rename(away)

    predictor.between_batches = unplug
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "cannot be reached" in job.status().failed[""]
    predictor.between_batches = lambda: None
    away.rename(folder)
    wait_until(lambda: job.status().state == "done")
    assert (studies.pending(), job.status().failed) == ([], {})


def test_a_full_disk_stops_the_job_and_spoils_no_study(job, studies, monkeypatch):
    monkeypatch.setattr(infers.jobs.propagation, "TRY_AGAIN", 0.05)
    save(studies, 0)
    store, full = studies.store_automatic, threading.Event()
    full.set()

    def store_where_there_is_room(image_id, *rest):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device", str(studies.store.root / "labels"))
        return store(image_id, *rest)

    monkeypatch.setattr(studies, "store_automatic", store_where_there_is_room)
    job.trigger()
    wait_until(lambda: job.status().state == "failed")
    assert "is full" in job.status().failed[""]
    full.clear()
    wait_until(lambda: job.status().state == "done")
    assert (studies.pending(), job.status().failed) == ([], {})

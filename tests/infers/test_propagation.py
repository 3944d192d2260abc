import threading
from pathlib import Path

import numpy as np
import pytest

from infers.datastore import AUTOMATIC, FINAL
from infers.gate import Gate
from infers.propagation import Propagation
from tests.infers.fakes import FakePredictor, make_studies, wait_until
from tests.samples import organ_volume, write_nifti

COUNT = 5


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
    job = Propagation(studies, Gate(), tmp_path / "job.lock")
    job.start()
    return job


def save(studies, number, name="organ"):
    path = Path(studies.store._datastore_path).parent / f"label{number}.nii.gz"
    studies.store.save_label(f"s{number}", str(path), FINAL, {"label_info": [{"name": name, "idx": 1}]})


def finished(job):
    return lambda: job.status().state in ("done", "failed", "cancelled")


def templates_of(studies, number):
    return studies.store.tags(f"s{number}")[AUTOMATIC]["params"]["templates"]


def test_every_other_study_is_segmented_once(job, studies, predictor):
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    status = job.status()
    assert (status.state, status.done, status.total, status.failed) == ("done", COUNT - 1, COUNT - 1, {})
    assert len(predictor.asked) == COUNT - 1
    job.trigger()
    wait_until(lambda: not job._wanted)
    assert len(predictor.asked) == COUNT - 1
    assert studies.pending() == []


def test_without_a_template_nothing_happens(job, predictor):
    job.trigger()
    wait_until(lambda: not job._wanted)
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
    assert AUTOMATIC not in studies.store.tags("s0")


def test_new_weights_have_everything_done_again(job, studies, predictor):
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    predictor.weights_hash = "second"
    assert len(studies.pending()) == COUNT - 1
    job.trigger(resume=False)
    wait_until(lambda: job.status().run == 2 and job.status().state == "done")
    assert studies.store.tags("s1")[AUTOMATIC]["params"]["weights"] == "second"


def test_one_bad_study_is_reported_and_the_rest_goes_on(job, studies, predictor):
    bad = organ_volume(2)[0]
    predictor.fails = lambda image: np.array_equal(image.array, bad)
    (Path(studies.store._datastore_path) / "s4.nii.gz").write_bytes(b"torn")
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    status = job.status()
    assert (status.state, status.done, status.total) == ("done", 2, 4)
    assert set(status.failed) == {"s2", "s4"}
    assert "mend it" in status.failed["s2"]
    job.trigger(resume=False)  # a new file somewhere is no reason to try again
    wait_until(lambda: not job._wanted)
    assert (job.status().run, set(job.status().failed)) == (1, {"s2", "s4"})
    predictor.fails = lambda image: False
    job.trigger()  # somebody who asks is
    wait_until(lambda: job.status().run == 2 and job.status().state == "done")
    assert set(job.status().failed) == {"s4"}


def test_when_every_study_fails_so_does_the_job(job, studies, predictor):
    predictor.fails = lambda image: True
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    assert job.status().state == "failed"
    assert len(job.status().failed) == COUNT - 1


def test_cancel_stops_between_batches_and_news_do_not_wake_it(job, studies, predictor):
    predictor.between_batches = lambda: job.cancel() if len(predictor.asked) == 2 else None
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    assert (job.status().state, job.status().done) == ("cancelled", 1)
    predictor.between_batches = lambda: None
    job.trigger(resume=False)
    assert job.status().state == "cancelled"
    assert not job._wanted
    job.trigger()
    wait_until(lambda: job.status().state == "done")
    assert len(predictor.asked) == 2 + COUNT - 2  # the finished one is not repeated, the interrupted one is


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
    wait_until(finished(job))
    assert (job.status().state, job.status().done, job.status().failed) == ("done", COUNT - 2, {})


def test_a_persons_label_that_comes_first_is_kept(job, studies, predictor):
    def label_it():
        if len(predictor.asked) == 1 and FINAL not in studies.store.tags("s1"):
            save(studies, 1)

    predictor.between_batches = label_it
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    assert studies.store.tags("s1").keys() == {FINAL}


def test_a_mask_that_somebody_else_made_is_not_touched(job, studies, predictor, tmp_path):
    studies.store.save_label("s1", str(tmp_path / "label1.nii.gz"), AUTOMATIC, {"from": "another program"})
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    assert studies.store.tags("s1")[AUTOMATIC]["from"] == "another program"
    assert len(predictor.asked) == COUNT - 2


def test_people_are_let_in_between_batches(job, studies, predictor):
    gate, order = job._gate, []

    def person():
        with gate.interactive():
            order.append(("person", len(predictor.asked)))

    def someone_comes():
        if len(predictor.asked) == 2 and not order:
            threading.Thread(target=person, daemon=True).start()
            wait_until(lambda: gate._waiting or order)

    predictor.between_batches = someone_comes
    save(studies, 0)
    job.trigger()
    wait_until(finished(job))
    assert order == [("person", 2)]  # during the second study, not after the last


def test_two_servers_on_one_list_do_not_work_at_the_same_time(job, studies, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("infers.propagation.ANOTHER_LOOK", 0.05)
    holding, go_on = threading.Event(), threading.Event()
    predictor.between_batches = lambda: (holding.set(), go_on.wait(20))
    save(studies, 0)
    job.trigger()
    assert holding.wait(20)
    second = Propagation(studies, Gate(), tmp_path / "job.lock")
    second.start()
    second.trigger()
    threading.Event().wait(0.2)
    assert second.status().state == "idle"
    go_on.set()
    wait_until(finished(job))
    wait_until(lambda: not second._wanted)
    assert len(predictor.asked) == COUNT - 1

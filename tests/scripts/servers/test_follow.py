from types import SimpleNamespace

import pytest

from scripts.servers.client import ServerError
from scripts.servers.follow import follow_job


class Replay:
    """Answers `status` with each given answer in turn, and the last one from then on; always alive."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def status(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def check(self):
        pass

    def log_tail(self, lines=20):
        return "    last words"


def status(job="running", **studies):
    return {"job": {"state": job}, "studies": {name: {"status": state} for name, state in studies.items()}}


def follow(replay, waiting=("a", "b"), patience=30):
    return follow_job(replay, replay, waiting, patience)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only while somebody waits."""
    now = [100.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr("scripts.servers.follow.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))


def test_waits_until_every_study_has_its_mask(clock):
    replay = Replay(
        status("idle", a="unlabelled", b="unlabelled"),
        status(a="automatic", b="unlabelled"),
        status("done", a="automatic", b="automatic"),
    )
    seconds = follow(replay)
    assert seconds == {"a": pytest.approx(0.2), "b": 0}  # it was asked once before the first had its mask
    assert len(replay.answers) == 1


def test_studies_that_finish_together_share_the_time():
    seconds = follow(Replay(status(a="unlabelled", b="unlabelled"), status(a="automatic", b="automatic")))
    assert seconds["a"] == seconds["b"]


def test_other_studies_are_not_waited_for():
    assert set(follow(Replay(status(a="automatic", b="automatic", template="template", c="unlabelled")))) == {"a", "b"}


def test_a_failed_study_is_named_with_its_reason():
    answer = status("done", a="automatic", b="failed")
    answer["studies"]["b"]["reason"] = "the image is constant"
    with pytest.raises(ServerError, match="could not segment b: the image is constant"):
        follow(Replay(answer))


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_ends_early_is_an_error_with_the_log(state):
    with pytest.raises(ServerError, match=rf"(?s)the job {state}.*last words"):
        follow(Replay(status(state, a="automatic", b="unlabelled")))


def test_waiting_ends_when_nothing_happens():
    with pytest.raises(ServerError, match=r"no study was finished within 0.1 s"):
        follow(Replay(status(a="unlabelled", b="unlabelled")), patience=0.1)


def test_a_dead_server_is_noticed():
    class Dead(Replay):
        def check(self):
            raise ServerError("the server ended with code 1")

    with pytest.raises(ServerError, match="ended with code 1"):
        follow(Dead(status(a="unlabelled", b="unlabelled")))

import json
from functools import partial

import pytest

from scripts.make_demo_data import write_demo_data
from scripts.servers.client import Server
from scripts.time_training import main


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("list") / "phantoms"
    write_demo_data(folder, count=3, size=(32, 32, 6))
    return folder


def arguments(phantoms, weights, *more):
    folders = ["--studies", str(phantoms / "studies"), "--truth", str(phantoms / "truth")]
    return [*folders, "--weights", str(weights), "--settings", "epochs=1,steps=1,batch=1", *more]


def test_a_training_is_timed_while_somebody_goes_on_clicking(phantoms, tiny_weights, nursery, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.time_training.Server", partial(Server, launch=nursery.launch))
    times, nothing_learnt = ["--pause", "1", "--quiet", "4"], ["--params", '{"learning_rate": 0.0}']
    options = ["--labelled", "2", *times, *nothing_learnt, "--json", str(tmp_path / "out")]
    assert main(arguments(phantoms, tiny_weights, *options)) == 0
    found = json.loads((tmp_path / "out").read_text())
    assert found["state"] == "candidate"
    assert "not better" in found["reason"]
    assert found["weights_served"] == found["weights_before"]
    assert found["seconds"] > 0
    assert found["clicks"] >= 2
    assert not found["failures"]
    for when in ("wait_before", "wait_while_training"):
        assert 0 < found[when]["median"] <= found[when]["longest"]


def test_a_list_without_a_study_left_over_is_refused(phantoms, tiny_weights, capsys):
    assert main(arguments(phantoms, tiny_weights, "--labelled", "3")) == 1
    assert "one more" in capsys.readouterr().err

"""Each torture, as short as it can be and still tell something; by hand they take an hour (docs/reliability.md)."""

import json
import random

import pytest

from lib.imaging.images import read_image
from lib.networks.checkpoints import load_network
from scripts import torture
from scripts.measure.torture import doors
from scripts.measure.torture.attack import torture_by_attacks
from scripts.measure.torture.files import mutated, originals
from scripts.measure.torture.fuzz import torture_by_requests
from scripts.measure.torture.kills import torture_by_kills
from scripts.measure.torture.load import torture_by_load
from scripts.servers.client import APP, Server, ServerError


@pytest.fixture
def launch(nursery):
    """Starts servers within seconds."""
    return nursery.launch


def test_every_label_that_was_acknowledged_outlives_kills(launch):
    report = torture_by_kills(2, 0, 0, launch)
    assert report["wrong"] == []
    assert report["acknowledged"]["labels"] > 0


def test_annotators_get_the_masks_of_their_own_studies_and_the_server_stays_as_it_is(launch):
    report = torture_by_load(6, 3, launch)
    assert report["wrong"] == []
    assert report["answers"]["click 200"] >= 6
    assert report["compared_alone"] >= 6


def test_no_request_that_the_description_allows_breaks_the_server(launch):
    report = torture_by_requests(1, 0, launch)
    assert report["wrong"] == []


def test_attacks_are_tried_and_a_hole_is_told_of(launch):
    def open_door(target):
        yield f"{target.ask('GET', '/info/').status_code} for everybody"

    attacks = (doors.names_of_other_sites, doors.doors_left_open, open_door)
    report = torture_by_attacks(APP, None, 1, launch, attacks)
    assert report["wrong"] == ["open_door: 200 for everybody"]
    assert {"names_of_other_sites", "doors_left_open", "starts_again", "damaged_files"} <= set(report["held"])


def test_mutated_files_are_read_or_refused_with_words(capsys):
    assert torture.main(["files", "--count", "60"]) == 0
    outcomes = json.loads(capsys.readouterr().out)["outcomes"]
    assert sum(outcomes.values()) == 60
    assert outcomes["refused"] > 10


def test_a_server_that_does_not_start_says_why_and_leaves_no_process(launch, tmp_path):
    conf = {"weights": str(tmp_path / "none.safetensors")}
    server = Server(tmp_path, log=tmp_path / "log", conf=conf, launch=launch)
    with pytest.raises(ServerError, match="path of an existing file"), server:
        pass
    with pytest.raises(ServerError, match="does not run"):
        _ = server.pid


def test_the_files_that_are_mutated_are_sound(tmp_path):
    sources = originals(tmp_path)
    assert len({path.suffix for path in sources}) >= 8
    for path in sources:
        load_network(path) if path.suffix == ".safetensors" else read_image(path)


def test_a_mutation_is_another_file_and_the_same_for_the_same_chance():
    content = bytes(range(256)) * 4
    changed = [mutated(content, random.Random(seed)) for seed in range(50)]
    assert changed == [mutated(content, random.Random(seed)) for seed in range(50)]
    assert sum(one != content for one in changed) > 40

import random

import pytest

from lib.imaging.images import read_image
from lib.networks.checkpoints import load_network
from scripts.measure.torture.files import mutated, originals, torture_files
from scripts.measure.torture.kills import torture_by_kills
from scripts.measure.torture.load import torture_by_load


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


def test_no_mutated_file_is_more_than_refused():
    found = torture_files(44)
    assert found["failures"] == []
    assert sum(found["outcomes"].values()) == 44


@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_a_kill():
    found = torture_by_kills(1)
    assert found["wrong"] == []


@pytest.mark.timeout(900)
def test_annotators_get_their_own_masks():
    found = torture_by_load(3, 3)
    assert found["wrong"] == []
    assert all(key.endswith(" 200") for key in found["answers"])

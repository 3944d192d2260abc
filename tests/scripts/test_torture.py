import random

from lib.imaging.images import read_image
from lib.networks.checkpoints import load_network
from scripts.measure.torture.files import mutated, originals


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

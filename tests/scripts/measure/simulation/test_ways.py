from scripts.measure.simulation.ways import taught

ENTRIES = [{"id": "s0", "structures": {"liver": {}, "spleen": {}}}, {"id": "s1", "structures": {"liver": {}}}]


def test_nothing_is_accepted_unseen_before_every_structure_has_enough_corrected_cases():
    assert not taught({}, ENTRIES, 3)
    assert not taught({"liver": 5, "spleen": 2}, ENTRIES, 3)
    assert taught({"liver": 5, "spleen": 3}, ENTRIES, 3)
    assert taught({}, ENTRIES, 0)

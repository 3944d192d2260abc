from trainers.process_priority import RESERVED, share_of


def test_training_leaves_the_server_memory_for_its_answers():
    total = 10 * 2**30
    assert share_of(total, total) * total == total - RESERVED
    assert share_of(6 * 2**30, total) * total == 5 * 2**30
    assert 0 < share_of(0, total) < 0.1

from trainers.process_priority import RESERVED, share_of


def test_training_leaves_the_server_memory_for_its_answers():
    total = 10 * 2**30
    assert share_of(total, total) * total == total - RESERVED
    assert share_of(6 * 2**30, total) * total == 5 * 2**30


def test_a_large_gpu_with_little_free_gives_training_nothing():
    total = 139 * 2**30
    assert share_of(RESERVED // 2, total) == share_of(RESERVED, total) == 0.0

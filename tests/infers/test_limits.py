from infers import limits
from infers.limits import MB, Memory, memory_of_machine


def test_what_is_kept_has_together_no_more_room_than_was_said():
    memory = Memory.of(240)
    kept = (memory.images, memory.templates, memory.features, memory.shown, 2 * memory.answers, memory.pictures)
    assert sum(kept) <= 240 * MB


def test_a_quarter_of_the_machine_is_kept_where_nothing_was_said():
    assert Memory.of(None).total == memory_of_machine() // 4


def test_a_container_has_no_more_than_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONTAINER", tmp_path / "memory.max")
    whole = memory_of_machine()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of_machine() == whole
    (tmp_path / "memory.max").write_text(f"{64 * MB}\n")
    assert memory_of_machine() == 64 * MB

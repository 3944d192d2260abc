from contextlib import suppress

import infers.store.watch
from infers.store.watch import FolderWatch, if_other
from tests.infers.fakes import wait_until


def test_files_that_come_and_time_that_passes_are_no_news_where_nothing_else_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(infers.store.watch, "LOOK_AGAIN", 0.02)
    monkeypatch.setattr(infers.store.watch, "SETTLE", 0.01)
    served, looked, told = ["first"], [], []

    def look():
        looked.append(1)
        return served[0]

    def looked_again():
        before = len(looked)
        wait_until(lambda: len(looked) > before + 5)

    FolderWatch(tmp_path, if_other(look, lambda: told.append(served[0])))
    (tmp_path / "model.pt").write_bytes(b"an epoch")
    looked_again()
    assert told == []
    served[0] = "second"
    looked_again()
    assert told == ["second"]
    looked_again()
    assert told == ["second"]


def test_a_look_that_fails_is_repeated_and_loses_no_news():
    served, told = ["first"], []

    def look():
        if isinstance(served[0], Exception):
            raise served[0]
        return served[0]

    changed = if_other(look, lambda: told.append(served[0]))
    for served[0] in (OSError("away"), "second", "second"):
        with suppress(OSError):
            changed()
    assert told == ["second"]

"""What is made of a file follows the file, and others are answered while it is read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lib.imaging.reloading import Reloading


def text_of(path: Path) -> Reloading[str]:
    return Reloading(path, lambda: "nothing", lambda exists, old: path.read_text() if exists else f"no longer {old}")


def test_it_is_made_when_it_is_asked_for_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    text = text_of(path)
    assert text.loaded is None
    assert text.current() == "nothing"
    path.write_text("one")
    assert (text.loaded, text.current(), text.loaded) == ("nothing", "one", "one")
    assert text.current() is text.current()
    path.write_text("another")
    assert text.current() == "another"
    path.unlink()
    assert text.current() == "no longer another"


def test_what_fails_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff")
    text = text_of(path)
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError):
            text.current()
    path.write_text("whole")
    assert text.current() == "whole"


def test_who_does_not_wait_is_answered_by_the_old_one_while_another_thread_reads(tmp_path: Path) -> None:
    path, entered, leave = tmp_path / "file", threading.Event(), threading.Event()

    def slowly(exists: bool, old: str) -> str:
        entered.set()
        assert leave.wait(60)
        return path.read_text()

    text = Reloading(path, lambda: "nothing", slowly)
    path.write_text("new")
    reading = threading.Thread(target=text.current)
    reading.start()
    assert entered.wait(60)
    assert text.current(wait=False) == "nothing"
    leave.set()
    assert text.current() == "new"
    reading.join()

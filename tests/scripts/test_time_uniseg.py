"""`scripts.time_uniseg` on the smallest things."""

import re

import pytest

from lib.networks.uniseg import UniSegConfig
from scripts import time_uniseg


def tiny(tasks: int = 1, outputs: int = 2) -> UniSegConfig:
    strides = ((1, 2, 2), (2, 2, 2))
    return UniSegConfig("tiny", tasks, outputs, (8, 16, 16), base=2, most_features=4, strides=strides)


def here(work, *arguments):
    """In this process, for which nothing need be loaded anew."""
    return work(*arguments), 0.5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(time_uniseg.SIZES, "small", tiny)
    monkeypatch.setattr(time_uniseg, "measured", here)


def test_a_patch_is_measured_with_and_without_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_uniseg.main(["--repeats", "1"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"with the prompt [\d.]+ s, 0.50 GB, [\d.]+ thousand million operations", told)
    assert re.search(r"without [\d.]+ s, 0.50 GB, [\d.]+", told)
    assert re.search(r"ratio [\d.]+ in time, 1.00 in memory, 1\.\d+ in operations", told)


def test_a_whole_volume_is_measured_with_some_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_uniseg.main(["--volume", "20", "20", "6", "--tasks", "2"]) == 0
    assert re.search(r"\[20, 20, 6\] voxels, 2 tasks: [\d.]+ s, 0.50 GB", capsys.readouterr().out)

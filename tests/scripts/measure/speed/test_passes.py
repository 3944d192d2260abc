"""The passes' arithmetic and their stand-in."""

from __future__ import annotations

import pytest
import torch

from scripts.measure.speed.passes import PublishedEncoder, ratios

NAMES = ["encoder", "query", "query, template encoded again", "query in a batch of 32", "published encoder"]


def test_the_stand_in_has_the_published_number_of_parameters_and_levels():
    with torch.device("meta"):
        encoder = PublishedEncoder()
        levels = encoder(torch.empty(1, 3, 64, 64))
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(11.9e6, rel=0.005)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 64, 64),
        (256, 32, 32),
        (256, 16, 16),
        (256, 8, 8),
        (256, 4, 4),
    ]


def test_ratios_say_how_many_times_longer_the_first_takes():
    times = {f"{name}, {precision}": 8.0 for name in NAMES for precision in ("float32", "bfloat16")}
    times["published encoder, float32"] = 80.0
    times["query, bfloat16"] = 2.0
    found = {(r["slower"], r["faster"]): r["ratio"] for r in ratios(times)}
    assert found["published encoder, float32", "query, float32"] == 10
    assert found["query, float32", "query, bfloat16"] == 4
    assert found["query, bfloat16", "encoder, bfloat16"] == 0.25

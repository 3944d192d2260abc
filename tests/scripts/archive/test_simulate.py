"""The model of scale against a simulation of the same circumstances."""

import numpy as np
import pytest

from scripts.archive.manifest import Manifest
from scripts.archive.rows import Row
from scripts.archive.simulate import Circumstances, main, predicted_hours, simulated_hours
from scripts.archive.storage import Storage

EACH = np.random.default_rng(0).lognormal(3, 0.5, 200)  # seconds of studies


@pytest.mark.parametrize(
    "at",
    [
        Circumstances(20_000, 16),
        Circumstances(20_000, 16, deaths=2, restart_seconds=60),
        Circumstances(20_000, 16, outages=0.5),
        Circumstances(20_000, 16, deaths=1, outages=0.2),
        Circumstances(20_000, 64, driver_seconds=2.0),
    ],
    ids=["calm", "workers die", "server away", "both", "driver too slow"],
)
def test_the_model_and_the_simulation_agree(at):
    assert predicted_hours(EACH, at) == pytest.approx(simulated_hours(EACH, at)[0], rel=0.05)


def test_every_death_costs_one_study_that_is_begun_again():
    hours, vain = simulated_hours(EACH, Circumstances(20_000, 16, deaths=1))
    assert vain == pytest.approx(16 * hours, rel=0.2)


def test_the_command_predicts_from_a_runs_manifest(tmp_path, capsys):
    stages = {"read_seconds": 1.0, "encode_seconds": 2.0, "decode_seconds": 3.0}
    rows = [Row(f"s{n}", "segmented", "organ", 1, seconds=6.0, size=10_000, **stages) for n in range(3)]
    Manifest(Storage(str(tmp_path))).append([*rows, Row("broken", "failed", reason="no image")])
    assert main([str(tmp_path), "--studies", "1000", "100000000", "--workers", "10", "1000"]) == 0
    out = capsys.readouterr().out
    assert "3 studies recorded, 6.000 s each" in out
    assert "1,000 studies on 10 workers: 0.2 hours, 2 hours of work" in out
    assert "5,000.00 TB in" in out
    assert main([str(tmp_path / "empty")]) == 1
    assert "segment some first" in capsys.readouterr().err

"""What clicks cost on a CT of real size, as OHIF and 3D Slicer send them to a real server, and whether that is enough.

Core seconds are the server's own, all its threads together, from its metrics: they say more than seconds on a machine
that has other work too.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests

from scripts.servers.client import Client, Server

STRUCTURES = ("liver", "kidney")
MOST = {  # core seconds of one request that a click may cost on 512 x 512 x 78 voxels
    "slice click": 0.35,
    "same click again": 0.15,
    "further click (OHIF)": 0.9,
    "further click (Slicer)": 0.9,
    "new place": 2.5,
}


@dataclass(frozen=True)
class Target:
    """One promise: `value` and `target` in core seconds."""

    name: str
    value: float
    target: float

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.target

    def to_json(self) -> dict[str, Any]:
        """As the benchmark writes it."""
        return {**asdict(self), "met": self.met}


def measure_clicks(shape: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """Kind of click to the median core and wall seconds of a request, on a phantom of this shape."""
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        nibabel.save(phantom(shape), studies / "ct.nii.gz")
        conf = {"labels": ",".join(STRUCTURES), "auto_propagate": "false", "models": str(Path(folder) / "models")}
        with Server(studies, log=Path(folder) / "server.log", conf=conf) as server, Client(server.url) as client:
            for turn in range(rounds + 1):
                for kind, act in _clicks(client, shape, turn, Path(folder)):
                    before = _core_seconds(server.url), time.perf_counter()
                    act()
                    taken = _core_seconds(server.url) - before[0], time.perf_counter() - before[1]
                    if turn:  # the first turn warms up
                        times.setdefault(kind, []).append(taken)
    return {
        kind: dict(zip(("core", "wall"), map(statistics.median, zip(*taken, strict=True)), strict=True))
        for kind, taken in times.items()
    }


def targets(measured: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """What was promised of each kind of click that was measured."""
    return [Target(kind, round(measured[kind]["core"], 3), most) for kind, most in MOST.items() if kind in measured]


def compared(now: Sequence[Target], history: Path) -> list[tuple[str, float, float]]:
    """(name, value of the last entry, value now) of what both have; the history is one JSON object a line."""
    if not history.exists() or not (lines := history.read_text().splitlines()):
        return []
    last = {one["name"]: one["value"] for one in json.loads(lines[-1])["targets"]}
    return [(one.name, last[one.name], one.value) for one in now if one.name in last]


def phantom(shape: Sequence[int]) -> nibabel.Nifti1Image:
    """A body with a liver, kidneys and a spine, in HU with noise, from a fixed seed."""
    rng = np.random.default_rng(0)
    across, along = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape[:2]), indexing="ij")
    volume = np.empty(shape, np.int16)
    for index in range(shape[2]):
        wide = max(0.05, 1 - ((index - shape[2] / 2) / (shape[2] / 2)) ** 2) ** 0.5
        grey = np.full(shape[:2], -1000.0)
        for value, (i, j), (high, broad) in (
            (20, (0.0, 0.0), (0.82, 0.6)),
            (110, (-0.3, -0.1), (0.35 * wide, 0.27 * wide)),
            (160, (0.33, 0.17), (0.14 * wide, 0.14 * wide)),
            (400, (0.0, 0.37), (0.12, 0.12)),
        ):
            grey[((across - i) / high) ** 2 + ((along - j) / broad) ** 2 < 1] = value
        volume[:, :, index] = grey + rng.normal(0, 15, grey.shape)
    return nibabel.Nifti1Image(volume, np.diag([-0.78, -0.78, 4.0, 1.0]))


def _clicks(client: Client, shape: Sequence[int], turn: int, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    """One turn's requests in order; each turn clicks elsewhere, so that nothing is known from the turn before."""

    def at(across: float, along: float, slices: int) -> list[int]:
        return [round(across * shape[0]) + turn, round(along * shape[1]) + turn, shape[2] // 2 + slices]

    liver, further, kidney = at(0.35, 0.45, 0), at(0.38, 0.48, 3), at(0.66, 0.58, 2)
    mask = folder / "mask.nii.gz"

    def points(*places: list[int], structure: int = 1) -> Callable[[], object]:
        request = {"points": list(places), "point_labels": [1] * len(places), "label_prompt": [structure]}
        return lambda: mask.write_bytes(client.infer("oneprompt_points", "ct", request))

    slicer = {"foreground": [liver, further], "background": [], "label": STRUCTURES[0],
              "label_info": [{"name": STRUCTURES[0], "id": 1}]}  # fmt: skip
    return [
        ("slice click", lambda: client.infer("oneprompt_slice", "ct", {"foreground": [kidney], "label": "kidney"})),
        ("new place", points(kidney, structure=2)),
        ("first click", points(liver)),
        ("same click again", points(liver)),
        ("further click (Slicer)", lambda: client.infer("oneprompt_click", "ct", slicer, label=mask)),
        ("further click (OHIF)", points(liver, further)),
    ]


def _core_seconds(url: str) -> float:
    text = requests.get(f"{url}/oneprompt/metrics", timeout=60).text
    match = re.search(r"^process_cpu_seconds_total ([0-9.e+]+)", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{url}/oneprompt/metrics must tell of the server's seconds of computing, got: {text[:200]}")
    return float(match[1])

"""What clicks cost on a CT, as OHIF and 3D Slicer send them to a real server, beside a click on MONAI Label's own path.

Core seconds are the server's own, from its metrics.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import requests

from scripts.measure.speed.costs import Cost, Piece, Target, at_least, at_most, costs
from scripts.measure.speed.stock import StockApp
from scripts.servers.client import Client, Server

STRUCTURES = ("liver", "kidney")
ORGANS = {  # grey value in HU, centre and radii in the slice's half sides, and whether it is thinner at its ends
    "liver": (110, (-0.3, -0.1), (0.35, 0.27), True),
    "kidney": (160, (0.33, 0.17), (0.14, 0.14), True),
    "spine": (400, (0.0, 0.37), (0.12, 0.12), False),
    "spleen": (130, (0.5, -0.15), (0.13, 0.1), True),
    "aorta": (220, (0.08, 0.2), (0.05, 0.05), False),
    "stomach": (60, (0.25, -0.25), (0.14, 0.12), True),
}
STOCK = "MONAI Label's own path"
LARGEST_OF_STOCK = 512 * 512 * 100  # voxels: what it costs grows with them, and nothing is promised beyond
MOST = {  # core seconds of one request, by the slices of a CT of 512 x 512 pixels
    78: {
        "slice click": 0.35,
        "same click again": 0.15,
        "further click (OHIF)": 0.9,
        "further click (Slicer)": 0.9,
        "new place": 2.5,
    },
    400: {"slice click": 1.0, "new place": 8.0},
}
FASTER = {"further click (OHIF)": 10.0, "further click (Slicer)": 10.0, "new place": 3.5}  # than MONAI Label's own path
MOST_MEMORY = {1000: 4.0}  # GiB resident after the first click, by slices


def measure_clicks(shape: Sequence[int], rounds: int) -> tuple[dict[str, Cost], float]:
    """Kind of click to its cost on a phantom of this shape, and the most memory that the server held, in GiB.

    Without rounds only the memory is measured, by a first click.
    """
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        image, _ = phantom(shape)
        nibabel.save(image, studies / "ct.nii")
        conf = {"labels": ",".join(STRUCTURES), "auto_propagate": "false", "models": str(Path(folder) / "models")}
        stock = StockApp(studies, Path(folder) / "stock") if rounds and np.prod(shape) <= LARGEST_OF_STOCK else None
        with (
            Server(studies, log=Path(folder) / "server.log", conf=conf) as server,
            Client(server.url, timeout=3600) as client,
        ):
            core = lambda: core_seconds(server.url)  # noqa: E731
            turns = (_clicks(client, shape, turn, Path(folder), core, stock) for turn in range(rounds + 1))
            if not rounds:
                turns = (pieces[1:2] for pieces in turns)
            return costs(turns), most_memory(server.pid)


def targets(shape: Sequence[int], measured: Mapping[str, Cost], memory: float) -> list[Target]:
    """What was promised of clicks on a CT of this shape."""
    if tuple(shape[:2]) != (512, 512):
        return []
    about = f"{'x'.join(map(str, shape))}: "
    core = {name: cost.core for name, cost in measured.items()}
    bounds = MOST.get(shape[2], {})
    kept = at_most({about + name: most for name, most in bounds.items()}, {about + name: c for name, c in core.items()})
    if STOCK in core and bounds:
        kept += [
            at_least(f"{about}{STOCK} / {name}", core[STOCK] / core[name], factor)
            for name, factor in FASTER.items()
            if name in core
        ]
    if shape[2] in MOST_MEMORY:
        kept += at_most({f"{about}GiB resident": MOST_MEMORY[shape[2]]}, {f"{about}GiB resident": memory})
    return kept


def phantom(shape: Sequence[int], seed: int = 0) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """A body with a liver, a kidney, a spine and three more organs, in HU with noise, and its uint8 label map.

    Equal seeds give equal voxels; others move the organs a little. The label's values are the places in `ORGANS`, from
    1 on, of what is larger than a click.
    """
    rng = np.random.default_rng(seed)
    moved = rng.normal(0, 0.02, (len(ORGANS), 2)) if seed else np.zeros((len(ORGANS), 2))
    across, along = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape[:2]), indexing="ij")
    volume, label = np.empty(shape, np.int16, order="F"), np.zeros(shape, np.uint8, order="F")
    for index in range(shape[2]):
        wide = max(0.05, 1 - ((index - shape[2] / 2) / (shape[2] / 2)) ** 2) ** 0.5
        grey = np.full(shape[:2], -1000, np.float32)
        grey[(across / 0.82) ** 2 + (along / 0.6) ** 2 < 1] = 20
        for number, (value, centre, size, changes) in enumerate(ORGANS.values()):
            (i, j), radius = centre + moved[number], np.array(size) * (wide if changes else 1)
            inside = ((across - i) / radius[0]) ** 2 + ((along - j) / radius[1]) ** 2 < 1
            grey[inside], label[:, :, index][inside] = value, number + 1
        volume[:, :, index] = grey + 15 * rng.standard_normal(grey.shape, dtype=np.float32)
    return nibabel.Nifti1Image(volume, np.diag([-0.78, -0.78, 4.0, 1.0])), label


def _clicks(
    client: Client,
    shape: Sequence[int],
    turn: int,
    folder: Path,
    core: Callable[[], float],
    stock: StockApp | None,
) -> list[Piece]:
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
    kinds: list[tuple[str, Callable[[], object]]] = [
        ("slice click", lambda: client.infer("oneprompt_slice", "ct", {"foreground": [kidney], "label": "kidney"})),
        ("new place", points(kidney, structure=2)),
        ("first click", points(liver)),
        ("same click again", points(liver)),
        ("further click (Slicer)", lambda: client.infer("oneprompt_click", "ct", slicer, label=mask)),
        ("further click (OHIF)", points(liver, further)),
    ]
    pieces = [Piece(name, run, core) for name, run in kinds]
    return [*pieces, Piece(STOCK, lambda: stock.click("ct", liver))] if stock else pieces


def core_seconds(url: str) -> float:
    """Seconds of computing of a server so far, all its threads together, from its metrics."""
    text = requests.get(f"{url}/oneprompt/metrics", timeout=600).text
    match = re.search(r"^process_cpu_seconds_total ([0-9.e+]+)", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{url}/oneprompt/metrics must tell of the server's seconds of computing, got: {text[:200]}")
    return float(match[1])


def most_memory(pid: int) -> float:
    """GiB that a process held at most so far (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20

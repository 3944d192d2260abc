"""Records what the released 3D Slicer extension of MONAI Label sends: `python -m tests.slicer.record --out FOLDER`.

A person's session is played on the extension's own panel, outside Slicer (`tests.slicer.emulator`), against a real
server whose list grows by one small study at a time, so that the next sample is always the new one. Each step's
requests go to FOLDER/NN-STEP.http, byte for byte, and FOLDER/recorded.json says which release of the extension made
them. Nothing in a recording is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from lib.segmenters.promptseg import SHIPPED_PROMPTSEG
from lib.segmenters.uniseg.model import save_model
from lib.segmenters.uniseg.tasks import Channel, Task
from scripts.phantoms.phantom import grid_affine
from scripts.servers.client import Client, Server
from tests.lib.segmenters.uniseg.fakes import untrained
from tests.slicer.emulator.panel import RELEASE, RELEASED, SHA256, Panel, PanelError
from tests.slicer.emulator.wire import Tap

SHAPE, SPACING = (40, 36, 6), (3.0, 3.0, 8.0)
GRIDS: dict[str, dict[str, Any]] = {  # study: how it lies in the patient
    "a_axial": {"axes": "LPS"},
    "b_ras": {"axes": "RAS"},
    "c_oblique": {"axes": "LPS", "tilt": (11.0, -8.0, 14.0)},
}
FIRST = "a_axial"
LOCAL = "on_my_disk"  # an oblique image that the server does not have
WAIT_SECONDS = 180


def make_study(name: str) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Image (i, j, k), {structure: mask} and affine: two ellipsoids of different brightness in noise."""
    names = [*GRIDS, LOCAL]
    affine = grid_affine(SHAPE, SPACING, **GRIDS.get(name, GRIDS["c_oblique"]))
    rng = np.random.default_rng(names.index(name))
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    # The patient always lies the same way, whatever the grid: liver on the right, spleen on the left
    right, front, up = np.einsum("ab,bijk->aijk", affine[:3, :3], index) + affine[:3, 3, None, None, None]
    centre = rng.uniform(-3, 3, 3)
    masks = {
        "liver": ((right - 26 - centre[0]) / 21) ** 2 + ((front - centre[1]) / 24) ** 2 + (up / 17) ** 2 < 1,
        "spleen": ((right + 30 - centre[0]) / 15) ** 2 + ((front + 18) / 15) ** 2 + (up / 15) ** 2 < 1,
    }
    body = (right / 57) ** 2 + (front / 51) ** 2 < 1
    array = rng.normal(0, 12, SHAPE) + 200 * body + 260 * masks["liver"] + 520 * masks["spleen"]
    return array.astype(np.int16), masks, affine


def write_study(folder: Path, name: str) -> Path:
    """Save a study's image as NIfTI."""
    array, _, affine = make_study(name)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def centre(mask: np.ndarray) -> tuple[int, ...]:
    """The middle voxel of a structure."""
    return tuple(round(float(n)) for n in np.argwhere(mask).mean(0))


@dataclass
class Session:
    """What a person does, step by step.

    Args:
        panel: the extension's panel, not yet connected.
        server: the same server, asked beside the panel.
        folder: for the file of the local image.
        look: called after each step with its name; what the panel shows can be looked at there.
    """

    panel: Panel
    server: Client
    folder: Path
    look: Callable[[str], None] = lambda step: None
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    def steps(self) -> Iterator[str]:
        """Plays the session; gives each step's name when it is done."""
        panel = self.panel
        yield from self._do("connect", lambda: panel.press("fetchServerInfoButton"))
        yield from self._do("next_sample", lambda: self._next(FIRST))
        for name in ("spleen", "liver"):
            panel.add_segment(name)
        yield from self._smart_edit("spleen", "points")
        yield from self._box("liver", "roi_reversed")
        yield from self._slice("liver", "slice")
        self._paint_truth()
        yield from self._do("submit", self._submit)
        add_study(self.server, "b_ras")

        yield from self._do("next_sample_automatic", lambda: self._next("b_ras"))
        yield from self._do("auto_segmentation", lambda: panel.press("segmentationButton"))
        yield from self._smart_edit("liver", "points_second_label")
        yield from self._box("spleen", "roi")
        yield from self._scribbles("liver")
        self._paint_truth()
        yield from self._do("submit_after_scribbles", self._submit)
        add_study(self.server, "c_oblique")

        yield from self._do("next_sample_oblique", lambda: self._next("c_oblique"))
        yield from self._smart_edit("liver", "points_oblique")
        yield from self._box("spleen", "roi_oblique")
        panel.remove_segments()
        for name in ("background", "liver", "spleen"):  # another order than the first study's
            panel.add_segment(name)
        self._paint_truth()
        yield from self._do("submit_other_order", self._submit)

        panel.on_sleep = lambda seconds: wait_for_training(self.server)  # it pauses for the process to start
        yield from self._do("train", lambda: panel.press("trainingButton"))
        yield from self._do("train_progress", panel.wait_a_moment)
        yield from self._do("stop_training", lambda: panel.press("stopTrainingButton"))

        yield from self._do("add_data", lambda: panel.add_data(write_study(self.folder, LOCAL)))
        self.truth = make_study(LOCAL)[1]
        yield from self._do("session_segmentation", lambda: panel.press("segmentationButton"))
        yield from self._smart_edit("spleen", "session_points")
        self._paint_truth()
        yield from self._do("session_submit", self._submit)

        add_uniseg(self.server)
        yield from self._do("connect_again", lambda: panel.press("fetchServerInfoButton"))
        panel.choose("segmentationModelSelector", "uniseg")
        yield from self._do("segmentation_uniseg", lambda: panel.press("segmentationButton"))
        panel.choose("segmentationModelSelector", "promptseg")
        yield from self._do("segmentation_promptseg", lambda: panel.press("segmentationButton"))

    def _do(self, step: str, act: Callable[[], None]) -> Iterator[str]:
        act()
        self.look(step)
        yield step

    def _next(self, expected: str) -> None:
        self.panel.press("nextSampleButton")
        found = self.panel.widget.current_sample["id"]
        if found != expected:
            raise PanelError(f"the next sample must be {expected}, got {found}")
        self.truth = make_study(expected)[1]

    def _select(self, name: str, model: str) -> None:
        self.panel.choose("deepgrowModelSelector", model)
        self.panel.choose("labelComboBox", name)

    def _smart_edit(self, name: str, step: str) -> Iterator[str]:
        self._select(name, "oneprompt_click")
        outside = next(mask for other, mask in self.truth.items() if other != name)
        yield from self._do(step, lambda: self.panel.click(centre(self.truth[name])))
        yield from self._do(f"{step}_background", lambda: self.panel.click(centre(outside), inside=False))
        self._clear_points()

    def _box(self, name: str, step: str) -> Iterator[str]:
        self._select(name, "oneprompt_click")
        found = np.argwhere(self.truth[name])
        self.panel.draw_box(found.min(0), found.max(0))
        yield from self._do(step, lambda: self.panel.press("dgUpdateButton"))
        self.panel.widget.resetSam2ROI()

    def _slice(self, name: str, step: str) -> Iterator[str]:
        self._select(name, "oneprompt_slice")
        yield from self._do(step, lambda: self.panel.click(centre(self.truth[name])))
        self._clear_points()

    def _clear_points(self) -> None:
        self.panel.widget.dgPositivePointListNode.RemoveAllControlPoints()
        self.panel.widget.dgNegativePointListNode.RemoveAllControlPoints()

    def _scribbles(self, name: str) -> Iterator[str]:
        panel, masks = self.panel, self.truth
        self._paint_truth()
        panel.paint(name, np.zeros(SHAPE, bool))
        panel.choose("scribLabelComboBox", name)
        panel.press("paintScribblesButton")
        strokes = {"foreground_scribbles": masks[name], "background_scribbles": ~(masks["liver"] | masks["spleen"])}
        for segment, allowed in strokes.items():
            line = np.zeros(SHAPE, bool)
            line[:, centre(masks[name])[1], centre(masks[name])[2]] = True
            panel.paint(segment, line & allowed)
        yield from self._do("scribbles", lambda: panel.press("updateScribblesButton"))
        panel.paint(name, np.zeros(SHAPE, bool))
        found = np.argwhere(masks[name])
        panel.draw_box(found.min(0), found.max(0), "scribblesPlaceWidget")
        yield from self._do("scribbles_roi", lambda: panel.press("updateScribblesButton"))

    def _paint_truth(self) -> None:
        for name, mask in self.truth.items():
            self.panel.paint(name, mask)

    def _submit(self) -> None:
        self.panel.press("saveLabelButton")


def add_uniseg(server: Client) -> None:
    """Give the server a UniSeg that nobody trained: what clients do with one is recorded, not what it segments."""
    task = Task("abdomen", ("liver", "spleen"), (Channel("MR"),), (8.0, 3.0, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "uniseg.safetensors", untrained(1, [task]))
        server.upload_model("uniseg", Path(folder) / "uniseg.safetensors")


def server_conf(folder: Path) -> dict[str, str]:
    """Settings of a server that keeps its models in a folder and offers PromptSeg too."""
    return {"models": str(folder / "models"), "promptseg": str(SHIPPED_PROMPTSEG)}


def add_study(server: Client, name: str) -> None:
    """Add a study to the server's list, and wait until it has its automatic mask."""
    with tempfile.TemporaryDirectory() as folder:
        server.add_image(write_study(Path(folder), name))

    def segmented() -> bool:
        status = server.status()
        return bool(status["job"]["state"] == "done" and status["studies"][name]["status"] == "automatic")

    _wait(segmented, f"{name} was not segmented")


def wait_for_training(server: Client) -> None:
    """Wait until a training process runs."""
    _wait(server.is_training, "no training started")


def _wait(condition: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise PanelError(f"{failure} within {WAIT_SECONDS} s")
        time.sleep(0.1)


@contextmanager
def recording_session(
    port: int, extension: Path = RELEASED, look: Callable[[Session, str], None] | None = None
) -> Iterator[Iterator[tuple[str, list[bytes]]]]:
    """A session on a server whose only study is `FIRST`; gives each step's name and requests."""
    with tempfile.TemporaryDirectory() as folder, Tap(port) as tap:
        with Client(f"http://127.0.0.1:{port}") as server:
            session = Session(Panel(tap.url, extension), server, Path(folder))
            if look is not None:
                session.look = lambda step: look(session, step)
            yield ((step, requests) for step in session.steps() if (requests := tap.take()))
            session.panel.close()


def write_recordings(out: Path, steps: Iterator[tuple[str, list[bytes]]]) -> int:
    """Store each step's requests as a file, and what recorded them; returns how many steps there are."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.http"):
        old.unlink()
    names = []
    for number, (step, requests) in enumerate(steps, start=1):
        names.append(f"{number:02d}-{step}.http")
        (out / names[-1]).write_bytes(b"".join(requests))
        print(f"{names[-1]}: {len(requests)} requests", flush=True)
    (out / "recorded.json").write_text(json.dumps({"client": RELEASE, "sha256": SHA256}, indent=1) + "\n")
    return len(names)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slicer.record", description="Record what the released 3D Slicer extension sends."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the recordings")
    parser.add_argument(
        "--extension", type=Path, default=RELEASED, metavar="FOLDER",
        help="the extension's folder with MONAILabel.py (default: the one that MONAI Label's wheel brings)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder) / "studies", FIRST)
        conf = server_conf(Path(folder))
        try:
            with Server(Path(folder) / "studies", log=Path(folder) / "server.log", conf=conf) as server:
                port = int(server.url.rpartition(":")[2])
                with recording_session(port, options.extension) as steps:
                    write_recordings(options.out, steps)
        except PanelError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

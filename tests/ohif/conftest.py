"""Orthanc with phantoms, the real server on it, and a browser: one of each for all tests of this folder."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lib.imaging.images import Image, read_image
from lib.networks.checkpoints import SHIPPED_WEIGHTS
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG
from lib.segmenters.uniseg.model import save_model
from lib.segmenters.uniseg.tasks import Channel, Task, Window
from scripts.phantoms.dicom_series import make_uid, write_series
from scripts.phantoms.phantom import make_phantom
from scripts.servers.orthanc import Orthanc, load_folder
from tests.lib.segmenters.uniseg.fakes import untrained
from tests.server.conftest import Server, start_server  # noqa: F401  (a fixture)

if TYPE_CHECKING:
    from tests.ohif.viewer import Viewer

SHAPE, SPACING = (48, 48, 16), (7.7, 7.7, 14.0)
PHANTOMS = {  # patient: (modality, tilt in degrees)
    "axial_ct": ("CT", (0.0, 0.0, 0.0)),
    "mr": ("MR", (0.0, 0.0, 0.0)),
    "oblique_ct": ("CT", (9.0, -7.0, 5.0)),
    "pet": ("PT", (0.0, 0.0, 0.0)),
}


@dataclass(frozen=True)
class Phantom:
    """A study on the DICOMweb server, and what is in it."""

    study: str
    series: str
    folder: Path
    image: Image
    truth: np.ndarray


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Phantom]:
    """The studies by patient, as DICOM files below `folder`."""
    folder = tmp_path_factory.getbasetemp() / "phantoms"
    made = {}
    for number, (patient, (modality, tilt)) in enumerate(PHANTOMS.items()):
        phantom = make_phantom((7, number), SHAPE, SPACING, modality=modality, axes="LPS", tilt=tilt)
        uid = str(make_uid("ohif", patient))
        write_series(folder / uid, phantom.array, phantom.affine, uid=uid, patient=patient, modality=modality)
        made[patient] = Phantom(str(make_uid(uid, "study")), uid, folder / uid, read_image(folder / uid), phantom.label)
    return made


@pytest.fixture(scope="session")
def orthanc(phantoms: dict[str, Phantom], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc with the studies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Orthanc(tmp_path_factory.mktemp("orthanc"), port) as orthanc:
        assert load_folder(orthanc.url, tmp_path_factory.getbasetemp() / "phantoms") == len(phantoms) * SHAPE[2]
        yield orthanc


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """The shipped weights instead: here a mask is to lie on an organ."""
    return SHIPPED_WEIGHTS


@pytest.fixture(scope="session")
def viewer_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the browser."""
    return tmp_path_factory.mktemp("chromium")


@pytest.fixture(scope="module")
def server(orthanc: Orthanc, start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:  # noqa: F811
    """The app on Orthanc, with PromptSeg's shipped weights and with a UniSeg that nobody trained: where its masks lie
    is proven, not what they show."""
    folder = tmp_path_factory.mktemp("state")
    task = Task("abdomen", ("liver", "spleen"), (Channel("CT", Window(-200.0, 300.0, 40.0, 100.0)),), (14.0, 7.7, 7.7))
    save_model(folder / "uniseg.safetensors", untrained(1, [task]))
    conf = {"labels": "liver,spleen", "quiet_seconds": "1", "state": str(folder)}
    models = {"promptseg": str(SHIPPED_PROMPTSEG), "uniseg": str(folder / "uniseg.safetensors")}
    return start_server(orthanc.dicomweb, **models, **conf)


@pytest.fixture(scope="module")
def viewer(server: Server, viewer_profile: Path) -> Iterator[Viewer]:
    """OHIF."""
    from tests.ohif.viewer import Viewer

    viewer = Viewer(f"http://127.0.0.1:{server.port}", viewer_profile)
    yield viewer
    viewer.close()

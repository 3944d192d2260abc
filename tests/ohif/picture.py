"""Draws the picture of docs/ohif.md: `python -m tests.ohif.picture IMAGE --voxel I J K --structure NAME`.

IMAGE, a volume in NIfTI, becomes a DICOM series on an Orthanc of its own; OHIF is connected, and one click into the
voxel is answered.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lib.networks.checkpoints import SHIPPED_WEIGHTS
from scripts.phantoms.dicom_series import make_uid, write_series
from scripts.servers.orthanc import Orthanc, load_folder
from tests.ohif.viewer import Viewer
from tests.server.conftest import ROOT, Server

MODEL = "oneprompt_points"
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


def draw(image: Path, voxel: tuple[int, int, int], structure: str, picture: Path, folder: Path) -> None:
    """Answer a click into a voxel of the image, and save what OHIF shows then."""
    volume = nibabel.load(image)
    turned = volume.as_reoriented(ornt_transform(io_orientation(volume.affine), axcodes2ornt("LPS")))
    series, array = make_uid("picture", image.name), np.asarray(turned.dataobj)
    patient = image.name.split(".")[0]
    write_series(
        folder / "dicom" / series, array.astype(np.int16), turned.affine, uid=series, patient=patient, modality="MR"
    )
    rename(folder / "dicom" / series, patient, float(np.percentile(array, 99.5)))
    place = (RAS_TO_LPS @ volume.affine @ [*voxel, 1])[:3]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("orthanc", "server", "browser"):
        (folder / name).mkdir()
    with Orthanc(folder / "orthanc", port) as orthanc:
        load_folder(orthanc.url, folder / "dicom")
        server = Server(
            orthanc.dicomweb, SHIPPED_WEIGHTS, folder / "server", labels=structure, state=str(folder / "state")
        ).start()
        viewer = Viewer(f"http://127.0.0.1:{server.port}", folder / "browser")
        try:
            viewer.open(make_uid(series, "study"))
            viewer.connect()
            viewer.choose("Point Prompts", MODEL, structure)
            viewer.jump(place)
            viewer.click(viewer.viewports()[0].id, place)
            answer = viewer.run("Point Prompts")
            assert answer.status == 200, answer.answer
            viewer.save_picture(picture)
        finally:
            viewer.close()
            server.stop()


def rename(series: Path, name: str, white: float) -> None:
    """Call a series what it is, and let it be shown from black to this grey value."""
    for path in series.iterdir():
        instance = pydicom.dcmread(path)
        instance.StudyDescription = instance.SeriesDescription = instance.PatientName = name
        instance.WindowCenter, instance.WindowWidth = round(white / 2), round(white)
        instance.save_as(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ohif.picture", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--voxel", type=int, nargs=3, required=True, metavar=("I", "J", "K"))
    parser.add_argument("--structure", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "ohif.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oneprompt-ohif-") as folder:
        draw(options.image, tuple(options.voxel), options.structure, options.out, Path(folder))


if __name__ == "__main__":
    main()

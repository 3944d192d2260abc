"""An Orthanc server with its DICOMweb plugin, as a process of its own on this machine, and how studies get into it.

with Orthanc(folder, port=8052) as server:
    load_folder(server.url, Path("a folder of DICOM files"))
    use(server.dicomweb)
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from scripts.servers.processes import ServerProcess

INSTALL = "sudo apt-get install orthanc orthanc-dicomweb"
PLUGIN = "libOrthancDicomWeb.so"
_PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc/plugins")
_START_SECONDS = 60.0


class DicomServerError(RuntimeError):
    """A DICOM server is missing, does not start, cannot be reached or refuses; the message says what to do."""


def find_orthanc() -> tuple[Path, Path]:
    """Paths of the program and of its DICOMweb plugin.

    Raises:
        DicomServerError: one of them is not installed, and how to get it.
    """
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
    plugin = next((Path(folder) / PLUGIN for folder in _PLUGIN_FOLDERS if (Path(folder) / PLUGIN).exists()), None)
    if program is None or plugin is None:
        missing = " and ".join(name for name, path in (("Orthanc", program), (PLUGIN, plugin)) if not path)
        raise DicomServerError(
            f"{missing} not found. Install it ({INSTALL}), or name a DICOMweb server that runs already: "
            "--studies http://HOST/dicom-web. docs/ohif.md has the line for a container"
        )
    return Path(program), plugin


class Orthanc(ServerProcess):
    """Orthanc on this machine, from entering the context until leaving it; what it was given stays in its folder.

    Args:
        folder: where it keeps its database, its settings and its log; made where missing.
        port: of its HTTP server.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder.resolve(), port

    @property
    def url(self) -> str:
        """Address of Orthanc's own REST interface."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def dicomweb(self) -> str:
        """Address for DICOMweb clients."""
        return f"{self.url}/dicom-web"

    def __enter__(self) -> "Orthanc":
        return self.start()

    def start(self) -> "Orthanc":
        """Start it, and wait until it answers. Raises DicomServerError."""
        program, plugin = find_orthanc()
        if _answers(self.url):
            raise DicomServerError(f"{self.url} is taken by another program: choose a port with --orthanc-port N")
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = self._folder / "orthanc.json"
        settings.write_text(json.dumps(self._settings(plugin), indent=1) + "\n")
        self._start([str(program), str(settings)], None, self._folder / "orthanc.log")
        return self

    def _settings(self, plugin: Path) -> dict[str, Any]:
        return {
            "Name": "One-Prompt",
            "StorageDirectory": str(self._folder / "db"),
            "IndexDirectory": str(self._folder / "db"),
            "Plugins": [str(plugin)],
            "HttpPort": self._port,
            # Orthanc has no setting for the address it listens on; this one refuses all who are not on this machine
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        }

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            if _answers(f"{self.dicomweb}/studies?limit=1"):
                return
            time.sleep(0.1)
        log = self._folder / "orthanc.log"
        last = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-8:])
        raise DicomServerError(f"Orthanc did not start on port {self._port}. The end of {log}:\n{last}")


def count_instances(url: str) -> int:
    """How many files an Orthanc holds."""
    return int(_request("GET", f"{url}/statistics").json()["CountInstances"])


def load_folder(url: str, folder: Path) -> int:
    """Give an Orthanc every DICOM file below a folder; returns how many there are. It knows those it has already.

    Raises:
        DicomServerError: there is none, or Orthanc refuses one.
    """
    count = 0
    for path in _dicom_files(folder):
        _request("POST", f"{url}/instances", data=path.read_bytes())
        count += 1
    if not count:
        raise DicomServerError(f"{folder} must hold DICOM files (in sub-folders too), and none was found")
    return count


def _dicom_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    yield path


def _request(method: str, url: str, **options: Any) -> requests.Response:
    try:
        answer = requests.request(method, url, timeout=60, **options)
    except requests.RequestException as error:
        raise DicomServerError(f"Orthanc does not answer {method} {url}: {error}") from error
    if not answer.ok:
        raise DicomServerError(f"Orthanc refused {method} {url} with {answer.status_code}: {answer.text[:300]}")
    return answer


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code < 500
    except requests.RequestException:
        return False

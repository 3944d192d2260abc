"""Serves a DICOMweb study list and prints where OHIF shows its first study: what `scripts/serve --ohif` runs.

    --studies URL          your DICOMweb server
    --studies FOLDER       DICOM files, given to an Orthanc on this machine
    (neither)              phantoms, given to that Orthanc when it is empty
    --orthanc FOLDER       where that Orthanc keeps what it is given (demo/orthanc)
    --orthanc-port N       its port (8052)

Every other option goes to `monailabel start_server`. Orthanc ends with the server.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from scripts.make_demo_data import write_demo_series
from scripts.phantoms.anatomy import LABELS
from scripts.servers.client import APP, ROOT, ended_by_signals
from scripts.servers.orthanc import DicomServerError, Orthanc, count_instances, load_folder

# Not 8042: there Debian's package starts an Orthanc of the system, which is not ours to fill
ORTHANC_PORT = 8052
DEMO_SERIES = 4
_SHOWN_MODALITIES = ("CT", "MR")  # OHIF offers its MONAI Label mode for studies with one of these
_STUDY_UID, _PATIENT_ID = "0020000D", "00100020"


def main(arguments: list[str] | None = None) -> int:
    options, others = parse_arguments(arguments)
    try:
        # Ctrl-C too: a script that starts this in the background has it ignored
        with ended_by_signals(signal.SIGINT, signal.SIGTERM), _study_list(options) as (url, own):
            study = first_study(url)
            return _serve(options, [*own, *others], url, study)
    except DicomServerError as error:
        print(f"scripts/serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """This command's options, and those that are for `monailabel start_server`."""
    parser = argparse.ArgumentParser(prog="scripts/serve --ohif", allow_abbrev=False, add_help=False)
    parser.add_argument("--ohif", action="store_true")
    parser.add_argument("-s", "--studies", default="")
    parser.add_argument("-i", "--host", default="127.0.0.1")
    parser.add_argument("-p", "--port", type=int, default=8000)
    parser.add_argument("--orthanc", type=Path, default=ROOT / "demo" / "orthanc")
    parser.add_argument("--orthanc-port", type=int, default=ORTHANC_PORT)
    return parser.parse_known_args(arguments)


def first_study(url: str) -> str:
    """StudyInstanceUID of the first study, by patient, that OHIF's MONAI Label mode can show.

    Raises:
        DicomServerError: the server cannot be reached, refuses, or has no such study; with what to do.
    """
    for modality in _SHOWN_MODALITIES:
        studies = _search(url, {"ModalitiesInStudy": modality, "limit": 100})
        if studies:
            return min((_value(study, _PATIENT_ID), _value(study, _STUDY_UID)) for study in studies)[1]
    raise DicomServerError(
        f"{url} has no study with {' or '.join(_SHOWN_MODALITIES)}, and OHIF shows its MONAI Label mode for no other: "
        "store one there first"
    )


def ohif_address(base: str, study: str) -> str:
    """Where OHIF opens a study in its MONAI Label mode."""
    return f"{base}/ohif/monai-label?StudyInstanceUIDs={study}"


@contextmanager
def _study_list(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(address of the DICOMweb server, options for the app that go with it); an Orthanc started here ends after it."""
    if options.studies.startswith(("http://", "https://")):
        yield options.studies.rstrip("/"), []
        return
    with Orthanc(options.orthanc, options.orthanc_port) as orthanc:
        if options.studies:
            count = load_folder(orthanc.url, Path(options.studies))
            _say(f"{count} DICOM files of {options.studies} are in Orthanc")
        elif count_instances(orthanc.url) == 0:
            phantoms = options.orthanc / "phantoms"
            if not phantoms.exists():
                write_demo_series(phantoms, DEMO_SERIES, modality="mixed")
            count = load_folder(orthanc.url, phantoms)
            _say(f"{count} DICOM files of {DEMO_SERIES} phantoms are in Orthanc; the truth is in {phantoms / 'truth'}")
        own = ["--conf", "state", str(options.orthanc.resolve() / "state")]
        # OHIF's table of structures is empty until some are known, and nothing can be clicked then
        yield orthanc.dicomweb, own if options.studies else [*own, "--conf", "labels", ",".join(LABELS)]


def _serve(options: argparse.Namespace, others: list[str], url: str, study: str) -> int:
    """Run the app until it ends; its exit status."""
    base = f"http://{'127.0.0.1' if options.host == '0.0.0.0' else options.host}:{options.port}"
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--studies", url]
    command += ["--host", options.host, "--port", str(options.port), *others]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None and not _ready(base):
            time.sleep(0.5)
        if process.poll() is None:
            _say(f"OHIF with the first study:\n\n    {ohif_address(base, study)}\n\n  Ctrl-C stops the server.\n")
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _search(url: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    user, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{name}", "") for name in ("USERNAME", "PASSWORD"))
    prefix = os.environ.get("MONAI_LABEL_QIDO_PREFIX", "")
    address = "/".join(part for part in (url, prefix, "studies") if part)
    try:
        answer = requests.get(
            address,
            params=query,
            auth=(user, password) if user and password else None,
            headers={"Accept": "application/dicom+json"},
            timeout=30,
        )
    except requests.RequestException as error:
        raise DicomServerError(
            f"{address} cannot be reached: start that server, or correct --studies ({error})"
        ) from None
    if answer.status_code in (401, 403):
        raise DicomServerError(
            f"{address} refuses with {answer.status_code}: set MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD"
        )
    if answer.status_code == 204:
        return []
    try:
        answer.raise_for_status()
        return list(answer.json())
    except (requests.RequestException, ValueError) as error:
        raise DicomServerError(f"{address} is no DICOMweb server: --studies needs its root ({error})") from None


def _value(study: dict[str, Any], tag: str) -> str:
    return str((study.get(tag, {}).get("Value") or [""])[0])


def _ready(base: str) -> bool:
    try:
        return requests.get(f"{base}/info/", timeout=10).ok
    except requests.RequestException:
        return False


def _say(text: str) -> None:
    print(f"\n  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

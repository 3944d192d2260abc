"""Looks at what a server would be started with, and at a study folder as the server would; changes nothing in it.

    python -m scripts.doctor FOLDER [--list-only] [--conf KEY VALUE]
    python -m scripts.doctor http://HOST/dicom-web

Packages, weights, permissions, disks and the DICOMweb server come first, each with its remedy
(`infers.operations.checks`).
Every file is listed: taken as what, joined with what, or left out why; then every image and label is read once, and
what is odd about it is told. Ends with 1 where something is left out that looks as if it should not be.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infers.operations.checks import CHECKS, Subject, findings_of
from infers.settings import AppConfig, ConfigError
from infers.store.datastore import StudyStore
from infers.store.inventory import ListedFile
from lib.imaging.images import Image, ImageError, read_image, read_named_label

APP = Path(__file__).resolve().parents[1] / "apps" / "oneprompt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is found; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", metavar="FOLDER", help="the study folder, or the address of a DICOMweb server")
    parser.add_argument("--list-only", action="store_true", help="only list the folder's files")
    parser.add_argument("--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="as the server")
    options = parser.parse_args(arguments)
    try:
        subject = Subject(options.studies, APP, AppConfig.from_conf(dict(options.conf)))
    except ConfigError as error:
        parser.error(str(error))
    if subject.folder is not None and not subject.folder.is_dir():
        parser.error(f"FOLDER must be a folder or the address of a DICOMweb server, got {options.studies}")
    logging.disable(logging.WARNING)  # everything is told once, below
    try:
        lines, wrong = ([], False) if options.list_only else surroundings(subject)
        if subject.folder is not None:
            lines_of_folder, unreadable = _of_folder(subject.folder, options.list_only)
            lines, wrong = [*lines, *lines_of_folder], wrong or unreadable
    finally:
        logging.disable(logging.NOTSET)
    print("\n".join(lines))
    return int(wrong)


def surroundings(subject: Subject) -> tuple[list[str], bool]:
    """A line for everything around the folder, with its remedy, and whether something will not work."""
    findings = [finding for check in CHECKS for finding in findings_of(check, subject)]
    lines = [
        f"{'! ' if one.kind == 'problem' else '  '}{one.about}: {one.text}"
        + (f"\n    -> {one.remedy}" if one.remedy else "")
        for one in findings
    ]
    return [*lines, ""], any(one.kind == "problem" for one in findings)


def _of_folder(path: Path, list_only: bool) -> tuple[list[str], bool]:
    with mirror(path) as folder:
        store = StudyStore(str(folder))
        lines, wrong = listed(store.listing())
        if list_only:
            return lines, wrong
        lines_of_store, unreadable = read(store)
        return [*lines, *lines_of_store], wrong or unreadable


@contextmanager
def mirror(folder: Path) -> Iterator[Path]:
    """A temporary folder of links to every file below a folder: a study list writes its index where its files are."""
    with tempfile.TemporaryDirectory(prefix="oneprompt-doctor-") as there:
        top, real = Path(there) / "studies", folder.resolve()
        for parent, folders, names in os.walk(real):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            here = top / Path(parent).relative_to(real)
            here.mkdir(parents=True)
            for link in (Path(parent) / name for name in folders if (Path(parent) / name).is_symlink()):
                target = link.resolve()
                (here / link.name).symlink_to(top / target.relative_to(real) if target.is_relative_to(real) else target)
            for name in names:
                if not name.startswith(".") and name != "datastore_v2.json":
                    (here / name).symlink_to(Path(parent) / name)
        yield top


def listed(files: Sequence[ListedFile]) -> tuple[list[str], bool]:
    """A line for every file, and whether one is left out that should not be."""
    shown = [one for one in files if one.taken != "index"]
    lines = [
        f"{'! ' if one.is_problem else '  '}{one.path}: {one.taken}"
        + (f" of {one.study}" if one.study else "")
        + (f" ({one.note})" if one.note else "")
        for one in shown
    ]
    return lines or ["  no file is there"], any(one.is_problem for one in shown)


def read(store: StudyStore) -> tuple[list[str], bool]:
    """A line for every study with what reading it tells, and whether one cannot be read."""
    lines, wrong = [""], False
    notes = store.notes()
    for study in store.list_images():
        try:
            image = read_image(store.get_image_uri(study))
        except ImageError as error:
            lines.append(f"! {study}: {error}")
            wrong = True
            continue
        shape, sides = " x ".join(map(str, image.array.shape)), " x ".join(f"{side:.4g}" for side in image.spacing)
        note = "; ".join(filter(None, [notes.get(study, ""), image.note]))
        lines.append(f"  {study}: {shape} voxels of {sides} mm" + (f" ({note})" if note else ""))
        for problem in _labels(store, study, image):
            lines.append(problem)
            wrong = True
    return lines, wrong


def _labels(store: StudyStore, study: str, image: Image) -> Iterator[str]:
    for tag in store.records(study):
        label = store.label(study, tag)
        try:
            if label is not None:
                read_named_label(label.path, image)
        except ImageError as error:
            yield f"! {study}: its label `{tag}`: {error}"


if __name__ == "__main__":
    sys.exit(main())

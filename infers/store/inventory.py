"""Every file of a study folder: taken as what, joined with what, or left out why.

Nothing is left out without a word. What looks like an image or a label and is none counts as a problem, which the board
shows; a text file only stands in the listing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infers.environment import IMAGE_EXTENSIONS, SEGMENTATION_EXTENSIONS
from infers.store.dicom_files import DIRECTORY, may_be_dicom, says_dicom
from infers.store.folders import NOT_UNICODE, SHOWN_ALREADY, folders_of, is_unicode, shown
from infers.store.series import Series
from lib.imaging.detached import companions
from lib.imaging.errors import ImageError
from lib.imaging.formats import DETACHED

IMAGE, LABEL, PART, COPY, RECORD, INDEX, LEFT_OUT = "image", "label", "part", "copy", "record", "index", "left out"
FOREIGN = (  # of images that nothing here reads
    ".mgz", ".mgh", ".mnc", ".vtk", ".vti", ".gipl", ".img", ".raw", ".zraw", ".par", ".rec", ".nia", ".xml", ".svs",
    ".zip", ".tar", ".gz", ".7z", ".mat", ".npy", ".npz", ".stl", ".obj",
)  # fmt: skip
NOT_FLAT = "it lies in a sub-folder, where only DICOM series are looked for: move it, or a link to it, to the top"
NO_FORMAT = f"no format that is read here: allowed are DICOM and {', '.join(IMAGE_EXTENSIONS)}"
NO_TAG = "labels lie in a folder for each tag: move it to labels/final"
NO_SUFFIX = "a DICOM file whose name does not say so: add .dcm"
OWN_FILES = ("datastore_v2.json",)
DANGLING = "a link to nothing: restore what it links to, or remove it"


@dataclass(frozen=True)
class ListedFile:
    """One file.

    Attributes:
        path: below the study folder.
        taken: `IMAGE`, `LABEL`, `PART` (voxels of a header beside it), `COPY`, `RECORD`, `INDEX` or `LEFT_OUT`.
        study: the study that it belongs to; empty for none.
        note: what a person should know of it, or why it is left out.
    """

    path: str
    taken: str
    study: str = ""
    note: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether it looks as if somebody wanted it taken, and it is not."""
        by_name = self.path.lower().endswith((*IMAGE_EXTENSIONS, *SEGMENTATION_EXTENSIONS, *FOREIGN))
        return self.taken == LEFT_OUT and (by_name or self.note != NO_FORMAT)


@dataclass(frozen=True)
class Contents:
    """What a study list takes from its folder.

    Attributes:
        images: {study: its file}, series apart.
        series: {study: its DICOM series}.
        labels: {file: study} of labels, by their paths.
        records: {file: study} of the records beside labels.
        problems: {path below the root: why it is left out} as far as that was found already.
    """

    images: Mapping[str, Path]
    series: Mapping[str, Series]
    labels: Mapping[Path, str]
    records: Mapping[Path, str]
    problems: Mapping[str, str]


def listing(root: Path, contents: Contents) -> list[ListedFile]:
    """Every file below a study folder, by its path; hidden ones are the system's and this app's own."""
    known = {**_of_images(root, contents), **_of_series(root, contents.series), **_of_labels(root, contents)}
    listed: dict[str, ListedFile] = {}
    for folder in folders_of(root):
        for name, reason in folder.closed.items():
            path = _name(root, folder.path / name)
            listed[path] = ListedFile(path, COPY if reason == SHOWN_ALREADY else LEFT_OUT, note=reason)
        for file in folder.names:
            path = _name(root, folder.path / file)
            listed[path] = known.get(path) or _stranger(root, folder.path / file, contents)
    for path, reason in contents.problems.items():  # of folders too
        listed[path] = ListedFile(path, RECORD if reason == DIRECTORY else LEFT_OUT, note=reason)
    return sorted(listed.values(), key=lambda one: one.path)


def _of_images(root: Path, contents: Contents) -> dict[str, ListedFile]:
    files: dict[str, ListedFile] = {}
    for study, file in contents.images.items():
        files |= _with_parts(root, file, IMAGE, study)
    return files


def _of_labels(root: Path, contents: Contents) -> dict[str, ListedFile]:
    records = {_name(root, file): study for file, study in contents.records.items()}
    files = {name: ListedFile(name, RECORD, study) for name, study in records.items()}
    for file, study in contents.labels.items():
        files |= _with_parts(root, file, LABEL, study)
    return files


def _with_parts(root: Path, file: Path, taken: str, study: str) -> dict[str, ListedFile]:
    """A file with those that hold its voxels."""
    name = _name(root, file)
    try:
        # Headers are opened where they are all that a file holds: the listing is made anew at every change
        others = companions(file) if file.name.lower().endswith(DETACHED) else []
        parts = [other for other in others if other.exists()]
        missing = ", ".join(other.name for other in others if other not in parts)
        note = f"its voxels are missing: copy {missing} beside it" if missing else ""
    except (ImageError, OSError) as error:
        parts, note = [], str(error)
    joined = f"with {', '.join(part.name for part in parts[:3])}" if parts else ""
    voxels = {_name(root, part): ListedFile(_name(root, part), PART, study, f"voxels of {name}") for part in parts}
    return {name: ListedFile(name, taken, study, note or joined), **voxels}


def _of_series(root: Path, series: Mapping[str, Series]) -> dict[str, ListedFile]:
    files: dict[str, ListedFile] = {}
    for study, one in series.items():
        note = f"one of {len(one.files)} files of a DICOM series" + (f"; {one.note}" if one.note else "")
        files |= {_name(root, file): ListedFile(_name(root, file), IMAGE, study, note) for file in one.files}
        note = "the same bytes as a file of that series in another folder"
        files |= {_name(root, file): ListedFile(_name(root, file), COPY, study, note) for file in one.repeats}
    return files


def _stranger(root: Path, path: Path, contents: Contents) -> ListedFile:
    """A file that nothing took: the app's own index, or left out."""
    name, folder = _name(root, path), path.parent.relative_to(root).parts
    if not is_unicode(path.name):
        return ListedFile(name, LEFT_OUT, note=NOT_UNICODE)
    if path.name in OWN_FILES or path.name.endswith(".lock"):
        return ListedFile(name, INDEX)
    if path.is_symlink() and not path.exists():
        return ListedFile(name, LEFT_OUT, note=DANGLING)
    if folder[:1] == ("labels",):
        return ListedFile(name, LEFT_OUT, note=_no_label(path, folder, contents))
    if folder and path.name.lower().endswith((*IMAGE_EXTENSIONS, ".seg.nrrd")):
        return ListedFile(name, LEFT_OUT, note=NOT_FLAT)
    if path.name.lower().endswith(".seg.nrrd"):
        note = "3D Slicer's segmentation is a label: put it under labels/final, named as its image"
        return ListedFile(name, LEFT_OUT, note=note)
    if may_be_dicom(path.name) and path.suffix:
        return ListedFile(name, LEFT_OUT, note="no DICOM, whatever its name says")
    return ListedFile(name, LEFT_OUT, note=NO_FORMAT)


def _no_label(path: Path, folder: tuple[str, ...], contents: Contents) -> str:
    """Why a file below `labels` is no label."""
    extensions = (*SEGMENTATION_EXTENSIONS, *IMAGE_EXTENSIONS)
    extension = next((each for each in extensions if path.name.lower().endswith(each)), None)
    if extension is None:
        return NO_SUFFIX if says_dicom(path) else NO_FORMAT
    if len(folder) == 1:
        return NO_TAG
    if len(folder) > 2:
        return f"it lies too deep: move it to {'/'.join(folder[:2])}"
    study = path.name[: -len(extension)]
    if study in contents.images or study in contents.series:
        return f"another label of {study} is used: remove one of them"
    ids = (*contents.images, *contents.series)
    meant = max((id for id in ids if study.startswith(id)), key=len, default="")
    return f"no image is called {study}: " + (
        f"if it is the label of {meant}, name it {meant}{extension}"
        if meant
        else "name the label as its image is named"
    )


def _name(root: Path, path: Path) -> str:
    top = f"{root}{os.sep}"  # compared as text: a long list has tens of thousands of paths
    return shown(str(path).removeprefix(top))

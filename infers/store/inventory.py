"""Every file of a study folder: taken as what, joined with what, or left out why.

Nothing is left out without a word. What looks like an image or a label and is none counts as a problem, which the board
shows; a text file only stands in the listing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from infers.environment import IMAGE_EXTENSIONS, SEGMENTATION_EXTENSIONS
from infers.store.dicom_files import may_be_dicom
from infers.store.series import NOT_UNICODE, Series, is_unicode, shown
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
    known = {**_of_images(root, contents), **_of_series(root, contents.series)}
    for files, taken in ((contents.labels, LABEL), (contents.records, RECORD)):
        known |= {_name(root, file): ListedFile(_name(root, file), taken, study) for file, study in files.items()}
    listed = []
    for path in _files(root):
        name = _name(root, path)
        if reason := contents.problems.get(name):
            listed.append(ListedFile(name, LEFT_OUT, note=reason))
        else:
            listed.append(known.get(name) or _stranger(root, path, contents))
    unseen = contents.problems.keys() - {one.path for one in listed}  # folders
    return sorted([*listed, *(ListedFile(name, LEFT_OUT, note=contents.problems[name]) for name in unseen)],
                  key=lambda one: one.path)  # fmt: skip


def _of_images(root: Path, contents: Contents) -> dict[str, ListedFile]:
    files = {}
    for study, file in contents.images.items():
        name = _name(root, file)
        try:
            # Headers are opened where they are all that a file holds: the listing is made anew at every change
            others = companions(file) if file.name.lower().endswith(DETACHED) else []
            parts, note = [other for other in others if other.exists()], ""
        except (ImageError, OSError) as error:
            parts, note = [], str(error)
        joined = f"with {', '.join(part.name for part in parts[:3])}" if parts else ""
        files[name] = ListedFile(name, IMAGE, study, note or joined)
        files |= {_name(root, part): ListedFile(_name(root, part), PART, study, f"voxels of {name}") for part in parts}
    return files


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
        return ListedFile(name, LEFT_OUT, note=_no_label(path, contents))
    if folder and path.name.lower().endswith((*IMAGE_EXTENSIONS, ".seg.nrrd")):
        return ListedFile(name, LEFT_OUT, note=NOT_FLAT)
    if path.name.lower().endswith(".seg.nrrd"):
        note = "3D Slicer's segmentation is a label: put it under labels/final, named as its image"
        return ListedFile(name, LEFT_OUT, note=note)
    if may_be_dicom(path.name) and path.suffix:
        return ListedFile(name, LEFT_OUT, note="no DICOM, whatever its name says")
    return ListedFile(name, LEFT_OUT, note=NO_FORMAT)


def _no_label(path: Path, contents: Contents) -> str:
    """Why a file below `labels` is no label."""
    extensions = (*SEGMENTATION_EXTENSIONS, *IMAGE_EXTENSIONS)
    extension = next((each for each in extensions if path.name.lower().endswith(each)), None)
    if extension is None:
        return NO_FORMAT
    study = path.name[: -len(extension)]
    if study in contents.images or study in contents.series:
        return f"another label of {study} is used: remove one of them"
    meant = next((id for id in (*contents.images, *contents.series) if study.startswith(id)), "")
    return f"no image is called {study}: " + (
        f"if it is the label of {meant}, name it {meant}{extension}"
        if meant
        else "name the label as its image is named"
    )


def _files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _name(root: Path, path: Path) -> str:
    return shown(path.relative_to(root) if path.is_relative_to(root) else path)

"""Which images and labels a study folder holds, and how their files are called.

MONAI Label knows flat folders of files with a suffix; here a sub-folder can be a DICOM series as well, and beside every
label lies its record.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from infers.environment import IMAGE_PATTERNS, SEGMENTATION_EXTENSIONS
from infers.errors import ClientError, NotFound
from infers.guards import safe_name
from infers.label_records import LabelRecord
from infers.store.folders import NOT_UNICODE, is_unicode, shown
from infers.store.inventory import DANGLING, Contents, ListedFile, listing
from infers.store.known_records import KnownRecords
from infers.store.locked import LockedDatastore
from infers.store.presence import STATE_FOLDER
from infers.store.series import Series, SeriesScanner
from infers.store.sidecars import read_sidecar
from infers.store.watch import FolderWatch
from lib.imaging.detached import companions
from lib.imaging.errors import ImageError
from lib.imaging.formats import DETACHED
from lib.imaging.stamps import lasting_stamp, stamp_of, stamps_in

logger = logging.getLogger(__name__)

# Extensions that no file has, because every file's begins with a dot
SERIES = "series"  # of an image that is a folder
SECOND = "file"  # of an image whose name without its ending is another image's id already
NOTES = ("found", "note")  # of an image: how it was found, and what reading it told
MARK = "./"  # before the names of the second kind, where LocalDatastore asks for ids


class StudyFiles(LockedDatastore):
    """The files of one study folder.

    Args:
        datastore_path: the study folder; images lie in it, DICOM series also in sub-folders, labels in `labels/TAG`.
        extensions: glob patterns of image and label files.
        auto_reload: watch the folder for files that others add or remove.
        read_only: do not look for new files at start (MONAI Label's setting).
    """

    folders_are_series = True

    def __init__(
        self,
        datastore_path: str,
        extensions: Sequence[str] = IMAGE_PATTERNS,
        auto_reload: bool = False,
        read_only: bool = False,
        **unused: Any,
    ) -> None:
        root = Path(datastore_path)
        self._series: dict[str, Series] = {}
        self._stamps: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._unreadable: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._known = KnownRecords()
        self._sidecars: dict[Path, tuple[object, dict[str, Any] | None]] = {}  # stamps of label and record, the record
        self._own: dict[Path, object] = {}  # stamps of the labels that this process wrote, None of those it removed
        super().__init__(datastore_path, extensions=list(extensions), read_only=read_only)
        self._watch = FolderWatch(root, self.refresh, self._is_own) if auto_reload else None

    # What others call

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after files outside this process's doing changed which images and labels there are, or what
        an image holds."""
        self._listeners.append(listener)

    def refresh(self) -> None:
        """Make the list agree with the files."""
        with self._exclusive():
            before = self._shape()
            self._reconcile_datastore()
            changed = before != self._shape()
        if changed:
            for listener in self._listeners:
                listener()

    def overview(self) -> dict[str, Mapping[str, LabelRecord]]:
        """{image id: its records by tag} of every image, in the list's order; each the same object until it changes."""
        with self._lock:
            known = self._known.of_image
            return {
                image_id: known(image_id, {tag: label.info for tag, label in obj.labels.items()})
                for image_id, obj in self._datastore.objects.items()
            }

    def unreadable(self) -> dict[str, str]:
        """{file or folder below the study folder: why it is left out} of what looks like an image or a label."""
        with self._lock:
            return dict(self._problems)

    def listing(self) -> list[ListedFile]:
        """Every file below the study folder: taken as what, joined with what, or left out why."""
        with self._lock:
            return listing(Path(self._datastore_path), self._contents()) if self._scanner else []

    def notes(self) -> dict[str, str]:
        """{image id: what a person should know of its files}, of those of which there is something to know."""
        with self._lock:
            return {
                id: "; ".join(str(info[key]) for key in NOTES if info.get(key))
                for id, obj in self._datastore.objects.items()
                if (info := obj.image.info) and (info.get(NOTES[0]) or info.get(NOTES[1]))
            }

    def note_image(self, image_id: str, note: str) -> None:
        """Keep what reading an image told of its file; nothing where the image is gone."""
        known = self._datastore.objects.get(image_id)
        if known is not None and (known.image.info.get("note") or "") != note:
            with suppress(NotFound):
                self.update_image_info(image_id, {"note": note})

    def image_stamp(self, image_id: str) -> str:
        """Changes when an image's file, or which files its folder holds, does; empty where that is not known."""
        return self._stamps.get(image_id, "")

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known about an image, its path included; a folder's path is left out, viewers open only files."""
        info: dict[str, Any] = super().get_image_info(image_id)
        if image_id in self._series:
            info.pop("path", None)
        return info

    @cached_property
    def _scanner(self) -> SeriesScanner | None:
        if not self.folders_are_series:
            return None
        return SeriesScanner(Path(self._datastore_path), self.state / "series", write=self.write)

    # How LocalDatastore finds and names files

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """Of images and labels, in lower case; a longer one before the shorter one that it ends with."""
        return (*SEGMENTATION_EXTENSIONS, *(pattern.lstrip("*") for pattern in self._extensions))

    def _to_id(self, file: str) -> tuple[str, str]:
        if file in self._series:
            return file, SERIES
        if file.startswith(MARK):
            return file.removeprefix(MARK), SECOND
        for extension in self._endings:
            if file.lower().endswith(extension) and len(file) > len(extension):
                return file[: -len(extension)], file[-len(extension) :]
        return os.path.splitext(file)

    def _filename(self, image_id: str, ext: str) -> str:
        if ext == SERIES:
            series = self._series.get(image_id)
            # Joined to the images' folder by LocalDatastore: an absolute path wins such a join
            return str(series.folder) if series else f"{STATE_FOLDER}/removed"
        return image_id if ext == SECOND else image_id + ext

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        files = {}
        try:
            for name in sorted(os.listdir(path)):
                if not name.startswith(".") and self._matches(name, path != self._datastore.image_path()):
                    if reason := self._unusable(Path(path), name):
                        self._note(Path(path) / name, reason)
                    else:
                        files[name] = name
        except OSError as error:
            if not (self.closed and isinstance(error, FileNotFoundError)):  # whose folders for labels were not made
                self._note(Path(path), f"cannot be listed: {error.strerror}")
        if path == self._datastore.image_path():
            files = self._marked(files) | {uid: uid for uid in self._series}
        return files

    def _marked(self, names: Mapping[str, str]) -> dict[str, str]:
        """The files, marked where another one has their id: a.nrrd beside a.nii.gz is a study called a.nrrd."""
        owners: dict[str, str] = {}
        for name in names:
            id, extension = self._to_id(name)
            known = self._datastore.objects.get(id)
            if id not in owners or (known is not None and known.image.ext == extension):
                owners[id] = name  # the one that had the id before keeps it
        return {
            marked: marked
            for name in names
            for marked in [name if owners[self._to_id(name)[0]] == name else f"{MARK}{name}"]
        }

    def _unusable(self, folder: Path, name: str) -> str | None:
        """Why a file that looks like an image or a label cannot be one; None for one that can."""
        if not is_unicode(name):
            return NOT_UNICODE
        try:
            safe_name("the name", self._to_id(name)[0])
        except ClientError as error:
            return f"{error.detail}: rename it"
        if (folder / name).is_file():
            return None
        return DANGLING if (folder / name).is_symlink() else "it is no plain file"  # a pipe would never end

    def _note(self, path: Path, reason: str) -> None:
        root = Path(self._datastore_path)
        name = shown(path.relative_to(root) if path.is_relative_to(root) else path)
        if self._unreadable.get(name) != reason:
            logger.warning("%s: %s", name, reason)
        self._unreadable[name] = reason

    def _matches(self, name: str, label: bool) -> bool:
        """Whether a file's name says that it is an image, or a label."""
        lower = name.lower()
        return lower.endswith(self._endings) and (label or not lower.endswith(SEGMENTATION_EXTENSIONS))

    def _reconcile_datastore(self) -> None:
        self._unreadable = {}
        self._series = self._scanner.scan() if self._scanner else {}
        super()._reconcile_datastore()
        # Of a folder that is this app's own, nothing is listed
        self._problems = {one.path: one.note for one in self.listing() if one.is_problem}
        self._stamps = {image_id: self._stamp(image_id) for image_id in self._datastore.objects}
        self._touch()

    def _add_non_existing_images(self) -> int:
        count = super()._add_non_existing_images()
        for uid, series in self._series.items():
            if (obj := self._datastore.objects.get(uid)) and obj.image.ext == SERIES:
                obj.image.info.update(series.info, name=f"{uid}.nii.gz", found=series.note)  # as it is downloaded
        return count

    def _add_non_existing_labels(self, tag: str) -> int:
        folder = Path(self._datastore.label_path(tag))
        if not is_unicode(tag) or tag.startswith("."):
            self._note(folder, NOT_UNICODE if not is_unicode(tag) else "its name begins with a dot: rename it")
            return 0
        count = super()._add_non_existing_labels(tag)
        stamps = stamps_in(folder)
        for image_id, obj in self._datastore.objects.items():
            if label := obj.labels.get(tag):
                file, sidecar = folder / self._filename(image_id, label.ext), folder / _sidecar(image_id)
                info = self._recorded(file, sidecar, (stamps.get(file.name), stamps.get(sidecar.name)))
                if info is not None and info is not label.info and info != label.info:
                    label.info = info
                    count += 1
        return count

    def _recorded(self, file: Path, sidecar: Path, stamps: tuple[object, object]) -> dict[str, Any] | None:
        """What a label's sidecar says of the label as it is now; read again where one of the two changed."""
        known = self._sidecars.get(file)
        if known is not None and known[0] == stamps:
            return known[1]
        problems: list[str] = []

        def note(path: Path, reason: str) -> None:
            problems.append(reason)
            self._note(path, reason)

        try:
            info = read_sidecar(sidecar, file, note)
        except FileNotFoundError:  # removed meanwhile
            return None
        except OSError as error:
            self._note(file, f"cannot be read: {error.strerror}")
            return None
        if not problems:  # those are told of at every look
            self._sidecars[file] = (stamps, info)
        return info

    def _left(self, label: Path) -> None:
        """Remember how this process left a label, which is no news to it."""
        self._own[label] = stamp_of(label)

    def _is_own(self, path: Path) -> bool:
        return path in self._own and self._own[path] == stamp_of(path)

    # Own helpers

    def _contents(self) -> Contents:
        """What the list takes, for the listing of everything else."""
        objects = self._datastore.objects
        top = Path(self._datastore.image_path())
        images = {id: top / self._filename(id, obj.image.ext) for id, obj in objects.items() if obj.image.ext != SERIES}
        labels: dict[Path, str] = {}
        records: dict[Path, str] = {}
        for tag in self._datastore.tags():
            folder = Path(self._datastore.label_path(tag))
            for id, obj in objects.items():
                if label := obj.labels.get(tag):
                    name = self._filename(id, label.ext)
                    labels[folder / name] = id
                    records |= dict.fromkeys((folder / f"{name[: -len(label.ext)]}.json", folder / _sidecar(id)), id)
        scanner = self._scanner
        problems = {**scanner.left_out, **scanner.problems} if scanner else {}
        return Contents(images, self._series, labels, records, {**problems, **self._unreadable})

    def _refuse_behind_links(self, image_id: str) -> None:
        """Raise ClientError where an image's files lie behind a link to a folder, which is somebody else's."""
        series, top = self._series.get(image_id), Path(self._datastore_path).resolve()
        files = (*series.files, *series.repeats) if series else ()
        if any(not file.parent.resolve().is_relative_to(top) for file in files):
            raise ClientError(
                f"the files of {image_id} lie outside of the study folder, where a link leads, and nothing is removed "
                "there: remove the link, or the files themselves",
                409,
            )

    def _sidecar(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag)) / _sidecar(image_id)

    def _info_now(self, image_id: str, tag: str) -> dict[str, Any] | None:
        """What is recorded about a label as the files are now, those included that the list does not know yet.

        None where there is no label.
        """
        known = self._tags(image_id).get(tag)
        folder = Path(self._datastore.label_path(tag))
        # By the endings that labels have: the folder of a long list is long too
        for extension in self._endings:
            file = folder / f"{image_id}{extension}"
            if self._to_id(file.name)[0] == image_id and file.exists():
                info = read_sidecar(self._sidecar(image_id, tag), file)
                return info if info is not None else dict(known.info) if known else {}
        return None

    def _stamp(self, image_id: str) -> str:
        name = self._filename(image_id, self._datastore.objects[image_id].image.ext)
        path = Path(self._datastore.image_path()) / name
        try:
            parts = companions(path) if name.lower().endswith(DETACHED) else []
            return lasting_stamp(path, *parts)
        except (OSError, ImageError):  # removed meanwhile, or without its voxels
            return ""

    def _shape(self) -> dict[str, Any]:
        objects = self._datastore.objects.items()
        labels = {image_id: {tag: label.info for tag, label in obj.labels.items()} for image_id, obj in objects}
        # An image that was still being copied when it was read is news once it is whole
        return {"labels": labels, "images": self._stamps}


def _sidecar(image_id: str) -> str:
    return f"{image_id}.oneprompt.json"

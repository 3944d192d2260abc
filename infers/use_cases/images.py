"""A client adds an image to the list, fetches one, or stored one past the list."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infers.errors import NotFound
from infers.store.locked import NO_IMAGE
from infers.study_list.changes import Changes
from infers.study_list.store import Store
from lib.imaging.files import temporary_prefix
from lib.imaging.images import read_image, write_image


class Images:
    """Images of one study list.

    Args:
        store: the datastore.
        changes: told where the list is another one.
    """

    def __init__(self, store: Store, changes: Changes) -> None:
        self._store, self._changes = store, changes

    def add(self, name: str, path: Path, info: Mapping[str, Any]) -> str:
        """Add an uploaded image to the list; returns its id. Raises ClientError, ImageError."""
        image_id = self._store.add_image(name, str(path), dict(info))
        self._changes.noticed()
        return image_id

    def path(self, image_id: str) -> Path:
        """Where a study's image lies. Raises NotFound."""
        return image_path(self._store, image_id)

    def as_file(self, folder: Path) -> Path:
        """A DICOM series as one temporary NIfTI file, for clients that open only files."""
        handle, path = tempfile.mkstemp(suffix=".nii.gz", prefix=temporary_prefix())
        os.close(handle)
        try:
            write_image(path, read_image(folder))
        except BaseException:
            os.unlink(path)  # nobody else knows of it
            raise
        return Path(path)

    def stored_elsewhere(self) -> None:
        """A client stored something on the DICOMweb server, past the study list: it is read anew."""
        self._store.forget()
        self._changes.noticed()

    def next_sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """MONAI Label's next sample as both clients need it.

        A folder's path is left out, so that Slicer downloads one file instead; OHIF is told which study to open, also
        of a series that nobody opened here yet.
        """
        sample = dict(sample)
        if sample.get("id") and self._store.on_dicomweb:
            sample = {"StudyInstanceUID": self._store.study_uid(sample["id"]), **sample}
        if sample.get("path") and os.path.isdir(sample["path"]):
            sample = {**sample, "path": "", "name": f"{sample['id']}.nii.gz"}
        return sample


def image_path(store: Store, image_id: str) -> Path:
    """Where a study's image lies. Raises NotFound."""
    uri = store.get_image_uri(image_id) if image_id in store.list_images() else ""
    if not uri or not os.path.exists(uri):
        raise NotFound(NO_IMAGE.format(image_id[:80]))
    return Path(uri)

"""What the annotation page is told of a study: its image, its labels, and how a label of it is to be written."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infers.annotate.presence import Presence
from infers.annotate.shown import SHRINKS, Shown, ShownStudies
from infers.board.decisions import version_of
from infers.board.thumbnails import colours
from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL, PROMPTED
from infers.limits import MB
from infers.store.datastore import StoredLabel
from infers.store.locked import NO_IMAGE
from infers.study_list.studies import Studies
from lib.imaging.formats import label_head
from lib.imaging.images import read_label
from lib.imaging.nifti import nifti_bytes
from lib.imaging.pictures import COLOURS, hexadecimal

MOST_STRUCTURES = 255  # the page paints in bytes
TAGS = (FINAL, PROMPTED, AUTOMATIC)


class Desk:
    """The annotation page's view of one study list.

    Args:
        studies: the study list.
        capacity: bytes of voxels of shown studies to keep.
    """

    def __init__(self, studies: Studies, capacity: int = 512 * MB) -> None:
        self._studies = studies
        self._shown = ShownStudies(capacity)
        self.presence = Presence()

    @property
    def held(self) -> int:
        """Bytes of voxels that are kept."""
        return self._shown.held

    def study(self, image_id: str, shrink: int) -> dict[str, Any]:
        """What GET /oneprompt/studies/{id}/open answers (docs/annotate.md). Raises NotFound, ImageError."""
        shown, path = self._of(image_id), self.path(image_id)
        image, names = shown.image, self._studies.labels.names
        suffix, head = label_head(image.array.shape, image.affine, image.nifti_header)
        low, high = float(image.array.min()), float(image.array.max())
        return {
            "id": image_id,
            "file": path.name,
            "shape": list(shown.shape),
            "flat": image.array.ndim == 2,
            "affine": image.affine.tolist(),
            "spacing": list(image.spacing),
            "slice_axis": shown.slice_axis,
            "shrink": _checked(shrink),
            "steps": list(shown.steps(shrink)),
            "colour": shown.colours is not None,
            "window": list(shown.window),
            "range": [low, high],
            "hounsfield": low < -500 and shown.colours is None,
            "checksum": image.checksum,
            "label": {"suffix": suffix, "head": base64.b64encode(head).decode()},
            "labels": {tag: _described(label) for tag in TAGS if (label := self._label(image_id, tag))},
            "structures": names,
            "colours": colours(names),
            "palette": list(map(hexadecimal, COLOURS)),
        }

    def volume(self, image_id: str, shrink: int) -> tuple[int, Iterator[bytes]]:
        """The image as `Shown.nifti` gives it. Raises NotFound, ImageError."""
        return self._of(image_id).nifti(_checked(shrink))

    def mask(self, image_id: str, tag: str) -> bytes:
        """A label of a study as uncompressed NIfTI in the image's own axes, uint8, each structure with the list's
        number.

        Raises:
            NotFound: there is none with this tag.
            ClientError: more structures than the page can show.
        """
        if tag not in TAGS:
            raise ClientError(f"tag must be one of {', '.join(TAGS)}, got {tag!r}")
        stored, image = self._label(image_id, tag), self._of(image_id).image
        if stored is None:
            raise NotFound(f"there is no label {tag!r} of image {image_id[:80]!r} (any more)")
        label = read_label(stored.path, image)
        numbers, values = self._studies.labels.names, names_of(stored)
        table = np.arange(int(label.max()) + 1)
        for name, value in values.items():
            if value < table.size:
                table[value] = numbers.get(name, value)
        if table.max() > MOST_STRUCTURES:
            raise ClientError(f"the page shows at most {MOST_STRUCTURES} structures, the label has {int(table.max())}")
        return nifti_bytes(table[label].astype(np.uint8), image.affine, None)

    def versions(self, image_id: str) -> dict[str, str]:
        """{tag: short name of the label's bytes}, as they are now."""
        return {tag: version_of(label) for tag in TAGS if (label := self._label(image_id, tag))}

    def _label(self, image_id: str, tag: str) -> StoredLabel | None:
        return self._studies.store.label(image_id, tag)

    def path(self, image_id: str) -> Path:
        """Where a study's image lies. Raises NotFound."""
        if image_id not in self._studies.store.list_images():
            raise NotFound(NO_IMAGE.format(image_id[:80]))
        return Path(self._studies.store.get_image_uri(image_id))

    def _of(self, image_id: str) -> Shown:
        return self._shown.of(self.path(image_id))


def names_of(label: StoredLabel) -> dict[str, int]:
    """{structure: value in the label}, as far as it is recorded."""
    made = label.record.provenance if label.record.inferred else None
    return dict(label.record.structures or (made and (made.structures or made.label_names)) or {})


def _described(label: StoredLabel) -> dict[str, Any]:
    record = label.record
    return {
        "version": version_of(label),
        "structures": names_of(label),
        "user": record.author,
        "client_id": record.statement.client_id,
        "ts": record.saved,
        "accepted": record.accepted,
        "prompts": record.prompts,
    }


def _checked(shrink: int) -> int:
    if shrink not in SHRINKS:
        raise ClientError(f"shrink must be one of {', '.join(map(str, SHRINKS))}, got {shrink}")
    return shrink

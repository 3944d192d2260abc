"""Further study lists to learn from, as folders: a data set, or what another server exports.

DATA SET    images/NAME, labels/NAME, dataset.json with `labels` {index: name}
EXPORT      image/NAME, label/NAME, metadata.json: an unpacked `GET /datastore/dataset` of MONAI Label
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.uniseg.plan import PlanError


def read_list(folder: Path) -> list[LabelledStudy]:
    """The labelled studies in a folder of one of the two forms.

    Raises:
        PlanError: neither form, a broken file, or no labelled study.
    """
    readers = {"dataset.json": _data_set, "metadata.json": _export}
    name = next((name for name in readers if (folder / name).is_file()), None)
    if name is None:
        raise PlanError(
            f"{folder} must be a data set with images/, labels/ and dataset.json, or an unpacked export of MONAI Label "
            "with image/, label/ and metadata.json"
        )
    try:
        content = json.loads((folder / name).read_text())
        studies = readers[name](folder, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{folder / name} cannot be read: {error!r}") from error
    if not studies:
        raise PlanError(f"{folder} holds no labelled study: export a list with final labels")
    return studies


def _data_set(folder: Path, content: Mapping[str, Any]) -> list[LabelledStudy]:
    names = {str(name): int(value) for value, name in content["labels"].items()}
    studies = []
    for image in sorted((folder / "images").iterdir()):
        label = folder / "labels" / image.name
        if label.is_file():
            studies.append(LabelledStudy(image.name, image, label, names, image.name))
    return studies


def _export(folder: Path, content: Mapping[str, Any]) -> list[LabelledStudy]:
    studies = []
    for id, own in sorted(content["objects"].items()):
        final = own["labels"].get("final")
        if not final:
            continue
        image, label = folder / "image" / f"{id}{own['image']['ext']}", folder / "label" / f"{id}{final['ext']}"
        names = _names(final.get("info") or {})
        if image.exists() and label.is_file() and names:
            studies.append(LabelledStudy(id, image, label, names, id))
    return studies


def _names(info: Mapping[str, Any]) -> dict[str, int]:
    """{structure: value} of a label: what this app found in it, else what the client said."""
    if isinstance(info.get("structures"), Mapping):
        return {str(name): int(value) for name, value in info["structures"].items()}
    entries = info.get("label_info") or ()
    numbers = {str(entry["name"]): entry.get("idx", entry.get("id")) for entry in entries}
    if numbers and all(number is not None for number in numbers.values()):
        return {name: int(number) for name, number in numbers.items()}
    return {name: number for number, name in enumerate(numbers, start=1)}

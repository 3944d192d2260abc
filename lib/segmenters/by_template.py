"""One image segmented by templates, from files to a file: what `scripts.predict` and the exported bundle both do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.imaging.files import write_atomically
from lib.imaging.images import LABEL_SUFFIXES, ImageError, read_image, read_label, write_label
from lib.imaging.label_maps import boxes_of
from lib.inference.templates import Template
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter


def read_template(image: str | Path, label: str | Path, names: Sequence[str] = ()) -> Template:
    """A template from its two files.

    Args:
        image: as `read_image` takes it, a DICOM series' folder too.
        label: a label map on the image's grid.
        names: names of the label's values 1, 2, ...; a value without a name is called label_N.

    Raises:
        ImageError: a file that cannot be used, or an empty label.
        TemplateError: a label that shows nothing.
    """
    picture = read_image(image)
    label_map = read_label(label, picture)
    values = list(boxes_of(label_map))
    if not values:
        raise ImageError(f"{Path(label).name}: the template's label must hold a structure, got 0 everywhere: paint one")
    if len(set(names)) < len(names) or len(names) > max(values):
        raise ImageError(f"names must be different and at most {max(values)}, the label's largest value; got {names}")
    named = {value: names[value - 1] if value <= len(names) else f"label_{value}" for value in values}
    return Template(Path(image).name, picture, label_map, {name: value for value, name in named.items()})


def read_templates(
    images: Sequence[str | Path], labels: Sequence[str | Path], names: Sequence[str] = ()
) -> list[Template]:
    """Templates from their files, an image and a label map each, as `read_template`.

    Raises:
        ImageError: an image without a label or the reverse, two of one name, or a file that cannot be used.
        TemplateError: see `read_template`.
    """
    if len(images) != len(labels) or not images:
        raise ImageError(f"every template needs its label, got {len(images)} images and {len(labels)} labels")
    templates = [read_template(*pair, names) for pair in zip(images, labels, strict=True)]
    if len({template.id for template in templates}) < len(templates):
        raise ImageError(f"templates need file names of their own, got {[template.id for template in templates]}")
    return templates


def for_templates(images: Sequence[str | Path]) -> SegmenterSettings:
    """The settings with which all templates that are given are asked."""
    return SegmenterSettings(templates_per_query=max(1, len(images)))


def segment_file(
    segmenter: SliceSegmenter,
    image: str | Path,
    templates: Sequence[Template],
    out: str | Path,
    *,
    replace: bool = False,
) -> dict[str, Any]:
    """Segment an image's file and write the mask with its record beside it.

    Args:
        image: as `read_image` takes it.
        templates: of different names; their labels' values are the mask's values, the first one's where they differ.
        out: the mask, `LABEL_SUFFIXES`, in the image's own geometry; its record is the same name with .json.
        replace: write over files that are there.

    Returns:
        The record: structures with their values, predicted quality, weights, templates, checksums.

    Raises:
        FileExistsError, FileNotFoundError: see `check_free`.
        ImageError, TemplateError: what was given and what to do.
    """
    out = Path(out)
    check_free(out, replace)
    picture = read_image(image)
    labels: dict[str, int] = {}
    for template in templates:
        labels = {name: template.names[name] for name in template.structures} | labels
    prediction = segmenter.segment(picture, templates, labels)
    checksums = [{"name": template.id, "checksum": template.checksum} for template in templates]
    record = {
        "labels": labels,
        **prediction.provenance,
        "image": {"name": Path(image).name, "checksum": picture.checksum},
        **({"template": checksums[0]} if len(checksums) == 1 else {"template_files": checksums}),
        "voxels": {name: int((prediction.mask == value).sum()) for name, value in labels.items()},
    }
    write_label(out, prediction.mask, picture)
    write_atomically(record_of(out), (json.dumps(record, indent=1) + "\n").encode())
    return record


def check_free(out: Path, replace: bool) -> None:
    """Refuse a place where no mask can be written, before the work instead of after it.

    Raises:
        FileExistsError, FileNotFoundError, ImageError: what is in the way, and what to do.
    """
    there = [path for path in (out, record_of(out)) if path.exists()]
    if there and not replace:
        raise FileExistsError(f"{' and '.join(map(str, there))} exists already: name another file, or replace it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} for the mask does not exist: make it")


def record_of(mask: Path) -> Path:
    """Where the record of a mask lies. Raises ImageError for a suffix that no mask can have."""
    for suffix in sorted(LABEL_SUFFIXES, key=len, reverse=True):
        if mask.name.lower().endswith(suffix):
            return mask.with_name(mask.name[: -len(suffix)] + ".json")
    raise ImageError(f"{mask.name}: a mask's name must end in one of {', '.join(LABEL_SUFFIXES)}")


def summary(record: Mapping[str, Any]) -> str:
    """One line a structure: its name, value, voxels and predicted Dice, or why there is none."""

    def predicted(name: str) -> str:
        if name in record["quality"]:
            return f"predicted Dice {100 * record['quality'][name]:.0f}"
        return str(record.get("quality_reason", {}).get(name, "no predicted Dice"))

    return "\n".join(
        f"{name}: value {value}, {record['voxels'][name]} voxels, {predicted(name)}"
        for name, value in record["labels"].items()
    )

"""A client, or a batch, has a study segmented."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from infers.dicom.dicomseg import Maker, read_headers
from infers.dicom.pacs_labels import inferred_seg
from infers.dicom.rtstruct import write_rtstruct
from infers.errors import ClientError, NotFound
from infers.label_records import AUTOMATIC, FINAL
from infers.study_list.studies import MODEL, Studies
from infers.tasks.request import is_marked
from infers.tasks.uniseg import UNISEG
from infers.use_cases.images import image_path
from lib.imaging.files import temporary_prefix
from lib.imaging.images import Image, read_label

Task = Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]  # to a mask file and what a client is told about it


class Inference:
    """Inference on one study list.

    Args:
        studies: the list.
        tasks: the infer tasks by name.
    """

    def __init__(self, studies: Studies, tasks: Mapping[str, Task]) -> None:
        self._studies, self._tasks = studies, tasks

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a task: MONAI Label's `infer`, with the image resolved here.

        Args:
            request: `model`, and `image_id` (a study) or `image` (a study, or a file of this machine); `save_label`
                with `label_tag` stores the mask.

        Raises:
            ClientError: unknown model or study, or what the task refuses.
        """
        resolved, store = copy.deepcopy(dict(request)), self._studies.store
        task = self._tasks.get(resolved.get("model", ""))
        if task is None:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {resolved.get('model')!r}")
        image_id = resolved.get("image_id")
        if image_id is None and resolved.get("image") in store.list_images():
            image_id = resolved["image"]
        if image_id is not None:
            resolved |= {"image_id": image_id, "image": str(image_path(store, image_id))}
        if image_id is not None and resolved.get("frame"):
            # Masks and labels of a study are those of its first volume: another one is answered and not kept
            if resolved.get("save_label") or is_marked(resolved):
                raise ClientError("only the first volume of a study has labels: leave `frame` out to save a result")
            # Of a DICOMweb server's series the list has the first volume as a file, and all of them as instances
            resolved["image"] = str(self._series_folder(image_id) or resolved["image"])
            del resolved["image_id"]
            image_id = None
        stamp = store.image_stamp(image_id) if image_id is not None else ""
        path, params = task(resolved)
        tag, label = resolved.get("label_tag") or AUTOMATIC, path
        if resolved.get("save_label") and image_id is not None:
            label = image_id
            if tag != AUTOMATIC or not params.get("stored"):
                self._studies.store_result(image_id, Path(path), params, stamp, tag)
        return {"label": label, "tag": tag, "file": path, "params": params}

    def check_batch(self, name: str, params: Mapping[str, Any]) -> None:
        """Refuse a batch that cannot work, before a process is started for it. Raises ClientError."""
        if name not in (MODEL, UNISEG):
            raise ClientError(
                f"batch inference works with the models {MODEL} and {UNISEG}, which need no clicks; got {name!r}"
            )
        if params.get("label_tag") == FINAL:
            raise ClientError("label_tag `final` is for labels that a person submits; use `original`")
        if name == MODEL:
            self._studies.require_template()

    def as_dicom_seg(self, image_id: str, result: Mapping[str, Any]) -> str:
        """A result of `run` as a temporary DICOM SEG file that refers to the image's series. Raises ClientError."""
        headers, image, label = self._on_series("dicom_seg", image_id, result)
        return _saved(inferred_seg(headers, image, label, result["params"]))

    def as_rtstruct(self, image_id: str, result: Mapping[str, Any]) -> str:
        """The same as a temporary RTSTRUCT file. Raises ClientError."""
        headers, image, label = self._on_series("rtstruct", image_id, result)
        return _saved(write_rtstruct(headers, image, label, result["params"]["label_names"], by=Maker.AUTOMATIC))

    def _on_series(
        self, output: str, image_id: str, result: Mapping[str, Any]
    ) -> tuple[list[Dataset], Image, np.ndarray]:
        """Headers of the series that a study is, its image, and a mask of it."""
        folder = self._series_folder(image_id) if image_id else None
        if folder is None:
            raise ClientError(f"output={output} needs image=ID of a study that is a DICOM series", 406)
        image = self._studies.images.read(image_path(self._studies.store, image_id))
        return read_headers(folder), image, read_label(result["file"], image)

    def _series_folder(self, image_id: str) -> Path | None:
        """The folder with a study's instances; None where it is no DICOM series. Raises NotFound."""
        store = self._studies.store
        path = image_path(store, image_id)
        folder = path.parent / image_id if store.on_dicomweb else path
        return folder if folder.is_dir() else None


def _saved(instance: Dataset) -> str:
    """A DICOM instance as a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=".dcm", prefix=temporary_prefix(), delete=False) as target:
        instance.save_as(target.name)
    return target.name

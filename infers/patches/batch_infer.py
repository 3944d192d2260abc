"""MONAI Label's batch inference (`POST /batch/infer/oneprompt`), made to work without a GPU and past a bad study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from infers.label_records import FINAL

logger = logging.getLogger(__name__)


class TolerantBatchInfer(BatchInferTask):
    """Segments the studies that no person has labelled; a study that fails does not stop the others."""

    def get_images(self, request: dict[str, Any], datastore: Any) -> list[str]:
        """The chosen studies without those that have a final label."""
        return [i for i in super().get_images(request, datastore) if FINAL not in datastore.records(i)]

    def __call__(self, request: dict[str, Any], datastore: Any, infer: Callable[..., Any]) -> dict[str, Any]:
        """Run, one study after the other: MONAI Label's default of several GPUs divides by zero where there is none."""

        def tolerant(one: dict[str, Any], store: Any) -> dict[str, Any]:
            try:
                return infer(one, store)
            except Exception as error:
                logger.warning("%s was not segmented: %s", one.get("image"), error)
                return {"error": str(error)}

        device = request.get("device", "cuda") if torch.cuda.is_available() else "cpu"
        single = {**request, "multi_gpu": False, "max_workers": 1, "device": device}
        return super().__call__(single, datastore, tolerant)

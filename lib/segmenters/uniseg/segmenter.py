"""UniSeg on whole studies: tasks by structure, one pass of the encoder for all tasks that see the same image.

Memory is bounded: answers are summed over windows of one depth (`windows.py`), and on the study's own grid lie class
numbers alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lib.imaging.images import Image
from lib.imaging.prompts import Prompt
from lib.inference.control import Control
from lib.inference.templates import Template
from lib.segmenters.contract import Capabilities, Prediction
from lib.segmenters.provenance import provenance
from lib.segmenters.registry import UNISEG_MODEL
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.study import Prepared, Study, prepare
from lib.segmenters.uniseg.tasks import Task, TaskError, check_channels, named
from lib.segmenters.uniseg.windows import ClassMap, smaller, window_slabs

logger = logging.getLogger(__name__)


class UniSegSegmenter:
    """A model on its device; a `lib.segmenters.contract.Segmenter` that needs neither templates nor prompts.

    It may be called from several threads.

    Args:
        model: with its network on `device`.
        device: torch device.
    """

    def __init__(self, model: UniSegModel, device: str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        self.fingerprint = model.fingerprint
        self.capabilities = Capabilities(
            UNISEG_MODEL.name,
            dimensions=3,
            channels=tuple(sorted({len(task.channels) for task in model.tasks})),
            most_templates=0,
            prompt_types=frozenset(),
            vocabulary=model.structures,
        )

    def segment(
        self,
        image: Image,
        templates: Sequence[Template],
        labels: Mapping[str, int],
        *,
        control: Control = Control(),
    ) -> Prediction:
        """See `lib.segmenters.contract.Segmenter`."""
        return self.segment_study(Study(image.channels), labels, control=control)

    def interact(
        self,
        image: Image,
        prompts: Mapping[str, Prompt],
        labels: Mapping[str, int],
        *,
        axis: int | None = None,
        only_slice: bool = False,
        control: Control = Control(),
    ) -> Prediction:
        """Not offered: raises PromptError."""
        self.capabilities.check_prompts(prompts)
        raise AssertionError("a model without prompt types refuses prompts")

    def segment_study(self, study: Study, labels: Mapping[str, int], *, control: Control = Control()) -> Prediction:
        """Segment some structures.

        Args:
            study: with the channels that the structures' tasks take.
            labels: structures wanted, name to index (1 or more) in the mask.
            control: follows the work and may end it.

        Raises:
            TaskError: an unknown structure, or a task that takes other channels.
            ImageError: an image that the tasks cannot work on.
            MemoryError: memory ran out, also with a smaller window; says what to do.
            Cancelled: the control stopped it.
        """
        owners = self._owners(study, labels)
        indices = sorted(set(owners.values()))
        claims: list[tuple[int, str, np.ndarray, int]] = []
        groups = _groups(self.model.tasks, indices)
        for number, group in enumerate(groups):
            part = control.part(number / len(groups), (number + 1) / len(groups))
            prepared = prepare(study, self.model.tasks[group[0]])
            for index, label in zip(group, self._labels(prepared, group, part), strict=True):
                whole = prepared.back(label)
                counts = np.bincount(whole.reshape(-1), minlength=self.model.network.config.outputs)
                for value, name in enumerate(self.model.tasks[index].structures, start=1):
                    if owners.get(name) == index:
                        claims.append((int(counts[value]), name, whole, value))
        mask = np.zeros(study.grid.array.shape, np.uint8 if max(labels.values()) < 256 else np.uint16)
        # Tumours and vessels lie within organs: where several tasks claim a voxel, the smallest structure has it
        for _, name, whole, value in sorted(claims, key=lambda claim: -claim[0]):
            mask[whole == value] = labels[name]
        return Prediction(mask, dict(labels), {}, self._provenance(indices))

    def _provenance(self, indices: Sequence[int]) -> dict[str, Any]:
        """JSON-able record of a mask that some tasks made."""
        record = provenance(
            model=self.capabilities.name,
            network=self.model.network.config.name,
            weights=self.model.hash,
            templates=(),
            prompt_types={},
            quality={"quality": {}},  # nothing predicts it for this model
        )
        tasks = [self.model.tasks[index].name for index in indices]
        return {**record, "tasks": tasks, **({"licence": self.model.licence} if self.model.licence else {})}

    def _owners(self, study: Study, labels: Mapping[str, int]) -> dict[str, int]:
        """For each structure the task that answers it: of several that take the study's channels the newest."""
        tasks = self.model.tasks
        if not labels:
            raise TaskError("at least one structure must be wanted, got none: pass {name: index}")
        named(tasks, [name for name in labels if name not in self.model.structures])
        owners = {}
        for name in labels:
            knowing = [number for number, task in enumerate(tasks) if name in task.structures]
            fit = [number for number in knowing if len(tasks[number].channels) == len(study.channels)]
            if not fit:
                check_channels([tasks[number] for number in knowing], len(study.channels))
            owners[name] = fit[-1]
        return owners

    def _labels(self, prepared: Prepared, group: Sequence[int], control: Control) -> list[np.ndarray]:
        """A label map (D, H, W) of the box for each of some tasks; once more with a smaller window without memory."""
        patch = self.model.network.config.patch
        try:
            return self._with_window(prepared, group, patch, control)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            window = smaller(patch, self.model.network.config.stride)
            logger.warning("memory ran out with windows of %s voxels: once more with %s", patch, window)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            return self._with_window(prepared, group, window, control)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise MemoryError(
                f"segmenting needs more memory than there is, also with windows of {window} voxels: free some, ask for "
                "fewer structures at once, or use the processor with --device cpu"
            ) from error

    def _with_window(
        self, prepared: Prepared, group: Sequence[int], window: tuple[int, int, int], control: Control
    ) -> list[np.ndarray]:
        classes = {index: 1 + len(self.model.tasks[index].structures) for index in group}
        maps = [ClassMap(prepared.image.shape[1], prepared.box_shape) for _ in group]
        for slabs in window_slabs(self.model.network, prepared.image, classes, window, control):
            for own, logits in zip(maps, slabs, strict=True):
                own.add(logits)
        return [own.numbers for own in maps]


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; PyTorch says so of the processor's in a plain RuntimeError."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate" in message or "alloc_cpu" in message
    )


def _groups(tasks: Sequence[Task], indices: Sequence[int]) -> list[list[int]]:
    """Tasks that see the same prepared image, together."""
    groups: dict[Any, list[int]] = {}
    for index in indices:
        task = tasks[index]
        windows = tuple(channel.window for channel in task.channels)
        groups.setdefault((windows, task.spacing, task.depth), []).append(index)
    return list(groups.values())

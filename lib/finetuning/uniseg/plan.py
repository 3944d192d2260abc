"""What nnU-Net calls a plan, from the labelled volumes themselves: tasks with spacing and normalisation, and sizes.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021): the median spacing, but a fine one along an axis that is
much coarser than the others; CT on one window from the labelled voxels, everything else by each image's own mean and
deviation; a patch in the proportions of the median volume, and halvings where the voxels are not much coarser yet. Ours
is one more: small volumes leave memory, which goes into more features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.finetuning.labelled_study import LabelledStudy
from lib.imaging.images import read_channels, read_label
from lib.imaging.volumes import ANISOTROPIC
from lib.networks.uniseg import UniSegConfig
from lib.segmenters.uniseg.study import LARGEST_FACTOR, Study, working_shape
from lib.segmenters.uniseg.tasks import HOUNSFIELD, Channel, Task, Window

ANISOTROPIC_LIST = 3.0  # from here on an axis counts as much coarser than the others
LEAST_EDGE = 4  # voxels of the bottleneck along an axis that is halved
WIDEST = 32  # features at full resolution, nnU-Net's number
SAMPLES = 10_000  # grey values of labelled voxels that a study gives to the window
OTHER = "other"  # modality of what is no CT: the files do not say more


class PlanError(ValueError):
    """Labelled studies that UniSeg cannot learn from; says which and what to do."""


@dataclass(frozen=True)
class Facts:
    """What a plan needs to know of a labelled volume.

    Attributes:
        id: of the study.
        shape, spacing: voxels and mm along (right, anterior, superior).
        channels: number of channels.
        lowest: lowest grey value of each channel.
        samples: grey values of labelled voxels of each channel, (C, N).
    """

    id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    channels: int
    lowest: tuple[float, ...]
    samples: np.ndarray

    @classmethod
    def of(cls, study: LabelledStudy) -> Facts:
        """Read one. Raises ImageError for a study that is no volume, or whose label does not lie on it."""
        volume, label = read_study(study)
        marked = np.flatnonzero(np.isin(label, list(study.names.values())))
        some = marked[np.linspace(0, len(marked) - 1, min(SAMPLES, len(marked))).astype(int)]
        order = np.argsort(volume.patient_axes)
        return cls(
            study.id,
            tuple(int(volume.grid.array.shape[axis]) for axis in order),  # type: ignore[arg-type]
            tuple(float(volume.grid.spacing[axis]) for axis in order),  # type: ignore[arg-type]
            len(volume.channels),
            tuple(float(image.array.min()) for image in volume.channels),
            np.stack([image.array.reshape(-1)[some] for image in volume.channels]).astype(np.float32),
        )


def read_study(study: LabelledStudy) -> tuple[Study, np.ndarray]:
    """The channels of a labelled study, and its label on their grid. Raises ImageError."""
    volume = Study(read_channels(study.image).channels)
    return volume, read_label(study.label, volume.grid)


def plan_tasks(
    name: str, studies: Sequence[LabelledStudy], facts: Sequence[Facts], apart: bool = False
) -> tuple[Task, ...]:
    """The tasks that some studies of one list make.

    Args:
        name: of the list, and of its task.
        studies: labelled volumes with one number of channels.
        facts: of each of them.
        apart: a task for each structure, instead of one with all of them; all see the same image.

    Raises:
        PlanError: nothing is labelled, the channels differ, or a spacing stands out tenfold.
    """
    structures = tuple(sorted({structure for study in studies for structure in study.names}))
    if not structures:
        raise PlanError("UniSeg learns from labelled volumes, and none of these shows a structure: label one first")
    counts = {own.channels for own in facts}
    if len(counts) > 1:
        raise PlanError(f"studies of one task must have one number of channels, got {sorted(counts)}: split the list")
    spacing, depth = plan_spacing(facts)
    channels = tuple(_channel(facts, number) for number in range(counts.pop()))
    if apart:
        return tuple(Task(f"{name}: {own}", (own,), channels, spacing, depth) for own in structures)
    return (Task(name, structures, channels, spacing, depth),)


def plan_spacing(facts: Sequence[Facts]) -> tuple[tuple[float, float, float], int]:
    """Spacing along (D, H, W), and the patient axis of D; see `lib.segmenters.uniseg.tasks.Task`.

    Raises:
        PlanError: a study whose spacing differs tenfold from the median.
    """
    all_spacings = np.array([own.spacing for own in facts])
    target = np.median(all_spacings, axis=0)
    for own in facts:
        factor = float(np.max(np.maximum(own.spacing / target, target / own.spacing)))
        if factor > LARGEST_FACTOR:
            raise PlanError(
                f"{own.id} has voxels of {_mm(own.spacing)}, the list's median is {_mm(target)}: is the spacing in its "
                "header in mm? Correct it, or take the study out"
            )
    coarse = int(np.argmax(target))
    others = np.delete(target, coarse)
    if target[coarse] > ANISOTROPIC_LIST * others.max():
        target[coarse] = max(np.percentile(all_spacings[:, coarse], 10), others.max())
    depth = coarse if target[coarse] > ANISOTROPIC * others.max() else 2
    first, second, third = (float(target[axis]) for axis in (depth, *(n for n in (2, 1, 0) if n != depth)))
    return (first, second, third), depth


def plan_config(tasks: Sequence[Task], facts: Mapping[str, Sequence[Facts]], base: UniSegConfig) -> UniSegConfig:
    """Sizes of a network for some tasks.

    Args:
        tasks: all of them.
        facts: of each task's studies, by its name.
        base: gives the most voxels of a patch and halvings, and the width at so many voxels; a patch of half of them
            doubles it.
    """
    shapes, spacings = [], []
    for task in tasks:
        axes = [task.depth, *(axis for axis in (2, 1, 0) if axis != task.depth)]
        for own in facts[task.name]:
            shape, spacing = [own.shape[axis] for axis in axes], [own.spacing[axis] for axis in axes]
            shapes.append(working_shape(shape, spacing, task.spacing))
            spacings.append(task.spacing)
    shape, spacing = np.median(shapes, axis=0), np.median(spacings, axis=0)
    patch = _within(shape, spacing, int(np.prod(base.patch)))
    strides = _strides(patch, spacing, len(base.strides))
    total = np.prod(strides, axis=0)
    depth, height, width = (int(np.ceil(side / own) * own) for side, own in zip(patch, total, strict=True))
    wider = 1  # as far as it needs no more memory than the largest patch
    while 2 * wider * depth * height * width <= np.prod(base.patch) and 2 * wider * base.base <= WIDEST:
        wider *= 2
    return dataclasses.replace(
        base,
        base=wider * base.base,
        most_features=wider * base.most_features,
        tasks=len(tasks),
        outputs=1 + max(len(task.structures) for task in tasks),
        patch=(depth, height, width),
        strides=strides,
        channels=tuple(sorted({*base.channels, *(len(task.channels) for task in tasks)})),
    )


def _within(shape: np.ndarray, spacing: np.ndarray, voxels: int) -> np.ndarray:
    """A patch in the proportions of a volume, of at most so many voxels; no side is longer than the volume's."""
    if np.prod(shape) <= voxels:
        return shape
    sides = 1 / spacing  # a cube of the patient, as nnU-Net begins with
    sides = sides / np.prod(sides) ** (1 / 3) * voxels ** (1 / 3)
    for _ in range(3):  # what one axis cannot use, the others may
        sides = np.minimum(sides, shape)
        free = sides < shape
        if free.any():
            sides[free] *= (voxels / np.prod(sides)) ** (1 / free.sum())
    return np.minimum(sides, shape)


def _strides(patch: np.ndarray, spacing: np.ndarray, most: int) -> tuple[tuple[int, int, int], ...]:
    """Halvings from stage to stage, fine to coarse: an axis waits while its voxels are twice as coarse as another's."""
    sides, sizes = patch.astype(float), spacing.astype(float)
    strides: list[tuple[int, int, int]] = []
    while len(strides) < most:
        can = sides / 2 >= LEAST_EDGE
        if not can.any():
            break
        own = can & (sizes < 2 * sizes[can].min())
        stride = np.where(own, 2, 1)
        sides, sizes = sides / stride, sizes * stride
        strides.append((int(stride[0]), int(stride[1]), int(stride[2])))
    return tuple(strides) or ((1, 2, 2),)


def _channel(facts: Sequence[Facts], number: int) -> Channel:
    if np.median([own.lowest[number] for own in facts]) >= HOUNSFIELD:
        return Channel(OTHER)
    values = np.concatenate([own.samples[number] for own in facts])
    if not len(values):
        raise PlanError("the labels show nothing of their structures: label a study, or correct the names")
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        low, high = low - 1, low + 1
    return Channel("CT", Window(low, high, float(values.mean()), max(float(values.std()), 1.0)))


def _mm(spacing: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{side:.3g}" for side in spacing) + " mm"

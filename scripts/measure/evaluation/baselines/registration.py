"""Registration propagation: the template's image is moved onto the query, and its mask goes along.

Affine (mutual information), then deformable (symmetric demons on matched histograms, coarse to fine), by SimpleITK,
on a grid small enough that a pair of images takes tenths of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import SimpleITK
from skimage.transform import resize

from lib.imaging.prompts import PromptType
from lib.imaging.transforms import normalise
from lib.imaging.volumes import Stack
from scripts.measure.evaluation.cases import Case
from scripts.measure.evaluation.methods import Answer, TemplateQuestion

sitk: Any = SimpleITK  # it ships signatures without types

IMAGE_SIDE = 128  # pixels: the network's own resolution, and images fill the square as they do there
VOLUME_SIDE = 64  # voxels along a volume's longest axis
REMEMBERED = 512  # pairs whose transform is kept, for the next structure of the same images
AFFINE_STEPS = 100
DEMONS_STEPS = (100, 50)  # at half and at full resolution
DEMONS_SIGMA = 1.0  # voxels of smoothing of the displacement; 1.5 and 2.5 were worse on `dev`, so was a B-spline


class Registration:
    """A `TemplateMethod` for one template."""

    name = "registration"
    prompts: tuple[PromptType, ...] = (PromptType.SEGLAB,)
    most_templates = 1
    fingerprint = "1"

    def __init__(self, threads: int = 1) -> None:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        self._transforms: dict[tuple[str, str], Any] = {}

    def answers(self, questions: Sequence[TemplateQuestion], kind: PromptType) -> Iterator[Answer]:
        """See `TemplateMethod`."""
        for one in questions:
            (template,) = one.templates
            plane = one.query.stack.axis
            grid, transform = _grid(one.query, plane), self._transform(template, one.query)
            answer = {}
            for value in one.names:
                mask = _on_grid(template.mask(value).astype(np.float32), template, plane)
                moved = sitk.GetArrayFromImage(sitk.Resample(mask, grid, transform, sitk.sitkLinear, 0.0))
                shape = (len(one.query.stack), *one.query.stack.slice(0).shape)
                slices = resize(moved.reshape(-1, *moved.shape[-2:]), shape, order=1, mode="edge", anti_aliasing=False)
                answer[value] = one.query.stack.restored(slices >= 0.5)
            yield answer

    def _transform(self, template: Case, query: Case) -> Any:
        key = (template.id, query.id)
        if key not in self._transforms:
            if len(self._transforms) >= REMEMBERED:
                self._transforms.clear()
            plane = query.stack.axis
            self._transforms[key] = register(_grid(query, plane), _grid(template, plane))
        return self._transforms[key]


def register(fixed: Any, moving: Any) -> Any:
    """Transform that resamples `moving` onto `fixed`: both SimpleITK images, normalised, 2-D or 3-D."""
    affine = _affine(fixed, moving)
    moved = sitk.Resample(moving, fixed, affine, sitk.sitkLinear, sitk.GetArrayViewFromImage(moving).min().item())
    moved = sitk.HistogramMatching(moved, fixed, 128, 7, True)
    field = None
    for shrink, steps in zip((2, 1), DEMONS_STEPS, strict=True):
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(steps)
        demons.SetStandardDeviations(DEMONS_SIGMA)
        coarse_fixed, coarse_moved = (_shrunk(image, shrink) for image in (fixed, moved))
        field = (
            demons.Execute(coarse_fixed, coarse_moved)
            if field is None
            else demons.Execute(coarse_fixed, coarse_moved, sitk.Resample(field, coarse_fixed))
        )
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])  # the last is applied first


def _affine(fixed: Any, moving: Any) -> Any:
    dimensions = fixed.GetDimension()
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(dimensions), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(32)
    registration.SetMetricSamplingStrategy(registration.REGULAR)  # the same points in every run
    registration.SetMetricSamplingPercentage(0.5, 1)
    registration.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, AFFINE_STEPS)
    registration.SetOptimizerScalesFromPhysicalShift()
    shrinks = [factor for factor in (4, 2) if min(fixed.GetSize() + moving.GetSize()) >= 8 * factor] or [1]
    registration.SetShrinkFactorsPerLevel(shrinks)
    registration.SetSmoothingSigmasPerLevel([factor // 2 for factor in shrinks])
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetInitialTransform(start, inPlace=False)
    try:
        return registration.Execute(fixed, moving)
    except RuntimeError:  # the images drifted apart: stay where they were put on top of each other
        return start


@lru_cache(maxsize=64)  # every image is in many pairs
def _grid(case: Case, plane: int) -> Any:
    return _on_grid(normalise(case.image.array), case, plane)


def _on_grid(array: np.ndarray, case: Case, plane: int) -> Any:
    """An array of the case's shape as a small SimpleITK image with its middle at 0, cut in the given plane."""
    stack = Stack.of(case.image, plane=plane)
    slices = stack.slices_of(array)
    if case.image.array.ndim == 2:
        return sitk.GetImageFromArray(_resized(slices[0], (IMAGE_SIDE, IMAGE_SIDE)))
    shrink = max(1.0, max(slices.shape) / VOLUME_SIDE)
    shape = tuple(max(1, round(side / shrink)) for side in slices.shape)
    sides = [stack.thickness, *(side for axis, side in enumerate(stack.spacing) if axis != stack.axis)]
    spacing = [side * before / after for side, before, after in zip(sides, slices.shape, shape, strict=True)]
    image = sitk.GetImageFromArray(_resized(slices, shape))
    image.SetSpacing(spacing[::-1])  # SimpleITK names the last array axis first
    image.SetOrigin([-side * (size - 1) / 2 for side, size in zip(spacing[::-1], shape[::-1], strict=True)])
    return image


def _resized(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    smooth = any(after < before for after, before in zip(shape, array.shape, strict=True))
    return resize(array.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=smooth).astype(np.float32)


def _shrunk(image: Any, factor: int) -> Any:
    """Every `factor`th voxel of a smoothed image, along axes that are long enough."""
    factors = [factor if size >= 32 else 1 for size in image.GetSize()]
    if factor == 1 or max(factors) == 1:
        return image
    return sitk.Shrink(
        sitk.SmoothingRecursiveGaussian(image, [0.5 * f * s for f, s in zip(factors, image.GetSpacing(), strict=True)]),
        factors,
    )

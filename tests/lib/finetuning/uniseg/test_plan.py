"""A plan that follows from the labelled volumes themselves."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.finetuning.uniseg.plan import Facts, PlanError, plan_config, plan_spacing, plan_tasks
from lib.imaging.images import ImageError
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.lib.finetuning.uniseg.phantoms import study


def facts(spacing: tuple[float, float, float], shape: tuple[int, int, int] = (100, 100, 50), id: str = "a") -> Facts:
    return Facts(id, shape, spacing, 1, (0.0,), np.zeros((1, 4), np.float32))


def test_facts_are_read_along_patient_axes(tmp_path: Path) -> None:
    found = Facts.of(study(tmp_path, 1))
    assert found.shape == (24, 24, 12)
    assert found.spacing == (1.0, 1.0, 2.0)
    assert 40 < float(np.median(found.samples)) < 120


def test_the_spacing_is_the_median_and_depth_runs_across_thick_slices() -> None:
    assert plan_spacing([facts((1, 1, 1)), facts((1, 1, 1.05)), facts((2, 2, 1.02))]) == ((1.02, 1, 1), 2)
    assert plan_spacing([facts((4, 1, 0.9))]) == ((4, 0.9, 1), 0)


def test_an_axis_much_coarser_than_the_others_takes_a_fine_spacing_of_the_list() -> None:
    spacing, depth = plan_spacing([facts((1, 1, thick)) for thick in (2.0, 5.0, 5.0, 5.0, 5.0)])
    assert depth == 2
    assert spacing[0] == pytest.approx(3.2)


def test_a_spacing_that_stands_out_tenfold_names_its_study() -> None:
    with pytest.raises(PlanError, match=r"odd has voxels of 0.001 x 0.001 x 0.003 mm.*in mm\?"):
        plan_spacing([facts((1, 1, 3)), facts((1, 1, 3)), facts((0.001, 0.001, 0.003), id="odd")])


def test_ct_is_known_by_its_values_and_gets_a_window_of_the_labelled_voxels(tmp_path: Path) -> None:
    studies = [study(tmp_path, seed, offset=-1000.0) for seed in (1, 2)]
    [task] = plan_tasks("list", studies, [Facts.of(own) for own in studies])
    window = task.channels[0].window
    assert window is not None
    assert -990 < window.low < window.mean < window.high < -880
    [other] = plan_tasks("list", studies, [facts((1, 1, 2))] * 2)
    assert other.channels[0].window is None


def test_structures_make_one_task_or_one_each(tmp_path: Path) -> None:
    studies = [study(tmp_path, 1, {"ball": 4}), study(tmp_path, 2)]
    known = [Facts.of(own) for own in studies]
    assert [task.structures for task in plan_tasks("list", studies, known)] == [("ball", "stone")]
    apart = plan_tasks("list", studies, known, apart=True)
    assert [(task.name, task.structures) for task in apart] == [("list: ball", ("ball",)), ("list: stone", ("stone",))]
    assert apart[0].channels == apart[1].channels


def test_studies_that_cannot_be_learnt_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="none of these shows a structure"):
        plan_tasks("list", [study(tmp_path, 1, {})], [facts((1, 1, 1))])
    two = dataclasses.replace(facts((1, 1, 1)), channels=2)
    with pytest.raises(PlanError, match="one number of channels"):
        plan_tasks("list", [study(tmp_path, 1), study(tmp_path, 2)], [facts((1, 1, 1)), two])
    flat = study(tmp_path, 3)
    nibabel.Nifti1Image(np.arange(20, dtype=np.float32).reshape(4, 5, 1), np.eye(4)).to_filename(flat.image)
    with pytest.raises(ImageError, match="use One-Prompt or PromptSeg"):
        Facts.of(flat)


def test_small_volumes_leave_memory_that_goes_into_more_features() -> None:
    task, base = Task("t", ("a",), (Channel("MR"),), (1.0, 1.0, 1.0)), UniSegConfig.small()
    widths = {}
    for side in (12, 40, 64, 100):
        config = plan_config([task], {"t": [facts((1, 1, 1), (side, side, side))]}, base)
        widths[side] = config.base
        assert config.most_features == config.base * 16
    assert widths == {12: 32, 40: 32, 64: 8, 100: 8}  # nnU-Net's 32 are the most


@pytest.mark.parametrize(
    ("shape", "spacing", "patch", "strides"),
    [
        ((35, 50, 36), (1.0, 1.0, 1.0), (40, 56, 40), ((2, 2, 2),) * 3),
        ((300, 300, 100), (0.8, 0.8, 3.0), (28, 112, 112), ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))),
        ((512, 512, 10), (0.5, 0.5, 8.0), (10, 176, 176), ((1, 2, 2),) * 4),
    ],
)
def test_patch_and_halvings_follow_from_the_volumes(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    patch: tuple[int, int, int],
    strides: tuple[tuple[int, int, int], ...],
) -> None:
    task = Task("t", ("a", "b"), (Channel("MR"),), (spacing[2], spacing[1], spacing[0]))
    base = UniSegConfig.small()
    config = plan_config([task], {"t": [facts(spacing, shape)]}, base)
    assert np.prod(config.patch) <= 1.6 * np.prod(base.patch)
    assert config.outputs == 3
    assert (config.patch, config.strides) == (patch, strides)
    UniSeg(config)

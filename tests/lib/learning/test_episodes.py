"""Episodes: templates that show their structure, queries of other subjects, and the same again from the same state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lib.learning.episodes import STORED_SIZE, EpisodeSource, Mix, RealTasks, load_real_tasks


def squares(count: int = 6, subjects: int = 3) -> RealTasks:
    """Images whose grey value tells their subject, with one square each."""
    labels = np.zeros((count, STORED_SIZE, STORED_SIZE), np.uint8)
    images = np.zeros(labels.shape, np.float32)
    owner = np.arange(count) % subjects
    for number in range(count):
        labels[number, 50:110, 40:90] = 1
        images[number] = owner[number] + 5 * labels[number]
    return RealTasks("squares", images, labels, owner.astype(str))


ONLY_REAL = Mix(synthetic=0, foreign=0, regions=0, same_image=0, absent=0, unions=0)


def test_a_template_always_shows_its_structure_and_has_the_queries_beside_it():
    source = EpisodeSource([squares()], size=64, queries=3)
    rng = np.random.default_rng(0)
    episodes = [source.draw(rng, 0) for _ in range(30)]
    assert all(e.images.shape == e.masks.shape == (4, 64, 64) for e in episodes)
    assert all(e.masks[0].any() for e in episodes)
    assert all(abs(e.images.mean()) < 1e-3 for e in episodes)
    kinds = {e.source.split("/")[0] for e in episodes}
    assert {"synthetic", "squares"} <= kinds


def test_the_same_state_draws_the_same_episode_also_in_a_new_process_of_the_run():
    drawn = [
        EpisodeSource([squares()], 64, 2, seed=3).draw(np.random.default_rng((3, 17, 0)), step=17) for _ in range(2)
    ]
    np.testing.assert_array_equal(drawn[0].images, drawn[1].images)
    assert drawn[0].source == drawn[1].source


def test_a_data_set_of_three_structures_is_drawn_three_times_as_often_as_one_of_one():
    three = squares()
    three.labels[:, 50:70], three.labels[:, 70:90] = three.labels[:, 50:70] * 2, three.labels[:, 70:90] * 3
    sets = [replace(squares(), name="one"), RealTasks("three", three.images, three.labels, three.subjects)]
    source = EpisodeSource(sets, size=32, queries=1, mix=ONLY_REAL)
    drawn = [source.draw(np.random.default_rng(seed), 0).source for seed in range(120)]
    assert 72 <= drawn.count("three") <= 108


def test_queries_never_show_the_templates_subject():
    source = EpisodeSource([squares()], size=64, queries=2, mix=ONLY_REAL)
    rng = np.random.default_rng(0)
    for _ in range(20):
        images, _, _, _ = source._draw_raw(rng, 0)
        background = images[:, 0, 0]
        assert background[0] not in background[1:]


def test_an_unchanged_task_keeps_its_place_and_the_order_of_its_grey_values():
    def lies_right_and_is_bright(unchanged: float) -> list[bool]:
        tasks = squares()
        tasks.labels[:], tasks.images[:] = 0, 0
        tasks.labels[:, 100:140, 100:140] = 1  # below and right of the middle
        tasks.images[:] = 5 * tasks.labels
        source = EpisodeSource([tasks], 64, 1, mix=replace(ONLY_REAL, unchanged=unchanged))
        drawn = [source.draw(np.random.default_rng(number), 0) for number in range(20)]
        right = [np.argwhere(e.masks[0]).mean(axis=0).min() > 32 for e in drawn]
        bright = [e.images[0][e.masks[0]].mean() > e.images[0][~e.masks[0]].mean() for e in drawn]
        return [a and b for a, b in zip(right, bright, strict=True)]

    assert all(lies_right_and_is_bright(1.0))
    assert sum(lies_right_and_is_bright(0.0)) < 15


def test_a_structure_that_only_one_subject_shows_is_not_a_task():
    tasks = squares(count=2, subjects=1)
    assert tasks.showing == {}
    episode = EpisodeSource([tasks], 64, 1, mix=ONLY_REAL).draw(np.random.default_rng(0), 0)
    assert episode.source.startswith("copies/")


def test_foreign_bodies_are_put_into_the_images_of_the_data_set():
    source = EpisodeSource([squares()], size=64, queries=2, mix=replace(ONLY_REAL, foreign=1))
    episodes = [source.draw(np.random.default_rng(seed), 0) for seed in range(10)]
    assert {e.source for e in episodes} == {"foreign/squares"}
    assert all(e.masks[0].any() for e in episodes)


def test_without_data_every_episode_is_synthetic():
    source = EpisodeSource([], 64, 1)
    assert source.draw(np.random.default_rng(0), 0).source.startswith("synthetic/")


@pytest.mark.parametrize("as_one_class", [False, True])
def test_volumes_give_the_slices_that_show_a_label(tmp_path, as_one_class):
    import json

    import nibabel

    from lib.learning.datasets import read_dataset

    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    array = np.random.default_rng(0).random((20, 24, 10), np.float32)
    label = np.zeros(array.shape, np.uint8)
    label[5:15, 5:15, 3:6], label[5:15, 15:20, 3:6] = 1, 2
    affine = np.diag([1, 1, 3, 1])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "images" / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / "labels" / "v.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"dims": 3, "labels": {"1": "a", "2": "b"}}))
    tasks = load_real_tasks(read_dataset(tmp_path), as_one_class)
    assert tasks.images.shape == (3, STORED_SIZE, STORED_SIZE)
    assert set(np.unique(tasks.labels)) == ({0, 1} if as_one_class else {0, 1, 2})
    every = load_real_tasks(read_dataset(tmp_path), as_one_class, every_plane=True)
    assert every.images.shape == (10 + 15 + 3, STORED_SIZE, STORED_SIZE)
    assert len(np.unique(every.labels)) == 1 + 3 * (1 if as_one_class else 2)  # a plane's slices never answer another's

"""The data set format: read whole, or refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from lib.learning.datasets import DatasetError, read_dataset, read_datasets


def write_dataset(folder: Path, files: int = 3, **about: object) -> Path:
    """Small grey images, each with a bright square that is structure 1."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(files):
        label = np.zeros((40, 30), np.uint8)
        label[10:20, 5 + number : 15 + number] = 1
        image = (60 * rng.random((40, 30)) + 150 * label).astype(np.uint8)
        Picture.fromarray(image).save(folder / "images" / f"{number}.png")
        Picture.fromarray(label).save(folder / "labels" / f"{number}.png")
    known = {"name": "squares", "dims": 2, "labels": {"1": "square"}, "split": "train", "terms": "open"}
    (folder / "dataset.json").write_text(json.dumps(known | about))
    return folder


def test_a_data_set_is_read_with_its_labels_and_subjects(tmp_path):
    dataset = read_dataset(write_dataset(tmp_path / "a", subjects={"0.png": "x", "1.png": "x"}))
    assert dataset.labels == {1: "square"}
    assert dict(dataset.subjects) == {"0.png": "x", "1.png": "x", "2.png": "2.png"}
    image, label = dataset.read("0.png")
    assert image.array.shape == label.shape
    assert image.array[label == 1].mean() > image.array[label == 0].mean()


def test_data_sets_are_chosen_by_split_and_terms(tmp_path):
    write_dataset(tmp_path / "a")
    write_dataset(tmp_path / "b", split="dev")
    write_dataset(tmp_path / "c", terms="research")
    assert [d.name for d in read_datasets(tmp_path)] == ["a", "b", "c"]
    assert [d.name for d in read_datasets(tmp_path, "train", "open")] == ["a"]
    assert [d.name for d in read_datasets(tmp_path / "b")] == ["b"]
    with pytest.raises(DatasetError, match="there are"):
        read_datasets(tmp_path, "eval")


def test_a_folder_that_is_not_in_the_format_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_datasets(tmp_path)
    folder = write_dataset(tmp_path / "a")
    (folder / "labels" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"1\.png"):
        read_dataset(folder)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="dims"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"dims": 4}, "dims in .* must be 2 or 3, got 4"),
        ({"labels": ["square"]}, "labels in .* must look like"),
        ({"labels": {"square": 1}}, "labels in .* must look like"),
        ({"labels": {}}, "must name values of 1 and more"),
        ({"labels": {"0": "background", "1": "square"}}, "0 is background"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_with_what_it_should_be(about, reason, tmp_path):
    with pytest.raises(DatasetError, match=reason):
        read_dataset(write_dataset(tmp_path / "a", **about))


@pytest.mark.parametrize("text", ["[]", "3", "{torn", "\udcff"])
def test_a_description_that_is_no_json_object_is_refused(text, tmp_path):
    folder = write_dataset(tmp_path / "a")
    (folder / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_dataset(folder)


def test_an_image_and_a_label_of_different_shape_are_refused(tmp_path):
    folder = write_dataset(tmp_path / "a")
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "labels" / "0.png")
    with pytest.raises(DatasetError, match="one shape"):
        read_dataset(folder).read("0.png")

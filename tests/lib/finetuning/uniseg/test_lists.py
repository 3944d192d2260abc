"""Lists that are learnt from beside the study list: data sets, and exports of other servers."""

import json
from pathlib import Path
from typing import Any

import pytest

from lib.finetuning.uniseg.lists import read_list
from lib.finetuning.uniseg.plan import PlanError
from tests.lib.finetuning.uniseg.phantoms import study


def moved(tmp_path: Path, kinds: tuple[str, str], seed: int) -> Path:
    folder = tmp_path / "list"
    own = study(tmp_path, seed)
    for kind, path in zip(kinds, (own.image, own.label), strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        path.rename(folder / kind / f"s{seed}.nii.gz")
    return folder


def test_a_data_set_names_the_values_of_its_labels(tmp_path: Path) -> None:
    folder = moved(tmp_path, ("images", "labels"), 1)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"1": "ball", "2": "stone"}}))
    [found] = read_list(folder)
    assert found.names == {"ball": 1, "stone": 2}
    assert found.image.is_file()
    assert found.label.is_file()


@pytest.mark.parametrize(
    ("info", "names"),
    [
        ({"structures": {"ball": 1}}, {"ball": 1}),
        ({"label_info": [{"name": "stone", "idx": 2}, {"name": "ball", "idx": 1}]}, {"ball": 1, "stone": 2}),
        ({"label_info": [{"name": "ball"}, {"name": "stone"}]}, {"ball": 1, "stone": 2}),
    ],
)
def test_an_export_of_monai_label_is_read_with_the_names_of_each_label(
    tmp_path: Path, info: dict[str, Any], names: dict[str, int]
) -> None:
    folder = moved(tmp_path, ("image", "label"), 1)
    moved(tmp_path, ("image", "label"), 2)
    objects = {
        "s1": {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}},
        "s2": {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"original": {"ext": ".nii.gz", "info": info}}},
    }
    (folder / "metadata.json").write_text(json.dumps({"objects": objects}))
    [found] = read_list(folder)  # an automatic mask is nothing to learn from
    assert (found.id, found.names) == ("s1", names)


def test_another_folder_is_refused_with_what_it_must_be(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"must be a data set with images/, labels/ and dataset\.json"):
        read_list(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(PlanError, match="cannot be read: KeyError"):
        read_list(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "a"}}')
    with pytest.raises(PlanError, match="holds no labelled study"):
        read_list(tmp_path)

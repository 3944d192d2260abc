"""The UniSeg of a study list: configured, published, withdrawn."""

import pickle
from pathlib import Path

import pytest
import torch

from lib.finetuning.uniseg.served import ServedUniSeg
from lib.networks.checkpoints import CheckpointError
from lib.networks.uniseg import UniSeg
from lib.segmenters.uniseg.model import UniSegModel, save_model
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.lib.segmenters.uniseg.fakes import CONFIG

TASK = Task("organ", ("organ", "lesion"), (Channel("MR"),), (2.0, 1.0, 1.0))


def model(seed: int, **record: object) -> UniSegModel:
    torch.manual_seed(seed)
    return UniSegModel(UniSeg(CONFIG).eval(), (TASK,), record)


def test_what_was_published_takes_the_place_of_the_configured_model_until_it_is_withdrawn(tmp_path: Path) -> None:
    save_model(tmp_path / "base.safetensors", model(1, licence="open"))
    served = ServedUniSeg(tmp_path / "own", configured=tmp_path / "base.safetensors")
    assert served.model is served.start is not None
    assert served.status()["configured"]
    assert served.status()["licence"] == "open"
    assert served.fingerprint is None
    assert served.file == tmp_path / "base.safetensors"
    base = served.segmenter
    assert base is served.segmenter is not None

    name = served.publish(model(2, studies={"a": "1"}))
    assert served.status()["hash"] == name == model(2).hash
    assert not served.status()["configured"]
    assert served.status()["studies"] == {"a": "1"}
    assert served.segmenter is not base
    assert served.segmenter is served.segmenter
    assert served.file.parent == tmp_path / "own"

    assert served.withdraw()
    assert served.status()["hash"] == model(1).hash
    assert served.use_again()
    assert served.status()["hash"] == name
    assert [version["hash"] for version in served.versions.all()] == [name]


def test_the_list_is_handed_over_to_what_was_better_on_held_out_studies(tmp_path: Path) -> None:
    save_model(tmp_path / "base.safetensors", model(1))
    served = ServedUniSeg(tmp_path / "own", configured=tmp_path / "base.safetensors")
    assert not served.better_than({})  # nobody compared the configured model here
    served.publish(model(2))
    assert not served.better_than({})  # an upload
    served.publish(model(3, after={"dice": 0.8}))
    assert served.better_than({})
    assert served.better_than({"after": {"dice": 0.7}})
    assert not served.better_than({"after": {"dice": 0.9}})


def test_what_an_upload_says_of_itself_is_kept_and_hands_nothing_over(tmp_path: Path) -> None:
    served = ServedUniSeg(tmp_path / "own")
    name = served.publish_upload(model(2, after={"dice": "x"}, created="soon", licence="open"))
    told = served.status()
    assert (told["hash"], told["licence"], told["state"]) == (name, "open", "uploaded")
    assert told["uploaded"] == {"after": {"dice": "x"}, "created": "soon", "licence": "open"}
    assert not served.better_than({})
    assert served.publish(model(3)) == served.versions.all()[0]["hash"]


def test_without_any_model_nothing_is_offered(tmp_path: Path) -> None:
    served = ServedUniSeg(tmp_path / "own")
    assert served.segmenter is None
    assert served.status() == {"hash": None, "withdrawn": False}
    assert not served.withdraw()
    with pytest.raises(CheckpointError, match="does not exist"):
        ServedUniSeg(tmp_path / "own", configured=tmp_path / "none.safetensors")


def test_another_process_reads_the_files_itself(tmp_path: Path) -> None:
    save_model(tmp_path / "base.safetensors", model(1))
    served = ServedUniSeg(tmp_path / "own", configured=tmp_path / "base.safetensors")
    served.publish(model(2))
    again = pickle.loads(pickle.dumps(served))
    assert again.status()["hash"] == model(2).hash
    assert again.start.hash == model(1).hash

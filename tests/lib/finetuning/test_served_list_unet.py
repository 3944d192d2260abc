import copy
import pickle

import pytest
import torch

from lib.finetuning.served_list_unet import WON_FROM, ServedListUNet
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.segmenters.list_unet import ListUNet, save_list_unet


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    return ListUNet(
        ListUNetNetwork(ListUNetConfig(("organ",))).eval(),
        0.5,
        {"studies": {"a": "1", "b": "2", "c": "3"}, "reason": "won"},
    )


def test_what_is_published_is_offered_at_once_and_says_from_how_many_labels_on_it_won(made, tmp_path):
    served = ServedListUNet(tmp_path / "specialist")
    other = ServedListUNet(tmp_path / "specialist")  # as the server, while a training process publishes
    assert served.current is None
    assert other.status() == {"hash": None, "withdrawn": False}
    served.publish(made)
    assert other.hash == made.hash
    assert other.status()[WON_FROM] == 3
    served.publish(ListUNet(made.network, made.weight, {"studies": dict.fromkeys("abcdef", "x")}))
    assert other.status()[WON_FROM] == 3  # it has won ever since
    assert len(other.status()["studies"]) == 6


def test_a_withdrawn_one_can_be_used_again(made, tmp_path):
    served = ServedListUNet(tmp_path)
    assert not served.withdraw()
    assert not served.use_again()
    served.publish(made)
    assert served.withdraw()
    assert served.status() == {"hash": None, "withdrawn": True}
    assert served.use_again()
    assert served.hash == made.hash


def test_one_that_a_former_release_withdrew_can_be_used_again(made, tmp_path):
    save_list_unet(tmp_path / "withdrawn.safetensors", made)
    served = ServedListUNet(tmp_path)
    assert served.status() == {"hash": None, "withdrawn": True}
    assert served.use_again()
    assert served.hash == made.hash


def test_what_was_published_stays_a_version(made, tmp_path):
    served = ServedListUNet(tmp_path)
    served.publish(made)
    [version] = served.versions.all()
    assert version["state"] == "published"
    assert version["reason"] == "won"


def test_a_broken_file_offers_nothing(made, tmp_path, caplog):
    served = ServedListUNet(tmp_path)
    served.publish(made)
    served.path.write_bytes(b"torn")
    assert served.current is None
    assert "is not offered" in caplog.text


def test_it_can_be_sent_to_another_process(made, tmp_path):
    served = ServedListUNet(tmp_path)
    served.publish(made)
    assert pickle.loads(pickle.dumps(served)).hash == made.hash
    assert copy.deepcopy(served).path == served.path

import numpy as np
import pytest

from infers.errors import ClientError
from infers.tasks.list_unet import ListUNetTask
from lib.imaging.images import Image
from tests.infers.tasks.fakes import FakeListUNet, FakeServedListUNet, make_engine

IMAGE = Image(np.arange(24.0).reshape(2, 3, 4), np.eye(4))


@pytest.fixture
def task(tmp_path):
    """The task on a list with two structures, of which the list-specific U-Net knows one."""
    engine = make_engine(tmp_path, "liver", "spleen")
    return ListUNetTask(engine, FakeServedListUNet(FakeListUNet(("spleen",))))


def test_clients_see_it_while_there_is_one_with_what_it_learnt_and_from_how_many_labels_on(task):
    assert task.is_valid()
    info = task.info()
    assert info["labels"] == {"spleen": 2}
    assert "better than One-Prompt alone from 6 labelled studies on" in info["description"]
    task.served.current = None
    assert not task.is_valid()


def test_it_answers_for_what_it_learnt_alone(task):
    assert task.predict({}, IMAGE).labels == {"spleen": 2}


def test_without_one_the_request_is_refused_with_what_to_do(task):
    task.served.current = None
    with pytest.raises(ClientError, match="train one first") as refused:
        task.predict({}, IMAGE)
    assert refused.value.status == 409

import os

# Tests use tiny tensors, and servers of their own beside them: more threads would only wait for each other's cores.
# Set before torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from lib.networks import OnePrompt
from lib.networks.checkpoints import save_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import SUFFIX, Estimator
from scripts.measure.torture.starts import Nursery
from tests.programs import (  # noqa: F401  (hooks)
    leave_out,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.samples import TINY, TINY_PROMPTSEG

# The same examples in every run, and no clock: a busy machine must not make a test fail
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=30)
hypothesis.settings.load_profile("suite")

# What takes longest begins, so that no process is left with one of them when all others have ended
SLOW = ("ohif", "server", "slicer", "test_checks.py", "scripts", "trainers")
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests whose programs are missing, and put the slow ones first."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(TESTS).parts[0]
        return SLOW.index(folder) if folder in SLOW else len(SLOW)

    leave_out(config, items)
    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of an untrained network that answers in milliseconds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = OnePrompt(TINY)
    save_network(path, network, {"command": "tests"})
    shipped = Estimator.shipped()
    fitted = dataclasses.replace(shipped, about={**shipped.about, "weights": weights_hash(network)})
    fitted.write(path.with_suffix(SUFFIX))
    return path


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What servers are forked from: their libraries are imported once, which is most of a start."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def promptseg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of an untrained PromptSeg that answers in milliseconds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "promptseg.safetensors"
    save_network(path, PromptSeg(TINY_PROMPTSEG), {"command": "tests"})
    return path

"""`scripts.import_uniseg` on files built as nnU-Net v1 builds them, and on what is no such file."""

import collections
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.networks.checkpoints import CheckpointError
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.networks.uniseg.published import published_names
from lib.segmenters.uniseg.model import load_model, save_model
from scripts.import_uniseg import TASKS, import_checkpoint, main

CONFIG = UniSegConfig(
    tasks=len(TASKS), outputs=4, patch=(8, 32, 32), base=2, most_features=8, strides=((1, 2, 2), (2, 2, 2))
)


@pytest.fixture(scope="module")
def network() -> UniSeg:
    torch.manual_seed(1)
    return UniSeg(CONFIG).eval()


def checkpoint(path: Path, network: UniSeg) -> Path:
    """As nnU-Net v1 saves one: weights, optimiser, and curves of numpy's numbers."""
    names = published_names(network.config)
    state = collections.OrderedDict((names[name], value) for name, value in network.state_dict().items())
    curves = [[np.float64(0.5), np.float32(0.25)], [np.float64(0.1)], [], [np.int64(3)]]
    optimiser = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    torch.save(
        {
            "epoch": 1000,
            "state_dict": state,
            "optimizer_state_dict": optimiser,
            "lr_scheduler_state_dict": None,
            "plot_stuff": curves,
            "best_stuff": (None, np.float64(-0.5), np.float64(0.8)),
            "amp_grad_scaler": {"scale": 65536.0, "_growth_tracker": 12},
        },
        path,
    )
    return path


def plans(path: Path, **changes: object) -> Path:
    """As nnU-Net v1 pickles them."""
    stage = {
        "patch_size": np.array(CONFIG.patch),
        "current_spacing": np.array([3.0, 1.5, 1.5]),
        "pool_op_kernel_sizes": [list(own) for own in CONFIG.strides],
        **changes,
    }
    properties = {"intensityproperties": None, "size_reductions": collections.OrderedDict(a=np.float64(1))}
    told = {"plans_per_stage": {0: stage}, "transpose_forward": [0, 1, 2], "dataset_properties": properties}
    path.write_bytes(pickle.dumps(told, protocol=4))
    return path


def test_a_checkpoint_becomes_a_model_that_answers_as_the_network_did(tmp_path: Path, network: UniSeg) -> None:
    source, out = checkpoint(tmp_path / "final.model", network), tmp_path / "uniseg.safetensors"
    assert main([str(source), "--plans", str(plans(tmp_path / "plans.pkl")), "--out", str(out)]) == 0
    model = load_model(out)
    image = torch.randn(1, 2, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(image, 10)[0], network(image, 10)[0])
    assert [task.name for task in model.tasks] == [task.name for task in TASKS]
    assert [len(task.structures) + 1 for task in model.tasks] == [3, 3, 3, 3, 2, 2, 2, 2, 2, 4, 2]
    assert {task.spacing for task in model.tasks if [c.modality for c in task.channels] == ["CT"]} == {(3.0, 1.5, 1.5)}
    assert "non-commercial" in model.licence
    assert json.loads(json.dumps(dict(model.record)))["file"] == "final.model"


def test_the_command_says_tasks_and_licence(
    tmp_path: Path, network: UniSeg, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoint(tmp_path / "final.model", network), tmp_path / "uniseg.safetensors"
    assert main([str(source), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "brain tumour: oedema, non-enhancing tumour, enhancing tumour (T1+T1CE+T2+FLAIR, 1 x 1 x 1 mm)" in told
    assert "licence: UniSeg for non-commercial purposes" in told


def test_an_older_file_is_replaced_only_by_force(
    tmp_path: Path, network: UniSeg, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoint(tmp_path / "final.model", network), tmp_path / "uniseg.safetensors"
    out.write_bytes(b"mine")
    assert main([str(source), "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([str(source), "--out", str(out), "--force"]) == 0
    assert load_model(out).tasks == TASKS


class Trap:
    """Runs when a bare unpickler builds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_or_in_plans_is_refused_and_never_run(tmp_path: Path, network: UniSeg) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": {}, "best_stuff": Trap(sprung)}, tmp_path / "trap.model")
    with pytest.raises(CheckpointError, match="read safely"):
        import_checkpoint(tmp_path / "trap.model")
    source = checkpoint(tmp_path / "final.model", network)
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"plans_per_stage": Trap(sprung)}))
    with pytest.raises(CheckpointError, match="read safely"):
        import_checkpoint(source, tmp_path / "trap.pkl")
    assert not sprung.exists()


def test_other_files_are_refused_with_what_was_expected(tmp_path: Path, network: UniSeg) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        import_checkpoint(tmp_path / "none.model")
    (tmp_path / "text.model").write_text("hello")
    with pytest.raises(CheckpointError, match="no nnU-Net checkpoint"):
        import_checkpoint(tmp_path / "text.model")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.model")
    with pytest.raises(CheckpointError, match="state_dict"):
        import_checkpoint(tmp_path / "other.model")
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, tmp_path / "unet.model")
    with pytest.raises(CheckpointError, match="of another network"):
        import_checkpoint(tmp_path / "unet.model")
    three = UniSeg(UniSegConfig(**{**CONFIG.as_dict(), "tasks": 3}))
    with pytest.raises(CheckpointError, match="a UniSeg of 3 tasks"):
        import_checkpoint(checkpoint(tmp_path / "three.model", three))


def test_plans_of_another_training_are_refused(tmp_path: Path, network: UniSeg) -> None:
    source = checkpoint(tmp_path / "final.model", network)
    with pytest.raises(CheckpointError, match="has the patch"):
        import_checkpoint(source, plans(tmp_path / "a.pkl", patch_size=np.array([16, 32, 32])))
    with pytest.raises(CheckpointError, match="has the spacing"):
        import_checkpoint(source, plans(tmp_path / "b.pkl", current_spacing=np.array([1.0, 1.0, 1.0])))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"plans_per_stage": {}}))
    with pytest.raises(CheckpointError, match="lacks what nnU-Net v1 writes"):
        import_checkpoint(source, tmp_path / "c.pkl")


def test_a_damaged_or_foreign_file_is_no_model(tmp_path: Path, network: UniSeg) -> None:
    out = tmp_path / "uniseg.safetensors"
    save_model(out, import_checkpoint(checkpoint(tmp_path / "final.model", network)))
    data = out.read_bytes()
    out.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(out)
    out.write_bytes(data.replace(b'\\"base\\": 2', b'\\"base\\": 4'))
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_model(out)
    with pytest.raises(CheckpointError, match="of the architecture 'uniseg'"):
        load_model(Path("apps/oneprompt/weights/oneprompt_small.safetensors"))

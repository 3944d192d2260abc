import json

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from lib.imaging.images import Image
from lib.inference.templates import Template
from lib.networks import OnePrompt
from lib.networks.checkpoints import save_network, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.promptseg import PromptSegSegmenter
from lib.segmenters.slice_segmenter import SliceSegmenter
from scripts import calibrate, evaluate_quality
from scripts.measure.calibration import fitting
from tests.samples import TINY, TINY_PROMPTSEG


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_network(tmp_path / "tiny.safetensors", OnePrompt(TINY), {})
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def data(tmp_path):
    """Two data sets of small flat images with a disc each, one to fit on and one to measure on."""
    for name, split, count in (("discs", "train", 6), ("others", "dev", 7)):
        folder = tmp_path / "data" / name
        rng = np.random.default_rng(count)
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True)
        for number in range(count):
            i, j = np.mgrid[:40, :40]
            mask = (i - rng.uniform(14, 26)) ** 2 + (j - rng.uniform(14, 26)) ** 2 < 80
            grey = 60 + 120 * mask + rng.normal(0, 10, mask.shape)
            Pillow.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
            Pillow.fromarray(mask.astype(np.uint8)).save(folder / "labels" / f"{number}.png")
        about = {"dims": 2, "labels": {"1": "disc"}, "split": split, "terms": "open"}
        (folder / "dataset.json").write_text(json.dumps(about))
    return tmp_path / "data"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fitting, "STEPS", 30)
    monkeypatch.setattr(fitting, "MEMBERS", 1)


def test_calibrate_writes_an_estimator_and_evaluate_quality_measures_it(tmp_path, weights, data, quick, capsys):
    out = tmp_path / "quality.json"
    common = ["--data", str(data), "--weights", str(weights)]
    kept = ["--records", str(tmp_path / "kept.json")]
    few = ["--lists", "2", "--studies", "3", "--synthetic", "3", "--phantoms", "1"]
    arguments = [*common, *kept, "--out", str(out), *few]
    assert calibrate.main(arguments) == 0
    estimator = Estimator.read(out)
    assert {"discs", "phantoms"} <= set(estimator.about["lists"])
    assert "others" not in estimator.about["lists"]
    assert estimator.about["weights"] == weights_hash(OnePrompt(TINY)) or estimator.about["weights"]
    assert 0 <= estimator.estimate({}) <= 1
    assert "discs: " in capsys.readouterr().out
    assert calibrate.main(arguments) == 0
    assert "discs: " not in capsys.readouterr().out  # its masks were kept

    picture, numbers = tmp_path / "curves.png", tmp_path / "numbers.json"
    more = ["--estimator", str(out), "--records", str(tmp_path / "measured.json"), "--lists", "2"]
    assert evaluate_quality.main([*common, *more, "--json", str(numbers), "--curves", str(picture), "--cost"]) == 0
    printed = capsys.readouterr().out
    assert "| corrections | masks |" in printed
    assert "| others |" in printed
    found = json.loads(numbers.read_text())
    assert found["pooled"]["0"]["masks"] > 0
    assert found["cost"]["others"]["ratio"] > 0
    assert picture.is_file()


def test_promptseg_is_fitted_beside_its_own_weights_and_its_masks_are_predicted_with_that(
    tmp_path, weights, data, quick, capsys
):
    torch.manual_seed(0)
    network = PromptSeg(TINY_PROMPTSEG)
    with torch.no_grad():
        network.mask_decoder.coarse_head.bias += 0.5  # answers that are neither empty nor full
    file = tmp_path / "promptseg.safetensors"
    save_network(file, network, {})
    common = ["--data", str(data), "--weights", str(weights), "--promptseg", str(file)]
    kept = ["--records", str(tmp_path / "kept.json")]
    few = ["--lists", "3", "--studies", "2", "--synthetic", "2", "--phantoms", "0"]
    assert calibrate.main([*common, *kept, *few]) == 0
    estimator = Estimator.read(tmp_path / "promptseg.quality.json")
    assert estimator.about["weights"] == weights_hash(network)
    assert estimator.mean[estimator.features.index("templates")] > 0  # a logarithm: some lists had several
    assert evaluate_quality.main([*common, "--records", str(tmp_path / "measured.json"), "--studies", "2"]) == 0
    assert "| others |" in capsys.readouterr().out
    segmenter = PromptSegSegmenter.read(file, SliceSegmenter.load(weights))
    label = np.pad(np.ones((12, 12), np.uint8), 10)
    image = Image(np.random.default_rng(0).normal(label, 0.3), np.eye(4))
    quality = segmenter.segment(image, [Template("t", image, label, {"square": 1})], {"square": 1}).quality
    assert 0 <= quality["square"] <= 1


@pytest.mark.parametrize("command", [calibrate, evaluate_quality])
def test_a_folder_without_data_is_refused_with_what_was_expected(tmp_path, weights, command, capsys):
    estimator = [] if command is calibrate else ["--estimator", str(weights)]
    assert command.main(["--data", str(tmp_path), "--weights", str(weights), *estimator]) == 1
    assert "must" in capsys.readouterr().err

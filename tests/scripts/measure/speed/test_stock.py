"""MONAI Label's own path, which ours is compared with."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from lib.networks import NetworkConfig, OnePrompt
from scripts.measure.speed import stock
from scripts.measure.speed.stock import StockApp, StockTask


def test_its_network_has_as_many_parameters_as_ours():
    ours = sum(parameter.numel() for parameter in OnePrompt(NetworkConfig.small()).parameters())
    assert StockTask(clicks=False).parameters == pytest.approx(ours, rel=0.05)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")  # ITK's, at its import
def test_it_answers_a_click_and_labels_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr(stock, "SIDE", 32)
    monkeypatch.setattr(stock, "WINDOW", (32, 32, 32))
    studies = tmp_path / "studies"
    studies.mkdir()
    grey = np.random.default_rng(0).normal(size=(20, 22, 18)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(grey, np.eye(4)), studies / "head.nii.gz")
    app = StockApp(studies, tmp_path / "state")
    app.click("head", [10, 11, 9])
    app.label_all()
    assert nibabel.load(studies / "labels" / "stock" / "head.nii.gz").shape == grey.shape

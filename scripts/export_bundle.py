"""Exports a network as a MONAI Bundle that runs without this project: `python -m scripts.export_bundle --out FOLDER`.

    configs/    metadata.json, inference.json, metadata_schema.json
    models/     model.pt (tensors only), quality.json (what predicts a mask's quality, where it was fitted)
    scripts/    oneprompt/: the modules of `lib` that segmenting needs, under that name
    docs/       README.md, license.txt

`scripts/bundle/` holds what every bundle has alike, and in a folder for each model how it is run. `--model promptseg`
exports PromptSeg, which takes several templates.
"""

import argparse
import ast
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import VERSION
from lib.networks import OnePrompt
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError, load_network, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG
from lib.segmenters.registry import ONEPROMPT, PROMPTSEG_MODEL, Model

ROOT = Path(__file__).resolve().parents[1]
COMMON = Path(__file__).with_name("bundle")
ENTRY = "segmenters/by_template"  # what every bundle's run calls; everything it imports comes along
PACKAGE = "scripts.oneprompt"
NEEDED = (
    "monai",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "pynrrd",
    "pillow",
    "scikit-image",
    "scipy",
    "safetensors",
    "fire",
    "jsonschema",
)
ONE_PROMPT_PAPER = "J. Wu et al. One-Prompt to Segment All Medical Images. CVPR 2024."


@dataclass(frozen=True)
class Export:
    """What bundles of a model have of their own.

    Attributes:
        model: its folder in `COMMON` has the model's name.
        title, task, description, references: of the metadata.
        network: class that its weights must be of.
        weights: the shipped ones.
        entries: modules that its run calls.
        template: what the network is shown of a template, in words.
    """

    model: Model
    title: str
    task: str
    description: str
    references: tuple[str, ...]
    network: type[nn.Module]
    weights: Path
    entries: tuple[str, ...] = (ENTRY,)
    template: str = "slice of the template, normalised"


EXPORTS = {
    export.model.name: export
    for export in (
        Export(
            ONEPROMPT,
            "One-Prompt",
            "Segmentation of any structure in one image by one labelled image",
            "One-Prompt, a network that takes the structure to segment from a template: slices of an image are "
            "compared with slices of the labelled template. Nothing is trained for a new structure.",
            (ONE_PROMPT_PAPER,),
            OnePrompt,
            SHIPPED_WEIGHTS,
        ),
        Export(
            PROMPTSEG_MODEL,
            "PromptSeg",
            "Segmentation of any structure in one image by several labelled images",
            "PromptSeg, a network that takes the structure to segment from several templates in one pass and gives "
            "each a weight. Nothing is trained for a new structure.",
            ("Zhao, Wang, Shi, An. PromptSeg. Entropy 2026, 28(3):342.", ONE_PROMPT_PAPER),
            PromptSeg,
            SHIPPED_PROMPTSEG,
            (ENTRY, "segmenters/promptseg"),
            "slice of one of several templates, normalised",
        ),
    )
}
SCHEMA_URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def export_bundle(
    out: Path, weights: Path | None = None, *, model: str = ONEPROMPT.name, replace: bool = False
) -> None:
    """Write the bundle of a model in `EXPORTS`, whole or not at all; None for its shipped weights.

    Raises:
        FileExistsError: `out` is there, and `replace` is not set or it is no bundle.
        CheckpointError: weights that cannot be used.
    """
    if out.exists() and not (replace and (out / "configs" / "metadata.json").is_file()):
        raise FileExistsError(f"{out} exists already: name another --out, or add --force to replace an older bundle")
    export = EXPORTS[model]
    weights = weights or export.weights
    network: Any = load_network(weights, "cpu", export.network)
    own = COMMON / model
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for folder in ("configs", "models", "docs"):
            (made / folder).mkdir()
        torch.save(dict(network.state_dict()), made / "models" / "model.pt")
        _write_json(made / "configs" / "metadata.json", _metadata(export, network, read_provenance(weights)))
        inference = json.loads((own / "inference.json").read_text())
        inference["network_config"] = network.config.as_dict()
        if estimator := Estimator.valid_for(weights_hash(network), weights):
            estimator.write(made / "models" / "quality.json")
        else:  # masks of these weights then say that their quality is not predicted
            inference["inferer"]["estimator"] = None
        _write_json(made / "configs" / "inference.json", inference)
        shutil.copy(COMMON / "metadata_schema.json", made / "configs")
        shutil.copy(own / "README.md", made / "docs")
        shutil.copy(ROOT / "LICENSE", made / "docs" / "license.txt")
        shutil.copy(ROOT / "LICENSE", made / "LICENSE")
        _copy_modules(made / "scripts", export.entries)
        made.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        os.replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def needed_modules(entries: Sequence[str] = (ENTRY,)) -> set[Path]:
    """The files of `lib`, relative to it, that modules of it import, directly or not; themselves included."""
    modules: set[Path] = set()
    waiting = [*(ROOT / "lib" / f"{entry}.py" for entry in entries), ROOT / "lib" / "__init__.py"]
    while waiting:
        path = waiting.pop()
        if path.relative_to(ROOT / "lib") in modules:
            continue
        modules.add(path.relative_to(ROOT / "lib"))
        waiting.append(path.parent / "__init__.py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
                base = ROOT.joinpath(*str(node.module).split("."))
                waiting.append(base / "__init__.py" if base.is_dir() else base.with_suffix(".py"))
    return modules


def _copy_modules(folder: Path, entries: Sequence[str]) -> None:
    for relative in sorted(needed_modules(entries)):
        target = folder / "oneprompt" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / "lib" / relative).read_text()
        target.write_text(re.sub(r"^(\s*from )lib(?=[. ])", rf"\g<1>{PACKAGE}", text, flags=re.MULTILINE))
    (folder / "__init__.py").write_text("")


def _metadata(export: Export, network: Any, provenance: dict[str, Any]) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in NEEDED}
    return {
        "schema": SCHEMA_URL,
        "name": export.title,
        "version": VERSION,
        "changelog": {VERSION: "exported from One-Prompt for MONAI Label"},
        "monai_version": versions.pop("monai"),
        "pytorch_version": metadata.version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": versions,
        "task": export.task,
        "description": export.description,
        "authors": "the authors of One-Prompt for MONAI Label",
        "copyright": "Copyright the authors of One-Prompt for MONAI Label; Apache License 2.0",
        "intended_use": "Research only; not a medical device, not for diagnosis or treatment",
        "references": list(export.references),
        "weights": weights_hash(network),
        "provenance": provenance,
        "network_data_format": _data_format(export, network.config.stride),
    }


def _data_format(export: Export, stride: int) -> dict[str, Any]:
    size = f"{stride}*n"

    def tensor(format: str, channels: int, dtype: str, values: list[float], meaning: dict[str, str]) -> dict[str, Any]:
        return {
            "type": "image",
            "format": format,
            "modality": "n/a",
            "num_channels": channels,
            "spatial_shape": [size, size],
            "dtype": dtype,
            "value_range": values,
            "is_patch_data": False,
            "channel_def": meaning,
        }

    return {
        "inputs": {
            "image": tensor("magnitude", 1, "float32", [], {"0": "slice of the image, normalised"}),
            "template": tensor("magnitude", 1, "float32", [], {"0": export.template}),
            "template_prompts": tensor(
                "labels", 2, "float32", [0, 1], {"0": "inside, five prompt types", "1": "outside, five prompt types"}
            ),
        },
        "outputs": {"pred": tensor("segmentation", 1, "float32", [], {"0": "logit of the structure"})},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when the bundle is written, 1 with one line on the error output when not."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export_bundle", description="Export a network as a MONAI Bundle."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--model", choices=list(EXPORTS), default=ONEPROMPT.name, help="(%(default)s)")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE",
        help="the shipped ones; those of a server that was trained lie in its model folder",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an older bundle")
    options = parser.parse_args(arguments)
    try:
        export_bundle(options.out, options.weights, model=options.model, replace=options.force)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: see docs/README.md there for how to run it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

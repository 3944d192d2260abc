import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import verify_metadata

from lib.imaging.images import read_image, read_label
from scripts.export_bundle import main, needed_modules
from scripts.predict import main as predict
from tests.samples import organ_volume, write_nifti


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A bundle, and files for it."""
    folder = tmp_path_factory.mktemp("bundles")
    assert main(["--out", str(folder / "one_prompt"), "--weights", str(tiny_weights)]) == 0
    for number, name in enumerate(("template", "image")):
        array, mask = organ_volume(number)
        write_nifti(folder / f"{name}.nii.gz", array)
        write_nifti(folder / f"{name}_label.nii.gz", mask)
    return folder / "one_prompt"


def monai(bundle: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """MONAI's own command, started in the bundle by a Python that does not see this project."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", *map(str, words)]
    return subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)


def test_monais_own_run_gives_the_same_mask_as_the_predict_command(bundle, tiny_weights):
    files = bundle.parent
    config = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    template = ["--template_image", files / "template.nii.gz", "--template_label", files / "template_label.nii.gz"]
    done = monai(
        bundle, "run", *config, "--image", files / "image.nii.gz", *template, "--output", files / "mask.nii.gz"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    words = [
        files / "image.nii.gz",
        "--template",
        files / "template.nii.gz",
        "--label",
        files / "template_label.nii.gz",
    ]
    assert predict([*map(str, [*words, "--out", files / "other.nii.gz", "--weights", tiny_weights])]) == 0
    image = read_image(files / "image.nii.gz")
    ours = read_label(files / "other.nii.gz", image)
    np.testing.assert_array_equal(read_label(files / "mask.nii.gz", image), ours)
    assert json.loads((files / "mask.json").read_text()) == json.loads((files / "other.json").read_text())


def test_promptsegs_own_bundle_reads_several_templates_and_gives_the_predict_commands_mask(bundle, promptseg_weights):
    files, own = bundle.parent, bundle.with_name("promptseg")
    weights = ["--weights", str(promptseg_weights), "--model", "promptseg"]
    assert main(["--out", str(own), *weights]) == 0
    verify_metadata(
        meta_file=str(own / "configs" / "metadata.json"), filepath=str(own / "configs" / "metadata_schema.json")
    )
    images, labels = (
        [str(files / f"{name}{kind}.nii.gz") for name in ("template", "image")] for kind in ("", "_label")
    )
    config = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    given = ["--image", files / "image.nii.gz", "--template_images", images, "--template_labels", labels]
    done = monai(own, "run", *config, *given, "--output", files / "several.nii.gz")
    assert done.returncode == 0, done.stderr[-3000:]
    words = [
        files / "image.nii.gz",
        "--template",
        *images,
        "--label",
        *labels,
        "--out",
        files / "ours.nii.gz",
        *weights,
    ]
    assert predict([*map(str, words)]) == 0
    records = [json.loads((files / f"{name}.json").read_text()) for name in ("several", "ours")]
    assert records[0] == records[1]
    assert records[0]["templates"] == ["template.nii.gz", "image.nii.gz"]
    image = read_image(files / "image.nii.gz")
    np.testing.assert_array_equal(*(read_label(files / f"{n}.nii.gz", image) for n in ("several", "ours")))


def test_another_models_weights_are_refused(tmp_path, tiny_weights, capsys):
    assert main(["--out", str(tmp_path / "one"), "--weights", str(tiny_weights), "--model", "promptseg"]) == 1
    assert "architecture 'promptseg', got 'oneprompt'" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


def test_monai_verifies_the_metadata_and_would_notice_an_error(bundle, tmp_path):
    metadata, schema = bundle / "configs" / "metadata.json", bundle / "configs" / "metadata_schema.json"
    verify_metadata(meta_file=str(metadata), filepath=str(schema))
    broken = json.loads(metadata.read_text())
    del broken["network_data_format"]["outputs"]["pred"]["channel_def"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="channel_def"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(schema))


def test_it_has_the_files_of_monais_specification(bundle):
    found = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    wanted = "configs/metadata.json configs/inference.json models/model.pt docs/README.md docs/license.txt LICENSE"
    assert set(wanted.split()) <= found


def test_only_what_segmenting_needs_comes_along_under_its_new_name(bundle):
    taken = {str(path) for path in needed_modules()}
    assert {"segmenters/slice_segmenter.py", "imaging/images.py", "networks/oneprompt.py"} <= taken
    assert not {"learning/training.py", "learning/synthetic.py", "learning/episodes.py"} & taken
    for path in (bundle / "scripts").rglob("*.py"):
        assert "from lib" not in path.read_text(), path


def test_an_older_folder_stays_unless_forced(bundle, tiny_weights, tmp_path, capsys):
    assert main(["--out", str(bundle), "--weights", str(tiny_weights)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["--out", str(bundle), "--weights", str(tiny_weights), "--force"]) == 0
    (tmp_path / "mine").write_text("no bundle")
    assert main(["--out", str(tmp_path), "--weights", str(tiny_weights), "--force"]) == 1
    assert (tmp_path / "mine").exists()

"""Segments one image by one or more templates, without a server.

    python -m scripts.predict IMAGE --template IMAGE --label LABEL --out MASK

Several templates: `--template ONE TWO --label ONE TWO`. One-Prompt answers to each and averages; `--model promptseg`
reads them all at once and records how much each counted.

Images are NIfTI, NRRD, pictures, or a folder with one DICOM series. The mask (.nii.gz, .nii, .nrrd; .png for a picture)
lies exactly where the image does, with the label's values. Beside it lies MASK's name with .json: weights, template,
predicted quality.
"""

import argparse
import sys
from pathlib import Path

import torch

from lib.imaging.images import ImageError
from lib.inference.templates import TemplateError
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError
from lib.segmenters.by_template import check_free, for_templates, read_templates, segment_file, summary
from lib.segmenters.promptseg import SHIPPED_PROMPTSEG, PromptSegSegmenter
from lib.segmenters.registry import ONEPROMPT, PROMPTSEG_MODEL
from lib.segmenters.slice_segmenter import SliceSegmenter


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when the mask is written, 1 with one line on the error output when not."""
    options = _parser().parse_args(arguments)
    try:
        check_free(options.out, options.force)
        templates = read_templates(options.template, options.label, options.names)
        segmenter = _segmenter(options)
        record = segment_file(segmenter, options.image, templates, options.out, replace=options.force)
    except FileExistsError as error:
        print(f"error: {error} with --force", file=sys.stderr)
        return 1
    except (ImageError, TemplateError, CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}\n{summary(record)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.predict", description="Segment one image by one or more templates, without a server."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="file, or folder with one DICOM series")
    parser.add_argument(
        "--template", type=Path, nargs="+", required=True, metavar="IMAGE", help="an image that is labelled, or several"
    )
    parser.add_argument("--label", type=Path, nargs="+", required=True, metavar="LABEL", help="the label map of each")
    parser.add_argument("--out", type=Path, required=True, metavar="MASK", help=".nii.gz, .nii, .nrrd or .png")
    parser.add_argument(
        "--names", type=_names, default=(), metavar="A,B", help="names of the label's values 1, 2, ... (label_1, ...)"
    )
    parser.add_argument(
        "--model", choices=[ONEPROMPT.name, PROMPTSEG_MODEL.name], default=ONEPROMPT.name, help="(oneprompt)"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the model (the shipped ones)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument("--force", action="store_true", help="write over an older mask")
    return parser


def _segmenter(options: argparse.Namespace) -> SliceSegmenter:
    device, settings = _device(options.device), for_templates(options.template)
    if options.model == ONEPROMPT.name:
        return SliceSegmenter.load(options.weights or SHIPPED_WEIGHTS, device, settings)
    prompted = SliceSegmenter.load(SHIPPED_WEIGHTS, device, settings)
    return PromptSegSegmenter.read(options.weights or SHIPPED_PROMPTSEG, prompted, device, settings)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name} needs a GPU that PyTorch can use, and there is none: use cpu")
    return name


if __name__ == "__main__":
    sys.exit(main())

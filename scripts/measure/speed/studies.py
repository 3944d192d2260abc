"""What a study costs by templates: a CT, and studies of a list that is given, beside MONAI Label's batch inference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import nibabel

from lib.imaging.images import Image, read_image
from lib.inference.templates import Template
from lib.segmenters.contract import Segmenter
from scripts.measure.speed.clicks import ORGANS, phantom
from scripts.measure.speed.costs import Cost, Piece, Target, at_most, costs
from scripts.measure.speed.stock import StockApp
from scripts.measure.study_list import Truth, copy_studies, find_studies

MOST_TEMPLATES = 4
CT, LIST, STOCK_LIST = "CT", "list", "list, MONAI Label's batch inference"
MOST = {f"{CT}, 1 structure, 4 templates": 9.0, f"{LIST}, 4 templates": 2.5}  # core seconds
MOST_OF_SIX = 2.0  # times what one structure costs
ONE, SIX = f"{CT}, 1 structure, 1 template", f"{CT}, {len(ORGANS)} structures, 1 template"


def measure_ct(segmenter: Segmenter, shape: Sequence[int], rounds: int) -> dict[str, Cost]:
    """Structures and templates to the cost of one CT of this shape."""
    with tempfile.TemporaryDirectory() as folder:
        image, *templates = [_ct(Path(folder) / f"{n}.nii", shape, n) for n in range(1 + MOST_TEMPLATES)]
        organs = list(image.names)
        cases = {
            ONE: (organs[:1], 1),
            SIX: (organs, 1),
            f"{CT}, 1 structure, {MOST_TEMPLATES} templates": (organs[:1], MOST_TEMPLATES),
        }
        return costs(
            [_piece(segmenter, name, image.image, templates[:count], names) for name, (names, count) in cases.items()]
            for _ in range(rounds + 1)
        )


def measure_list(segmenter: Segmenter, images: Path, truth: Truth, rounds: int) -> dict[str, Cost]:
    """Templates to the cost of a study of a list, in which every turn segments another one by the same templates.

    Args:
        truth: the list's labels; its first studies are the templates.
    """
    studies = [study for study in find_studies(images) if truth.path_of(study)]
    templates = []
    for study in studies[:MOST_TEMPLATES]:
        label = truth.read(study)
        assert label is not None
        templates.append(Template(study.id, read_image(study.path), label, truth.structures(label)))
    names = list(dict.fromkeys(name for template in templates for name in template.structures))
    queries = studies[MOST_TEMPLATES : MOST_TEMPLATES + rounds + 1]
    with tempfile.TemporaryDirectory() as folder:
        copy_studies(queries[-1:], Path(folder) / "studies")
        stock = StockApp(Path(folder) / "studies", Path(folder) / "stock")

        def turns() -> Iterator[list[Piece]]:
            for query in queries:
                image = read_image(query.path)
                by = [
                    _piece(segmenter, f"{LIST}, {count} template{'s' * (count > 1)}", image, templates[:count], names)
                    for count in (1, MOST_TEMPLATES)
                ]
                yield [*by, Piece(STOCK_LIST, stock.label_all)]

        return costs(turns())


def targets(measured: Mapping[str, Cost]) -> list[Target]:
    """What was promised of studies."""
    core = {name: cost.core for name, cost in measured.items()}
    kept = at_most(MOST, core)
    if SIX in core:
        kept += at_most({"CT, six structures / one": MOST_OF_SIX}, {"CT, six structures / one": core[SIX] / core[ONE]})
    return kept


def _ct(path: Path, shape: Sequence[int], seed: int) -> Template:
    image, label = phantom(shape, seed)
    nibabel.save(image, path)
    return Template(path.stem, read_image(path), label, {name: n for n, name in enumerate(ORGANS, start=1)})


def _piece(segmenter: Segmenter, name: str, image: Image, templates: Sequence[Template], names: Sequence[str]) -> Piece:
    labels = {structure: number for number, structure in enumerate(names, start=1)}
    run: Callable[[], object] = lambda: segmenter.segment(image, templates, labels)  # noqa: E731
    return Piece(name, run)

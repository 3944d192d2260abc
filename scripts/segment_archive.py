"""Segments a whole archive by templates, on a Ray cluster or on this machine alone.

    python -m scripts.segment_archive ARCHIVE OUT --templates STUDY_LIST
    python -m scripts.segment_archive ARCHIVE OUT --template IMAGE --label LABEL [--names A,B]

ARCHIVE is a folder, an address of fsspec (s3://...) or of a DICOMweb server (http://.../dicom-web). OUT, a folder or an
address of fsspec, gets the masks, a record beside each, and the manifest: a Parquet data set with a row for each
structure of each study, readable while it grows. The same command goes on after whatever ended it, and does nothing
twice. docs/scale.md tells operators the rest. Needs requirements-scale.txt.

Ends with 0 when every study has its rows (some may say why there is no mask), 1 when it cannot begin or go on, and 75
when storage or a server stayed away: give the same command again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lib.cluster.connection import ClusterError, cluster
from lib.cluster.host import Away
from lib.cluster.identity import own_identity
from lib.cluster.pool import Pool
from lib.imaging.errors import ImageError
from lib.networks.checkpoints import SHIPPED_WEIGHTS, CheckpointError
from scripts.archive.by_templates import ByTemplates
from scripts.archive.forecast import forecast, sample
from scripts.archive.outputs import NiftiFiles
from scripts.archive.progress import Bar
from scripts.archive.rows import FAILED, SET_ASIDE
from scripts.archive.run import Driver, Identification, RunError, Unfinished, alone
from scripts.archive.storage import Storage
from scripts.archive.studies import Folder, Shard, Source
from scripts.archive.work import Output, Plan
from scripts.command_line import parser_of
from scripts.servers.client import ended_by_signals

FORMS = ("nifti", "seg")
GO_ON_LATER = 75  # EX_TEMPFAIL


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see the module's text for what it returns."""
    options = _parser().parse_args(arguments)
    try:
        with ended_by_signals():
            return _run(options)
    except (Unfinished, Away) as error:
        print(f"unfinished: {error}", file=sys.stderr)
        return GO_ON_LATER
    except KeyboardInterrupt:
        print("stopped: what is done is kept; give the same command again to go on", file=sys.stderr)
        return 130
    except (ClusterError, RunError, ImageError, CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    source = _source(options.archive, options.shard)
    storage = Storage(options.out)
    method = _method(options)
    output = _output(options, storage)
    with cluster(options.cluster, cpus=options.cpus) as ray:
        size = options.workers or _devices(ray, options.threads)
        gpus = 1.0 if _has_gpus(ray) and options.device != "cpu" else 0.0

        def pool(plan: Plan) -> Pool[Any]:
            return Pool(ray, plan, size, options.threads, gpus)

        if options.dry_run:
            return _dry_run(options, source, method, pool, size)
        identification = Identification(
            source.address, method.fingerprint, f"{options.form} {options.to or storage.address}"
        )
        identification.claim(storage, {"labels": dict(method.labels), "code": own_identity().code})
        plan = Plan(method, source, output, storage, method.fingerprint)
        again = (FAILED, SET_ASIDE) if options.retry else ()
        with alone(storage), closing(pool(plan)) as workers, Bar() as bar:
            driver = Driver(source, storage, workers, options.patience, bar.follow, again)
            progress = driver.run(sum(1 for _ in source.studies()))
    print(
        f"{progress.done} studies: {progress.failed} without a mask and {progress.set_aside} set aside in this start, "
        f"{progress.crashes} workers lost; manifest in {storage.address}/manifest"
    )
    return 0


def _dry_run(options: argparse.Namespace, source: Source, method: ByTemplates, pool: Any, size: int) -> int:
    """Segment some studies into a folder that goes away, and say what all of them would take."""
    chosen, total = sample(source, options.dry_run)
    with tempfile.TemporaryDirectory(prefix="oneprompt-dry-run-") as folder:
        storage = Storage(folder)
        output = _dry_output(options, storage)
        with closing(pool(Plan(method, chosen, output, storage, method.fingerprint))) as workers, Bar() as bar:
            driver = Driver(chosen, storage, workers, options.patience, bar.follow)
            driver.run(len(chosen.chosen))
            print(forecast(driver.manifest.rows(), total, size, driver.seconds))
    return 0


def _source(archive: str, shard: tuple[int, int] | None) -> Source:
    source: Source
    if archive.startswith(("http://", "https://")):
        from scripts.archive.servers import DICOMweb

        source = DICOMweb(archive)
    else:
        source = Folder(archive)
        if source.storage.is_local and not Path(source.address).is_dir():
            raise RunError(f"ARCHIVE must be a folder or an address, and {archive} is none: check its name")
    return Shard(source, *shard) if shard else source


def _method(options: argparse.Namespace) -> ByTemplates:
    if options.templates:
        from scripts.archive.servers import templates_of

        templates, labels = templates_of(options.templates)
    else:
        from lib.segmenters.by_template import read_template

        if not (options.template and options.label):
            raise RunError("templates are needed: --templates STUDY_LIST, or --template IMAGE with --label LABEL")
        template = read_template(options.template, options.label, options.names)
        templates, labels = [template], {name: template.names[name] for name in template.structures}
    return ByTemplates.of(options.weights, templates, labels, options.most_templates, options.device, options.threads)


def _output(options: argparse.Namespace, storage: Storage) -> Output:
    if options.to:
        from scripts.archive.servers import SegsOnDICOMweb

        return SegsOnDICOMweb(options.to)
    return _dry_output(options, storage)


def _dry_output(options: argparse.Namespace, storage: Storage) -> Output:
    """Where masks go in the run's own folder."""
    if options.form == "seg" or options.to:
        from scripts.archive.seg_files import SegFiles

        return SegFiles(storage)
    return NiftiFiles(storage)


def _devices(ray: Any, threads: int) -> int:
    """How many workers a cluster has room for: one a GPU, else one for so many processors."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)) or max(1, int(resources.get("CPU", 1)) // threads)


def _has_gpus(ray: Any) -> bool:
    return ray.cluster_resources().get("GPU", 0) > 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("segment_archive", __doc__)
    add = parser.add_argument
    add("archive", metavar="ARCHIVE", help="a folder, an address of fsspec, or of a DICOMweb server")
    add("out", metavar="OUT", help="the run's folder, or an address of fsspec")
    add("--templates", type=Path, metavar="STUDY_LIST", help="a MONAI Label study list with final labels")
    add("--template", type=Path, metavar="IMAGE", help="instead: an image that is labelled")
    add("--label", type=Path, metavar="LABEL", help="its label map")
    add("--names", type=_names, default=(), metavar="A,B", help="names of the label's values 1, 2, ... (label_1, ...)")
    add("--most-templates", type=int, default=4, metavar="N", help="asked for each structure of a study (4)")
    add("--weights", type=Path, default=SHIPPED_WEIGHTS, metavar="FILE", help="(the shipped ones)")
    add("--form", choices=FORMS, default="nifti", help="of the masks (nifti)")
    add("--to", metavar="URL", help="send DICOM SEG to this DICOMweb server instead of writing masks into OUT")
    add("--cluster", metavar="HOST:PORT", help="of a Ray cluster (ray://HOST:PORT from outside it); else this machine")
    add("--cpus", type=int, metavar="N", help="processors that Ray on this machine may use (all)")
    add("--workers", type=int, metavar="N", help="(one a GPU, else one for --threads processors)")
    add("--threads", type=int, default=1, metavar="N", help="processors of a worker (1)")
    add("--device", default="auto", help="auto, cpu or cuda (auto)")
    add("--dry-run", type=int, default=0, metavar="N", help="segment N studies to nowhere, and predict time and room")
    add("--retry", action="store_true", help="try studies again that failed or were set aside")
    add("--patience", type=float, default=3600.0, metavar="S", help="seconds for which storage may be away (3600)")
    add("--shard", type=_shard, metavar="K/N", help="only part K of N of the archive, beside other runs")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"a shard is K/N with K from 1 to N, got {text}")
    return int(number), int(count)


if __name__ == "__main__":
    sys.exit(main())

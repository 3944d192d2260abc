"""Builds the parts of the app and joins them; `apps/oneprompt/main.py` registers what it makes."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.config import settings as monailabel_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from pydicom.dataset import Dataset

from infers.annotate.desk import Desk
from infers.annotate.prompted import PromptedStudies, check_seen
from infers.api.routes import install
from infers.board.board import Board
from infers.dicom.dicomseg import Maker, read_headers
from infers.dicom.pacs_labels import inferred_seg
from infers.dicom.rtstruct import write_rtstruct
from infers.errors import ClientError, NotFound
from infers.guards import safe_name
from infers.jobs.batch import TolerantBatchInfer
from infers.jobs.propagation import Propagation
from infers.jobs.training import Trainings
from infers.label_records import AUTOMATIC, FINAL, FORMER, PROMPTED, LabelRecord, Statement
from infers.limits import MB, Limits
from infers.names import LabelMap
from infers.serving.model import BASE, PUBLISHED, ServedModel
from infers.serving.priority_lock import PriorityLock
from infers.settings import AppConfig
from infers.store.datastore import StudyStore
from infers.store.locked import NO_IMAGE
from infers.store.watch import FolderWatch, if_other
from infers.study_list.acceptance import Acceptance
from infers.study_list.corrections import Corrections
from infers.study_list.descriptors import Descriptors
from infers.study_list.pending_results import PendingResults
from infers.study_list.scoring import DiceScoring, score_study
from infers.study_list.strategies import strategies
from infers.study_list.studies import MODEL, SPECIALIST, Studies
from infers.study_list.template_check import TemplateHealth
from infers.tasks.list_unet import ListUNetTask
from infers.tasks.oneprompt import Engine, is_marked, tasks
from infers.tasks.submit import SUBMIT, SubmitTask
from infers.tasks.uniseg import UNISEG, UniSegTask
from lib.finetuning.list_unet_training import ListUNetSettings
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.uniseg.course import UniSegSettings
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.finetuning.versions import FOLDER, Versions
from lib.imaging import sizes
from lib.imaging.images import Image, read_image, read_label, write_image
from lib.inference.control import Control
from lib.networks.checkpoints import SHIPPED_WEIGHTS
from lib.segmenters.contract import Segmenter
from lib.segmenters.list_unet import ListUNetSegmenter
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from lib.segmenters.uniseg.model import load_model

logger = logging.getLogger(__name__)

SPECIALIST_FOLDER = "specialist"
UNISEG_FOLDER = "uniseg"


class Assembly:
    """One running app.

    Args:
        app_dir: the app's folder.
        studies: study folder, or address of a DICOMweb server.
        conf: values of `--conf`.

    Raises:
        ConfigError, CheckpointError: at start, with what to do.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.config = AppConfig.from_conf(conf)
        self.limits = Limits(upload=self.config.upload_mb * MB)
        sizes.allow(self.config.image_mb)
        self.models = self.config.models or Path(app_dir) / "model"
        self.models.mkdir(parents=True, exist_ok=True)
        self.datastore = self._datastore(studies)
        self.labels = LabelMap(self.datastore.state / "labels.json", self.config.labels)
        settings = SegmenterSettings(templates_per_query=self.config.templates)
        self.model = ServedModel(
            self.config.weights or SHIPPED_WEIGHTS,
            self.models / PUBLISHED,
            self.config.device,
            partial(SliceSegmenter, settings=settings),
        )
        looks = Descriptors(self.datastore, self.datastore.state / "looks.npz")
        self.versions = Versions(
            self.models / FOLDER, self.model.published, self.config.versions, self.config.versions_mb * 2**20
        )
        # With the study list, not with the weights that other lists may be served with too
        self.specialist = ServedListUNet(self.datastore.state / SPECIALIST_FOLDER, self.model.device)
        self.uniseg = ServedUniSeg(self.datastore.state / UNISEG_FOLDER, self.model.device, self.config.uniseg)
        self.studies = Studies(
            self.datastore,
            self.labels,
            self._segmenter,
            self.config.templates,
            looks,
            refreshed=self.config.auto_propagate,
            by_templates=lambda: self.model.segmenter,
        )
        self._restore_labels()
        folders = {MODEL: self.models, SPECIALIST: self.specialist.path.parent, UNISEG: self.uniseg.path.parent}
        self.trainings = Trainings(folders, self.studies, self.config.auto_finetune, self.config.specialist)
        self.gate = PriorityLock()
        checks = self.datastore.state / "template_checks.json"
        self.corrections = Corrections(self.studies, checks, self.model.estimator)
        self.health = TemplateHealth(self.studies)
        self.job = Propagation(
            self.studies, self.gate, self.datastore.state, self._prepare, self.corrections.check_templates
        )
        offers = PendingResults(self.datastore.state / "offers")
        self.acceptance = Acceptance(
            self.datastore, offers, self.config.quiet_seconds, self.label_saved, self.labels.learn
        )
        self.board = Board(self.studies, self.job, self.acceptance, self._templates_changed, self.health)
        self.engine = Engine(self.studies, self.labels, self.model, self.gate, self.acceptance)
        self.desk = Desk(self.studies)
        self.prompted = PromptedStudies(self.engine, self._templates_changed)
        # Training writes into the watched folders all the time: only other weights are news for the list
        self._weights_changed = if_other(
            lambda: (self.model.weights_on_disk(), self.specialist.hash, self.uniseg.fingerprint), self._list_changed
        )
        self._tasks: dict[str, Any] = {}
        self._app: Any = None

    def _segmenter(self) -> Segmenter:
        """What segments the list now."""
        by_templates, unet = self.model.segmenter, self.specialist.current
        return ListUNetSegmenter(by_templates, unet) if unet else by_templates

    # What main.py registers

    def infers(self) -> dict[str, Any]:
        """The infer tasks by name."""
        self._tasks = {
            **tasks(self.engine),
            SUBMIT: SubmitTask(self.engine),
            SPECIALIST: ListUNetTask(self.engine, self.specialist),
            UNISEG: UniSegTask(self.engine, self.uniseg),
        }
        return self._tasks

    def for_specialist(self) -> dict[str, Any]:
        """What `trainers.list_unet.ListUNetTrainer` is made with."""
        return {
            "specialist": self.specialist,
            "unlearnt": self._unlearnt,
            "studies": self.studies.labelled,
            "settings": ListUNetSettings(most_templates=self.config.templates),
        }

    def for_uniseg(self) -> dict[str, Any]:
        """What `trainers.uniseg.UniSegTrainer` is made with."""
        return {
            "served": self.uniseg,
            "unlearnt": self._unlearnt,
            "studies": self.studies.labelled,
            "settings": UniSegSettings(most_templates=self.config.templates),
        }

    def _unlearnt(self, studies: Collection[str]) -> Path:
        """The newest One-Prompt weights on the way to the served ones that learnt from none of these studies."""
        return self.versions.unlearnt(self.model.weights_hash, studies) or self.model.base

    def for_training(self) -> dict[str, Any]:
        """What `trainers.oneprompt.OnePromptTrainer` is made with."""
        return {
            "models": self.models,
            "versions": self.versions,
            "provenance": {BASE: self.model.base_hash},
            "served": lambda: self.model.path,
            "studies": self.studies.labelled,
            "tuning": self.config.finetuning,
        }

    def scoring(self) -> dict[str, Any]:
        """The scoring methods by name."""
        return {"dice": DiceScoring(self.studies)}

    def strategies(self) -> dict[str, Any]:
        """The active learning strategies by name."""
        return strategies(self.studies)

    def batch_infer(self) -> BatchInferTask:
        """MONAI Label's batch inference as it works without a GPU."""
        return TolerantBatchInfer()

    def serve(self, app: Any) -> None:
        """In the server process: exchange the routes, start the job, go on where a former process stopped."""
        import monailabel.app

        self._app = app
        install(monailabel.app.app, self)
        self.datastore.on_change(self._list_changed)
        for folder in (self.models, self.specialist.path.parent, self.uniseg.path.parent):
            FolderWatch(folder, self._weights_changed)
        self.job.start()
        self.acceptance.start()
        self._list_changed()
        self.trainings.resume()

    # What the routes and main.py call

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Run a task: MONAI Label's `infer`, with the image resolved here.

        Args:
            request: `model`, and `image_id` (a study) or `image` (a study, or a file of this machine); `save_label`
                with `label_tag` stores the mask.

        Raises:
            ClientError: unknown model or study, or what the task refuses.
        """
        request = copy.deepcopy(request)
        task = self._tasks.get(request.get("model", ""))
        if task is None:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {request.get('model')!r}")
        image_id = request.get("image_id")
        if image_id is None and request.get("image") in self.datastore.list_images():
            image_id = request["image"]
        if image_id is not None:
            request |= {"image_id": image_id, "image": str(self.image_path(image_id))}
        if image_id is not None and request.get("frame"):
            # Masks and labels of a study are those of its first volume: another one is answered and not kept
            if request.get("save_label") or is_marked(request):
                raise ClientError("only the first volume of a study has labels: leave `frame` out to save a result")
            del request["image_id"]
            image_id = None
        stamp = self.datastore.image_stamp(image_id) if image_id is not None else ""
        path, params = task(request)
        tag, label = request.get("label_tag") or AUTOMATIC, path
        if request.get("save_label") and image_id is not None:
            label = image_id
            if tag != AUTOMATIC or not params.get("stored"):
                self.studies.store_result(image_id, Path(path), params, stamp, tag)
        return {"label": label, "tag": tag, "file": path, "params": params}

    def save_label(
        self, image_id: str, path: Path, tag: str, statement: Statement, user: str | None, seen: str | None = None
    ) -> dict[str, Any]:
        """Store a label that a client submitted; a final one is checked first and becomes a template.

        Args:
            seen: version of the final label that the client began from, empty where there was none: another one by now
                is not replaced. None: whatever there is.
        """
        safe_name("tag", tag)
        self.image_path(image_id)
        plain = self.studies.as_label_map(image_id, path, statement) if tag == FINAL else nullcontext((path, statement))
        with plain as (path, statement):
            record = LabelRecord(statement, author=user)
            if tag == FINAL:
                record = replace(record, structures=self.studies.check_label(image_id, path, statement))
            before = self.datastore.records(image_id).get(FORMER)
            # A DICOMweb server is never asked while the list is locked
            with self.datastore.at_once() if seen is not None and not self.board.ohif else nullcontext():
                if seen is not None:
                    check_seen(self.datastore.label(image_id, FINAL), seen)
                self.datastore.save(image_id, path, tag, record)
        former = self.datastore.records(image_id).get(FORMER)
        answer = self._app.on_save_label(image_id, image_id) if tag == FINAL else {}
        if former and former != before:
            whose = {"user": former.author, "client_id": former.statement.client_id, "ts": former.saved}
            answer = {**(answer or {}), "replaced": {**whose, "kept_as": FORMER}}
        final = self.datastore.records(image_id).get(FINAL)
        if tag == FINAL and final and final.dicom_seg_problem:  # saved here, but not where others look for it
            answer = {**(answer or {}), "dicom_seg_problem": final.dicom_seg_problem}
        return {**(answer or {}), "image": image_id, "label": image_id}

    def describe_label(self, image_id: str, tag: str, statement: Statement, user: str | None) -> None:
        """Add what a client says of a label to its record. Raises NotFound."""
        safe_name("tag", tag)
        self.datastore.amend(image_id, tag, lambda record: record.described(statement, user))

    def label_saved(self, image_id: str) -> dict[str, Any]:
        """A final label is there: it takes the place of prompts, the other studies follow, its former mask is scored, a
        training may be due."""
        with suppress(NotFound):
            self.datastore.remove_label(image_id, PROMPTED)
        if self.config.auto_propagate:
            self.job.trigger()
        threading.Thread(target=score_study, args=(self.studies, image_id), name="scoring", daemon=True).start()
        self.trainings.label_saved()
        return {"template": image_id in self.studies.templates()}

    def add_image(self, name: str, path: Path, params: dict[str, Any]) -> str:
        """Add an uploaded image to the list."""
        image_id = self.datastore.add_image(name, str(path), params)
        self._list_changed()
        return image_id

    def stored_elsewhere(self) -> None:
        """A client stored something on the DICOMweb server, past the study list: it is read anew."""
        if isinstance(self.datastore, DICOMWebDatastore):
            self.datastore.forget()
        self._list_changed()

    def image_path(self, image_id: str) -> Path:
        """Where a study's image lies. Raises NotFound."""
        uri = self.datastore.get_image_uri(image_id) if image_id in self.datastore.list_images() else ""
        if not uri or not os.path.exists(uri):
            raise NotFound(NO_IMAGE.format(image_id[:80]))
        return Path(uri)

    def as_dicom_seg(self, image_id: str, result: Mapping[str, Any]) -> str:
        """A result of `infer` as a temporary DICOM SEG file that refers to the image's series. Raises ClientError."""
        headers, image, label = self._on_series("dicom_seg", image_id, result)
        return _saved(inferred_seg(headers, image, label, result["params"]))

    def as_rtstruct(self, image_id: str, result: Mapping[str, Any]) -> str:
        """The same as a temporary RTSTRUCT file. Raises ClientError."""
        headers, image, label = self._on_series("rtstruct", image_id, result)
        return _saved(write_rtstruct(headers, image, label, result["params"]["label_names"], by=Maker.AUTOMATIC))

    def as_file(self, folder: Path) -> Path:
        """A DICOM series as one temporary NIfTI file, for clients that open only files."""
        handle, path = tempfile.mkstemp(suffix=".nii.gz", prefix="oneprompt-")
        os.close(handle)
        try:
            write_image(path, read_image(folder))
        except BaseException:
            os.unlink(path)  # nobody else knows of it
            raise
        return Path(path)

    def next_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """MONAI Label's next sample as both clients need it.

        A folder's path is left out, so that Slicer downloads one file instead; OHIF is told which study to open, also
        of a series that nobody opened here yet.
        """
        if sample.get("id") and self.board.ohif:
            sample = {"StudyInstanceUID": self.board.study_uid(sample["id"]), **sample}
        if sample.get("path") and os.path.isdir(sample["path"]):
            sample = {**sample, "path": "", "name": f"{sample['id']}.nii.gz"}
        return sample

    def sessions(self) -> Any:
        """MONAI Label's upload sessions, or None where they are off."""
        return self._app.sessions()

    def status(self) -> dict[str, Any]:
        """What GET /oneprompt/status answers."""
        job = self.job.status()
        return {
            "weights": self.model.weights_hash,
            "labels": self.labels.names,
            "templates": sorted(self.studies.templates()),
            "job": dict(vars(job)),
            "studies": {row.id: row.brief() for row in self.board.rows()},
            "unreadable": self.board.unreadable(),
            **self.board.quality(),
        }

    def start_job(self) -> dict[str, Any]:
        """Start the job, or let the one under way look again."""
        self._need_template()
        return dict(vars(self.job.trigger()))

    def cancel_job(self) -> dict[str, Any]:
        """Stop the job; what is done stays."""
        return dict(vars(self.job.cancel()))

    def undo_job(self) -> dict[str, Any]:
        """Take every automatic mask away; people's labels stay."""
        return {"removed": self.job.undo(), **vars(self.job.status())}

    def start_training(self, name: str, params: Mapping[str, Any], enqueue: bool = False) -> dict[str, Any]:
        """Start a training run, or queue it; one that cannot work is refused before a process is started for it."""
        return self.trainings.start(params, enqueue, name)

    def training(self) -> dict[str, Any]:
        """What GET /oneprompt/training answers: the newest training, the versions of the weights, and the trainings of
        the specialist and of UniSeg with what is offered."""
        served = self.model.weights_hash
        versions = [{**record, "served": record["hash"] == served} for record in self.versions.all()]
        base = {"hash": self.model.base_hash, "served": served == self.model.base_hash}
        specialist = {**self.trainings.status(SPECIALIST), "offered": self.specialist.status()}
        specialist |= {"from_labels": self.config.specialist, "labelled": len(self.studies.painted())}
        uniseg = {**self.trainings.status(UNISEG), "offered": self.uniseg.status()}
        return {
            **self.trainings.status(),
            **{"served": served, "base": base, "versions": versions, "specialist": specialist, "uniseg": uniseg},
        }

    def use_specialist(self, use: bool) -> dict[str, Any]:
        """Offer the specialist that was withdrawn, or withdraw the one that is offered; the list follows."""
        done = self.specialist.use_again() if use else self.specialist.withdraw()
        if not done and (self.specialist.current is not None) != use:
            raise NotFound("there is no specialist: train one first, with POST /train/" + SPECIALIST)
        self._weights_changed()
        return self.specialist.status()

    def serve_version(self, name: str) -> dict[str, Any]:
        """Roll back or forward to a version, or to `base`."""
        self.model.serve(name, self.versions)
        self._weights_changed()
        return {"weights": self.model.weights_hash}

    def check_batch(self, name: str, params: Mapping[str, Any]) -> None:
        """Refuse a batch that cannot work, before a process is started for it."""
        if name not in (MODEL, UNISEG):
            raise ClientError(
                f"batch inference works with the models {MODEL} and {UNISEG}, which need no clicks; got {name!r}"
            )
        if params.get("label_tag") == FINAL:
            raise ClientError("label_tag `final` is for labels that a person submits; use `original`")
        if name == MODEL:
            self._need_template()

    def publish_upload(self, name: str, path: Path) -> dict[str, Any]:
        """Serve uploaded weights from now on, if they fit. Raises CheckpointError where they do not."""
        if name not in self._tasks:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {name!r}")
        if name == SPECIALIST:
            raise ClientError(f"{SPECIALIST} is trained on this list, never uploaded: upload weights as {MODEL}", 405)
        if name == UNISEG:
            self.uniseg.publish(load_model(path, self.model.device))
            return {"weights": self.uniseg.status()["hash"]}
        self.model.publish(path, self.versions)
        return {"weights": self.model.weights_hash}

    def remove_published(self, name: str) -> dict[str, Any]:
        """Go back to the configured weights; or withdraw the specialist, or UniSeg."""
        if name == SPECIALIST:
            return self.use_specialist(False)
        if name == UNISEG:
            if not self.uniseg.withdraw():
                raise NotFound(f"no {UNISEG} was published: train one first, with POST /train/{UNISEG}")
            return self.uniseg.status()
        if name not in self._tasks:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {name!r}")
        if not self.model.published.exists():
            raise NotFound("no weights were published: the configured ones are served and stay")
        return self.serve_version("base")

    # Own helpers

    def _restore_labels(self) -> None:
        """Structures that stored labels know and `labels.json` does not: it was lost, or came without its folder."""
        indices: dict[str, int] = {}
        names: list[str] = []
        for records in self.datastore.all_records():
            mask, final = records.get(AUTOMATIC), records.get(FINAL)
            made = mask.provenance if mask else None
            indices |= (made.structures if made else None) or {}
            names += (final.structures if final else None) or ()
        self.labels.restore(indices, names)

    def _datastore(self, studies: str) -> Any:
        if studies.startswith(("http://", "https://")):
            from infers.dicom.dicomweb import open_dicomweb

            digest = hashlib.sha256(studies.rstrip("/").encode()).hexdigest()[:16]
            data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
            return open_dicomweb(studies.rstrip("/"), self.config.state or data / "oneprompt" / digest)
        return StudyStore(
            studies,
            extensions=monailabel_settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=monailabel_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=monailabel_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _on_series(
        self, output: str, image_id: str, result: Mapping[str, Any]
    ) -> tuple[list[Dataset], Image, np.ndarray]:
        """Headers of the series that a study is, its image, and a mask of it."""
        path = self.image_path(image_id) if image_id else None
        folder = path.parent / image_id if path and isinstance(self.datastore, DICOMWebDatastore) else path
        if path is None or folder is None or not folder.is_dir():
            raise ClientError(f"output={output} needs image=ID of a study that is a DICOM series", 406)
        image = read_image(path)
        return read_headers(folder), image, read_label(result["file"], image)

    def _need_template(self) -> None:
        if not self.studies.templates():
            raise ClientError("there is no template yet: save one study first", status=409)

    def _templates_changed(self) -> None:
        if self.config.auto_propagate:
            self.job.trigger()
        self.trainings.label_saved()

    def _prepare(self, control: Control) -> None:
        """Before the job: what corrections teach, and whether the templates are worth the list's time."""
        self.corrections.learn(control)
        self.health.examine(control)

    def _list_changed(self) -> None:
        if not self.board.ohif:  # a DICOMweb server's images are not fetched before somebody needs them
            self.studies.looks.refresh()
        if self.config.auto_propagate:
            self.job.trigger(resume=False)  # only says that there may be work: this is called under the store's lock


def _saved(instance: Dataset) -> str:
    """A DICOM instance as a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=".dcm", prefix="oneprompt-", delete=False) as target:
        instance.save_as(target.name)
    return target.name

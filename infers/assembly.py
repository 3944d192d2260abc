"""Builds the parts of the app and joins them; `apps/oneprompt/main.py` registers what it makes."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
from monailabel.config import settings as monailabel_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from infers.acceptance import Acceptance
from infers.batch import TolerantBatchInfer
from infers.board.board import Board
from infers.datastore import AUTOMATIC, FINAL, StudyStore
from infers.errors import ClientError, NotFound
from infers.gate import Gate
from infers.guards import safe_name
from infers.labels import LabelMap
from infers.locked import NO_IMAGE
from infers.model import BASE, PUBLISHED, ServedModel
from infers.oneprompt import Engine, tasks
from infers.propagation import Propagation
from infers.routes import install
from infers.studies import CHECKED, MODEL, Studies
from infers.watch import FolderWatch
from lib.checkpoints import SHIPPED_WEIGHTS
from lib.config import AppConfig
from lib.images import Image, read_image
from lib.predictor import Predictor, PredictorSettings

logger = logging.getLogger(__name__)


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
        self.models = self.config.models or Path(app_dir) / "model"
        self.models.mkdir(parents=True, exist_ok=True)
        self.datastore = self._datastore(studies)
        self.labels = LabelMap(self.datastore.state / "labels.json", self.config.labels)
        settings = PredictorSettings(templates_per_query=self.config.templates)
        self.model = ServedModel(
            self.config.weights or SHIPPED_WEIGHTS,
            self.models / PUBLISHED,
            self.config.device,
            lambda network, device: Predictor(network, device, settings),
        )
        self.studies = Studies(self.datastore, self.labels, lambda: self.model.predictor, self.config.templates)
        self.gate = Gate()
        self.job = Propagation(self.studies, self.gate, self.datastore.state / "job.lock")
        self.acceptance = Acceptance(
            self.datastore, self.config.quiet_seconds, self.label_saved, lambda names: self.labels.learn(names)
        )
        self.board = Board(self.studies, self.job, self.acceptance, self._templates_changed)
        self.engine = Engine(self.studies, self.labels, self.model, self.gate, self.acceptance)
        self._tasks: dict[str, Any] = {}
        self._app: Any = None

    # What main.py registers

    def infers(self) -> dict[str, Any]:
        """The infer tasks by name."""
        self._tasks = tasks(self.engine)
        return self._tasks

    def for_training(self) -> dict[str, Any]:
        """What `trainers.oneprompt.OnePromptTrainer` is made with."""
        return {
            "models": self.models,
            "published": self.model.published,
            "provenance": {BASE: self.model.base_hash},
            "served": lambda: self.model.path,
            "studies": lambda: (self.studies.labelled(), self.labels.names),
        }

    def batch_infer(self) -> BatchInferTask:
        """MONAI Label's batch inference as it works without a GPU."""
        return TolerantBatchInfer()

    def serve(self, app: Any) -> None:
        """In the server process: exchange the routes, start the job, go on where a former process stopped."""
        import monailabel.app

        self._app = app
        install(monailabel.app.app, self)
        self.datastore.on_change(self._list_changed)
        FolderWatch(self.models, self._list_changed)  # published weights
        self.job.start()
        self._list_changed()

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
        path, params = task(request)
        tag, label = request.get("label_tag") or AUTOMATIC, path
        if request.get("save_label") and image_id is not None:
            label, info = image_id, {"model": MODEL, "params": params}
            if tag == AUTOMATIC and not params.get("stored"):
                self.datastore.save_automatic(image_id, Path(path), info)
            elif tag != AUTOMATIC:
                self.datastore.save_label(image_id, path, tag, info)
        return {"label": label, "tag": tag, "file": path, "params": params}

    def save_label(self, image_id: str, path: Path, tag: str, params: dict[str, Any]) -> dict[str, Any]:
        """Store a label that a client submitted; a final one is checked first and becomes a template."""
        safe_name("tag", tag)
        self.image_path(image_id)
        if tag == FINAL:
            params = {**params, CHECKED: self.studies.check_label(image_id, path, params)}
        label_id = self.datastore.save_label(image_id, str(path), tag, params)
        answer = self._app.on_save_label(image_id, label_id) if tag == FINAL else {}
        return {**(answer or {}), "image": image_id, "label": label_id}

    def label_saved(self, image_id: str) -> dict[str, Any]:
        """A final label is there: the other studies follow."""
        if self.config.auto_propagate:
            self.job.trigger()
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

    def as_dicom_seg(self, image_id: str, mask: str, label_info: Any) -> str:
        """A mask as a temporary DICOM SEG file that refers to the image's series. Raises ClientError."""
        if not isinstance(self.datastore, DICOMWebDatastore) or not image_id or not label_info:
            raise ClientError("output=dicom_seg needs a DICOMweb study list, image=ID and label_info in params", 406)
        folder = Path(self.image_path(image_id)).parent / image_id  # where MONAI Label keeps the series itself
        return nifti_to_dicom_seg(str(folder), mask, label_info, use_itk=True)

    def as_file(self, folder: Path) -> Path:
        """A DICOM series as one temporary NIfTI file, for clients that open only files."""
        image: Image = read_image(folder)
        handle, path = tempfile.mkstemp(suffix=".nii.gz", prefix="oneprompt-")
        os.close(handle)
        nibabel.save(nibabel.Nifti1Image(image.array, image.affine), path)
        return Path(path)

    def next_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """MONAI Label's next sample; a folder's path is left out, so that the client downloads one file instead."""
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
        }

    def start_job(self) -> dict[str, Any]:
        """Start the job, or let the one under way look again."""
        self._need_template()
        return dict(vars(self.job.trigger()))

    def cancel_job(self) -> dict[str, Any]:
        """Stop the job; what is done stays."""
        return dict(vars(self.job.cancel()))

    def check_training(self, name: str) -> None:
        """Refuse a training run that cannot work, before a process is started for it."""
        if name != MODEL:
            raise NotFound(f"the trainer is called {MODEL}, got {name!r}")
        self._need_template()

    def check_batch(self, name: str, params: Mapping[str, Any]) -> None:
        """Refuse a batch that cannot work, before a process is started for it."""
        if name != MODEL:
            raise ClientError(f"batch inference works with the model {MODEL}, which needs no clicks; got {name!r}")
        if params.get("label_tag") == FINAL:
            raise ClientError("label_tag `final` is for labels that a person submits; use `original`")
        self._need_template()

    def publish_upload(self, name: str, path: Path) -> dict[str, Any]:
        """Serve uploaded weights from now on, if they fit. Raises CheckpointError where they do not."""
        if name not in self._tasks:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {name!r}")
        self.model.publish(path)
        return {"weights": self.model.weights_hash}

    def remove_published(self, name: str) -> dict[str, Any]:
        """Go back to the configured weights."""
        if name not in self._tasks:
            raise NotFound(f"model must be one of {', '.join(self._tasks)}, got {name!r}")
        published = self.model.published
        if not published.exists():
            raise NotFound("no weights were published: the configured ones are served and stay")
        published.replace(published.with_suffix(".removed"))
        return {"weights": self.model.weights_hash}

    # Own helpers

    def _datastore(self, studies: str) -> Any:
        if studies.startswith(("http://", "https://")):
            from infers.dicomweb import open_dicomweb

            digest = hashlib.sha256(studies.rstrip("/").encode()).hexdigest()[:16]
            data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
            return open_dicomweb(studies.rstrip("/"), self.config.state or data / "oneprompt" / digest)
        return StudyStore(
            studies,
            extensions=monailabel_settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=monailabel_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=monailabel_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _need_template(self) -> None:
        if not self.studies.templates():
            raise ClientError("there is no template yet: save one study first", status=409)

    def _templates_changed(self) -> None:
        if self.config.auto_propagate:
            self.job.trigger()

    def _list_changed(self) -> None:
        if self.config.auto_propagate:
            self.job.trigger(resume=False)  # only says that there may be work: this is called under the store's lock

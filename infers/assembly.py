"""The composition root: builds the parts of the app and joins them; `apps/oneprompt/main.py` registers what it makes.

Every process of MONAI Label's loads the app: the server, each training, each batch. A part is built when it is first
asked for, so a training builds neither board nor network, and a batch no board.

Longer than most because every part is built here and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from infers.annotate.desk import Desk
from infers.annotate.prompted import PromptedStudies
from infers.api.app import Sessions
from infers.api.routes import install
from infers.board.board import Board
from infers.dicom.study_lists import open_study_list
from infers.errors import NotFound
from infers.jobs.engine import engine_at
from infers.jobs.propagation import Propagation
from infers.jobs.training import Trainings
from infers.label_records import PROMPTED
from infers.limits import MB, Limits, Memory
from infers.names import LabelMap
from infers.operations.ending import end_in_order
from infers.operations.exposure import exposure_now, log_once_listening
from infers.operations.start import tidy
from infers.patches.batch_infer import TolerantBatchInfer
from infers.serving.model import BASE, PUBLISHED, ServedModel
from infers.serving.priority_lock import PriorityLock
from infers.serving.promptseg import ServedPromptSeg
from infers.settings import AppConfig
from infers.store.watch import FolderWatch, if_other
from infers.study_list.acceptance import Acceptance
from infers.study_list.changes import Change, Changes
from infers.study_list.corrections import Corrections
from infers.study_list.descriptors import Descriptors
from infers.study_list.pending_results import PendingResults
from infers.study_list.recent_results import RecentResults
from infers.study_list.scoring import DiceScoring, score_study
from infers.study_list.strategies import strategies
from infers.study_list.studies import LIST_UNET, MODEL, Studies
from infers.study_list.template_check import TemplateCheck
from infers.tasks.list_unet import ListUNetTask
from infers.tasks.oneprompt import Engine, tasks
from infers.tasks.promptseg import PROMPTSEG, PromptSegTask
from infers.tasks.submit import SUBMIT, SubmitTask
from infers.tasks.uniseg import UNISEG, UniSegTask
from infers.use_cases.images import Images
from infers.use_cases.inference import Inference
from infers.use_cases.labels import Labels
from infers.use_cases.publishing import Publishing
from infers.use_cases.status import Status
from lib.finetuning.list_promptseg import ListPromptSeg
from lib.finetuning.list_unet_training import ListUNetSettings
from lib.finetuning.published import Published
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.served_promptseg import TunedPromptSeg
from lib.finetuning.uniseg.course import UniSegSettings
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.finetuning.versions import FOLDER, Versions
from lib.imaging import sizes
from lib.imaging.image_cache import ImageCache
from lib.inference.control import Control
from lib.inference.feature_cache import FeatureCache
from lib.networks.checkpoints import SHIPPED_WEIGHTS
from lib.segmenters.contract import Segmenter
from lib.segmenters.list_unet import ListUNetSegmenter
from lib.segmenters.promptseg import TEMPLATES as PROMPTSEG_TEMPLATES
from lib.segmenters.settings import SegmenterSettings
from lib.segmenters.slice_segmenter import SliceSegmenter
from lib.segmenters.uniseg.beside import UniSegBeside

LIST_UNET_FOLDER = "specialist"
PROMPTSEG_FOLDER = "promptseg"
UNISEG_FOLDER = "uniseg"


class Assembly:
    """The parts of one running app.

    Args:
        app_dir: the app's folder.
        studies: study folder, or address of a DICOMweb server.
        conf: values of `--conf`.

    Raises:
        ConfigError: at start, with what to do.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.config = AppConfig.from_conf(conf)
        self.limits = Limits(upload=self.config.upload_mb * MB)
        sizes.allow(self.config.image_mb)
        self.models = self.config.models or Path(app_dir) / "model"
        self.models.mkdir(parents=True, exist_ok=True)
        self.datastore = open_study_list(studies, self.config.state)
        self.state: Path = self.datastore.state
        self.changes, self.lock = Changes(), PriorityLock()  # and whose turn it is at the network
        self.memory = Memory.of(self.config.memory)
        self.image_cache = ImageCache(self.memory.images)
        room, answers = self.memory.features, self.memory.answers
        settings = SegmenterSettings(cache_bytes=room, kept_bytes=answers)
        self.one_prompt_templates = self.config.templates or settings.templates_per_query
        settings = replace(settings, templates_per_query=self.one_prompt_templates)
        features = FeatureCache(room)  # of all networks here: those with one image encoder share encoded slices
        self.model = ServedModel(
            self.config.weights or SHIPPED_WEIGHTS,
            self.models / PUBLISHED,
            self.config.device,
            partial(SliceSegmenter, settings=settings, cache=features),
        )
        # With the study list, not with the weights that other lists may be served with too
        self.list_unet = ServedListUNet(self.state / LIST_UNET_FOLDER, self.model.device)
        self.tuned_promptseg = TunedPromptSeg(self.state / PROMPTSEG_FOLDER, self.model.device)
        self.promptseg = ServedPromptSeg(
            self.config.promptseg,
            lambda: self.model.segmenter,
            self.model.device,
            replace(settings, kept_bytes=0, templates_per_query=self.config.templates or PROMPTSEG_TEMPLATES),
            features,
            self.config.promptseg_from,
            self.tuned_promptseg,
            lambda: self.model.base_hash,
        )
        self.uniseg = ServedUniSeg(self.state / UNISEG_FOLDER, self.model.device, self.config.uniseg)

    # What main.py registers

    @cached_property
    def infers(self) -> dict[str, InferTask]:
        """The infer tasks by name."""
        return {
            **tasks(self.engine),
            SUBMIT: SubmitTask(self.engine),
            LIST_UNET: ListUNetTask(self.engine, self.list_unet),
            PROMPTSEG: PromptSegTask(self.engine, self.promptseg),
            UNISEG: UniSegTask(self.engine, self.uniseg),
        }

    def for_training(self) -> dict[str, Any]:
        """What `trainers.oneprompt.OnePromptTrainer` is made with."""
        return {
            "models": self.models,
            "versions": self.versions,
            "provenance": lambda: {BASE: self.model.base_hash},
            "served": lambda: self.model.path,
            "studies": self.studies.labelled,
            "tuning": self.config.finetuning,
            "promptseg": self._list_promptseg,
        }

    def for_list_unet(self) -> dict[str, Any]:
        """What `trainers.list_unet.ListUNetTrainer` is made with."""

        return {
            "served": self.list_unet,
            "unlearnt": self._unlearnt,
            "studies": self.studies.labelled,
            "settings": ListUNetSettings(most_templates=self.one_prompt_templates),
            "promptseg": self._list_promptseg,
        }

    def for_promptseg(self) -> dict[str, Any]:
        """What `trainers.promptseg.PromptSegTrainer` is made with."""
        return {
            "tuned": self.tuned_promptseg,
            "offered": lambda: self.promptseg.offered,
            "studies": self.studies.labelled,
        }

    def for_uniseg(self) -> dict[str, Any]:
        """What `trainers.uniseg.UniSegTrainer` is made with."""
        return {
            "served": self.uniseg,
            "unlearnt": self._unlearnt,
            "studies": self.studies.labelled,
            "settings": UniSegSettings(most_templates=self.one_prompt_templates),
            "lists": self.config.uniseg_lists,
        }

    def _list_promptseg(self) -> ListPromptSeg | None:
        """The PromptSeg that segments the list beside the served One-Prompt."""
        weights = self.model.weights_hash
        known = frozenset[str]() if self.model.path == self.model.base else self.versions.learnt(weights)
        return self.promptseg.of_list(weights, self.model.record, known, self.one_prompt_templates)

    def _unlearnt(self, studies: Collection[str]) -> Path:
        """The newest One-Prompt weights on the way to the served ones that learnt from none of these studies."""
        return self.versions.unlearnt(self.model.weights_hash, studies) or self.model.base

    def scoring(self) -> dict[str, ScoringMethod]:
        """The scoring methods by name."""
        return {"dice": DiceScoring(self.studies)}

    def strategies(self) -> dict[str, Strategy]:
        """The active learning strategies by name."""
        return strategies(self.studies)

    def batch_infer(self) -> BatchInferTask:
        """MONAI Label's batch inference as it works without a GPU."""
        return TolerantBatchInfer()

    # The parts

    @cached_property
    def studies(self) -> Studies:
        """The study list."""
        store = self.datastore
        labels = LabelMap(self.state / "labels.json", self.config.labels, store.write, store.lock_file)
        studies = Studies(
            store,
            labels,
            self._segmenter,
            self.config.templates,
            Descriptors(store, self.state / "looks.npz", read=self.image_cache.peek, write=store.write),
            refreshed=self.config.auto_propagate,
            by_templates=lambda: self.model.segmenter,
            images=self.image_cache,
            room=self.memory.templates,
        )
        studies.restore_labels()
        return studies

    @cached_property
    def versions(self) -> Versions:
        """The versions of the weights."""
        most, megabytes = self.config.versions, self.config.versions_mb
        return Versions(self.models / FOLDER, self.model.published, most, megabytes * 2**20)

    @cached_property
    def trainings(self) -> Trainings:
        """The trainings of the list."""
        beside: dict[str, Published[Any]]
        beside = {LIST_UNET: self.list_unet, PROMPTSEG: self.tuned_promptseg, UNISEG: self.uniseg}
        folders = {MODEL: self.models, **{name: published.path.parent for name, published in beside.items()}}
        return Trainings(folders, self.studies, self.config.auto_finetune, self.config.specialist)

    @cached_property
    def template_check(self) -> TemplateCheck:
        """The check of the templates."""
        return TemplateCheck(self.studies)

    @cached_property
    def job(self) -> Propagation:
        """The background job."""
        checks, write = self.state / "template_checks.json", self.datastore.write
        corrections = Corrections(self.studies, checks, self.model.estimator, write)

        def prepare(control: Control) -> None:
            corrections.learn(control)
            self.template_check.examine(control)

        engine = engine_at(self.config.engine, self.lock, self.model.recipe)
        return Propagation(self.studies, self.lock, self.state, prepare, corrections.check_templates, engine)

    @cached_property
    def acceptance(self) -> Acceptance:
        """Interactive results that wait to become labels."""
        pending = PendingResults(self.state / "offers", self.datastore.write)
        saved, learn = self.changes.label_saved, self.studies.labels.learn
        return Acceptance(self.datastore, pending, self.config.quiet_seconds, saved, learn, self.image_cache.read)

    @cached_property
    def board(self) -> Board:
        """The review board."""
        decided, pictures = self.changes.decided, self.memory.pictures
        return Board(self.studies, self.job, self.acceptance, decided, self.template_check, pictures, exposure_now)

    @cached_property
    def engine(self) -> Engine:
        """What the infer tasks share."""
        labels, recent = self.studies.labels, RecentResults(self.memory.answers)
        return Engine(self.studies, labels, self.model, self.lock, self.acceptance, recent, self.image_cache)

    @cached_property
    def desk(self) -> Desk:
        """The annotation page."""
        return Desk(self.studies, self.memory.shown)

    @cached_property
    def prompted(self) -> PromptedStudies:
        """Studies that are templates by prompts alone."""
        return PromptedStudies(self.engine, self.changes.decided)

    def _segmenter(self) -> Segmenter:
        """What segments the list now."""
        served, unet = self.model.served, self.list_unet.current
        one_prompt = served.segmenter
        beside = (
            ListUNetSegmenter(one_prompt, unet)
            if unet
            else self.promptseg.beside(one_prompt, one_prompt.weights_hash, served.record)
        )
        uniseg = self.uniseg.segmenter
        if uniseg is None or not self.uniseg.better_than(unet.record if unet else {}):
            return beside
        return UniSegBeside(beside, uniseg)

    # The use cases

    @cached_property
    def labels(self) -> Labels:
        """Saving labels."""
        return Labels(self.studies, self.changes)

    @cached_property
    def images(self) -> Images:
        """Adding and fetching images."""
        return Images(self.datastore, self.changes)

    @cached_property
    def inference(self) -> Inference:
        """Segmenting a study."""
        return Inference(self.studies, self.infers)

    @cached_property
    def publishing(self) -> Publishing:
        """Choosing what is served."""
        return Publishing(
            self.model, self.versions, self.list_unet, self.promptseg, self.uniseg, self.infers, self._look_at_weights
        )

    @cached_property
    def status(self) -> Status:
        """Saying how things stand."""
        return Status(
            self.studies, self.job, self.board, self.trainings, self.publishing, self.model, self.list_unet,
            self.promptseg, self.uniseg, self.config.specialist, self._held,
        )  # fmt: skip

    def _held(self) -> dict[str, int]:
        """Bytes that are kept of what could be read or computed again, and how many may be."""
        images = {"allowed": self.memory.total, "images": self.image_cache.held, "shown": self.desk.held}
        return {**images, "templates": self.studies.bank.held, **self.model.segmenter.held, "pictures": self.board.held}

    # The server

    def serve(self, sessions: Sessions | None) -> None:
        """In the server process: exchange the routes, start the job, go on where a former process stopped.

        Args:
            sessions: MONAI Label's upload sessions; None where they are off.
        """
        import monailabel.app

        tidy(self.state, self.models)
        lines = install(monailabel.app.app, self, sessions)
        for listener in (self._replace_prompts, self._describe_images, self._trigger_job, self._score, self._train):
            self.changes.listen(listener)
        self.datastore.on_change(self.changes.noticed)
        beside = (self.list_unet, self.tuned_promptseg, self.uniseg)
        for folder in (self.models, *(published.path.parent for published in beside)):
            FolderWatch(folder, self._look_at_weights)
        self.job.start()
        self.acceptance.start()
        self.changes.noticed()
        self.trainings.resume()
        end_in_order(lines.close, (self.job.end, self.trainings.end))
        log_once_listening(self.board.warnings)

    def _replace_prompts(self, change: Change) -> None:
        """A final label takes the place of prompts."""
        if change.saved:
            with suppress(NotFound):
                self.datastore.remove_label(change.saved, PROMPTED)

    def _describe_images(self, change: Change) -> None:
        if not change.decided and not self.datastore.on_dicomweb:  # whose images are fetched when somebody needs them
            self.studies.descriptors.refresh()

    def _trigger_job(self, change: Change) -> None:
        if self.config.auto_propagate:
            self.job.trigger(resume=change.decided)

    def _score(self, change: Change) -> None:
        if change.saved:
            threading.Thread(target=score_study, args=(self.studies, change.saved), name="scoring", daemon=True).start()

    def _train(self, change: Change) -> None:
        if change.decided:
            self.trainings.label_saved()

    @cached_property
    def _look_at_weights(self) -> Callable[[], None]:
        # Training writes into the watched folders all the time: only other weights are news for the list
        return if_other(
            lambda: (
                self.model.weights_on_disk(),
                self.list_unet.hash,
                self.tuned_promptseg.hash,
                self.uniseg.fingerprint,
            ),
            self.changes.noticed,
        )

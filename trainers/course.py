"""A `lib.finetuning.course` as MONAI Label runs it: what both trainers have in common.

It runs on MONAI Label's `BasicTrainTask`, which brings progress, stopping, tracking, statistics as both clients read
them, and several GPUs. What is learnt, for how long and whether it helped is the course's: an epoch here is an epoch
there.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.inferers.inferer import SimpleInferer
from monailabel.config import settings as monailabel_settings
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from torch.nn.parallel import DistributedDataParallel

from lib.finetuning.course import Course
from lib.finetuning.course_checkpoint import load_progress, save_progress
from lib.finetuning.labelled_study import LabelledStudy, keep_labels
from lib.finetuning.options import TrainingOptions
from lib.finetuning.phases import Settings, phase_epochs, phases_of
from lib.finetuning.training_record import FAILED, RUNNING, read_record, update_record, write_record
from lib.learning.training import segmentation_loss
from lib.parsing import parse
from trainers.items import Items, OneItem, apart
from trainers.reasons import no_memory, reason_of_end

logger = logging.getLogger(__name__)

CHECKPOINT, LABELS = "progress.safetensors", ".labels"

# An engine's step; one entry for each query, because MONAI's handlers take a step's output apart per sample
Iteration = Callable[[Engine, Mapping[str, Any]], list[dict[str, float]]]


class CourseTrainer(BasicTrainTask):
    """A course as MONAI Label runs it.

    Args:
        models: folder of runs, statistics and the record.
        description: what clients show.
        studies: gives the study list's final labels.
        settings: the course's numbers.
        options: further parameters that clients are offered.
    """

    def __init__(
        self,
        models: Path,
        description: str,
        studies: Callable[[], list[LabelledStudy]],
        settings: Settings,
        options: Mapping[str, Any],
    ) -> None:
        config = {
            **options,
            "max_epochs": settings.epochs,
            "steps_per_epoch": settings.steps,
            "train_batch_size": settings.batch,
            "multi_gpu": torch.cuda.device_count() > 1,
            "dataset": ["Dataset"],
            "dataloader": ["DataLoader"],
            "tracking": ["mlflow", "None"] if monailabel_settings.MONAI_LABEL_TRACKING_ENABLED else ["None", "mlflow"],
        }
        super().__init__(
            str(models),
            description,
            config=config,
            amp=False,  # a training step decides on its precision itself
            tracking_uri=monailabel_settings.MONAI_LABEL_TRACKING_URI,
            find_unused_parameters=True,  # an episode of One-Prompt without background prompts leaves their weights out
        )
        # Clients send all of this back: an address is not theirs to choose, the rest means nothing here
        for key in ("tracking_uri", "val_split", "val_batch_size", "pretrained"):
            del self._config[key]
        self.models, self._settings = models, settings
        # Emptied for the processes of several GPUs: `pre_process` has asked already
        self._studies: Callable[[], list[LabelledStudy]] | None = studies
        self._course: Course | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For the processes of several GPUs: without the server's parts, which `pre_process` has asked already."""
        return {**vars(self), "_studies": None, "_course": None}

    # What a subclass says

    @abstractmethod
    def _prepared(self, request: dict[str, Any], options: TrainingOptions, settings: Any) -> Any:
        """The settings as a request's options change them; what else the course needs goes into `request`.

        Raises:
            ValueError: it cannot work so.
        """

    def _parts(self, studies: list[LabelledStudy]) -> list[LabelledStudy]:
        """What the course works on instead of the labelled studies."""
        return studies

    @abstractmethod
    def _made(self, context: Context, share: tuple[int, int]) -> Course:
        """A new course for what `_prepared` put into the request."""

    @abstractmethod
    def _conclude(self, request: Mapping[str, Any]) -> None:
        """Publish what the finished course learnt, if it is better."""

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train. Raises what went wrong, with what to do; the served weights are then as they were."""
        params = {key: value for key, value in request.items() if key in self._config}
        run = request.get("run", "")  # by which the server knows its own: clocks are set back
        write_record(self.models, state=RUNNING, run=run, started=round(time.time(), 3), params=params, reason="",
                     curve=[])  # fmt: skip
        common = {"val_batch_size": 1, "pretrained": False}
        # The course knows when it is finished; 3D Slicer sends this number of MONAI Label's back all the same
        never = {"early_stop_patience": -1}
        try:
            stats: dict[str, Any] = super().__call__({**common, **request, **never}, datastore)
            return stats
        except Exception as error:
            with suppress(OSError):  # a full disk takes no record either: what follows is what says why
                update_record(self.models, state=FAILED, reason=reason_of_end(error, self.models))
            raise
        finally:
            shutil.rmtree(self.models / LABELS, ignore_errors=True)

    # What is learnt

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[LabelledStudy]:
        """The labelled studies. Raises ValueError where there are none, or what a parameter may be."""
        assert self._studies is not None
        studies = self._parts(keep_labels(self._studies(), self.models / LABELS))
        options = parse(TrainingOptions, request, "parameters")
        request.update(options.given())
        changed: Any = self._settings
        changed = dataclasses.replace(changed, epochs=request["max_epochs"], steps=request["steps_per_epoch"])
        settings, manual = self._prepared(request, options, changed), [study.manually_annotated for study in studies]
        request["max_epochs"] = phase_epochs(manual, settings) * len(phases_of(studies, settings))
        request["settings"] = settings
        request["distributed_backend"] = "nccl" if torch.cuda.is_available() else "gloo"
        checksums = {study.id: study.checksum for study in studies}
        update_record(self.models, studies=checksums, epochs=request["max_epochs"], epoch=0)
        return studies

    def partition_datalist(
        self, context: Context, shuffle: bool = False
    ) -> tuple[list[LabelledStudy], list[LabelledStudy]]:
        """Everything on both sides: which studies are held out changes from phase to phase."""
        return list(context.datalist), list(context.datalist)

    def network(self, context: Context) -> torch.nn.Module:
        """The learner of a new course, or of one that was interrupted."""
        self._course = self._made(context, (context.local_rank, context.world_size if context.multi_gpu else 1))
        if load_progress(Path(context.output_dir) / CHECKPOINT, self._course):
            logger.info("goes on after epoch %d of a run that was interrupted", self._course.epoch)
        return self._course.learner

    @property
    def course(self) -> Course:
        """The course under way."""
        assert self._course is not None, "training has not begun"
        return self._course

    def _dataset(
        self, context: Context, datalist: Sequence[LabelledStudy], is_train: bool, replace_rate: float = 0.0
    ) -> tuple[Any, Sequence[LabelledStudy]]:
        count = context.request["steps_per_epoch"] * context.train_batch_size
        return (Items(self.course, count) if is_train else OneItem()), datalist

    # How it is learnt

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        """The course's."""
        return self.course.optimizer

    def loss_function(self, context: Context) -> Callable[..., torch.Tensor]:
        """Named for MONAI Label; the training step calls it."""
        return segmentation_loss

    def lr_scheduler_handler(self, context: Context) -> None:
        """None: the course sets its rate."""

    def train_iteration_update(self, context: Context) -> Iteration:
        """One optimiser step on one batch of episodes."""

        def update(engine: Any, batch: Mapping[str, Any]) -> list[dict[str, float]]:
            result = self.course.step(engine.network, apart(self.course.kind, batch))
            return [{"loss": float(result.loss.detach()), "dice": float(dice)} for dice in result.dice]

        return update

    def val_iteration_update(self, context: Context) -> Iteration:
        """The questions at the end of an epoch."""
        return lambda engine, batch: [{"dice": self.course.end_epoch()}]

    def train_key_metric(self, context: Context) -> dict[str, Average]:
        """Mean Dice over the queries of an epoch."""
        return {self.TRAIN_METRIC_MEAN_DICE: Average(output_transform=_mean_dice)}

    def val_key_metric(self, context: Context) -> dict[str, Average]:
        """Mean Dice over the questions."""
        return {self.VAL_METRIC_MEAN_DICE: Average(output_transform=_mean_dice)}

    def train_pre_transforms(self, context: Context) -> list[Any]:
        """None: episodes are complete."""
        return []

    def train_post_transforms(self, context: Context) -> list[Any]:
        """None."""
        return []

    def val_inferer(self, context: Context) -> SimpleInferer:
        """Asked for by MONAI Label; the course asks the network itself."""
        return SimpleInferer()

    # Where it runs

    def _device(self, context: Context) -> torch.device:
        return super()._device(context) if torch.cuda.is_available() else torch.device("cpu")

    def _create_network_and_optimizer(self, context: Context) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        if not context.multi_gpu or context.device.type == "cuda":
            return super()._create_network_and_optimizer(context)
        # MONAI Label names the device, which PyTorch refuses for processors
        network = DistributedDataParallel(self.network(context), find_unused_parameters=True)
        return network, self.optimizer(context)

    def train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: Sequence[LabelledStudy]
    ) -> dict[str, Any]:
        """MONAI Label's training; once more with half the batch where memory runs out.

        Raises:
            MemoryError: it was not enough either; says what to do.
        """
        batch = request["train_batch_size"]
        try:
            return self._train(rank, world_size, request, datalist)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if request["multi_gpu"] or batch == 1:
                raise MemoryError(no_memory(batch)) from error
            logger.warning("memory ran out with %d items a step: once more with %d", batch, batch // 2)
        self._course = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return self._train(rank, world_size, {**request, "train_batch_size": batch // 2}, datalist)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryError(no_memory(batch // 2)) from error

    def _train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: Sequence[LabelledStudy]
    ) -> dict[str, Any]:
        stats: dict[str, Any] = super().train(rank, world_size, request, datalist)
        if rank == 0:
            self._conclude(request)
            (Path(self._model_dir) / request["name"] / CHECKPOINT).unlink(missing_ok=True)
        return stats

    # What comes out

    def load_path(self, output_dir: str, pretrained: bool = True) -> None:
        """Never MONAI Label's checkpoint of an earlier run: it may be one that was found worse than what is served."""

    def finalize(self, context: Context) -> None:
        """Join the course's epochs to those of MONAI Label."""
        super().finalize(context)
        course, trainer = self.course, context.trainer
        checkpoint = Path(context.output_dir) / CHECKPOINT
        trainer.state.epoch, trainer.state.iteration = course.epoch, course.epoch * course.steps
        trainer.add_event_handler(Events.EPOCH_STARTED, course.begin_epoch)

        def epoch_done() -> None:
            if context.local_rank == 0:
                # A finished course could not go on from there: what is killed now repeats its last epoch
                if not course.finished:
                    save_progress(checkpoint, course)
                update_record(self.models, epoch=course.epoch, curve=course.curve)
            if self._agreed(course.finished, context):
                trainer.terminate()

        trainer.add_event_handler(Events.EPOCH_COMPLETED, epoch_done)

    @staticmethod
    def _agreed(finished: bool, context: Context) -> bool:
        """What the first process says: only it asked the questions at the end of a phase."""
        if not context.multi_gpu:
            return finished
        answers = [finished]
        torch.distributed.broadcast_object_list(answers, src=0)
        return answers[0]

    def _whole_verdict(self) -> tuple[bool, str]:
        """The course's verdict; against a course that ended early, whose verdict is about other networks."""
        better, reason = self.course.verdict()
        if better and self.course.epoch < self.course.epochs:
            return False, f"it ended after {self.course.epoch} of {self.course.epochs} epochs; what it had was {reason}"
        return better, reason

    def _record(self, state: str, reason: str, parent: str) -> dict[str, Any]:
        """What is kept of the finished course with what it learnt; `parent` is the hash of what it is compared with."""
        course = self.course
        return {
            "state": state,
            "parent": parent,
            "studies": {study.id: study.checksum for study in course.studies},
            "epochs": course.epoch,
            "seconds": max(0, round(time.time() - float(read_record(self.models)["started"]))),
            "examined_on": course.question_source,
            "before": course.before.brief(),
            "after": course.after.brief(),
            "reason": reason,
        }

    def stats(self) -> dict[str, Any]:
        """MONAI Label's statistics, with the time a run took also where it ended early; {} where they are torn."""
        try:
            stats: dict[str, Any] = super().stats()
        except (OSError, ValueError) as error:  # MONAI Label writes them in place: a kill or a full disk leaves a part
            logger.warning("the statistics of the last training cannot be read: %s", error)
            return {}
        if stats and "total_time" not in stats and read_record(self.models).get("seconds") is not None:
            stats["total_time"] = str(datetime.timedelta(seconds=int(read_record(self.models)["seconds"])))
        return stats


def _mean_dice(output: Sequence[Mapping[str, float]]) -> float:
    return float(np.mean([query["dice"] for query in output]))

"""The `oneprompt` trainer: fine-tunes the served network on the study list's final labels.

It runs on MONAI Label's `BasicTrainTask`, which brings progress, stopping, tracking, statistics as both clients read
them, and several GPUs. What is learnt, for how long and whether it helped is `lib.finetuning`'s: an epoch here is an
epoch there. Better weights are published as a version, in one rename; others are kept as a candidate.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from torch.utils.data import Dataset

from lib.adapters import MODES
from lib.checkpoints import load_network, weights_hash
from lib.episodes import Episode
from lib.finetuning import FineTune, FineTuning, LabelledStudy, Learner, plan
from lib.progress import load_progress, save_progress
from lib.training import segmentation_loss
from lib.training_record import FAILED, RUNNING, read_record, update_record, write_record
from lib.versions import CANDIDATE, PUBLISHED, Versions

logger = logging.getLogger(__name__)

CHECKPOINT = "progress.safetensors"

# An engine's step; one entry for each query, because MONAI's handlers take a step's output apart per sample
Iteration = Callable[[Engine, Mapping[str, Any]], list[dict[str, float]]]


class OnePromptTrainer(BasicTrainTask):
    """Fine-tuning as MONAI Label runs it.

    Args:
        models: folder of runs, statistics and versions.
        versions: where candidates are kept and published.
        provenance: what is recorded with them beside the training itself.
        served: gives the weights file that is served now.
        studies: gives the study list's final labels, each as the fields of a `LabelledStudy`.
        tuning: the numbers of a fine-tuning.
    """

    def __init__(
        self,
        models: Path,
        versions: Versions,
        provenance: Mapping[str, Any],
        served: Callable[[], Path],
        studies: Callable[[], list[tuple[Any, ...]]],
        tuning: FineTuning = FineTuning(),
    ) -> None:
        config = {
            "mode": [tuning.mode, *(mode for mode in MODES if mode != tuning.mode)],
            "max_epochs": tuning.epochs,
            "steps_per_epoch": tuning.steps,
            "train_batch_size": tuning.batch,
            "multi_gpu": torch.cuda.device_count() > 1,
            "dataset": ["Dataset"],
            "dataloader": ["DataLoader"],
            "tracking": ["mlflow", "None"] if monailabel_settings.MONAI_LABEL_TRACKING_ENABLED else ["None", "mlflow"],
        }
        super().__init__(
            str(models),
            "Fine-tunes One-Prompt on the saved labels",
            config=config,
            amp=False,  # training_step has its own mixed precision, in bfloat16
            tracking_uri=monailabel_settings.MONAI_LABEL_TRACKING_URI,
            find_unused_parameters=True,  # an episode without background prompts leaves their weights out
        )
        # Clients send all of this back: an address is not theirs to choose, the rest means nothing here
        for key in ("tracking_uri", "val_split", "val_batch_size", "pretrained"):
            del self._config[key]
        self.models, self.versions, self._provenance = models, versions, dict(provenance)
        self._served, self._studies, self._tuning = served, studies, tuning
        self._course: FineTune | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For the processes of several GPUs: without the server's parts, which `pre_process` has asked already."""
        return {**vars(self), "_served": None, "_studies": None, "_course": None}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train. Raises what went wrong, with what to do; the served weights are then as they were."""
        params = {key: value for key, value in request.items() if key in self._config}
        write_record(self.models, state=RUNNING, started=round(time.time(), 3), params=params, reason="", curve=[])
        common = {"val_batch_size": 1, "pretrained": False}
        # The course knows when it is finished; 3D Slicer sends this number of MONAI Label's back all the same
        never = {"early_stop_patience": -1}
        try:
            stats: dict[str, Any] = super().__call__({**common, **request, **never}, datastore)
            return stats
        except Exception as error:
            update_record(self.models, state=FAILED, reason=_reason(error))
            raise

    # What is learnt

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[LabelledStudy]:
        """The labelled studies. Raises ValueError where there are none."""
        studies = [LabelledStudy(*fields) for fields in self._studies()]
        mode = request["mode"][0] if isinstance(request["mode"], list) else request["mode"]
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        rates = dict(self._tuning.rates)
        rates[mode] = float(request.get("learning_rate", rates[mode]))
        tuning = dataclasses.replace(
            self._tuning,
            mode=mode,
            rates=rates,
            epochs=int(request["max_epochs"]),
            steps=int(request["steps_per_epoch"]),
        )
        request["max_epochs"] = tuning.phase_epochs(len(studies)) * len(plan(len(studies), tuning))
        request |= {"tuning": tuning, "parent": str(self._served())}
        request["distributed_backend"] = "nccl" if torch.cuda.is_available() else "gloo"
        found = {study.id: study.checksum for study in studies}
        update_record(self.models, studies=found, epochs=request["max_epochs"], epoch=0, mode=mode)
        return studies

    def partition_datalist(
        self, context: Context, shuffle: bool = False
    ) -> tuple[list[LabelledStudy], list[LabelledStudy]]:
        """Everything on both sides: which studies are held out changes from phase to phase."""
        return list(context.datalist), list(context.datalist)

    def network(self, context: Context) -> Learner:
        """The network of a new course, or of one that was interrupted."""
        self._course = FineTune(
            load_network(context.request["parent"]),
            context.datalist,
            context.request["tuning"],
            str(context.device),
            share=(context.local_rank, context.world_size if context.multi_gpu else 1),
        )
        if load_progress(Path(context.output_dir) / CHECKPOINT, self.course):
            logger.info("goes on after epoch %d of a run that was interrupted", self.course.epoch)
        return self.course.learner

    @property
    def course(self) -> FineTune:
        """The fine-tuning under way."""
        assert self._course is not None, "training has not begun"
        return self._course

    def _dataset(
        self, context: Context, datalist: Sequence[LabelledStudy], is_train: bool, replace_rate: float = 0.0
    ) -> tuple[Any, Sequence[LabelledStudy]]:
        count = int(context.request["steps_per_epoch"]) * int(context.train_batch_size)
        return (_Episodes(self.course, count) if is_train else _OneLook()), datalist

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
            result = self.course.step(engine.network, _episodes(batch))
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
        batch = int(request["train_batch_size"])
        try:
            return self._train(rank, world_size, request, datalist)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if request["multi_gpu"] or batch == 1:
                raise MemoryError(_no_memory(batch)) from error
            logger.warning("memory ran out with %d episodes a step: once more with %d", batch, batch // 2)
        self._course = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return self._train(rank, world_size, {**request, "train_batch_size": batch // 2}, datalist)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryError(_no_memory(batch // 2)) from error

    def _train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: Sequence[LabelledStudy]
    ) -> dict[str, Any]:
        stats: dict[str, Any] = super().train(rank, world_size, request, datalist)
        if rank == 0:
            self._conclude(Path(request["parent"]))
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
        trainer.state.epoch, trainer.state.iteration = course.epoch, course.epoch * course.settings.steps
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
        said = [finished]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def _conclude(self, parent: Path) -> None:
        """Publish the candidate if it is whole and better than its parent and that is still what is served."""
        course = self.course
        better, reason = course.verdict()
        if better and course.epoch < course.epochs:  # the verdict is about other networks than this half-trained one
            better, reason = False, f"it ended after {course.epoch} of {course.epochs} epochs; what it had was {reason}"
        seconds = round(time.time() - float(read_record(self.models)["started"]))
        before = weights_hash(course.parent)
        # The parent's file may have been replaced while this one learnt
        now = weights_hash(load_network(parent)) if parent.exists() else ""
        if better and (now != before or (parent != self.versions.published and self.versions.published.exists())):
            better, reason = False, f"other weights were published meanwhile; it was {reason}"
        record = {
            **self._provenance,
            "state": PUBLISHED if better else CANDIDATE,
            "parent": before,
            "studies": {study.id: study.checksum for study in course.studies},
            "mode": course.settings.mode,
            "epochs": course.epoch,
            "seconds": seconds,
            "examined_on": course.examined_on,
            "before": course.before.brief(),
            "after": course.after.brief(),
            "reason": reason,
        }
        name = self.versions.add(course.network, record)
        if better:
            self.versions.publish(name)
        logger.info("%s: %s (%s)", record["state"], name, reason)
        told = {key: record[key] for key in ("state", "reason", "before", "after", "examined_on", "seconds")}
        update_record(self.models, version=name, parent=before, **told)

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


class _Episodes(Dataset):
    """The episodes of an epoch, drawn when asked for."""

    def __init__(self, course: FineTune, count: int) -> None:
        self._course, self._count = course, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        episode = self._course.draw()
        return {"images": episode.images, "masks": episode.masks, "source": episode.source}


class _OneLook(Dataset):
    """One item: the course asks all its questions at once."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index}


def _episodes(batch: Mapping[str, Any]) -> list[Episode]:
    images, masks = np.asarray(batch["images"], np.float32), np.asarray(batch["masks"], bool)
    return [Episode(*one) for one in zip(images, masks, batch["source"], strict=True)]


def _mean_dice(output: Sequence[Mapping[str, float]]) -> float:
    return float(np.mean([query["dice"] for query in output]))


def _no_memory(batch: int) -> str:
    return (
        f"training needs more memory than there is, also with {batch} episodes a step: free some (close other programs "
        "on the GPU), or train on the processor with the parameter device=cpu"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == 28:
        return f"the disk is full: free some room below {error.filename or 'the model folder'} and train again"
    return str(error) or type(error).__name__

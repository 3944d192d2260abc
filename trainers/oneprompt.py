"""The `oneprompt` trainer: fine-tunes the served network on the study list's final labels.

It runs on MONAI Label's `BasicTrainTask`, which brings progress, stopping and statistics as both clients read them;
one step is `lib.training.training_step`, the same as in pretraining. The served weights and the candidate answer the
same fixed examination, and only a better candidate is published, as safetensors and in one rename.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.inferers.inferer import SimpleInferer
from monailabel.config import settings
from monailabel.tasks.train.basic_train import BasicTrainTask, Context

from lib.checkpoints import load_network, save_network, weights_hash
from lib.episodes import Episode
from lib.networks import OnePrompt
from lib.prompts import Prompt, rasterise
from lib.training import TrainingConfig, dice_of, make_optimizer, segmentation_loss, training_step
from trainers.data import Examination, LabelledStudy, Lessons, tasks_of

logger = logging.getLogger(__name__)

FINE_TUNING = TrainingConfig(learning_rate=1e-4, warmup=20)

LEAST_GAIN = 0.001  # Dice; less is rounding

# An engine's step; one entry for each query, because MONAI's handlers take a step's output apart per sample
Iteration = Callable[[Engine, Mapping[str, Any]], list[dict[str, float]]]


class OnePromptTrainer(BasicTrainTask):
    """Fine-tuning as MONAI Label runs it.

    Args:
        models: folder of runs and statistics.
        published: where better weights are written.
        provenance: what is recorded with them beside the training itself.
        served: gives the weights file that is served now.
        studies: gives the study list's final labels, each as the fields of a `LabelledStudy`, and {structure: index}.
    """

    def __init__(
        self,
        models: Path,
        published: Path,
        provenance: Mapping[str, Any],
        served: Callable[[], Path],
        studies: Callable[[], tuple[list[tuple[str, Path, Path, dict[str, int]]], dict[str, int]]],
    ) -> None:
        config = {
            "max_epochs": 10,
            "steps_per_epoch": 20,
            "learning_rate": FINE_TUNING.learning_rate,
            "train_batch_size": 4,
            "val_batch_size": 4,
            "multi_gpu": False,
            "dataset": ["Dataset"],
            "dataloader": ["DataLoader"],
            "tracking": ["mlflow", "None"] if settings.MONAI_LABEL_TRACKING_ENABLED else ["None", "mlflow"],
        }
        super().__init__(
            str(models),
            "Fine-tunes One-Prompt on the saved labels",
            config=config,
            amp=False,  # training_step has its own mixed precision, in bfloat16
            tracking_uri=settings.MONAI_LABEL_TRACKING_URI,
        )
        del self._config["tracking_uri"]  # clients send all of this back, and an address is not theirs to choose
        self._published, self._provenance = published, dict(provenance)
        self._served, self._studies = served, studies
        self._indices: dict[str, int] = {}

    # What is learnt

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[LabelledStudy]:
        """The labelled studies. Raises ValueError where there are none."""
        found, self._indices = self._studies()
        studies = [LabelledStudy(*fields) for fields in found]
        if not studies:
            raise ValueError("training needs at least one study with a final label: save one first")
        # One process: several GPUs are a later matter
        request["multi_gpu"] = False
        return studies

    def partition_datalist(
        self, context: Context, shuffle: bool = False
    ) -> tuple[list[LabelledStudy], list[LabelledStudy]]:
        """Studies to learn from, and held-out ones; a single study is both, examined on changed copies."""
        studies = list(context.datalist)
        if len(studies) == 1:
            return studies, studies
        held_out = max(1, round(len(studies) * float(context.request.get("val_split", 0.2))))
        return studies[:-held_out], studies[-held_out:]

    def _dataset(
        self, context: Context, datalist: Sequence[LabelledStudy], is_train: bool, replace_rate: float = 0.0
    ) -> tuple[Any, Sequence[LabelledStudy]]:
        size = context.network.config.image_size
        learnt = tasks_of(context.train_datalist, self._indices)
        if is_train:
            count = int(context.request["steps_per_epoch"]) * int(context.train_batch_size)
            return Lessons(learnt, size, count), datalist
        apart = [study for study in datalist if study not in context.train_datalist]
        return Examination(learnt, tasks_of(apart, self._indices) if apart else None, size), datalist

    # How it is learnt

    def network(self, context: Context) -> OnePrompt:
        """The served network, ready to learn."""
        return load_network(self._served()).requires_grad_(True)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        """AdamW as in pretraining, slower."""
        rate = float(context.request["learning_rate"])
        return make_optimizer(context.network, TrainingConfig(learning_rate=rate))

    def loss_function(self, context: Context) -> Callable[..., torch.Tensor]:
        """Named for MONAI Label; `training_step` calls it."""
        return segmentation_loss

    def lr_scheduler_handler(self, context: Context) -> None:
        """None: a short run at a small rate."""

    def train_iteration_update(self, context: Context) -> Iteration:
        """One optimiser step on one batch of episodes."""
        rng = np.random.default_rng(0)

        def update(engine: Any, batch: Mapping[str, Any]) -> list[dict[str, float]]:
            engine.network.train()
            engine.optimizer.zero_grad(set_to_none=True)
            result = training_step(engine.network, _episodes(batch), FINE_TUNING, rng)
            result.loss.backward()
            torch.nn.utils.clip_grad_norm_(engine.network.parameters(), FINE_TUNING.clip)
            engine.optimizer.step()
            return [{"loss": result.loss.item(), "dice": float(dice)} for dice in result.dice]

        return update

    def val_iteration_update(self, context: Context) -> Iteration:
        """Answers to one batch of the examination."""

        def update(engine: Any, batch: Mapping[str, Any]) -> list[dict[str, float]]:
            return [{"dice": float(dice)} for dice in answer(engine.network, _episodes(batch))]

        return update

    def train_key_metric(self, context: Context) -> dict[str, Average]:
        """Mean Dice over the queries of an epoch."""
        return {self.TRAIN_METRIC_MEAN_DICE: Average(output_transform=_mean_dice)}

    def val_key_metric(self, context: Context) -> dict[str, Average]:
        """Mean Dice in the examination."""
        return {self.VAL_METRIC_MEAN_DICE: Average(output_transform=_mean_dice)}

    def train_pre_transforms(self, context: Context) -> list[Any]:
        """None: episodes are complete."""
        return []

    def train_post_transforms(self, context: Context) -> list[Any]:
        """None."""
        return []

    def val_inferer(self, context: Context) -> SimpleInferer:
        """Asked for by MONAI Label; the examination calls the network itself."""
        return SimpleInferer()

    # What comes out

    def load_path(self, output_dir: str, pretrained: bool = True) -> None:
        """Never an earlier run's checkpoint: it may be one that was found worse than what is served."""

    def finalize(self, context: Context) -> None:
        """Remember the best candidate, and publish it at the end if it beats the served weights."""
        super().finalize(context)
        questions = self.val_data_loader(context)
        served = load_network(self._served(), context.device)
        # Mean over batches, as the metric of every epoch
        before = float(np.mean([answer(served, _episodes(batch)).mean() for batch in questions]))
        best: dict[str, Any] = {"dice": before, "weights": None}
        logger.info("the served weights %s answer with Dice %.4f", weights_hash(served), before)

        def remember() -> None:
            dice = context.evaluator.state.metrics[self.VAL_METRIC_MEAN_DICE]
            if dice > max(best["dice"], before + LEAST_GAIN):
                best.update(dice=dice, weights=copy.deepcopy(context.network.state_dict()))

        def publish() -> None:
            if best["weights"] is None:
                logger.info("no epoch was better than Dice %.4f: the served weights stay", before)
                return
            context.network.load_state_dict(best["weights"])
            provenance = {
                **self._provenance,
                "parent": weights_hash(served),
                "studies": len(context.datalist),
                "epochs": context.trainer.state.epoch,
                "dice": round(float(best["dice"]), 4),
                "dice_of_parent": round(before, 4),
                "examined_on": "changed copies" if questions.dataset.on_copies else "held-out studies",
            }
            save_network(self._published, context.network, provenance)
            logger.info("published: Dice %.4f instead of %.4f", best["dice"], before)

        context.evaluator.add_event_handler(Events.EPOCH_COMPLETED, remember)
        context.trainer.add_event_handler(Events.COMPLETED, publish)


@torch.inference_mode()
def answer(network: OnePrompt, episodes: Sequence[Episode]) -> np.ndarray:
    """(E,) Dice of each episode's one query, answered from its template's mask alone."""
    network.eval()
    device = next(network.parameters()).device
    images = torch.from_numpy(np.stack([episode.images[:2] for episode in episodes])).to(device)
    masks = np.stack([episode.masks[:2] for episode in episodes])
    maps = np.stack([rasterise(Prompt(mask=mask), mask.shape, mask.shape[0]) for mask in masks[:, 0]])
    encoded = [network.encode(images[:, member, None]) for member in (0, 1)]
    logits = network.decode(encoded[1], encoded[0], torch.from_numpy(maps).to(device))
    return dice_of(logits > 0, torch.from_numpy(masks[:, 1:]).to(device))


def _episodes(batch: Mapping[str, Any]) -> list[Episode]:
    images, masks = np.asarray(batch["images"], np.float32), np.asarray(batch["masks"], bool)
    return [Episode(image, mask, "studies") for image, mask in zip(images, masks, strict=True)]


def _mean_dice(output: Sequence[Mapping[str, float]]) -> float:
    return float(np.mean([query["dice"] for query in output]))

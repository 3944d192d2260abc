"""One pretraining run and its folder."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from lib.imaging.files import write_atomically
from lib.learning.optimizers import make_optimizer
from lib.learning.several_prompts import SeveralPrompts, several_prompts_step
from lib.learning.training import StepResult, TrainingConfig, learning_rate_at, moving_average, training_step
from lib.networks import NetworkConfig, OnePrompt
from lib.networks.architectures import ONE_PROMPT
from lib.networks.checkpoints import (
    CheckpointError,
    average_networks,
    read_architecture,
    read_provenance,
    save_network,
)
from lib.networks.promptseg import PromptSeg, PromptSegConfig, begin_from
from scripts.pretraining.stream import Batch


class Run:
    """One pretraining run: network, optimiser, averaged weights and their folder."""

    def __init__(self, options: argparse.Namespace, rank: int, device: torch.device) -> None:
        self.options, self.rank, self.device = options, rank, device
        self.config = TrainingConfig(
            optimizer=options.optimizer,
            learning_rate=options.learning_rate,
            warmup=options.warmup,
            bf16=not options.no_bf16,
        )
        torch.manual_seed(options.seed)
        self.several = SeveralPrompts(beta=options.beta)
        network = first_promptseg(options) if options.network == "promptseg" else first_oneprompt(options)
        self.network = network.requires_grad_(True).train().to(device).to(memory_format=torch.channels_last)
        if options.freeze_encoder:
            self.network.image_encoder.requires_grad_(False)
        self.average = moving_average(self.network, self.config.ema)
        self.optimizer = make_optimizer(
            self.network, options.optimizer, options.learning_rate, self.config.weight_decay
        )
        self.step, self.queries, self.seconds = 0, 0, 0.0

    @property
    def averaged(self) -> OnePrompt | PromptSeg:
        """The network with the averaged weights."""
        network = self.average.module
        assert isinstance(network, (OnePrompt, PromptSeg))
        return network

    @property
    def checkpoint(self) -> Path:
        return Path(self.options.run) / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the run folder's checkpoint where there is one."""
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torn bytes raise whatever the reader meets first
            sys.exit(
                f"{self.checkpoint} cannot be read ({error}); remove it to begin anew, ema.safetensors still serves"
            )
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["average"])
        except RuntimeError:
            sys.exit(f"{self.checkpoint} was made with another network configuration; choose another --run folder")
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.average.n_averaged.fill_(1 + self.step)
        self.queries, self.seconds = state["queries"], state["seconds"]

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write checkpoint and served weights; a full disk costs this checkpoint, never the last good one."""
        if self.rank:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "queries": self.queries,
            "seconds": self.seconds,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            write_atomically(self.checkpoint.with_name(name), buffer.getvalue())
            stored = torch.float16 if self.options.half else torch.float32
            save_network(self.checkpoint.with_name("ema.safetensors"), self.averaged, self.provenance(), stored)
        except OSError as error:
            print(f"could not write the checkpoint of step {self.step}: {error}; the one before stays", flush=True)

    def provenance(self) -> dict[str, object]:
        return {
            "command": "python -m scripts.pretrain",
            "network": self.options.network,
            "stages": [vars(stage) for stage in self.options.stages],
            "terms": self.options.terms or "any",
            "datasets": self.options.dataset_names,
            "seed": self.options.seed,
            "steps": self.step,
            "queries": self.queries,
            "hours": round(self.seconds / 3600, 2),
            "device": self.device.type,
            "optimizer": self.options.optimizer,
            "synthetic": self.options.synthetic,
            "foreign": self.options.foreign,
            **({"beta": self.options.beta} if isinstance(self.network, PromptSeg) else {}),
            **({"frozen": ["image_encoder"]} if self.options.freeze_encoder else {}),
            "parents": [read_provenance(path) for path in self.options.start or []],
        }

    def train_step(self, batch: Batch) -> StepResult:
        """One optimiser step, its gradient averaged over all processes."""
        rate = learning_rate_at(self.step, self.total, self.config, self.options.cooldown)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if isinstance(self.network, PromptSeg):
            result = several_prompts_step(self.network, batch.episodes, self.config, self.several, batch.rng)
        else:
            result = training_step(self.network, batch.episodes, self.config, batch.rng)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        if dist.is_initialized():
            for parameter in self.network.parameters():
                if parameter.grad is None:  # this process drew no prompt of that kind
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return result

    @property
    def total(self) -> int:
        return sum(stage.steps for stage in self.options.stages)


def first_oneprompt(options: argparse.Namespace) -> OnePrompt:
    """Of the weights to start from, else of the chosen configuration with random weights."""
    return average_networks(options.start, OnePrompt) if options.start else OnePrompt(network_config(options))


def first_promptseg(options: argparse.Namespace) -> PromptSeg:
    """Of PromptSeg's or One-Prompt's weights to start from, else with random weights.

    Raises:
        CheckpointError: weights of another network, or of a One-Prompt that has other parts.
    """
    config = PromptSegConfig(bottleneck="bottleneck" not in options.without)
    if not options.start:
        return PromptSeg(config)
    if read_architecture(options.start[0]) is not ONE_PROMPT:
        return average_networks(options.start, PromptSeg)
    try:
        return begin_from(average_networks(options.start, OnePrompt), config)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{options.start[0]}: {error}") from error


def network_config(options: argparse.Namespace) -> NetworkConfig:
    """The chosen configuration with the ablation switches off where asked."""
    base = NetworkConfig.named(options.config).as_dict()
    return NetworkConfig.from_dict(base | dict.fromkeys(options.without, False))

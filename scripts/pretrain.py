"""Pretrain One-Prompt on real and synthetic tasks: `python -m scripts.pretrain --data DIR --run DIR`.

A run folder holds `checkpoint.pt` (everything needed to go on), `ema.safetensors` (the averaged weights, ready to
serve), `log.jsonl` and TensorBoard events. Start the same command again and it goes on where it stopped: every step
draws its data from (seed, step, rank), so that a run that was killed repeats nothing and skips nothing.

Runs that share nothing but their start use several cores better than processes that wait for each other at every step:
`--start RUN1/ema.safetensors RUN2/ema.safetensors` begins with their mean, and with `--stages 128x4:0` only writes it.

Stages raise the resolution: `64x8:4000,128x4:20000` is 4,000 steps of 8 episodes at 64 px, then 20,000 of 4 at 128.
On several GPUs or cores: `torchrun --nproc_per_node N -m -- scripts.pretrain --data DIR --run DIR`; each process draws
episodes of its own. Without `--`, torchrun takes `--run` and `--start` for abbreviations of options of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lib.imaging.files import write_atomically
from lib.imaging.prompts import Prompt, rasterise
from lib.imaging.transforms import resize_image, resize_mask
from lib.learning.datasets import DatasetError, read_datasets
from lib.learning.episodes import EpisodeSource, Mix, RealTasks, load_real_tasks
from lib.learning.optimizers import make_optimizer
from lib.learning.training import (
    MovingAverage,
    StepResult,
    TrainingConfig,
    dice_of,
    learning_rate_at,
    training_step,
)
from lib.networks import NAMES, NetworkConfig, OnePrompt
from lib.networks.checkpoints import CheckpointError, average_networks, read_provenance, save_network

# Vertebrae numbered by level: one slice cannot tell which is which.
AS_ONE_CLASS = frozenset({"mr_lumbar_spider", "mr_spider_t2"})


@dataclass(frozen=True)
class Stage:
    """`steps` optimiser steps of `episodes` episodes at `size` pixels."""

    size: int
    episodes: int
    steps: int

    @classmethod
    def parse(cls, text: str) -> list[Stage]:
        """`64x8:4000,128x4:20000` to stages."""
        try:
            return [cls(*map(int, part.replace("x", ":").split(":"))) for part in text.split(",")]
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"stages must look like 64x8:4000,128x4:20000, got {text!r}") from error


def stage_at(stages: list[Stage], step: int) -> Stage:
    """The stage that `step` belongs to; the last one goes on for ever."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]


class Run:
    """One pretraining run: network, optimiser, averaged weights and their folder."""

    def __init__(self, options: argparse.Namespace, rank: int, device: torch.device) -> None:
        self.options, self.rank, self.device = options, rank, device
        self.config = TrainingConfig(
            optimizer=options.optimizer, learning_rate=options.learning_rate, bf16=not options.no_bf16
        )
        torch.manual_seed(options.seed)
        network = average_networks(options.start) if options.start else OnePrompt(network_config(options))
        self.network = network.requires_grad_(True).train().to(device).to(memory_format=torch.channels_last)
        self.average = MovingAverage(self.network, self.config.ema)
        self.optimizer = make_optimizer(
            self.network, options.optimizer, options.learning_rate, self.config.weight_decay
        )
        self.step, self.queries, self.seconds = 0, 0, 0.0

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
            self.average.network.load_state_dict(state["average"])
        except RuntimeError:
            sys.exit(f"{self.checkpoint} was made with another network configuration; choose another --run folder")
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.steps = self.step = state["step"]
        self.queries, self.seconds = state["queries"], state["seconds"]

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write checkpoint and served weights; a full disk costs this checkpoint, never the last good one."""
        if self.rank:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "queries": self.queries,
            "seconds": self.seconds,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            write_atomically(self.checkpoint.with_name(name), buffer.getvalue())
            save_network(self.checkpoint.with_name("ema.safetensors"), self.average.network, self.provenance())
        except OSError as error:
            print(f"could not write the checkpoint of step {self.step}: {error}; the one before stays", flush=True)

    def provenance(self) -> dict[str, object]:
        return {
            "command": "python -m scripts.pretrain",
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
            "parents": [read_provenance(path) for path in self.options.start or []],
        }

    def train_step(self, source: EpisodeSource, episodes: int) -> StepResult:
        """One optimiser step, its gradient averaged over all processes."""
        rng = np.random.default_rng((self.options.seed, self.step, self.rank))
        drawn = [source.draw(rng, self.step) for _ in range(episodes)]
        rate = learning_rate_at(self.step, self.total, self.config, self.options.cooldown)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        result = training_step(self.network, drawn, self.config, rng)
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
        self.average.update(self.network)
        self.step += 1
        return result

    @property
    def total(self) -> int:
        return sum(stage.steps for stage in self.options.stages)


def network_config(options: argparse.Namespace) -> NetworkConfig:
    """The chosen configuration with the ablation switches off where asked."""
    base = NetworkConfig.named(options.config).as_dict()
    return NetworkConfig.from_dict(base | dict.fromkeys(options.without, False))


def validation_pairs(tasks: list[RealTasks], size: int, per_set: int = 24, seed: int = 1) -> list[tuple]:
    """Fixed (image, mask, image, mask) pairs across subjects, the same number from each data set."""
    rng, pairs = np.random.default_rng(seed), []
    for task in tasks:
        for number in range(per_set if task.showing else 0):
            value = list(task.showing)[number % len(task.showing)]
            showing = task.showing[value]
            template = rng.choice(showing)
            query = rng.choice(showing[task.subjects[showing] != task.subjects[template]])
            pairs.append((task.name, *(_sized(task, n, value, size) for n in (template, query))))
    return pairs


def _sized(task: RealTasks, index: int, value: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    return resize_image(task.images[index], size), resize_mask(task.labels[index] == value, size) > 0.5


@torch.inference_mode()
def validate(network: OnePrompt, pairs: list[tuple], device: torch.device) -> dict[str, float]:
    """Mean Dice of each data set, one SegLab template a query; `mean` over data sets."""
    scores: dict[str, list[float]] = {}
    for name, (template, mask), (query, truth) in pairs:
        images = torch.from_numpy(np.stack([query, template]))[:, None].to(device)
        maps = torch.from_numpy(rasterise(Prompt(mask=mask), mask.shape, len(mask)))[None].to(device)
        logits = network(images[:1], images[1:], maps)
        scores.setdefault(name, []).append(
            float(dice_of(logits > 0, torch.from_numpy(truth)[None, None].to(device))[0])
        )
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return means | {"mean": float(np.mean(list(means.values())))}


class Log:
    """A line now and then for people, every line in log.jsonl, curves in TensorBoard."""

    def __init__(self, folder: Path, every: int) -> None:
        self.every, self.file = every, (folder / "log.jsonl").open("a")
        self.writer = SummaryWriter(str(folder / "events"))
        self.losses: list[float] = []
        self.dice: dict[str, list[float]] = {}
        self.started, self.queries = time.monotonic(), 0

    def add(self, run: Run, result: StepResult, size: int) -> None:
        self.losses.append(float(result.loss.detach()))
        self.queries += len(result.dice)
        for mode, source, dice in zip(result.modes, result.sources, result.dice, strict=True):
            kind = "synthetic" if source.startswith("synthetic") else "copies" if "/" in source else "real"
            self.dice.setdefault(f"{mode}/{kind}", []).append(float(dice))
        if run.step % self.every == 0:
            self._write(run, size)

    def _write(self, run: Run, size: int) -> None:
        rate = self.queries / (time.monotonic() - self.started)
        means = {kind: round(100 * float(np.mean(values)), 1) for kind, values in sorted(self.dice.items())}
        loss = float(np.mean(self.losses))
        self.record(run.step, {"loss": loss, "queries_per_second": rate, **{f"dice/{k}": v for k, v in means.items()}})
        shown = "  ".join(f"{kind} {value:.0f}" for kind, value in means.items())
        print(f"step {run.step}/{run.total}  {size} px  {rate:.1f} queries/s  loss {loss:.3f}  {shown}", flush=True)
        self.losses, self.dice, self.started, self.queries = [], {}, time.monotonic(), 0

    def held_out(self, run: Run, scores: dict[str, float]) -> None:
        self.record(run.step, {f"held_out/{name}": 100 * score for name, score in scores.items()})
        shown = "  ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
        print(f"held out at step {run.step}: {shown}", flush=True)

    def close(self) -> None:
        self.file.close()
        self.writer.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **{k: round(v, 4) for k, v in values.items()}}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="folder of data sets (lib/learning/datasets.py); without it only synthetic tasks"
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of this run, outside the checkout")
    parser.add_argument("--terms", choices=["open", "research"], help="use only data sets under these terms")
    parser.add_argument("--stages", type=Stage.parse, default="64x8:4000,128x4:20000", help="SIZExEPISODES:STEPS,...")
    parser.add_argument("--config", choices=NAMES, default="small")
    switches = ["prompt_parser", "gaussian_masking", "dense_correspondence"]
    parser.add_argument("--without", nargs="*", default=[], choices=switches, help="ablations")
    parser.add_argument("--synthetic", type=float, default=Mix().synthetic, help="share of synthetic episodes")
    parser.add_argument("--foreign", type=float, default=Mix().foreign, help="share of foreign bodies in real images")
    parser.add_argument(
        "--start", type=Path, nargs="+", help="begin with these weights (safetensors); of several runs, with their mean"
    )
    parser.add_argument("--queries", type=int, default=2, help="queries that share one template")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default=TrainingConfig().optimizer)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig().learning_rate)
    parser.add_argument("--cooldown", type=float, default=0.2, help="last part of the steps with falling rate")
    parser.add_argument("--no-bf16", action="store_true", help="train in float32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--validate-every", type=int, default=1000)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    options.run.mkdir(parents=True, exist_ok=True)
    try:
        datasets = read_datasets(options.data, "train", options.terms) if options.data else []
        tasks = [load_real_tasks(d, d.name in AS_ONE_CLASS) for d in datasets]
        held_out = (
            [load_real_tasks(d) for d in read_datasets(options.data, "dev") if d.dims == 2] if options.data else []
        )
        options.dataset_names = [d.name for d in datasets]
        run = Run(options, rank, device)
    except (CheckpointError, DatasetError) as error:
        sys.exit(str(error))
    run.resume()
    if run.step:
        print(f"going on from step {run.step}", flush=True)
    train(run, tasks, held_out)


def train(run: Run, tasks: list[RealTasks], held_out: list[RealTasks]) -> None:
    """Steps until the stages are done."""
    options = run.options
    mix = Mix(synthetic=options.synthetic, foreign=options.foreign)
    sources = {s.size: EpisodeSource(tasks, s.size, options.queries, mix, options.seed) for s in options.stages}
    plateau = int(run.total * (1 - options.cooldown))
    log = Log(options.run, options.log_every) if run.rank == 0 else None
    try:
        if not run.total:
            run.save()
        while run.step < run.total:
            stage, began = stage_at(options.stages, run.step), time.monotonic()
            result = run.train_step(sources[stage.size], stage.episodes)
            run.seconds += time.monotonic() - began
            run.queries += len(result.dice)
            if run.step == plateau:
                run.save("plateau.pt")  # a longer run goes on from here
            if run.step % options.save_every == 0 or run.step == run.total:
                run.save()
            if log:
                log.add(run, result, stage.size)
                if held_out and (run.step % options.validate_every == 0 or run.step == run.total):
                    log.held_out(run, validate(run.average.network, validation_pairs(held_out, stage.size), run.device))
    finally:
        if log:
            log.close()


if __name__ == "__main__":
    main()

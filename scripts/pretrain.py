"""Pretrain a network on real and synthetic tasks: `python -m scripts.pretrain --data DIR --run DIR`.

A run folder holds `checkpoint.pt` (everything needed to go on), `ema.safetensors` (the averaged weights, ready to
serve), `log.jsonl` and TensorBoard events. Start the same command again and it goes on where it stopped: every step
draws its data from (seed, step, rank), so that a run that was killed repeats nothing and skips nothing.

Runs that share nothing but their start use several cores better than processes that wait for each other at every step:
`--start RUN1/ema.safetensors RUN2/ema.safetensors` begins with their mean, and with `--stages 128x4:0` only writes it.

Stages raise the resolution: `64x8:4000,128x4:20000` is 4,000 steps of 8 episodes at 64 px, then 20,000 of 4 at 128.
`--network promptseg` trains PromptSeg in place of One-Prompt. Its `--start` may be its own weights, or those of
One-Prompt, whose image encoder and dense correspondence it takes over (of `small-v2` its prompt encoder and mask
decoder too); with `--freeze-encoder` the image encoder stays as it is, so that one encoding of a query serves both.

Where the data cannot lie on the machine that trains, `--pack FILE.npz` puts it into one file and `--data FILE.npz`
reads it. `--workers` processes draw the episodes ahead of the steps, the same ones as without them; `--minutes` ends a
run, whole and resumable, before a borrowed machine goes back.

On several GPUs or cores: `torchrun --nproc_per_node N -m -- scripts.pretrain --data DIR --run DIR`; each process draws
episodes of its own. Without `--`, torchrun takes `--run` and `--start` for abbreviations of options of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lib.learning.datasets import DatasetError, read_datasets
from lib.learning.episodes import Mix, RealTasks, load_real_tasks
from lib.learning.packs import SUFFIX, read_pack, write_pack
from lib.learning.several_prompts import SeveralPrompts
from lib.learning.training import TrainingConfig
from lib.networks import NAMES
from lib.networks.checkpoints import CheckpointError
from scripts.pretraining.held_out import validate, validation_cases
from scripts.pretraining.log import Log
from scripts.pretraining.run import Run
from scripts.pretraining.stages import Stage
from scripts.pretraining.stream import Recipe, batches

HELD_OUT = {"oneprompt": (1,), "promptseg": (1, 4)}  # templates of a query in the held-out score
SWITCHES = {  # parts that each network can be trained without
    "oneprompt": ("prompt_parser", "gaussian_masking", "dense_correspondence"),
    "promptseg": ("bottleneck",),
}
# Vertebrae numbered by level: one slice cannot tell which is which.
AS_ONE_CLASS = frozenset({"mr_lumbar_spider", "mr_spider_t2"})


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of data sets (lib/learning/datasets.py), or a pack of them; without it only synthetic tasks",
    )
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--run", type=Path, help="folder of this run, outside the checkout")
    goal.add_argument("--pack", type=Path, help=f"only write the data into one file ({SUFFIX}) that --data reads")
    parser.add_argument("--terms", choices=["open", "research"], help="use only data sets under these terms")
    parser.add_argument("--stages", type=Stage.parse, default="64x8:4000,128x4:20000", help="SIZExEPISODES:STEPS,...")
    parser.add_argument("--network", choices=SWITCHES, default="oneprompt")
    parser.add_argument("--config", choices=NAMES, default="small", help="of One-Prompt")
    switches = [switch for own in SWITCHES.values() for switch in own]
    parser.add_argument("--without", nargs="*", default=[], choices=switches, help="ablations")
    parser.add_argument("--synthetic", type=float, default=Mix().synthetic, help="share of synthetic episodes")
    parser.add_argument("--foreign", type=float, default=Mix().foreign, help="share of foreign bodies in real images")
    parser.add_argument(
        "--start", type=Path, nargs="+", help="begin with these weights (safetensors); of several runs, with their mean"
    )
    parser.add_argument("--freeze-encoder", action="store_true", help="leave the image encoder as it is")
    parser.add_argument("--beta", type=float, default=SeveralPrompts().beta, help="weight of PromptSeg's bottleneck")
    parser.add_argument(
        "--queries",
        type=int,
        help="images of an episode beside its template; by default 2, and 9 for PromptSeg, whose prompts are of them",
    )
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default=TrainingConfig().optimizer)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig().learning_rate)
    parser.add_argument("--warmup", type=int, default=TrainingConfig().warmup, help="first steps with rising rate")
    parser.add_argument("--cooldown", type=float, default=0.2, help="last part of the steps with falling rate")
    parser.add_argument("--no-bf16", action="store_true", help="train in float32")
    parser.add_argument("--half", action="store_true", help="store the averaged weights in 16 bits, half the room")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw episodes ahead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=250, help="steps from checkpoint to checkpoint, at most")
    parser.add_argument("--save-minutes", type=float, default=5, help="minutes from checkpoint to checkpoint, at most")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after these, wherever the run is")
    parser.add_argument("--validate-every", type=int, default=1000)
    options = parser.parse_args(arguments)
    if foreign := set(options.without) - set(SWITCHES[options.network]):
        parser.error(f"--without {' '.join(sorted(foreign))} is no part of {options.network}")
    options.queries = options.queries or {"oneprompt": 2, "promptseg": 9}[options.network]
    if options.pack and (not options.data or options.pack.suffix != SUFFIX):
        parser.error(f"--pack must name a file ending in {SUFFIX} and comes with --data, got {options.pack}")
    return options


def load_tasks(options: argparse.Namespace) -> dict[str, list[RealTasks]]:
    """Tasks by split: `train` to learn from, `dev` to be asked about; none without data."""
    if not options.data:
        return {"train": [], "dev": []}
    if options.data.suffix == SUFFIX:
        return {"train": [], "dev": []} | read_pack(options.data)
    chosen = read_datasets(options.data, "train", options.terms)
    flat = [d for d in read_datasets(options.data, "dev") if d.dims == 2]
    return {
        "train": [load_real_tasks(d, d.name in AS_ONE_CLASS, every_plane=True) for d in chosen],
        "dev": [load_real_tasks(d) for d in flat],
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        tasks = load_tasks(options)
        if options.pack:
            print(f"{options.pack}: {write_pack(options.pack, tasks) / 2**20:.1f} MB")
            return
        if "RANK" in os.environ:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        rank = dist.get_rank() if dist.is_initialized() else 0
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        options.run.mkdir(parents=True, exist_ok=True)
        options.dataset_names = [one.name for one in tasks["train"]]
        run = Run(options, rank, device)
    except (CheckpointError, DatasetError) as error:
        sys.exit(str(error))
    run.resume()
    if run.step:
        print(f"going on from step {run.step}", flush=True)
    train(run, tasks["train"], tasks["dev"])


def train(run: Run, tasks: list[RealTasks], held_out: list[RealTasks]) -> None:
    """Steps until the stages are done or the time is up."""
    options, began, saved = run.options, time.monotonic(), time.monotonic()
    mix = Mix(synthetic=options.synthetic, foreign=options.foreign)
    recipe = Recipe(tasks, options.stages, options.queries, mix, options.seed, run.rank)
    plateau = int(run.total * (1 - options.cooldown))
    log = Log(options.run, options.log_every) if run.rank == 0 else None
    stream = batches(recipe, run.step, run.total, options.workers)
    try:
        if not run.total:
            run.save()
        before = time.monotonic()
        for batch in stream:
            result = run.train_step(batch)
            now = time.monotonic()
            run.seconds, before = run.seconds + now - before, now
            run.queries += len(result.dice)
            over = run.step == run.total or now - began > 60 * options.minutes
            if run.step == plateau:
                run.save("plateau.pt")  # a longer run goes on from here
            if over or run.step % options.save_every == 0 or now - saved > 60 * options.save_minutes:
                run.save()
                saved = now
            if log:
                log.add(run, result, batch.size)
                if held_out and (run.step % options.validate_every == 0 or over):
                    for count in HELD_OUT[options.network]:
                        cases = validation_cases(held_out, batch.size, count)
                        log.held_out(run, validate(run.averaged, cases, run.device), count)
            if over:
                return
    finally:
        stream.close()
        if log:
            log.close()


if __name__ == "__main__":
    main()

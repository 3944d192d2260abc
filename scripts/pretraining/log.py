"""What a run says while it goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lib.learning.training import StepResult
from scripts.pretraining.run import Run


class Log:
    """A line now and then for people, every line in log.jsonl, curves in TensorBoard."""

    def __init__(self, folder: Path, every: int) -> None:
        self.every, self.file = every, (folder / "log.jsonl").open("a")
        self.writer = SummaryWriter(str(folder / "events"))
        self.losses: list[Tensor] = []
        self.dice: dict[str, list[float]] = {}
        self.started, self.queries = time.monotonic(), 0

    def add(self, run: Run, result: StepResult, size: int) -> None:
        self.losses.append(result.loss.detach())  # read when written: a number now would wait for the device
        self.queries += len(result.dice)
        for mode, source, dice in zip(result.modes, result.sources, result.dice, strict=True):
            kind = "synthetic" if source.startswith("synthetic") else "copies" if "/" in source else "real"
            self.dice.setdefault(f"{mode}/{kind}", []).append(float(dice))
        if run.step % self.every == 0:
            self._write(run, size)

    def _write(self, run: Run, size: int) -> None:
        rate = self.queries / (time.monotonic() - self.started)
        means = {kind: round(100 * float(np.mean(values)), 1) for kind, values in sorted(self.dice.items())}
        loss = float(np.mean([float(value) for value in self.losses]))
        self.record(run.step, {"loss": loss, "queries_per_second": rate, **{f"dice/{k}": v for k, v in means.items()}})
        shown = "  ".join(f"{kind} {value:.0f}" for kind, value in means.items())
        print(f"step {run.step}/{run.total}  {size} px  {rate:.1f} queries/s  loss {loss:.3f}  {shown}", flush=True)
        self.losses, self.dice, self.started, self.queries = [], {}, time.monotonic(), 0

    def held_out(self, run: Run, scores: dict[str, float], templates: int) -> None:
        kind = "held_out" if templates == 1 else f"held_out_{templates}"
        self.record(run.step, {f"{kind}/{name}": 100 * score for name, score in scores.items()})
        shown = "  ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
        print(f"held out at step {run.step}, templates {templates}: {shown}", flush=True)

    def close(self) -> None:
        self.file.close()
        self.writer.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **{k: round(v, 4) for k, v in values.items()}}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

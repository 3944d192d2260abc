"""Stages of a run, each at one resolution."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


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

"""Manners of a training process: what is left of processor and GPU memory is enough for the server beside it."""

from __future__ import annotations

import logging
import os

import torch

logger = logging.getLogger(__name__)

NICENESS = 10
RESERVED = 2**30  # bytes of GPU memory that stay free for the server's answers


def stay_behind() -> None:
    """Let every other process go first, and leave the server's GPU memory alone. Called in the training process."""
    os.nice(NICENESS)
    if not torch.cuda.is_available():
        return
    for device in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(share_of(free, total), device)


def share_of(free: int, total: int) -> float:
    """Part of a GPU's memory that training may take, so that `RESERVED` stays free."""
    return max(0.05, (free - RESERVED) / total)

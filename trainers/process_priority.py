"""Priority of a training process: what is left of processor and GPU memory is enough for the server beside it."""

from __future__ import annotations

import os

import torch

NICENESS = 10
RESERVED = 2**30  # bytes of GPU memory that stay free for the server's answers


def stay_behind() -> None:
    """Let every other process go first, and leave the server's GPU memory alone. Called in the training process.

    A GPU that has no more than `RESERVED` bytes free gets a fraction of 0: PyTorch then refuses the first tensor with
    its out-of-memory message, and the training fails with it rather than the server's answers.
    """
    os.nice(NICENESS)
    if not torch.cuda.is_available():
        return
    for device in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(share_of(free, total), device)


def share_of(free: int, total: int) -> float:
    """Fraction of a GPU's memory that training may take, so that `RESERVED` bytes of what is free now stay free."""
    return max(0.0, (free - RESERVED) / total)

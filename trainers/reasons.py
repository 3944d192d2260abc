"""Why a training ended, in words for whoever started it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NEARLY_FULL = 2**20  # bytes that are free where a writer of weights has just failed for want of more


def no_memory(batch: int) -> str:
    """What a person is told where a batch of this size does not fit."""
    return (
        f"training needs more memory than there is, also with {batch} items a step: free some (close other programs "
        "on the GPU), or train on the processor with the parameter device=cpu"
    )


def reason_of_end(error: BaseException, folder: Path) -> str:
    """What a person is told of it; PyTorch and safetensors wrap a full disk into errors of their own."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    full = any(isinstance(one, OSError) and one.errno in DISK_FULL for one in causes)
    if full or shutil.disk_usage(folder).free < NEARLY_FULL:
        return f"the disk is full: free some room below {folder} and train again; what is served did not change"
    return str(error) or type(error).__name__

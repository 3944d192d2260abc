"""What is wrong with a folder that cannot be written or read, in words for whoever saved, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from monailabel.config import settings

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
AWAY = {
    errno.ENOENT,
    errno.ESTALE,
    errno.EIO,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.ENODEV,
    errno.ENXIO,
    errno.ETIMEDOUT,
}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
KEPT = "nothing that was saved before is lost; what this request brought was not saved"


def disk_problem(error: OSError) -> tuple[int, str] | None:
    """HTTP status and words for an error of a file system; None for other errors of the system."""
    if error.errno not in FULL | AWAY | CLOSED:
        return None
    folder = _folder(error)
    if error.errno in FULL:
        return 507, f"the disk of {folder} is full ({_free(folder)}): make room and try again"
    if error.errno in CLOSED:
        return 503, (
            f"{folder} cannot be written ({error.strerror}): give the server's user the right to write there, or mount "
            "it writable, and try again"
        )
    return 503, f"{folder} cannot be reached ({error.strerror}): see that its drive is there and try again"


def is_closed(folder: Path) -> bool:
    """Whether a folder that is there cannot be written by this user."""
    effective = os.access in os.supports_effective_ids
    return folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def check_writable(folder: Path) -> None:
    """Raises PermissionError for a folder that is there and cannot be written."""
    if is_closed(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "labels"))


def _folder(error: OSError) -> Path:
    """The folder that it is about: the study folder where the error does not say."""
    name = error.filename2 or error.filename
    path = (
        Path(os.fsdecode(name)).parent if isinstance(name, str | bytes) else Path(settings.MONAI_LABEL_STUDIES or ".")
    )
    return path


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free // 2**20} MB free"

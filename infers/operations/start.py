"""What a start puts in order: temporary files of killed processes, and a log that ends and has no patients' names."""

from __future__ import annotations

import logging
from pathlib import Path

from infers.temporary import sweep_temporary
from lib.imaging.files import sweep

logger = logging.getLogger(__name__)

# MONAI Label's loggers that write patients' names, dates and labels into the log at every request
LOUD = ("monailabel.endpoints.activelearning", "monailabel.endpoints.session", "monailabel.endpoints.infer",
        "monailabel.datastore.dicom", "monailabel.utils.sessions", "monailabel.utils.async_tasks")  # fmt: skip


def tidy(state: Path, models: Path) -> None:
    """All of it; the arguments are those of `sweep_all`."""
    quiet_loggers()
    share_log_files()
    sweep_all(state, models)


def quiet_loggers() -> None:
    """Leave only warnings of what would write patients' names."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


def share_log_files() -> None:
    """Let loggers that write into one file do so through one handler: MONAI Label's configuration opens it several
    times, and the file that one of them has put away as full is what the others go on writing to."""
    first: dict[str, logging.Handler] = {}
    known = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for owner in (logging.getLogger(), *known):
        for handler in [one for one in owner.handlers if isinstance(one, logging.FileHandler)]:
            shared = first.setdefault(handler.baseFilename, handler)
            if shared is not handler:
                owner.removeHandler(handler)
                owner.addHandler(shared)
                handler.close()


def sweep_all(state: Path, models: Path) -> None:
    """Remove what killed processes left half written.

    Args:
        state: the app's folder in the study folder, whose `labels` are swept too.
        models: folder of training runs and published weights.
    """
    labels = state.parent / "labels"
    folders = [state.parent, labels, *labels.glob("*/"), state, *state.rglob("*/"), models, *models.rglob("*/")]
    swept = [*sweep(folders), *sweep_temporary()]
    if swept:
        logger.info("removed %d temporary files of processes that were killed", len(swept))

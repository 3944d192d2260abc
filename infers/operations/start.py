"""What a start puts in order: temporary files of killed processes, and a log without patients' names."""

from __future__ import annotations

import logging
from pathlib import Path

from infers.temporary import sweep_temporary
from lib.imaging.files import sweep

logger = logging.getLogger(__name__)

# MONAI Label's loggers that write patients' names, dates and labels into the log at every request
LOUD = ("monailabel.endpoints.activelearning", "monailabel.endpoints.session", "monailabel.endpoints.infer",
        "monailabel.datastore.dicom", "monailabel.utils.sessions")  # fmt: skip


def quiet_loggers() -> None:
    """Leave only warnings of what would write patients' names."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


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

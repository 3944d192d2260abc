"""Settings of MONAI Label 0.8.5 with which it works today, wherever the user has not set them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from infers.environment import IMAGE_PATTERNS

MLFLOW_FILE = "mlflow.db"


def apply_settings(settings: Any, app_dir: str) -> None:
    """Set what MONAI Label needs today, wherever the user has not set it.

    The values also go to `os.environ`, from which MONAI Label's subprocesses read theirs. Settings that MONAI Label
    reads while it is imported (cache expiry, allowed origins, trainer defaults) come too late here: the datastore,
    the routes and the trainer apply those themselves.
    """
    defaults: dict[str, Any] = {
        # The DICOMweb study list is whatever the server holds, not CT alone; what is no image is dropped by the store.
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": {},
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": 2,
        "MONAI_LABEL_DATASTORE_FILE_EXT": list(IMAGE_PATTERNS),
        # Current MLflow refuses the file store that is MONAI Label's default; SQLite serves those who switch it on.
        "MONAI_LABEL_TRACKING_ENABLED": False,
        "MONAI_LABEL_TRACKING_URI": "sqlite:///" + os.path.join(app_dir, "model", MLFLOW_FILE),
        # The scoring hook of a training process calls the server without token or TLS.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": False,
    }
    chosen = settings.model_fields_set
    for name, value in defaults.items():
        if name not in chosen:
            setattr(settings, name, value)
            os.environ[name] = value if isinstance(value, str) else json.dumps(value)
    # dcmqi's pip package puts its tools beside Python; without them on PATH MONAI Label would download them.
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH", ""), tools]))

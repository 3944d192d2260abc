"""The server's log and its GPUs over HTTP, as plain text.

MONAI Label shows the log on a page with scripts of other sites, which then may do everything that this server's own
pages may; it breaks off where the log grows while it is sent, and fails where there is no nvidia-smi.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from infers.errors import NotFound
from infers.guards import check_reader

ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))
NVIDIA_SMI = "nvidia-smi"
SECONDS = 30.0  # for which it is waited


def add_logs(router: APIRouter) -> None:
    """Add both routes, for the server's own machine or an admin who logged in."""
    allowed = [Depends(check_reader)]

    @router.get("/logs/", tags=["Logs"], dependencies=allowed)
    def log(lines: int = 300, user: User = ADMIN) -> PlainTextResponse:
        path = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
        if not path.is_file():
            raise NotFound(f"there is no {path}: the log goes to where the server was started")
        text = path.read_bytes().decode(errors="replace")  # of whatever was logged
        return PlainTextResponse("".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else text)

    @router.get("/logs/gpu", tags=["Logs"], dependencies=allowed)
    def gpus(user: User = ADMIN) -> PlainTextResponse:
        program = shutil.which(NVIDIA_SMI)
        if program is None:
            raise NotFound(f"this machine has no {NVIDIA_SMI}, which tells of its GPUs")
        output = subprocess.run([program], capture_output=True, timeout=SECONDS).stdout
        return PlainTextResponse(output.decode(errors="replace"))

"""OHIF as MONAI Label's wheel brings it, its sub-folders included.

MONAI Label 0.8.5 joins the parts of a path with the wrong separator and answers everything below a sub-folder with
the start page, pictures and icons too.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

import monailabel.endpoints.ohif
from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from infers.errors import NotFound

FOLDER = Path(monailabel.endpoints.ohif.__file__).parent / "static" / "ohif"
START_PAGE = "index.html"


def add_ohif(router: APIRouter) -> None:
    """Add OHIF's route."""

    def ohif(path: str) -> FileResponse:
        file = ohif_file(path)
        # The start page names the other files by their content, so it alone may not be kept
        return FileResponse(file, headers={"cache-control": "no-cache"} if file.name == START_PAGE else None)

    role = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    router.add_api_route("/ohif/{path:path}", ohif, methods=["GET"], dependencies=[role], include_in_schema=False)


def ohif_file(path: str, folder: Path = FOLDER) -> Path:
    """The file below `folder` that a path means; the start page for the paths that OHIF itself makes up (its pages).

    Raises:
        NotFound: a path that leads elsewhere, or a file that OHIF does not have.
    """
    root = folder.resolve()
    file = (root / path).resolve()
    if path and file.is_relative_to(root) and file.is_file():
        return file
    if not file.is_relative_to(root) or mimetypes.guess_type(path)[0]:
        raise NotFound(f"OHIF has no file {path[:80]!r}")
    return root / START_PAGE

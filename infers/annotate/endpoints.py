"""The annotation page over HTTP: the page, a study's image and labels in one format, and who else is there
(docs/annotate.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from pydantic import BaseModel, Field
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from infers.annotate.desk import Desk
from infers.annotate.prompted import PromptedStudies
from infers.annotate.shown import compressed
from infers.board.endpoints import PAGE_HEADERS, PRIVATE
from infers.label_records import Statement

STATIC = Path(__file__).parent / "static"
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
THIS_MACHINE = ("127.0.0.1", "::1")


class Present(BaseModel):
    """A page that is open: its own mark, whom it is used by, and whether it is about to close."""

    session: str = Field(min_length=1, max_length=64)
    name: str = Field("", max_length=64)
    leaving: bool = False


class Prompted(BaseModel):
    """What a study shows without being painted: {structure: prompts} (`infers.prompts`), and who says so."""

    prompts: dict[str, Any] = Field(min_length=1, max_length=255)
    client_id: str = Field("", max_length=64)


def add_annotation(router: APIRouter, desk: Desk, prompted: PromptedStudies) -> None:
    """Add the page's routes."""
    _add_page(router)
    _add_study(router, desk)
    _add_prompts(router, desk, prompted)


def _add_page(router: APIRouter) -> None:
    # Open without a login, as the board's page is: there is nothing of the studies in it
    @router.get("/oneprompt/annotate", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    router.routes.append(Mount(f"{router.prefix}/oneprompt/annotate/static", StaticFiles(directory=STATIC)))


def _add_study(router: APIRouter, desk: Desk) -> None:
    @router.get("/oneprompt/studies/{id}/open", tags=["One-Prompt"])
    def study(id: str, response: Response, shrink: int = 1, user: User = USER) -> dict[str, Any]:
        response.headers.update(PRIVATE)
        return {**desk.study(id, shrink), "user": user.username}

    @router.get("/oneprompt/studies/{id}/volume.nii", tags=["One-Prompt"])
    def volume(id: str, request: Request, shrink: int = 1, user: User = USER) -> StreamingResponse:
        length, parts = desk.volume(id, shrink)
        headers = {**PRIVATE, "X-Length": str(length)}
        # On the same machine packing takes longer than it saves
        if _packs(request):
            return StreamingResponse(compressed(parts), headers={**headers, "Content-Encoding": "gzip"})
        return StreamingResponse(parts, headers={**headers, "Content-Length": str(length)})

    @router.get("/oneprompt/studies/{id}/mask.nii", tags=["One-Prompt"])
    def mask(id: str, tag: str, user: User = USER) -> StreamingResponse:
        parts = compressed(iter([desk.mask(id, tag)]))
        return StreamingResponse(parts, headers={**PRIVATE, "Content-Encoding": "gzip"})

    @router.post("/oneprompt/studies/{id}/presence", tags=["One-Prompt"])
    def presence(id: str, body: Present, user: User = USER) -> dict[str, Any]:
        if body.leaving:
            desk.presence.leave(id, body.session)
            return {"others": [], "labels": {}}
        desk.path(id)  # refuses what is no study
        others = desk.presence.enter(id, body.session, body.name or user.username)
        return {"others": others, "labels": desk.versions(id)}


def _add_prompts(router: APIRouter, desk: Desk, prompted: PromptedStudies) -> None:
    @router.put("/oneprompt/studies/{id}/prompts", tags=["One-Prompt"])
    def prompts(id: str, body: Prompted, user: User = ANNOTATOR) -> dict[str, Any]:
        desk.path(id)  # refuses what is no study
        statement = Statement.from_json({"client_id": body.client_id} if body.client_id else {})
        return prompted.save(id, body.prompts, statement, user.username)


def _packs(request: Request) -> bool:
    """Whether a file is worth packing for whoever asks: a browser elsewhere, or behind a proxy, that can unpack it."""
    direct = request.client is not None and request.client.host in THIS_MACHINE
    proxied = "x-forwarded-for" in request.headers or "forwarded" in request.headers
    return "gzip" in request.headers.get("accept-encoding", "") and not (direct and not proxied)

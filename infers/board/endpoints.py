"""The board over HTTP: its page under /oneprompt/, and the JSON that the page works with (docs/board.md)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from fastapi.responses import FileResponse, RedirectResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from pydantic import BaseModel, Field
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from infers.board.board import Board
from infers.board.decisions import version_of
from infers.board.thumbnails import SIZES
from infers.errors import ClientError
from infers.jobs.propagation import Propagation
from infers.study_list.rows import Row, Wanted

STATIC = Path(__file__).parent / "static"
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
PAGE_HEADERS = {
    # Nothing from elsewhere, no inline scripts, and no other site may put the board in a frame and catch clicks
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # no patient's picture on a disk


class Ids(BaseModel):
    """Which studies."""

    ids: list[str] = Field(min_length=1, max_length=100_000)


class Rejection(Ids):
    """Which studies, and which of their masks a person looked at."""

    versions: dict[str, str] = {}


class Accepted(BaseModel):
    """Studies by id, or all automatic masks predicted at `bound` or better whose ids hold `search`."""

    ids: list[str] | None = Field(None, min_length=1, max_length=100_000)
    bound: float | None = Field(None, ge=0, le=1)
    search: str = ""
    versions: dict[str, str] = {}


class Use(Ids):
    """Whether final labels serve as templates."""

    use: bool


def add_board(router: APIRouter, board: Board, job: Propagation) -> None:
    """Add the board's routes."""
    _add_page(router)
    _add_lists(router, board, job)
    _add_decisions(router, board)


def _add_page(router: APIRouter) -> None:
    # Open without a login, as a browser cannot send one when it opens a page: there is nothing of the studies in it
    @router.get("/oneprompt/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    @router.get("/oneprompt", include_in_schema=False)
    def without_slash() -> RedirectResponse:
        return RedirectResponse("oneprompt/")

    router.routes.append(Mount(f"{router.prefix}/oneprompt/static", StaticFiles(directory=STATIC)))


def _add_lists(router: APIRouter, board: Board, job: Propagation) -> None:
    @router.get("/oneprompt/studies", tags=["One-Prompt"])
    def studies(
        response: Response,
        status: str = "",
        search: str = "",
        sort: str = "worst",
        page: Annotated[int, Query(ge=1)] = 1,
        per_page: Annotated[int, Query(ge=1, le=200)] = 24,
        at_least: Annotated[float | None, Query(ge=0, le=1)] = None,
        show: str = "",
        user: User = USER,
    ) -> dict[str, Any]:
        response.headers.update(PRIVATE)
        statuses = tuple(filter(None, status.split(",")))
        listing = board.page(Wanted(statuses, search, at_least, sort, page, per_page, show))
        return {
            "studies": [_row(board, row) for row in listing.rows],
            **{key: getattr(listing, key) for key in ("page", "pages", "total", "counts")},
            "per_page": per_page,
            "colours": board.colours(),
            "job": job.status().to_dict(),
            "ohif": board.ohif,
            "unreadable": board.unreadable(),
            "warnings": board.warnings(),
            **board.quality(),
        }

    @router.get("/oneprompt/files", tags=["One-Prompt"])
    def files(response: Response, user: User = USER) -> list[dict[str, Any]]:
        response.headers.update(PRIVATE)
        return board.files()

    @router.get("/oneprompt/studies/{id}/thumbnail.png", tags=["One-Prompt"])
    def thumbnail(id: str, size: int = SIZES[0], user: User = USER) -> Response:
        if size not in SIZES:
            raise ClientError(f"size must be one of {', '.join(map(str, SIZES))}, got {size}")
        return Response(board.thumbnail(id, size), media_type="image/png", headers=PRIVATE)

    @router.get("/oneprompt/studies/{id}/ohif", tags=["One-Prompt"])
    def viewer(id: str, user: User = USER) -> RedirectResponse:
        study = quote(board.study_uid(id), safe="")
        return RedirectResponse(f"{settings.MONAI_LABEL_API_STR}/ohif/monai-label?StudyInstanceUIDs={study}")


def _add_decisions(router: APIRouter, board: Board) -> None:
    @router.post("/oneprompt/accept", tags=["One-Prompt"])
    def accept(body: Accepted, user: User = ANNOTATOR) -> dict[str, Any]:
        if (body.ids is None) == (body.bound is None):
            raise ClientError("say either `ids` or `bound`, not both")
        ids = board.above(body.bound, body.search) if body.ids is None else body.ids
        return asdict(board.decisions.accept(ids, user.username, body.versions))

    @router.post("/oneprompt/reject", tags=["One-Prompt"])
    def reject(body: Rejection, user: User = ANNOTATOR) -> dict[str, Any]:
        return asdict(board.decisions.reject(body.ids, user.username, body.versions))

    @router.post("/oneprompt/undo", tags=["One-Prompt"])
    def undo(body: Ids, user: User = ANNOTATOR) -> dict[str, Any]:
        return asdict(board.decisions.undo(body.ids))

    @router.post("/oneprompt/template", tags=["One-Prompt"])
    def template(body: Use, user: User = ANNOTATOR) -> dict[str, Any]:
        return asdict(board.decisions.use_as_template(body.ids, body.use))

    @router.post("/oneprompt/again", tags=["One-Prompt"])
    def again(body: Ids, user: User = ANNOTATOR) -> dict[str, Any]:
        return asdict(board.decisions.run_again(body.ids))

    @router.post("/oneprompt/accept_result", tags=["One-Prompt"])
    def accept_result(body: Ids, user: User = ANNOTATOR) -> dict[str, Any]:
        return asdict(board.decisions.accept_results(body.ids, user.username))


def _row(board: Board, row: Row) -> dict[str, Any]:
    version = version_of(board.shown(row.id))
    return {**asdict(row), "predicted": row.predicted, "worst": row.worst, "version": version}

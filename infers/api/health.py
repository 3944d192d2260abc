"""Health and metrics over HTTP: health open without a login, for what watches servers has none, and it says nothing of
the studies; metrics for the server's own machine."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings

from infers.api.app import App
from infers.errors import reason_of
from infers.guards import check_reader
from infers.operations.health import health, writable
from infers.operations.metrics import TEXT, Metrics


def health_router(app: App, metrics: Metrics) -> APIRouter:
    """The routes; `app` says where labels are kept."""
    router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

    def failed_job() -> str:
        job = app.job.status()
        return "the background job stopped" if job.state == "failed" and job.failed.get("") else ""

    def storage() -> str:
        store = app.studies.store
        try:
            store.check_there()
        except OSError as error:
            return reason_of(error)
        return writable(store.root)

    @router.get("/oneprompt/health/live", tags=["One-Prompt"])
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/oneprompt/health", tags=["One-Prompt"])
    def ready() -> JSONResponse:
        is_ready, states = health({"storage": storage, "job": failed_job})
        return JSONResponse(states, 200 if is_ready else 503)

    @router.get("/oneprompt/metrics", tags=["One-Prompt"])
    def counted(request: Request) -> Response:
        check_reader(request)
        return Response(metrics.text(), media_type=TEXT)

    return router

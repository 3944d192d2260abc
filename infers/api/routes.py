"""The app's routes in MONAI Label's server, before the stock ones.

Of every request names are checked, and errors of the client become answers with a status from 400 to 499.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import requests
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from infers.api.app import App, Sessions
from infers.api.door import Door
from infers.api.endpoints import own_router
from infers.api.health import health_router
from infers.api.lines import Lines
from infers.api.strict import route_class
from infers.disks import KEPT, disk_problem
from infers.errors import Busy, ClientError, ClientGone, ServerUnreachable, dicomweb_problem
from infers.guards import check_names
from infers.operations.logs import log_request
from infers.operations.metrics import Metrics
from infers.patches.server import allow_own_pages_only, put_before, put_first, raise_threads
from infers.patches.stock_routes import add_stock_routes
from infers.records import RecordError
from lib.finetuning.versions import VersionError
from lib.imaging.images import ImageError
from lib.imaging.prompts import PromptError
from lib.inference.templates import TemplateError
from lib.networks.answers import AnswerError
from lib.networks.checkpoints import CheckpointError
from lib.parsing import shown

logger = logging.getLogger(__name__)

REFUSALS = (
    ImageError,
    PromptError,
    TemplateError,
    CheckpointError,
    RecordError,
)  # of the library: always about what was given

GONE = 499  # which nobody reads; proxies call it so


def install(server: FastAPI, app: App, sessions: Sessions | None) -> Lines:
    """Put this app's routes, error answers and allowed origins into MONAI Label's server; gives its lines.

    Args:
        server: `monailabel.app.app`, already starting: its routes and middleware are exchanged as whole objects.
        app: what the routes speak to.
        sessions: MONAI Label's upload sessions; None where they are off.
    """
    lines = Lines(app.datastore.check_there)
    stock = APIRouter(
        prefix=settings.MONAI_LABEL_API_STR, dependencies=[Depends(check_names)], route_class=route_class(lines)
    )
    add_stock_routes(stock)
    put_first(server, [*own_router(app, sessions, lines).routes, *stock.routes])
    for kind in (
        ClientError,
        RequestValidationError,
        *REFUSALS,
        VersionError,
        ServerUnreachable,
        requests.RequestException,
        MONAILabelException,
        AnswerError,
        Busy,
        ClientGone,
        OSError,
    ):
        server.add_exception_handler(kind, _answer)
    if not settings.MONAI_LABEL_CORS_ORIGINS:
        allow_own_pages_only(server, app.config.hosts)
    put_before(server, Door, hosts=app.config.hosts, limits=app.limits, answered=_counted(server, app, lines))
    raise_threads()
    return lines


def _counted(server: FastAPI, app: App, lines: Lines) -> Callable[[str, str, int, float, str], None]:
    """What takes note of every answer; health and metrics are routes from now on."""
    metrics = Metrics()
    for name, line in (("network", lines.network), ("files", lines.files)):
        for what in ("running", "waiting"):
            metrics.gauge(f"{name}_{what}", f"How many are {what} in the line for {name}", partial(getattr, line, what))
    put_first(server, health_router(app, metrics).routes)

    def answered(method: str, route: str, status: int, seconds: float, id: str) -> None:
        metrics.answered(method, route, status, seconds)
        log_request(method, route, status, seconds, id)

    return answered


async def _answer(request: Request, error: Exception) -> JSONResponse:
    """The error as JSON with a `detail`."""
    if isinstance(error, ClientError):
        return JSONResponse({"detail": error.detail}, error.status)
    if isinstance(error, RequestValidationError):
        return JSONResponse({"detail": "; ".join(map(_refused, error.errors()))}, 422)
    if isinstance(error, Busy):
        return JSONResponse({"detail": error.detail}, error.status, {"Retry-After": str(error.retry_after)})
    if isinstance(error, ClientGone):
        return JSONResponse({"detail": "the client hung up"}, GONE)
    if isinstance(error, VersionError):
        return JSONResponse({"detail": str(error)}, 404)
    if isinstance(error, AnswerError):
        return JSONResponse({"detail": str(error)}, 500)
    if isinstance(error, ServerUnreachable):
        return JSONResponse({"detail": str(error)}, 502)
    if isinstance(error, requests.RequestException):
        return JSONResponse({"detail": dicomweb_problem(error)}, 502)
    if isinstance(error, OSError):
        status, detail = disk_problem(error) or (500, f"{type(error).__name__}: {error.strerror or error}")
        detail = detail if status == 500 else f"{detail}; {KEPT}"
        logger.error("%s: %s", request.url.path, detail, exc_info=error)
        return JSONResponse({"detail": detail}, status)
    if isinstance(error, MONAILabelException):
        # MONAI Label says APP_INIT_ERROR of a strategy that it does not have
        statuses = {
            MONAILabelError.INVALID_INPUT: 400,
            MONAILabelError.APP_ERROR: 404,
            MONAILabelError.APP_INIT_ERROR: 404,
        }
        return JSONResponse({"detail": str(error.msg)}, statuses.get(error.error, 500))
    return JSONResponse({"detail": str(error)}, 400)


def _refused(error: Mapping[str, Any]) -> str:
    """What FastAPI says of one value of a request, in a sentence."""
    place = ".".join(map(str, error["loc"][1:])) or f"the {error['loc'][0]}"
    if error["type"] == "missing":
        return f"{place} is missing: send it in the request's {error['loc'][0]}"
    return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}, got {shown(error['input'])}"

"""MONAI Label's HTTP routes as this app needs them, put before the stock ones.

Every stock endpoint is a coroutine that computes while it holds the server's only event loop, so that nobody gets an
answer while somebody infers. Here each of them runs in a thread. On the way names are checked, and errors of the
client become answers with a status from 400 to 499. The roles that MONAI Label asks for stay with each route.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import requests
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    info,
    logs,
    model,
    scoring,
    session,
    train,
)
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from infers.api.door import Door
from infers.api.endpoints import own_router
from infers.api.lines import Lines
from infers.api.strict import route_class
from infers.errors import Busy, ClientError, ClientGone, ServerUnreachable, dicomweb_problem
from infers.guards import check_names
from infers.records import RecordError
from lib.finetuning.versions import VersionError
from lib.imaging.images import ImageError
from lib.imaging.prompts import PromptError
from lib.inference.templates import TemplateError
from lib.networks.answers import AnswerError
from lib.networks.checkpoints import CheckpointError

STOCK = (info, model, infer, batch_infer, train, activelearning, scoring, datastore, logs, session)
REFUSALS = (
    ImageError,
    PromptError,
    TemplateError,
    CheckpointError,
    RecordError,
)  # of the library: always about what was given
THREADS = 64
GONE = 499  # which nobody reads; proxies call it so
LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def install(server: FastAPI, app: Any) -> None:
    """Put this app's routes, error answers and allowed origins into MONAI Label's server.

    Args:
        server: `monailabel.app.app`, already starting: its routes and middleware are exchanged as whole objects.
        app: `infers.assembly.Assembly`.
    """
    lines = Lines()
    stock = APIRouter(
        prefix=settings.MONAI_LABEL_API_STR, dependencies=[Depends(check_names)], route_class=route_class(lines)
    )
    for module in STOCK:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                _add_in_thread(stock, route)
    server.router.routes[0:0] = [*own_router(app, lines).routes, *stock.routes]
    for kind in (
        ClientError,
        *REFUSALS,
        VersionError,
        ServerUnreachable,
        requests.RequestException,
        MONAILabelException,
        AnswerError,
        Busy,
        ClientGone,
    ):
        server.add_exception_handler(kind, _answer)
    if not settings.MONAI_LABEL_CORS_ORIGINS:
        # MONAI Label would let any web site read patients' images through the annotator's browser
        others = [entry for entry in server.user_middleware if getattr(entry, "cls", None) is not CORSMiddleware]
        own = Middleware(
            CORSMiddleware,
            allow_origin_regex=LOCAL_PAGES,
            allow_credentials=True,
            allow_methods=["*"],
            allow_headers=["*"],
        )
        server.user_middleware = [*others, own]
    # This runs in the server's lifespan, inside a stack that Starlette 1.10 has built already and lets nobody add to.
    # Requests are answered only when it has ended: without a stack, the first of them builds one that has it all.
    server.middleware_stack = None
    server.add_middleware(Door, hosts=app.config.hosts, limits=app.limits)
    # Who waits for a turn holds no thread, so this is more than all lines and everything light need together
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, which FastAPI runs in a thread, of a coroutine function that never waits for anything."""

    def run(*args: Any, **kwargs: Any) -> Any:
        coroutine = endpoint(*args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as finished:
            return finished.value
        coroutine.close()
        raise RuntimeError(f"{endpoint.__name__} waits for something and cannot run in a thread")

    functools.update_wrapper(run, endpoint)
    vars(run).pop("__wrapped__")  # FastAPI would look through it and find a coroutine
    vars(run)["__signature__"] = inspect.signature(endpoint)
    return run


def _add_in_thread(router: APIRouter, route: APIRoute) -> None:
    endpoint = route.endpoint
    router.add_api_route(
        route.path,
        in_thread(endpoint) if inspect.iscoroutinefunction(endpoint) else endpoint,
        methods=sorted(route.methods or ["GET"]),
        dependencies=route.dependencies,
        summary=route.summary,
        tags=route.tags,
        responses=route.responses,
        include_in_schema=route.include_in_schema,
        deprecated=route.deprecated,
    )


async def _answer(request: Request, error: Exception) -> JSONResponse:
    """The error as JSON with a `detail`."""
    if isinstance(error, ClientError):
        return JSONResponse({"detail": error.detail}, error.status)
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
    if isinstance(error, MONAILabelException):
        # MONAI Label says APP_INIT_ERROR of a strategy that it does not have
        statuses = {
            MONAILabelError.INVALID_INPUT: 400,
            MONAILabelError.APP_ERROR: 404,
            MONAILabelError.APP_INIT_ERROR: 404,
        }
        return JSONResponse({"detail": str(error.msg)}, statuses.get(error.error, 500))
    return JSONResponse({"detail": str(error)}, 400)

"""MONAI Label's own endpoints, each in a thread.

Every stock endpoint is a coroutine that computes while it holds the server's only event loop, so that nobody gets an
answer while somebody infers. The roles that MONAI Label asks for stay with each route.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    info,
    model,
    scoring,
    session,
    train,
)

STOCK = (info, model, infer, batch_infer, train, activelearning, scoring, datastore, session)


def add_stock_routes(router: APIRouter) -> None:
    """Add all of them to a router, whose dependencies and kind of route they take over."""
    for module in STOCK:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                _add_in_thread(router, route)


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

"""The server object of MONAI Label, changed while it starts: an app is loaded within its lifespan and has no hook for
routes or middleware."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

THREADS = 64
OWN_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\]{})(:\d+)?"


def put_first(server: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Let routes answer before the stock ones of the same path."""
    server.router.routes[0:0] = routes


def allow_own_pages_only(server: FastAPI, hosts: Collection[str]) -> None:
    """Let pages of this machine and of these hosts alone read answers: MONAI Label's CORS reflects every origin, with
    credentials, so that any web site could read patients' images through the annotator's browser."""
    names = "".join(f"|{re.escape(f'[{host}]' if ':' in host else host)}" for host in hosts)
    others = [entry for entry in server.user_middleware if getattr(entry, "cls", None) is not CORSMiddleware]
    own = Middleware(
        CORSMiddleware,
        allow_origin_regex=OWN_PAGES.format(names),
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    server.user_middleware = [*others, own]


def put_before(server: FastAPI, middleware: Any, **options: Any) -> None:
    """Add a middleware that every request passes first."""
    # This runs in the server's lifespan, inside a stack that Starlette 1.10 has built already and lets nobody add to.
    # Requests are answered only when it has ended: without a stack, the first of them builds one that has it all.
    server.middleware_stack = None
    server.add_middleware(middleware, **options)


def raise_threads() -> None:
    """Give requests more threads than all lines and everything light need together: who waits for a turn holds none."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS

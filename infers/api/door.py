"""The one door of the server: every request passes here first, MONAI Label's own routes and static files included.

A web page that a user visits can send requests to this machine, under its own name too: once its name resolves to this
machine's address (DNS rebinding), a browser takes the server for a part of that page and shows the page everything. So
only names are answered that no stranger can own: loopback, the address that the connection came to, and what
`--conf hosts` says. What changes something must come from such an address or from a program. Bodies are counted while
they come in, and must keep coming.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

import anyio
from monailabel.config import settings
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infers.errors import ClientError
from infers.guards import is_loopback
from infers.limits import MB, Limits

logger = logging.getLogger(__name__)

READING = frozenset({"GET", "HEAD", "OPTIONS"})
STALL = 60.0  # seconds without a further piece of a body
UPLOADS = ("multipart/", "application/dicom", "application/octet-stream")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-site"))


class Door:
    """ASGI middleware.

    Args:
        app: what is behind the door.
        hosts: further names and addresses that the server answers to, in small letters, without ports.
        limits: bytes of a body.
        answered: told method, route, status, seconds and id of every answer.
        stall: seconds for which a body may stand still.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        limits: Limits,
        answered: Callable[[str, str, int, float, str], None] = lambda *_: None,
        stall: float = STALL,
    ) -> None:
        self._app, self._hosts, self._limits, self._stall = app, frozenset(hosts), limits, stall
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._refuse_or_pass(scope, receive, send)
            return
        id, started, status = uuid.uuid4().hex[:12], time.monotonic(), [500]

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                known = {name.lower() for name, _ in message.get("headers", ())}
                more = [*(entry for entry in _SAFE if entry[0] not in known), (b"x-request-id", id.encode())]
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        try:
            await self._refuse_or_pass(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._answered(scope["method"], route, status[0], time.monotonic() - started, id)

    async def _refuse_or_pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            limit = self._check(scope)
        except ClientError as error:
            logger.warning("%s is refused: %s", scope.get("method", "websocket"), error.detail)
            if scope["type"] == "http":
                await JSONResponse({"detail": error.detail}, error.status)(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, self._counted(receive, limit), send)

    def _check(self, scope: Scope) -> int:
        """How many bytes the request may send. Raises ClientError for one that is not answered."""
        headers = Headers(scope=scope)
        check_host(headers, self._hosts, scope.get("server"))
        if scope["type"] == "websocket" or scope["method"] not in READING:
            check_origin(headers, self._hosts)
        kind = headers.get("content-type", "").lower()
        limit = self._limits.upload if kind.startswith(UPLOADS) else self._limits.json
        if (length := headers.get("content-length", "")).isdigit() and int(length) > limit:
            raise ClientError(too_large(limit), 413)
        return limit

    def _counted(self, receive: Receive, limit: int) -> Receive:
        total, more = 0, True

        async def counted() -> Message:
            nonlocal total, more
            if not more:
                return await receive()  # that the client is gone: may take as long as it likes
            try:
                with anyio.fail_after(self._stall):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"nothing came for {self._stall:g} seconds: send the request again") from None
            total, more = total + len(message.get("body", b"")), message.get("more_body", False)
            if total > limit:
                raise HTTPException(413, too_large(limit))
            return message

        return counted


def too_large(limit: int) -> str:
    """What is told of a body beyond the limit in bytes."""
    return f"a request like this may send {limit // MB} MB, got more; --conf upload_mb changes that for uploads"


def check_host(headers: Headers, hosts: Collection[str], server: tuple[str, int | None] | None) -> None:
    """Refuse a request under a name that somebody else may own.

    Args:
        headers: the request's.
        hosts: names that are answered to.
        server: the address of this machine that the connection came to, as ASGI says it.

    Raises:
        ClientError: 421, with what to configure.
    """
    given = headers.getlist("host")
    match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    name = match[1].strip("[]").rstrip(".").lower() if match else ""
    if name and (name in hosts or is_loopback(name) or (server and name == server[0])):
        return
    raise ClientError(
        f"this server answers under its own addresses, got the Host {', '.join(given)[:200]!r}: open it as "
        "http://127.0.0.1 or by its address, or start it with --conf hosts NAME for a name that is its own",
        421,
    )


def check_origin(headers: Headers, hosts: Collection[str]) -> None:
    """Refuse a request that a page of another web site made a browser send; its Host was checked before.

    Browsers say where a request comes from; programs say nothing and are let through. Pages of this machine (OHIF
    while it is developed) and of the origins that MONAI Label is configured for may send requests.

    Raises:
        ClientError: 403, with what to configure.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return  # browsers set both, and pages cannot change them
    configured = [str(allowed).rstrip("/") for allowed in settings.MONAI_LABEL_CORS_ORIGINS or ()]
    if origin and (origin in configured or _is_own(origin, headers["host"], hosts, local=not configured)):
        return
    raise ClientError(
        f"requests that change something must come from this server's own pages, not from {origin or 'another site'}; "
        "start it with --conf hosts NAME to allow those of another host",
        403,
    )


def _is_own(origin: str, host: str, hosts: Collection[str], local: bool) -> bool:
    """Whether pages of an origin are this server's, or (`local`) any of this machine."""
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    # Behind a proxy with TLS the scheme is another, and the Host may be the proxy's word
    return parts.netloc.lower() == host.lower() or name in hosts or (local and is_loopback(name))

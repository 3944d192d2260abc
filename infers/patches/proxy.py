"""The way from OHIF to the DICOMweb server behind the study list: /proxy/dicom/...

MONAI Label 0.8.5 drops the query (so that every search finds everything), waits for the answer with the server's only
event loop, and lets `..` lead to other addresses of that server. Here a request goes on whole, in a thread, with the
study list's own user and password, and only below the DICOMweb root.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import requests
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from infers.errors import ClientError, NotFound, ServerUnreachable, dicomweb_problem

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes
PASSED_ON = ("accept", "accept-language", "content-type", "if-none-match", "if-modified-since", "range")
# About the content; what else a server says is about its own connection, its cookies and its passwords
PASSED_BACK = (
    *("accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-location"),
    *("content-range", "content-type", "etag", "expires", "last-modified", "retry-after", "warning"),
)
_IN_PATH = "/:@!$&'()*+,;=~-._"


async def _body(request: Request) -> bytes:
    return await request.body()


def add_proxy(router: APIRouter, stored: Callable[[], None]) -> None:
    """Add the proxy's routes.

    Args:
        router: where to.
        stored: called after a client stored something on the DICOMweb server.
    """

    def forward(request: Request, path: str, body: Annotated[bytes, Depends(_body)]) -> StreamingResponse:
        service, _, rest = path.partition("/")
        if service not in ("wado", "qido", "stow"):
            service, rest = "", path
        answer = _send(request, address(service, rest), body)
        if request.method == "POST" and answer.ok:
            stored()
        return StreamingResponse(_content(answer), answer.status_code, _headers(answer.headers))

    # A segmentation that is stored there is a final label, and labels are the annotators' to save
    roles = {"GET": settings.MONAI_LABEL_AUTH_ROLE_USER, "POST": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR}
    for method, role in roles.items():
        router.add_api_route(
            "/proxy/dicom/{path:path}",
            forward,
            methods=[method],
            dependencies=[Depends(RBAC(role))],
            include_in_schema=False,
        )


def address(service: str, path: str) -> str:
    """The DICOMweb server's address of a resource.

    Args:
        service: `wado`, `qido`, `stow`, or nothing: which of MONAI Label's address prefixes comes before the path.
        path: below the service's root, decoded.

    Raises:
        NotFound: the study list is no DICOMweb server.
        ClientError: a path that leads out of the root.
    """
    root = str(settings.MONAI_LABEL_STUDIES)
    if not root.startswith(("http://", "https://")):
        raise NotFound("the study list is a folder: start the server with --studies http://HOST/dicom-web for OHIF")
    parts = path.replace("\\", "/").split("/")
    if any(part in ("..", ".") for part in parts):
        raise ClientError(f"a DICOMweb path must stay below its root, got {path[:80]!r}")
    if parts[-1] == "metadata" and service == "qido":
        service = "wado"  # OHIF asks the search service for metadata, which the retrieve service has
    prefix = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }.get(service)
    return "/".join(part for part in (root.rstrip("/"), prefix, quote(path, safe=_IN_PATH)) if part)


def _send(request: Request, target: str, body: bytes) -> requests.Response:
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    headers["accept-encoding"] = "identity"  # what is not packed needs no unpacking, neither here nor there
    auth: Any = None
    if is_google(target):
        headers["authorization"] = f"Bearer {_google_token()}"
    elif settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    try:
        answer = requests.request(
            request.method,
            f"{target}?{request.url.query}" if request.url.query else target,
            data=body or None,
            headers=headers,
            auth=auth,
            stream=True,
            timeout=settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT,
            allow_redirects=False,  # what is sent, and the password, is for this server only
        )
    except requests.RequestException as error:
        logger.warning("%s to the DICOMweb server: %s", request.method, type(error).__name__)
        raise ServerUnreachable(dicomweb_problem(error)) from error
    if not 200 <= answer.status_code < 600:
        answer.close()
        raise ServerUnreachable(f"the DICOMweb server answered with {answer.status_code}, which HTTP does not have")
    if answer.is_redirect:
        answer.close()
        raise ServerUnreachable(
            f"the DICOMweb server points to {answer.headers['location'][:200]!r}, which is not followed: start with "
            "--studies and the address that it means"
        )
    return answer


def is_google(address: str) -> bool:
    """Whether an address is of Google's, whose tokens nobody else may see."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and (host == "googleapis.com" or host.endswith(".googleapis.com"))


def _content(answer: requests.Response) -> Iterator[bytes]:
    with answer:
        yield from answer.raw.stream(CHUNK, decode_content=False)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that go back, as far as they may be said at all; a length only where it is one."""
    given = {name: headers[name] for name in PASSED_BACK if headers.get(name, "").isprintable() and name in headers}
    length = headers.get("content-length", "")
    return {**given, "content-length": length} if length.isascii() and length.isdigit() else given


def _google_token() -> str:
    import google.auth
    import google.auth.transport.requests

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(google.auth.transport.requests.Request())
    return str(credentials.token)

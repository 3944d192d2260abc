"""What clients may send: names that are no paths, files of any name, parameters that are known."""

from __future__ import annotations

import ipaddress
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fastapi import Request, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from pydantic import BaseModel

from infers.errors import ClientError
from infers.records import RecordError, parse_record
from lib.imaging.files import temporary_folder
from lib.parsing import ParseError, parse

LONGEST_NAME = 240  # bytes; file systems allow 255, and a record is called NAME.oneprompt.json
NAMES = ("image", "label", "id", "tag", "model", "session_id", "strategy", "method")

OWN_IMAGE_KEYS = frozenset("strategy path ts name found note".split())  # of an image, which clients may not set

Model = TypeVar("Model", bound=BaseModel)


def safe_name(kind: str, name: str) -> str:
    """`name`, if it can only ever be a file in its own folder.

    Raises:
        ClientError: separators, a leading dot, control characters, nothing at all, or too long.
    """
    bad = (
        not name or name.startswith(".") or len(name.encode(errors="replace")) > LONGEST_NAME or not name.isprintable()
    )
    if bad or any(character in name for character in "/\\"):
        raise ClientError(
            f"{kind} must be a plain name of 1 to {LONGEST_NAME} bytes without separators or a leading dot, got "
            f"{name[:80]!r}"
        )
    return name


async def check_names(request: Request) -> None:
    """Refuse path and query parameters that are paths where names are meant. Raises ClientError.

    A coroutine, so that requests that wait in line took no thread for it.
    """
    for kind in NAMES:
        for value in (request.path_params.get(kind), *request.query_params.getlist(kind)):
            if value:
                safe_name(kind, value)


def check_reader(request: Request) -> None:
    """Refuse the server's log, which names studies, to whoever neither sits at the server nor logged in.

    Raises:
        ClientError: 403.
    """
    host = request.client.host if request.client else ""
    if not settings.MONAI_LABEL_AUTH_ENABLE and not is_loopback(host):
        raise ClientError("the log is shown on the server's own machine, or to an admin who logged in", 403)


def is_loopback(name: str) -> bool:
    """Whether a name or an address literal can only ever mean the machine that says it."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_role(user: User, role: str, doing: str) -> None:
    """Refuse what needs a further role than the route that it is asked of. Raises ClientError, 403, with `doing`."""
    if settings.MONAI_LABEL_AUTH_ENABLE and role not in ("*", *user.roles):
        raise ClientError(f"{doing} needs the role {role}, which {user.username} does not have", 403)


def checked(model: type[Model], values: Mapping[str, Any] | None, what: str = "params") -> Model:
    """What a client said, as a model's object.

    Raises:
        ClientError: which keys, or what value of a key, are allowed, and which were given.
    """
    try:
        return parse(model, values or {}, what)
    except ParseError as error:
        raise ClientError(str(error)) from error


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object from a form field. Raises ClientError for anything else."""
    try:
        value = parse_record(text or "{}")
    except RecordError as error:
        raise ClientError(f"{what} must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise ClientError(f"{what} must be a JSON object, got {text[:80]!r}")
    return value


def image_info(text: str, what: str, user: str) -> dict[str, Any]:
    """What a client says of an image, without what only the server knows of it. Raises ClientError."""
    given = json_object(text, what)
    return {**{key: value for key, value in given.items() if key not in OWN_IMAGE_KEYS}, "user": user}


@contextmanager
def received(file: UploadFile) -> Iterator[Path]:
    """An upload as a temporary file in a folder of its own, removed at the end, also where the upload is refused.

    Only its suffix comes from the client. Nothing lies beside it that its header could name, and nobody else on this
    machine can read it. A background task would not do: there are none after an error.
    """
    suffix = re.search(r"(\.nii\.gz|\.seg\.nrrd|\.[a-z0-9]{1,12})?$", (file.filename or "upload.nii.gz").lower())
    with temporary_folder() as folder:
        path = Path(folder) / f"upload{suffix[0] if suffix else ''}"
        with path.open("xb") as target:
            shutil.copyfileobj(file.file, target)
        yield path


def stem(name: str) -> str:
    """A file's name without its suffix, `.nii.gz` included."""
    name = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"(\.nii\.gz|\.[^.]*)$", "", name, flags=re.IGNORECASE)

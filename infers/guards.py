"""What clients may send: names that are no paths, archives that stay in their folder, parameters that are known."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import Request, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from infers.errors import ClientError

LONGEST_NAME = 200  # characters; file systems allow 255 bytes, suffixes included
LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
NAMES = ("image", "label", "id", "tag", "model", "session_id", "strategy", "method")

# What a client may say about a training run. MONAI Label passes everything on, paths and Python paths included.
TRAIN_PARAMS = frozenset(
    "client_id dataloader dataset device early_stop_patience gpus learning_rate max_epochs mode model multi_gpu name "
    "pretrained steps_per_epoch tracking tracking_experiment_name tracking_run_name train_batch_size val_batch_size "
    "val_split".split()
)
COUNTS = ("max_epochs", "steps_per_epoch", "train_batch_size")
BATCH_PARAMS = frozenset(
    "client_id device gpus images label_tag logging max_batch_size max_workers multi_gpu save_label".split()
)


def safe_name(kind: str, name: str) -> str:
    """`name`, if it can only ever be a file in its own folder.

    Raises:
        ClientError: separators, a leading dot, control characters, nothing at all, or too long.
    """
    bad = not name or name.startswith(".") or len(name) > LONGEST_NAME or not name.isprintable()
    if bad or any(character in name for character in "/\\"):
        raise ClientError(
            f"{kind} must be a plain name of 1 to {LONGEST_NAME} characters without separators or a leading dot, got "
            f"{name[:80]!r}"
        )
    return name


def check_names(request: Request) -> None:
    """Refuse path and query parameters that are paths where names are meant. Raises ClientError."""
    for kind in NAMES:
        for value in (request.path_params.get(kind), *request.query_params.getlist(kind)):
            if value:
                safe_name(kind, value)


def check_origin(request: Request) -> None:
    """Refuse a request that a page of another web site made a browser send.

    Browsers say where a request comes from; programs say nothing and are let through. Pages of this machine (OHIF
    while it is developed) and of the origins that MONAI Label is configured for may send requests.

    Raises:
        ClientError: 403, with what to configure.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return  # browsers set both, and pages cannot change them
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    configured = [str(allowed).rstrip("/") for allowed in settings.MONAI_LABEL_CORS_ORIGINS or ()]
    if origin and (
        origin == own
        or origin in configured
        or "*" in configured
        or (not configured and re.fullmatch(LOOPBACK, origin))
    ):
        return
    raise ClientError(
        f"requests that change something must come from this server's own pages, not from {origin or 'another site'}; "
        "list that address in MONAI_LABEL_CORS_ORIGINS to allow it",
        403,
    )


def check_sender(request: Request) -> None:
    """`check_origin` for every method that changes something, uses the processor, or stores: all but reading.

    MONAI Label obeys any web site: CORS only keeps the site from reading what came of it. Raises ClientError.
    """
    if request.method not in READING:
        check_origin(request)


def check_role(user: User, role: str, doing: str) -> None:
    """Refuse what needs a further role than the route that it is asked of. Raises ClientError, 403, with `doing`."""
    if settings.MONAI_LABEL_AUTH_ENABLE and role not in ("*", *user.roles):
        raise ClientError(f"{doing} needs the role {role}, which {user.username} does not have", 403)


def check_params(params: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Refuse parameters of a subprocess that are not on its list, run names that are paths, and counts of nothing.

    Raises:
        ClientError: which are allowed and which were given.
    """
    if unknown := sorted(set(params) - allowed):
        raise ClientError(f"params must be among {', '.join(sorted(allowed))}; got {', '.join(unknown)}")
    for key in ("name", "tracking_experiment_name", "tracking_run_name", "label_tag"):
        if params.get(key):
            safe_name(key, str(params[key]))
    for key in COUNTS:
        if key in params and not re.fullmatch(r"[1-9][0-9]*", str(params[key])):
            raise ClientError(f"{key} must be a whole number from 1 on, got {params[key]!r}")


def check_archive(file: UploadFile) -> None:
    """Refuse an archive with entries that would be unpacked outside its folder, or that are links.

    Raises:
        ClientError: the offending entry, or an archive that cannot be read.
    """
    try:
        entries = _entries(file)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ClientError(f"uncompress needs a zip or tar archive, got {file.filename!r}: {error}") from error
    finally:
        file.file.seek(0)
    for name, plain in entries:
        path = PurePosixPath(name.replace("\\", "/"))
        if not plain or path.is_absolute() or ".." in path.parts:
            raise ClientError(f"an archive must hold plain files below its own folder, got {name!r}")


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object from a form field. Raises ClientError for anything else."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ClientError(f"{what} must be a JSON object, got {text[:80]!r}: {error}") from error
    if not isinstance(value, dict):
        raise ClientError(f"{what} must be a JSON object, got {text[:80]!r}")
    return value


@contextmanager
def received(file: UploadFile) -> Iterator[Path]:
    """An upload as a private temporary file, removed at the end, also where the upload is refused.

    Only its suffix comes from the client. A background task would not do: there are none after an error.
    """
    suffix = re.search(r"(\.nii\.gz|\.seg\.nrrd|\.[a-z0-9]{1,12})?$", (file.filename or "upload.nii.gz").lower())
    with tempfile.NamedTemporaryFile(suffix=suffix[0] if suffix else "", prefix="oneprompt-", delete=False) as target:
        path = Path(target.name)
        try:
            shutil.copyfileobj(file.file, target)
            target.flush()
            yield path
        finally:
            path.unlink(missing_ok=True)


def stem(name: str) -> str:
    """A file's name without its suffix, `.nii.gz` included."""
    name = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"(\.nii\.gz|\.[^.]*)$", "", name, flags=re.IGNORECASE)


def _entries(file: UploadFile) -> list[tuple[str, bool]]:
    """(name, whether it is a plain file or folder) of everything in an archive."""
    if zipfile.is_zipfile(file.file):
        with zipfile.ZipFile(file.file) as archive:
            # A link in a zip is a plain file when unpacked by Python
            return [(entry.filename, True) for entry in archive.infolist()]
    file.file.seek(0)
    with tarfile.open(fileobj=file.file) as tar:
        return [(member.name, member.isfile() or member.isdir()) for member in tar]

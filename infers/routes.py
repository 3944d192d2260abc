"""MONAI Label's HTTP routes as this app needs them, put before the stock ones.

Every stock endpoint is a coroutine that computes while it holds the server's only event loop, so that nobody gets an
answer while somebody infers. Here each of them runs in a thread. On the way names are checked, errors of the client
become answers with a status from 400 to 499, and what would write or read outside the study list is refused. The
roles that MONAI Label asks for stay with each route.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse
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
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.utils.others.generic import get_mime_type, remove_file
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from infers.datastore import FINAL, safe_name
from infers.errors import ClientError, NotFound
from infers.studies import MODEL
from lib.checkpoints import CheckpointError
from lib.images import ImageError
from lib.prompts import PromptError
from lib.templates import TemplateError

logger = logging.getLogger(__name__)

STOCK = (info, model, infer, batch_infer, train, activelearning, scoring, datastore, logs, session)
NAMES = ("image", "label", "id", "tag", "model", "session_id", "strategy", "method")
REFUSALS = (ImageError, PromptError, TemplateError, CheckpointError)  # of the library: always about what was given
LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"

Upload = Annotated[UploadFile, File()]
Uploads = Annotated[list[UploadFile], File()]
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

# What a client may say about a training run. MONAI Label passes everything on, paths and Python paths included.
TRAIN_PARAMS = frozenset({
    "name", "pretrained", "device", "max_epochs", "early_stop_patience", "val_split", "train_batch_size",
    "val_batch_size", "multi_gpu", "gpus", "dataset", "dataloader", "tracking", "tracking_experiment_name",
    "tracking_run_name", "client_id", "model", "learning_rate", "steps_per_epoch",
})  # fmt: skip
BATCH_PARAMS = frozenset({
    "device", "multi_gpu", "gpus", "logging", "save_label", "label_tag", "max_workers", "max_batch_size", "images",
    "client_id",
})  # fmt: skip


def install(server: FastAPI, app: Any) -> None:
    """Put this app's routes, error answers and allowed origins into MONAI Label's server.

    Args:
        server: `monailabel.app.app`, already starting: its routes and middleware are exchanged as whole objects.
        app: `infers.assembly.Assembly`.
    """
    router = APIRouter()
    _add_own(router, app)
    for module in STOCK:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                _add_stock(router, route)
    server.router.routes[0:0] = router.routes
    for kind in (ClientError, *REFUSALS, MONAILabelException, json.JSONDecodeError):
        server.add_exception_handler(kind, _answer)
    if not settings.MONAI_LABEL_CORS_ORIGINS:
        # MONAI Label would let any web site read patients' images through the annotator's browser
        server.user_middleware = [m for m in server.user_middleware if getattr(m, "cls", None) is not CORSMiddleware]
        server.user_middleware.append(Middleware(
            CORSMiddleware, allow_origin_regex=LOOPBACK, allow_credentials=True, allow_methods=["*"],
            allow_headers=["*"],
        ))  # fmt: skip
    server.middleware_stack = server.build_middleware_stack()


async def _answer(request: Request, error: Exception) -> JSONResponse:
    """The error as JSON with a `detail`."""
    if isinstance(error, ClientError):
        return JSONResponse({"detail": error.detail}, error.status)
    if isinstance(error, json.JSONDecodeError):
        return JSONResponse({"detail": f"params must be JSON, got something else: {error}"}, 400)
    if isinstance(error, MONAILabelException):
        status = {MONAILabelError.INVALID_INPUT: 400, MONAILabelError.APP_ERROR: 404}.get(error.error, 500)
        return JSONResponse({"detail": str(error.msg)}, 404 if "no such strategy" in str(error.msg) else status)
    return JSONResponse({"detail": str(error)}, 400)


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


def check_names(request: Request) -> None:
    """Refuse path and query parameters that are paths where names are meant.

    Raises:
        ClientError: see `safe_name`.
    """
    for kind in NAMES:
        for value in (request.path_params.get(kind), *request.query_params.getlist(kind)):
            if value:
                safe_name(kind, value)


def _add_stock(router: APIRouter, route: APIRoute) -> None:
    endpoint = route.endpoint
    router.add_api_route(
        settings.MONAI_LABEL_API_STR + route.path,
        in_thread(endpoint) if inspect.iscoroutinefunction(endpoint) else endpoint,
        methods=sorted(route.methods or ["GET"]),
        dependencies=[*route.dependencies, Depends(check_names)],
        summary=route.summary,
        tags=route.tags,
        responses=route.responses,
        include_in_schema=route.include_in_schema,
        deprecated=route.deprecated,
    )


def _add_own(router: APIRouter, app: Any) -> None:
    prefix = settings.MONAI_LABEL_API_STR
    checked = [Depends(check_names)]

    @router.get(prefix + "/oneprompt/status", tags=["One-Prompt"])
    def status(user: User = USER) -> dict[str, Any]:
        return app.status()

    @router.post(prefix + "/oneprompt/job", status_code=202, tags=["One-Prompt"])
    def start_job(user: User = ANNOTATOR) -> dict[str, Any]:
        return app.start_job()

    @router.delete(prefix + "/oneprompt/job", status_code=202, tags=["One-Prompt"])
    def cancel_job(user: User = ANNOTATOR) -> dict[str, Any]:
        return app.cancel_job()

    @router.post(prefix + "/infer/{model}", tags=["Infer"], dependencies=checked)
    def run_inference(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: Upload | None = None,
        label: Upload | None = None,
        output: infer.ResultType | None = None,
        user: User = USER,
    ) -> Any:
        request = _object(params, "params")
        for key in ("image", "model", "session", "label_file", "image_id", "save_label", "label_tag"):
            request.pop(key, None)  # said by the address, or not at all
        request["model"] = model
        if session_id:
            found = app.sessions().get_session(session_id) if app.sessions() else None
            if not found:
                raise NotFound(f"there is no session {session_id!r} (any more): upload the image again")
            request["image"] = found.image
        elif file:
            request["image"] = str(_received(file, background_tasks))
        elif image:
            request["image_id"] = image
        else:
            raise ClientError("say which image: image=ID of the study list, session_id=ID, or a `file`")
        if label:
            request["label_file"] = str(_received(label, background_tasks))
        result = app.infer(request)
        if output == infer.ResultType.dicom_seg:
            raise ClientError("output=dicom_seg is not offered by this app: ask for all, image or json", 406)
        return infer.send_response(app.datastore, result, output, background_tasks)

    @router.put(prefix + "/datastore/label", tags=["Datastore"], dependencies=checked)
    def save_label(
        background_tasks: BackgroundTasks,
        image: str,
        params: str = Form("{}"),
        tag: str = FINAL,
        *,
        label: Upload,
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        path = _received(label, background_tasks)
        return app.save_label(image, path, tag or FINAL, {**_object(params, "params"), "user": user.username})

    @router.put(prefix + "/datastore/", tags=["Datastore"], dependencies=checked)
    @router.put(prefix + "/datastore/image", tags=["Datastore"], dependencies=checked)
    def add_image(
        background_tasks: BackgroundTasks,
        image: str | None = None,
        params: str = Form("{}"),
        *,
        file: Upload,
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        path = _received(file, background_tasks)
        name = image or _stem(file.filename or path.name)
        return {"image": app.add_image(name, path, {**_object(params, "params"), "user": user.username})}

    @router.get(prefix + "/datastore/image", tags=["Datastore"], dependencies=checked)
    def download_image(image: str, background_tasks: BackgroundTasks, user: User = USER) -> FileResponse:
        path = app.image_path(image)
        if path.is_dir():  # a DICOM series; clients open one file
            path, folder = app.as_file(image, path), path
            background_tasks.add_task(remove_file, str(path))
            return FileResponse(path, media_type=get_mime_type(str(path)), filename=f"{folder.name}.nii.gz")
        return FileResponse(path, media_type=get_mime_type(str(path)), filename=path.name)

    @router.head(prefix + "/datastore/image", tags=["Datastore"], dependencies=checked)
    def check_image(image: str, check_sum: str | None = None, user: User = USER) -> Any:
        if app.image_path(image).is_dir():
            return {}
        return datastore.download_image(image, check_only=True, check_sum=check_sum)

    @router.put(prefix + "/session/", tags=["Session"])
    def create_session(
        background_tasks: BackgroundTasks,
        uncompress: bool = False,
        expiry: int = 0,
        *,
        files: Uploads,
        user: User = USER,
    ) -> Any:
        if uncompress:
            for file in files:
                check_archive(file)
        return session.create_session(background_tasks, uncompress, expiry, files)

    @router.post(prefix + "/train/", include_in_schema=False, deprecated=True)
    def train_all(params: dict | None = None, run_sync: bool = False, user: User = ADMIN) -> Any:
        for own in (params or {}).values():
            if isinstance(own, dict):
                check_params(own, TRAIN_PARAMS)
        check_params({k: v for k, v in (params or {}).items() if not isinstance(v, dict)}, TRAIN_PARAMS)
        app.check_training(MODEL)
        return train.run(params, False)

    @router.post(prefix + "/train/{model}", tags=["Train"], dependencies=checked)
    def train_one(
        model: str, params: dict | None = None, run_sync: bool = False, enqueue: bool = False, user: User = ADMIN
    ) -> Any:
        check_params(params or {}, TRAIN_PARAMS)
        app.check_training(model)
        return train.run_model(model, params, False, enqueue)

    @router.post(prefix + "/batch/infer/{model}", tags=["Infer"], dependencies=checked)
    def batch(
        model: str,
        images: batch_infer.BatchInferImageType = batch_infer.BatchInferImageType.IMAGES_ALL,
        params: dict | None = None,
        run_sync: bool = False,
        user: User = ADMIN,
    ) -> Any:
        check_params(params or {}, BATCH_PARAMS)
        app.check_batch(model, params or {})
        return batch_infer.run(model, images, dict(params or {}), run_sync)

    @router.put(prefix + "/model/{model}", tags=["Model"], dependencies=checked)
    def upload_weights(
        model: str, file: UploadFile, background_tasks: BackgroundTasks, user: User = ADMIN
    ) -> dict[str, Any]:
        return app.publish_upload(model, _received(file, background_tasks))

    @router.delete(prefix + "/model/{model}", tags=["Model"], dependencies=checked)
    def remove_weights(model: str, user: User = ADMIN) -> dict[str, Any]:
        return app.remove_published(model)


def check_params(params: dict[str, Any], allowed: frozenset[str]) -> None:
    """Refuse parameters of a subprocess that are not on its list, and run names that are paths.

    Raises:
        ClientError: which are allowed and which were given.
    """
    if unknown := sorted(set(params) - allowed):
        raise ClientError(f"params must be among {', '.join(sorted(allowed))}; got {', '.join(unknown)}")
    for key in ("name", "tracking_experiment_name", "tracking_run_name", "label_tag"):
        if params.get(key):
            safe_name(key, str(params[key]))


def check_archive(file: UploadFile) -> None:
    """Refuse an archive with entries that would be unpacked outside its folder, or that are links.

    Raises:
        ClientError: the offending entry, or an archive that cannot be read.
    """
    try:
        if zipfile.is_zipfile(file.file):
            file.file.seek(0)
            with zipfile.ZipFile(file.file) as archive:
                entries = [(entry.filename, False) for entry in archive.infolist()]
        else:
            file.file.seek(0)
            with tarfile.open(fileobj=file.file) as tar:
                entries = [(member.name, not (member.isfile() or member.isdir())) for member in tar]
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise ClientError(f"uncompress needs a zip or tar archive, got {file.filename!r}: {error}") from error
    finally:
        file.file.seek(0)
    for name, is_link in entries:
        path = PurePosixPath(name.replace("\\", "/"))
        if is_link or path.is_absolute() or ".." in path.parts or ":" in name:
            raise ClientError(f"an archive must hold plain files below its own folder, got {name!r}")


def _object(text: str, what: str) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ClientError(f"{what} must be a JSON object, got {text[:80]!r}")
    return value


def _received(file: UploadFile, background_tasks: BackgroundTasks) -> Path:
    """Write an upload to a private temporary file, removed after the answer; only its suffix comes from the client."""
    name = Path(file.filename or "upload.nii.gz").name.lower()
    suffix = next((s for s in (".nii.gz", ".seg.nrrd") if name.endswith(s)), Path(name).suffix)
    with tempfile.NamedTemporaryFile(suffix=suffix, prefix="oneprompt-", delete=False) as target:
        background_tasks.add_task(remove_file, target.name)
        shutil.copyfileobj(file.file, target)
    return Path(target.name)


def _stem(name: str) -> str:
    name = Path(name).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem

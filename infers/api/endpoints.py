"""The app's own HTTP endpoints: those it adds under /oneprompt, and those of MONAI Label that it answers itself."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import batch_infer, datastore, infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.others.generic import get_mime_type, remove_file
from pydantic import BaseModel

from infers.annotate.endpoints import add_annotation
from infers.api.app import App, Sessions
from infers.api.archives import received_image
from infers.api.lines import Lines
from infers.api.strict import route_class
from infers.board.endpoints import add_board
from infers.errors import ClientError, NotFound
from infers.guards import check_names, check_role, checked, image_info, json_object, received, stem
from infers.label_records import FINAL, Statement
from infers.params import BatchParams, TrainParams
from infers.patches.async_tasks import tasks
from infers.patches.log_routes import add_logs
from infers.patches.login import add_login
from infers.patches.ohif import add_ohif
from infers.patches.proxy import add_proxy
from infers.study_list.studies import MODEL
from infers.tasks.request import USE_AS_TEMPLATE, is_marked
from infers.tasks.submit import SUBMIT

Output = Literal["image", "json", "all", "dicom_seg", "rtstruct"]  # MONAI Label's own, and the last
DICOM_OUTPUTS = ("dicom_seg", "rtstruct")
Upload = Annotated[UploadFile, File()]
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


class UseListUNet(BaseModel):
    """Whether the network that was trained for this list alone is offered."""

    use: bool


def _describing(model: type[BaseModel]) -> dict[str, Any]:
    """What the server's description says of a body that `checked` reads as this model."""
    return {"requestBody": {"content": {"application/json": {"schema": model.model_json_schema()}}}}


_starting = threading.Lock()


def _refuse_second(method: str) -> None:
    """MONAI Label only looks for running processes, and would queue a second one that comes quickly."""
    if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks(method)):
        raise ClientError(f"a {method} task is already running: wait for its end, or stop it with DELETE", 429)


def own_router(app: App, sessions: Sessions | None, lines: Lines | None = None) -> APIRouter:
    """Routes that speak to `app`.

    Args:
        app: the app.
        sessions: MONAI Label's uploads, None where they are off.
        lines: where what they do waits for its turn.
    """
    router = APIRouter(
        prefix=settings.MONAI_LABEL_API_STR,
        dependencies=[Depends(check_names)],
        route_class=route_class(lines or Lines()),
    )
    _add_oneprompt(router, app)
    add_board(router, app.board, app.job)
    add_annotation(router, app.desk, app.prompted)
    _add_inference(router, app, sessions)
    _add_studies(router, app, sessions)
    _add_training(router, app)
    _add_refusals(router)
    add_ohif(router)
    add_login(router)
    add_logs(router)
    add_proxy(router, app.images.stored_elsewhere)
    return router


def _add_oneprompt(router: APIRouter, app: App) -> None:
    @router.get("/oneprompt/status", tags=["One-Prompt"])
    def status(all: bool = False, user: User = USER) -> dict[str, Any]:
        return app.status.of_list(all)

    @router.post("/oneprompt/job", status_code=202, tags=["One-Prompt"])
    def start_job(user: User = ANNOTATOR) -> dict[str, Any]:
        app.studies.require_template()
        return app.job.trigger().to_dict()

    @router.delete("/oneprompt/job", status_code=202, tags=["One-Prompt"])
    def cancel_job(user: User = ANNOTATOR) -> dict[str, Any]:
        return app.job.cancel().to_dict()

    @router.post("/oneprompt/job/undo", tags=["One-Prompt"])
    def undo_job(user: User = ANNOTATOR) -> dict[str, Any]:
        return {"removed": app.job.undo(), **app.job.status().to_dict()}


def _add_inference(router: APIRouter, app: App, sessions: Sessions | None) -> None:
    @router.post("/infer/{model}", tags=["Infer"])
    def run_inference(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: Upload | None = None,
        label: Upload | None = None,
        output: Output | None = None,
        frame: int = 0,
        user: User = USER,
    ) -> Any:
        request = json_object(params, "params")
        for key in ("image", "session", "label_file", "image_id", "save_label", "label_tag"):
            request.pop(key, None)  # said by the address, or not at all
        if frame and output in DICOM_OUTPUTS:
            raise ClientError(
                f"output={output} refers to the first volume of a series: leave `frame` out, or ask for image"
            )
        request |= {"model": model, "user": user.username, "frame": frame}
        if is_marked(request):
            check_role(user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, f"{USE_AS_TEMPLATE}, which saves a label,")
        if model == SUBMIT:
            check_role(user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, f"{SUBMIT}, which saves a label,")
        with ExitStack() as uploads:
            result = app.inference.run(_on_image(request, image, session_id, file, label, uploads))
        if output in DICOM_OUTPUTS:
            try:
                write = app.inference.as_dicom_seg if output == "dicom_seg" else app.inference.as_rtstruct
                made = write(image, result)
            finally:
                remove_file(result["file"])
            background_tasks.add_task(remove_file, made)
            return FileResponse(made, media_type="application/dicom", filename=f"{output}.dcm")
        return infer.send_response(app.datastore, result, output, background_tasks)

    def _on_image(
        request: dict[str, Any],
        image: str,
        session_id: str,
        file: UploadFile | None,
        label: UploadFile | None,
        uploads: ExitStack,
    ) -> dict[str, Any]:
        """The request with its image and label; `uploads` removes those that were sent along."""
        if session_id:
            session = sessions.get_session(session_id) if sessions else None
            if not session:
                raise NotFound(f"there is no session {session_id!r} (any more): upload the image again")
            request["image"] = session.image
        elif file:
            request["image"] = str(uploads.enter_context(received(file)))
        elif image:
            request["image_id"] = image
        else:
            raise ClientError("say which image: image=ID of the study list, session_id=ID, or a `file`")
        if label:
            request["label_file"] = str(uploads.enter_context(received(label)))
        return request

    @router.post("/batch/infer/{model}", tags=["Infer"], openapi_extra=_describing(BatchParams))
    def batch(
        model: str,
        images: batch_infer.BatchInferImageType = batch_infer.BatchInferImageType.IMAGES_ALL,
        params: dict[str, Any] | None = None,
        user: User = ADMIN,
    ) -> Any:
        given = checked(BatchParams, params).given()
        app.inference.check_batch(model, given)
        with _starting:
            _refuse_second("batch_infer")
            return batch_infer.run(model, images, given)


def _add_studies(router: APIRouter, app: App, sessions: Sessions | None) -> None:
    @router.put("/datastore/label", tags=["Datastore"])
    def save_label(
        image: str,
        label: Upload,
        params: str = Form("{}"),
        tag: str = FINAL,
        seen: str | None = None,
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        statement = Statement.from_json(json_object(params, "params"))
        with received(label) as path:
            return app.labels.save(image, path, tag or FINAL, statement, user.username, seen)

    @router.put("/datastore/label/info", tags=["Datastore"])
    def describe_label(label: str, tag: str, info: str = Form("{}"), user: User = ANNOTATOR) -> None:
        app.labels.describe(label, tag, Statement.from_json(json_object(info, "info")), user.username)

    @router.put("/datastore/updatelabelinfo", include_in_schema=False, deprecated=True)
    def describe_label_as_before(label: str, tag: str, params: str = Form("{}"), user: User = ANNOTATOR) -> None:
        app.labels.describe(label, tag, Statement.from_json(json_object(params, "params")), user.username)

    @router.put("/datastore/", tags=["Datastore"])
    @router.put("/datastore/image", tags=["Datastore"])
    def add_image(
        file: Upload,
        image: str | None = None,
        params: str = Form("{}"),
        user: User = ANNOTATOR,
    ) -> dict[str, Any]:
        info = image_info(params, "params", user.username)
        name = image or stem(file.filename or "")
        with received(file) as path:
            return {"image": app.images.add(name, path, info)}

    @router.get("/datastore/image", tags=["Datastore"])
    def download_image(image: str, background_tasks: BackgroundTasks, user: User = USER) -> FileResponse:
        path = app.images.path(image)
        name = path.name
        if path.is_dir():  # a DICOM series; clients open one file
            path, name = app.images.as_file(path), f"{image}.nii.gz"
            background_tasks.add_task(remove_file, str(path))
        return FileResponse(path, media_type=get_mime_type(str(path)), filename=name)

    @router.head("/datastore/image", tags=["Datastore"])
    def check_image(image: str, check_sum: str | None = None, user: User = USER) -> Any:
        if app.images.path(image).is_dir():
            return {}
        return datastore.download_image(image, check_only=True, check_sum=check_sum)

    @router.put("/datastore/image/info", tags=["Datastore"])
    def describe_image(image: str, info: str = Form("{}"), user: User = ANNOTATOR) -> None:
        app.datastore.update_image_info(image, image_info(info, "info", user.username))

    @router.get("/datastore/dataset", tags=["Datastore"])
    def download_dataset(
        background_tasks: BackgroundTasks, limit_cases: int | None = None, user: User = ANNOTATOR
    ) -> FileResponse:
        path = app.datastore.get_dataset_archive(limit_cases)  # MONAI Label would leave it where it is
        background_tasks.add_task(remove_file, path)
        return FileResponse(path, media_type=get_mime_type(path), filename="dataset.zip")

    @router.put("/session/", tags=["Session"])
    def create_session(
        files: Annotated[list[UploadFile], File()],
        uncompress: bool = False,
        expiry: int = 0,
        user: User = USER,
    ) -> Any:
        if sessions is None:
            raise ClientError("upload sessions are off: set MONAI_LABEL_SESSIONS=true to have them", 406)
        with received_image(files, uncompress, app.limits) as image:
            name, info = sessions.add_session(str(image), expiry)
        return {"session_id": name, "session_info": info.to_json()}


def _add_training(router: APIRouter, app: App) -> None:
    @router.post("/train/", include_in_schema=False, deprecated=True)
    def train_all(params: dict[str, Any] | None = None, user: User = ADMIN) -> Any:
        common = {key: value for key, value in (params or {}).items() if not isinstance(value, dict)}
        own = (params or {}).get(MODEL) or {}
        given = checked(TrainParams, {**common, **own}).given()
        return {MODEL: {"result": app.trainings.start(given, enqueue=True), "detail": None}}

    @router.post("/train/{model}", tags=["Train"], openapi_extra=_describing(TrainParams))
    def train_one(model: str, params: dict[str, Any] | None = None, enqueue: bool = False, user: User = ADMIN) -> Any:
        return app.trainings.start(checked(TrainParams, params).given(), enqueue, model)

    @router.get("/train/", tags=["Train"])
    def train_status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
        # 3D Slicer follows the training that runs, and MONAI Label tells of the newest one, which may only be waiting
        running = [task for task in tasks("train") if task["status"] == "RUNNING"]
        return running[0] if running and not all else train.status(all, check_if_running)

    @router.delete("/train/", tags=["Train"])
    def stop_training(user: User = ADMIN) -> Any:
        return app.trainings.stop()

    @router.get("/oneprompt/training", tags=["One-Prompt"])
    def training(user: User = USER) -> dict[str, Any]:
        return app.status.of_training()

    @router.post("/oneprompt/training", status_code=202, tags=["One-Prompt"], openapi_extra=_describing(TrainParams))
    def start_own(params: dict[str, Any] | None = None, user: User = ADMIN) -> dict[str, Any]:
        app.trainings.start(checked(TrainParams, params).given(), enqueue=True)
        return app.status.of_training()

    @router.delete("/oneprompt/training", status_code=202, tags=["One-Prompt"])
    def stop_own(user: User = ADMIN) -> dict[str, Any]:
        app.trainings.stop()
        return app.status.of_training()

    @router.post("/oneprompt/versions/{version}", tags=["One-Prompt"])
    def serve_version(version: str, user: User = ADMIN) -> dict[str, Any]:
        return app.publishing.serve(version)

    @router.post("/oneprompt/specialist", tags=["One-Prompt"])
    def use_list_unet(body: UseListUNet, user: User = ADMIN) -> dict[str, Any]:
        return app.publishing.use_list_unet(body.use)

    @router.post("/scoring/", include_in_schema=False, deprecated=True)
    def score_all(params: dict[str, Any] | None = None, user: User = ANNOTATOR) -> Any:
        return scoring.run(params, run_sync=True)

    @router.post("/scoring/{method}", tags=["Scoring"])
    def score(method: str, params: dict[str, Any] | None = None, user: User = ANNOTATOR) -> Any:
        # Here and not in a process of its own, whose notes this one would not see
        return scoring.run_method(method, params, run_sync=True)

    @router.put("/model/{model}", tags=["Model"])
    def upload_weights(model: str, file: Upload, user: User = ADMIN) -> dict[str, Any]:
        with received(file) as path:
            return app.publishing.upload(model, path)

    @router.delete("/model/{model}", tags=["Model"])
    def remove_weights(model: str, user: User = ADMIN) -> dict[str, Any]:
        return app.publishing.remove(model)


def _add_refusals(router: APIRouter) -> None:
    """What MONAI Label offers to everybody and this app to nobody."""

    @router.post("/infer/wsi/{model}", include_in_schema=False)
    @router.post("/infer/wsi_v2/{model}", include_in_schema=False)
    def whole_slides(model: str) -> None:
        raise NotFound("whole-slide images are not offered: export a region as PNG or TIFF and add it to the studies")

    @router.post("/reload", include_in_schema=False)
    def reload() -> None:
        # It would build a second app, with a second job, beside the one that runs
        raise ClientError("reload is not offered: restart the server", 405)

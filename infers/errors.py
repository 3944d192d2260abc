"""Errors that are the client's to mend; the routes turn them into HTTP answers with a readable `detail`."""

from __future__ import annotations

import requests
from monailabel.config import settings

from infers.disks import disk_problem


class ClientError(Exception):
    """A request that cannot be answered as it stands.

    Attributes:
        status: HTTP status, 400 to 499.
        detail: what was allowed, what was given and what to do.
    """

    def __init__(self, detail: str, status: int = 400) -> None:
        if not 400 <= status < 500:
            raise ValueError(f"a client error has an HTTP status from 400 to 499, got {status}")
        super().__init__(detail)
        self.status = status
        self.detail = detail


class NotFound(ClientError):
    """A study, label, model or session that is not there (any more)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, status=404)


class Busy(Exception):
    """More requests than the server takes; says when to try again.

    Attributes:
        status: 429 where the client itself sent too many, 503 where all together did, 507 where the disk is full.
        detail: why.
        retry_after: seconds.
    """

    def __init__(self, detail: str, status: int, retry_after: int) -> None:
        super().__init__(detail)
        self.detail, self.status, self.retry_after = detail, status, retry_after


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class ServerUnreachable(Exception):
    """Another server that this one needs gives no answer; the message says which, and what to do."""


def reason_of(error: Exception) -> str:
    """An error in words for a person."""
    if isinstance(error, requests.RequestException):
        return dicomweb_problem(error)
    if isinstance(error, OSError) and (problem := disk_problem(error)):
        return problem[1]
    return str(error) or type(error).__name__


def dicomweb_problem(error: requests.RequestException) -> str:
    """What is wrong between this server and the DICOMweb server of the study list, and what to do."""
    where = f"the DICOMweb server {settings.MONAI_LABEL_STUDIES}"
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return (
            f"{where} refuses with {status}: set MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD to a "
            "user who may read and store there, and start again"
        )
    if isinstance(error, requests.Timeout):
        return (
            f"{where} gives no answer within {settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT:g} seconds: see whether it "
            "is overloaded, or give it more with MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT"
        )
    if isinstance(error, requests.ConnectionError):
        return f"{where} cannot be reached: see that it runs, or correct --studies ({type(error).__name__})"
    if status == 404:
        return f"{where} does not have that, or --studies is not its DICOMweb root (404): {error}"
    return f"{where} does not answer as it should: {error}"

"""Errors that are the client's to mend; the routes turn them into HTTP answers with a readable `detail`."""

from __future__ import annotations


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


class ServerUnreachable(Exception):
    """Another server that this one needs gives no answer; the message says which, and what to do."""

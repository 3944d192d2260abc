"""JSON bodies as bounded as everything else that is recorded or handed to another process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from infers.limits import Limits
from infers.records import RecordError, parse_record


class StrictRequest(Request):
    """A request whose JSON is read by `parse_record`."""

    async def json(self) -> Any:
        """The body's value. Raises HTTPException, 400, for what is no JSON or cannot be recorded."""
        try:
            return parse_record(await self.body(), Limits.json)  # which is as large as a body may be
        except RecordError as error:
            raise HTTPException(400, f"the body is refused: {error}") from error


class StrictRoute(APIRoute):
    """A route that gets such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle

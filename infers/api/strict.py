"""Routes whose JSON is bounded, and whose work waits in line for its turn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from infers.api.lines import Lines, in_line
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
    """A route that gets such requests; a plain function as its endpoint waits in the line of `lines` for its path."""

    lines: Lines

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        line = self.lines.of(path, options.get("methods") or ["GET"])
        if line is not None and not inspect.iscoroutinefunction(endpoint):
            endpoint = in_line(line, endpoint, self.lines.check)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle


def route_class(lines: Lines) -> type[StrictRoute]:
    """Such routes with these lines."""
    return type("LinedRoute", (StrictRoute,), {"lines": lines})

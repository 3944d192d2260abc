import asyncio
import inspect
import threading
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI

from infers.patches.stock_routes import in_thread
from tests.infers.asgi import get


def test_a_blocking_endpoint_runs_beside_the_event_loop_with_its_parameters():
    def role():
        return "annotator"

    async def endpoint(number: int, user: Annotated[str, Depends(role)]) -> dict:
        return {"number": number + 1, "user": user, "loop": threading.current_thread() is threading.main_thread()}

    assert not inspect.iscoroutinefunction(in_thread(endpoint))
    router = APIRouter()
    router.add_api_route("/x", in_thread(endpoint))
    app = FastAPI()
    app.include_router(router)
    assert get(app, "/x", "number=1") == (200, {"number": 2, "user": "annotator", "loop": False})
    assert get(app, "/x", "")[0] == 422


def test_errors_of_the_endpoint_come_through():
    async def endpoint():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        in_thread(endpoint)()


def test_an_endpoint_that_really_waits_is_not_run_in_a_thread():
    async def endpoint():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="cannot run in a thread"):
        in_thread(endpoint)()

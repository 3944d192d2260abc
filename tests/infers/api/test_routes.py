import contextlib
import inspect
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from monailabel.endpoints.user.auth import RBAC

from infers.api.door import READING
from infers.api.endpoints import own_router
from infers.api.routes import install
from infers.guards import check_names
from infers.patches.stock_routes import STOCK
from tests.infers.api.fakes import FakeApp, FakeSettings
from tests.infers.asgi import get

APP = FakeApp(config=FakeSettings(hosts=()))


def roles(route):
    """The role checks that a route depends on."""
    return [d.call.roles for d in flat(route.dependant) if isinstance(d.call, RBAC)]


def flat(dependant):
    """A route's dependencies, and theirs."""
    for dependency in dependant.dependencies:
        yield dependency
        yield from flat(dependency)


def test_every_endpoint_of_the_app_asks_for_a_role_and_checks_names():
    refusals = {"/infer/wsi/{model}", "/infer/wsi_v2/{model}", "/reload"}
    page = {
        "/oneprompt/",
        "/oneprompt",
        "/oneprompt/static",
        "/oneprompt/annotate",
        "/oneprompt/annotate/static",
    }  # which hold nothing of the studies
    without = refusals | page | {"/auth/token"}  # where a login comes from
    routes = [route for route in own_router(FakeApp(), None).routes if route.path not in without]
    assert len(routes) > 10
    for route in routes:
        assert roles(route), route.path
        assert check_names in [dependency.call for dependency in flat(route.dependant)], route.path


def test_overridden_stock_routes_keep_their_roles():
    server = FastAPI()
    with patched_threads():
        install(server, APP, None)
    ours = {
        (route.path, *sorted(route.methods)): route
        for route in reversed(server.router.routes)
        if hasattr(route, "dependant")
    }
    for module in STOCK:
        for route in module.router.routes:
            replaced = ours[(route.path, *sorted(route.methods))]
            assert bool(roles(replaced)) == bool(roles(route)), route.path
            assert not inspect.iscoroutinefunction(replaced.endpoint) or in_a_line(replaced), route.path


@pytest.mark.parametrize(
    ("header", "value", "status"), [("origin", "https://evil.example", 403), ("host", "evil.example", 421)]
)
def test_no_route_obeys_a_page_of_another_site_or_under_a_name_of_another(header, value, status):
    server = FastAPI()

    @server.get("/of-monailabel")
    @server.post("/of-monailabel")
    def stock():
        return {}

    with patched_threads():
        install(server, APP, None)
    ours = [route for route in server.router.routes if hasattr(route, "methods")]
    changing = {route.path for route in ours if not route.methods <= READING}
    assert {"/infer/{model}", "/train/", "/datastore/label", "/session/", "/oneprompt/accept", "/model/{model}",
            "/activelearning/{strategy}", "/proxy/dicom/{path:path}", "/of-monailabel"} <= changing  # fmt: skip
    for route in ours:
        for method in route.methods - (READING if status == 403 else set()):
            headers = {"host": "localhost", header: value}
            assert get(server, route.path, "", method, headers)[0] == status, (method, route.path)


def in_a_line(route):
    """Whether a route's coroutine only waits for its turn at a thread."""
    return hasattr(route.endpoint, "line")


@contextlib.contextmanager
def patched_threads():
    """The limit of threads belongs to a running event loop; here is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyio.to_thread.current_default_thread_limiter", lambda: SimpleNamespace())
        yield

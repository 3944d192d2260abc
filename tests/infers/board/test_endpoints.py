"""Who may ask the board for what."""

from types import SimpleNamespace

import pytest
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from infers.board.endpoints import add_board
from infers.errors import ClientError
from infers.guards import check_origin

OPEN = {"/oneprompt/", "/oneprompt"}  # the page itself, which holds nothing of the studies


def roles(route):
    """Roles that MONAI Label's dependencies of a route ask for."""
    return {call.roles for dependant in route.dependant.dependencies if isinstance(call := dependant.call, RBAC)}


def test_every_route_asks_for_the_role_that_stock_routes_ask_for():
    router = APIRouter()
    add_board(router, SimpleNamespace())
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 8
    for route in routes:
        if route.path in OPEN:
            assert route.methods == {"GET"}
        elif route.methods == {"GET"}:
            assert roles(route) == {settings.MONAI_LABEL_AUTH_ROLE_USER}, route.path
        else:
            assert roles(route) == {settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR}, route.path


def sent(**headers):
    raw = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "board:8000", **headers}.items()
    ]
    return Request({"type": "http", "method": "POST", "scheme": "http", "server": ("board", 8000), "path": "/",
                    "query_string": b"", "headers": raw})  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "same-origin", "origin": "https://proxy.example"},
        {"origin": "http://board:8000"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "cross-site"},
    ],
)
def test_programs_the_own_pages_and_this_machine_may_change_something(headers):
    check_origin(sent(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "cross-site"},
    ],
)
def test_pages_of_other_sites_may_not(headers):
    with pytest.raises(ClientError, match="own pages") as refused:
        check_origin(sent(**headers))
    assert refused.value.status == 403

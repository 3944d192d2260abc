"""Who may ask the board for what."""

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

from infers.annotate.endpoints import add_annotation
from infers.board.endpoints import add_board
from tests.infers.api.fakes import FakeApp

OPEN = {"/oneprompt/", "/oneprompt", "/oneprompt/annotate"}  # the pages, which hold nothing of the studies
LOOKING = {"/oneprompt/studies/{id}/presence"}  # changes nothing that is kept


def roles(route):
    """Roles that MONAI Label's dependencies of a route ask for."""
    return {call.roles for dependant in route.dependant.dependencies if isinstance(call := dependant.call, RBAC)}


def test_every_route_asks_for_the_role_that_stock_routes_ask_for():
    router = APIRouter()
    app = FakeApp()
    add_board(router, app.board, app.job)
    add_annotation(router, app.desk, app.prompted)
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 8
    for route in routes:
        if route.path in OPEN:
            assert route.methods == {"GET"}
        elif route.methods == {"GET"} or route.path in LOOKING:
            assert roles(route) == {settings.MONAI_LABEL_AUTH_ROLE_USER}, route.path
        else:
            assert roles(route) == {settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR}, route.path

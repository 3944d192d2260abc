"""The way to a login: `POST /auth/token`, and the tokens that it brings.

MONAI Label 0.8.5 reads tokens without saying how they may be signed, which PyJWT refuses since its version 2: no token
is ever accepted. A wrong password is a server error there, and the event loop waits while the realm is asked.

Without that login a proxy may ask for a name and a password (docs/security.md). It tells 3D Slicer so at `GET /auth/`;
Slicer then sends both to `POST /auth/token`, and the token with every request. What such a proxy checks is HTTP's Basic
login (RFC 7617), so that is what the token is then.
"""

from __future__ import annotations

import base64
import functools
import types
from typing import Any

import jwt
import requests
from fastapi import APIRouter, Depends
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user import auth

from infers.errors import ClientError, ServerUnreachable

# Those with a public key, which is what a realm publishes: a secret that both sides share would be known to everybody
SIGNED = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
SECONDS = 30


def add_login(router: APIRouter) -> None:
    """Add the route, and let MONAI Label read tokens."""
    if not isinstance(auth.jwt, types.SimpleNamespace):
        auth.jwt = types.SimpleNamespace(decode=functools.partial(jwt.decode, algorithms=list(SIGNED)))
        auth.get_public_key = _of_realm(auth.get_public_key)
        auth.open_id_configuration = _of_realm(auth.open_id_configuration)

    @router.post("/auth/token", tags=["Auth"])
    def token(form: OAuth2PasswordRequestForm = Depends()) -> dict[str, Any]:
        if not settings.MONAI_LABEL_AUTH_ENABLE:
            token = base64.b64encode(f"{form.username}:{form.password}".encode()).decode()
            return {"access_token": token, "token_type": "Basic"}
        return _of_realm(_ask)(form)

    if not settings.MONAI_LABEL_AUTH_ENABLE:

        @router.get("/auth/token/valid", include_in_schema=False)
        def valid(user: auth.User = Depends(auth.RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))) -> dict[str, str]:
            return {"username": user.username}  # the proxy let it through


def _ask(form: OAuth2PasswordRequestForm) -> dict[str, Any]:
    data = {
        "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID,
        "username": form.username,
        "password": form.password,
        "grant_type": "password",
    }
    answer = requests.post(auth.token_uri(), data=data, timeout=SECONDS)
    if answer.status_code in (400, 401, 403):
        raise ClientError("user or password is wrong, or the user may not log in here", 401)
    answer.raise_for_status()
    content = answer.json()
    return {"access_token": content["access_token"], "token_type": content.get("token_type", "bearer")}


def _of_realm(ask: Any) -> Any:
    """What asks the realm, with an error that says so where there is no answer."""

    @functools.wraps(ask)
    def ask_realm(*arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except (requests.RequestException, KeyError, ValueError) as error:
            raise ServerUnreachable(
                f"the OpenID realm {settings.MONAI_LABEL_AUTH_REALM_URI} does not answer as it should: see that it "
                f"runs, or correct MONAI_LABEL_AUTH_REALM_URI ({type(error).__name__})"
            ) from error

    return ask_realm

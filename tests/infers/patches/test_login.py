"""Tokens as an OpenID realm signs them, and what a wrong password is answered."""

from __future__ import annotations

import base64
import time
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, FastAPI
from monailabel.config import settings
from monailabel.endpoints.user import auth

from infers.api.routes import _answer
from infers.errors import ClientError, ServerUnreachable
from infers.patches.login import add_login
from tests.infers.asgi import get

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Answer:
    """What the realm answers."""

    def __init__(self, content: dict[str, Any], status: int = 200) -> None:
        self.content, self.status_code = content, status

    def json(self) -> dict[str, Any]:
        return self.content

    def raise_for_status(self) -> None:
        if self.status_code >= 400:
            raise requests.HTTPError(str(self.status_code))


class Realm:
    """Answers for an OpenID realm: anna's password is "right"."""

    def __init__(self) -> None:
        self.away = False

    def get(self, url: str, **options: Any) -> Answer:
        if self.away:
            raise requests.ConnectionError(url)
        if url.endswith("openid-configuration"):
            return Answer({"token_endpoint": "http://realm/token"})
        return Answer({"public_key": base64.b64encode(PUBLIC).decode()})

    def post(self, url: str, data: dict[str, str], **options: Any) -> Answer:
        if data["password"] != "right":
            return Answer({"error": "invalid_grant"}, 401)
        return Answer({"access_token": token(seconds=60)})


def token(seconds: float, key: Any = KEY, algorithm: str = "RS256") -> str:
    claims = {
        "preferred_username": "anna",
        "realm_access": {"roles": ["monailabel-user"]},
        "exp": time.time() + seconds,
    }
    return jwt.encode(claims, key, algorithm=algorithm)


@pytest.fixture
def realm(monkeypatch: pytest.MonkeyPatch) -> Realm:
    realm = Realm()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", f"http://realm/{id(realm)}")
    monkeypatch.setattr(requests, "get", realm.get)
    monkeypatch.setattr(requests, "post", realm.post)
    return realm


@pytest.fixture
def server(realm: Realm) -> FastAPI:
    router = APIRouter()
    add_login(router)
    server = FastAPI()
    server.include_router(router)
    for kind in (ClientError, ServerUnreachable):
        server.add_exception_handler(kind, _answer)
    return server


def log_in(server: FastAPI, password: str) -> tuple[int, dict[str, Any]]:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    form = urlencode({"username": "anna", "password": password}).encode()
    return get(server, "/auth/token", "", "POST", headers, form)


def test_a_login_brings_a_token_that_is_accepted(server: FastAPI) -> None:
    status, answer = log_in(server, "right")
    assert status == 200
    user = auth.from_token(answer["access_token"])
    assert (user.username, user.roles) == ("anna", ["monailabel-user"])


def test_a_wrong_password_is_the_clients_mistake(server: FastAPI) -> None:
    status, answer = log_in(server, "wrong")
    assert (status, "password is wrong" in answer["detail"]) == (401, True)


@pytest.mark.usefixtures("server")
def test_tokens_that_expired_or_that_somebody_else_signed_are_refused() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for bad in (token(-60), token(60, other), token(60, "a secret that is long enough for it!", "HS256")):
        with pytest.raises(jwt.InvalidTokenError):
            auth.from_token(bad)


def test_a_realm_that_is_away_is_named(server: FastAPI, realm: Realm) -> None:
    realm.away = True
    status, answer = log_in(server, "right")
    assert (status, "the OpenID realm http://realm/" in answer["detail"]) == (502, True)


def test_where_a_proxy_asks_the_token_is_what_it_takes(server: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", False)
    status, answer = log_in(server, "right")
    assert (status, answer["token_type"]) == (200, "Basic")
    assert base64.b64decode(answer["access_token"]) == b"anna:right"

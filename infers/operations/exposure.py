"""Who can reach this server, in plain words, for its log at the start and for the board."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache

import psutil
from monailabel.config import settings

from infers.guards import is_loopback

logger = logging.getLogger(__name__)

STARTS_WITHIN, LOOK = 60.0, 0.2  # seconds until a server that is built listens, and between looks whether it does


@lru_cache(maxsize=1)
def listened_to() -> frozenset[str]:
    """The addresses at which this process waits for connections. Raises LookupError before it does."""
    connections = psutil.Process().net_connections(kind="inet")
    sentences = frozenset(one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN)
    if not sentences:
        raise LookupError("this process does not listen yet")  # and what is raised is not remembered
    return sentences


def exposure(addresses: Collection[str], login: bool, encrypted: bool, origins: Sequence[str]) -> list[str]:
    """What is open to others, a sentence each; empty where only this machine reaches the server.

    Args:
        addresses: where the server listens.
        login: whether it asks for one.
        encrypted: whether it speaks TLS.
        origins: further web sites whose pages may use it.
    """
    sentences = []
    beyond = sorted(address for address in addresses if not is_loopback(address))
    if beyond and not login:
        sentences.append(
            f"Everybody on the network can read images, annotate, train and delete here: the server listens on "
            f"{', '.join(beyond)} and asks for no password. Start it with --host 127.0.0.1, behind a proxy that asks "
            "for one where others are to work with it (docs/security.md)"
        )
    if beyond and not encrypted:
        sentences.append("Images, labels and passwords cross the network unencrypted: put a proxy with TLS before it")
    if origins:
        sentences.append(
            f"Pages of {', '.join(origins)} may do everything that whoever visits them may (MONAI_LABEL_CORS_ORIGINS)"
        )
    return sentences


def exposure_now() -> list[str]:
    """The same of this process as it runs. Raises LookupError before it listens."""
    encrypted = any(word.startswith("--ssl_certfile") for word in sys.argv)
    origins = [str(origin) for origin in settings.MONAI_LABEL_CORS_ORIGINS or ()]
    return exposure(listened_to(), bool(settings.MONAI_LABEL_AUTH_ENABLE), encrypted, origins)


def log_once_listening(warnings: Callable[[], list[str]]) -> None:
    """Write warnings into the log as soon as this process listens, from a thread of its own.

    Args:
        warnings: a sentence each; raises LookupError before.
    """

    def log() -> None:
        pause = threading.Event()
        for _ in range(int(STARTS_WITHIN / LOOK)):
            pause.wait(LOOK)
            with suppress(LookupError):
                for sentence in (sentences := warnings()):
                    logger.warning("%s.", sentence)
                if not sentences:
                    logger.info("only this machine reaches the server")
                return

    threading.Thread(target=log, name="exposure", daemon=True).start()

"""Joining a Ray cluster, or starting Ray on this machine."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.imaging.sizes import MB

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = "requirements-scale.txt"
CLIENT = "ray://"
ANSWER_SECONDS = 10.0


class ClusterError(RuntimeError):
    """A cluster that cannot be used; the message says what to do."""


def load_ray() -> Any:
    """The module `ray`. Raises ClusterError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a hospital's archive leaves it
    # By itself Ray shows its token to a head on this machine, and not through ray://. A Ray that is loaded has decided
    # already: only the processes that it starts would ask for the token then.
    if _has_token() and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            f"this needs Ray, which cannot be imported ({error}): pip install -r {REQUIREMENTS}"
        ) from error


@contextmanager
def cluster(address: str | None = None, *, cpus: int | None = None, store_mb: int = 256) -> Iterator[Any]:
    """The module `ray`, connected until the context ends; a connection that this process has already stays.

    Args:
        address: HOST:PORT of a cluster's head for a process on one of its machines, ray://HOST:PORT from elsewhere;
            None starts Ray on this machine.
        cpus: processors that Ray on this machine may use; by default all.
        store_mb: megabytes of shared memory of Ray on this machine.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    _put_root_in_path()
    if address is not None:
        _check_reachable(address)
    alone = {"num_cpus": cpus, "object_store_memory": store_mb * MB, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(alone if address is None else {}),
        )
    except Exception as error:  # Ray raises the class itself where its processes do not start in time
        raise ClusterError(_unreachable(address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Whether there is a token as heads ask for; the first head on a machine makes one."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").exists()


def _put_root_in_path() -> None:
    """Processes that Ray starts on this machine import what this one does."""
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *others]))
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"a cluster's address is HOST:PORT or {CLIENT}HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise ClusterError(_unreachable(address, error)) from error


def _unreachable(address: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if address is None:
        return f"Ray does not start on this machine: {reason}"
    return (
        f"no Ray cluster answers at {address} ({reason}): start its head with `ray start --head`, let this machine "
        "through its firewall, copy the head's ~/.ray/auth_token here, or leave the address out to use this machine "
        "alone"
    )

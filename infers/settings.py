"""The app's own settings: what `monailabel start_server --conf KEY VALUE` may say.

MONAI Label hands `--conf` over as strings and its start script breaks values with spaces, so a list is written with
commas and a long one may live in a JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lib.finetuning.oneprompt import FineTuning


class ConfigError(ValueError):
    """An unknown key or a value that does not fit its key."""


@dataclass(frozen=True)
class AppConfig:
    """Settings of one running app.

    Attributes:
        labels: structure names in the order of their indices, from 1; empty: learnt from the saved labels.
        weights: safetensors file to serve; None: the weights that ship with the app.
        models: folder of published weights and training runs; None: `model` inside the app's folder.
        device: `cpu`, `cuda`, `cuda:N` or `auto` (a GPU where there is one).
        templates: how many templates one study is segmented with, at most.
        auto_propagate: segment the rest of the list whenever a final label is saved.
        quiet_seconds: a result marked *use as template* becomes one after this many seconds without a newer one.
        state: folder for masks and their records where the study list itself is a DICOMweb server.
        auto_finetune: train after so many new final labels; 0: only when told to.
        specialist: a training is followed by one of a network for this list alone from so many labelled studies on; 0:
            only when told to.
        finetuning: numbers of a training, as `epochs=2,steps=10` (`lib.finetuning.oneprompt.FineTuning`).
        uniseg: safetensors file of a UniSeg (`scripts.import_uniseg`) to offer, and to begin its trainings with.
        uniseg_lists: folders of further lists that UniSeg learns from, each a task (`lib.finetuning.uniseg.lists`).
        versions: how many versions of the weights are kept.
        versions_mb: megabytes of disk that they may take.
        upload_mb: megabytes that a request may send, and that an archive in it may unpack to.
        image_mb: megabytes of voxels that one image may unpack to.
        memory: megabytes that may be kept of images, encoded slices and answers; None: a quarter of the machine.
        hosts: names and addresses under which browsers may open the server, beside this machine's own addresses.
        engine: `ray://HOST:PORT`, a Ray cluster whose workers segment the list; None: this process does.
    """

    labels: tuple[str, ...] = ()
    weights: Path | None = None
    models: Path | None = None
    device: str = "auto"
    templates: int = 4
    auto_propagate: bool = True
    quiet_seconds: float = 20.0
    state: Path | None = None
    auto_finetune: int = 0
    specialist: int = 1
    finetuning: FineTuning = field(default_factory=FineTuning)
    uniseg: Path | None = None
    uniseg_lists: tuple[Path, ...] = ()
    versions: int = 10
    versions_mb: int = 1024
    upload_mb: int = 2048
    image_mb: int = 2048
    memory: int | None = None
    hosts: tuple[str, ...] = ()
    engine: str | None = None

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> AppConfig:
        """Read `--conf` values; `server_mode` is MONAI Label's own key and passes.

        Raises:
            ConfigError: unknown key, or a value that does not fit; the message says what is allowed.
        """
        allowed = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(conf) - set(allowed) - {"server_mode"}):
            raise ConfigError(f"--conf keys must be among {', '.join(allowed)}; got {', '.join(unknown)}")
        return cls(**{key: _PARSERS[key](key, str(conf[key])) for key in allowed if key in conf})


def _names(key: str, text: str) -> tuple[str, ...]:
    names: Any = text.split(",")
    if text.endswith(".json"):
        try:
            names = json.loads(Path(text).expanduser().read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--conf {key} must name a readable JSON list of names, got {text}: {error}") from error
        if not isinstance(names, list):
            raise ConfigError(f"--conf {key} file must hold a JSON list of names, got {type(names).__name__} in {text}")
    names = tuple(str(name).strip() for name in names)
    if not all(names) or len(set(names)) < len(names) or "background" in (name.lower() for name in names):
        raise ConfigError(
            f"--conf {key} must be different names separated by commas, without `background` (every voxel outside "
            f"the structures), got {text!r}"
        )
    return names


def _hosts(key: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip().rstrip(".").lower() for name in text.split(","))
    if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9_.-]+|\[?[0-9a-f:.]+\]?", name)]:
        raise ConfigError(
            f"--conf {key} must be names or addresses with commas between, without http:// and port, got {wrong[0]!r}"
        )
    return tuple(name.strip("[]") for name in names)


def _engine(key: str, text: str) -> str:
    if not re.fullmatch(r"(ray://)?[A-Za-z0-9_.-]+:[0-9]+", text):
        raise ConfigError(
            f"--conf {key} must be ray://HOST:PORT of a Ray cluster (HOST:PORT on one of its machines), got {text!r}"
        )
    return text


def _file(key: str, text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"--conf {key} must be an existing file, got {text}: give its full path")
    return path


def _folder(key: str, text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--conf {key} must be a folder (it is made where missing), got the file {text}")
    return path


def _folders(key: str, text: str) -> tuple[Path, ...]:
    paths = tuple(Path(name.strip()).expanduser().resolve() for name in text.split(","))
    if missing := [path for path in paths if not path.is_dir()]:
        raise ConfigError(f"--conf {key} must be existing folders with commas between, got {missing[0]}")
    if len({path.name for path in paths}) < len(paths):
        raise ConfigError(f"--conf {key} must be folders of different names, which their tasks get, got {text}")
    return paths


def _device(key: str, text: str) -> str:
    name, _, number = text.partition(":")
    if name not in ("auto", "cpu", "cuda") or (number and not (name == "cuda" and number.isdigit())):
        raise ConfigError(f"--conf {key} must be auto, cpu, cuda or cuda:N, got {text!r}")
    return text


def _count(key: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--conf {key} must be a whole number from 1 on, got {text!r}")
    return int(text)


def _count_or_none(key: str, text: str) -> int:
    return 0 if text == "0" else _count(key, text)


def _finetuning(key: str, text: str) -> FineTuning:
    try:
        return FineTuning.parse(text)
    except ValueError as error:
        raise ConfigError(f"--conf {key}: {error}") from error


def _seconds(key: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"--conf {key} must be a number of seconds, 0 or more, got {text!r}")
    return seconds


def _switch(key: str, text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ConfigError(f"--conf {key} must be true or false, got {text!r}")
    return words[text.lower()]


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "labels": _names,
    "weights": _file,
    "models": _folder,
    "device": _device,
    "templates": _count,
    "auto_propagate": _switch,
    "quiet_seconds": _seconds,
    "state": _folder,
    "auto_finetune": _count_or_none,
    "specialist": _count_or_none,
    "finetuning": _finetuning,
    "uniseg": _file,
    "uniseg_lists": _folders,
    "versions": _count,
    "versions_mb": _count,
    "upload_mb": _count,
    "image_mb": _count,
    "memory": _count,
    "hosts": _hosts,
    "engine": _engine,
}

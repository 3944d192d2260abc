"""The app's own settings: what `monailabel start_server --conf KEY VALUE` may say.

MONAI Label hands `--conf` over as strings and its start script breaks values with spaces, so a list is written with
commas and a long one may live in a JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, FilePath

from lib.finetuning.tuning import FineTuning
from lib.parsing import AnyCount, Count, CountOrNone, Options, ParseError, Switch, parse


class ConfigError(ValueError):
    """An unknown key or a value that does not fit its key."""


def _names(value: object) -> object:
    names: Any = value
    if isinstance(value, str) and value.endswith(".json"):
        try:
            names = json.loads(Path(value).expanduser().read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"must name a readable JSON list of names, got {value}: {error}") from error
        if not isinstance(names, list):
            raise ValueError(f"file must hold a JSON list of names, got {type(names).__name__} in {value}")
    elif isinstance(value, str):
        names = value.split(",")
    names = tuple(str(name).strip() for name in names)
    if not all(names) or len(set(names)) < len(names) or "background" in (name.lower() for name in names):
        raise ValueError(
            "must be different names separated by commas, without `background` (every voxel outside the structures), "
            f"got {value!r}"
        )
    return names


def _hosts(value: object) -> object:
    names = value.split(",") if isinstance(value, str) else value
    assert isinstance(names, list | tuple)
    names = tuple(name.strip().rstrip(".").lower() for name in names)
    if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9_.-]+|\[?[0-9a-f:.]+\]?", name)]:
        raise ValueError(f"must be names or addresses with commas between, without http:// and port, got {wrong[0]!r}")
    return tuple(name.strip("[]") for name in names)


def _absolute(value: object) -> object:
    return Path(value).expanduser().resolve() if isinstance(value, str) else value


def _folder(path: Path | None) -> Path | None:
    if path and path.exists() and not path.is_dir():
        raise ValueError(f"must be a folder (it is made where missing), got the file {path}")
    return path


def _folders(value: object) -> object:
    paths = [_absolute(name.strip()) for name in value.split(",")] if isinstance(value, str) else value
    assert isinstance(paths, list | tuple)
    if missing := [path for path in paths if not path.is_dir()]:
        raise ValueError(f"must be existing folders with commas between, got {missing[0]}")
    if len({path.name for path in paths}) < len(paths):
        raise ValueError(f"must be folders of different names, which their tasks get, got {value}")
    return tuple(paths)


def _finetuning(value: object) -> object:
    return FineTuning.parse(value) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
ExistingFile = Annotated[
    FilePath | None, BeforeValidator(_absolute), Field(description="the full path of an existing file")
]
Folder = Annotated[Path | None, BeforeValidator(_absolute), AfterValidator(_folder), Field(description="a folder")]
Folders = Annotated[tuple[Path, ...], BeforeValidator(_folders)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda or cuda:N")]
Cluster = Annotated[
    str | None,
    Field(
        pattern=r"^ray://[A-Za-z0-9_.-]+:[0-9]+$",
        description="ray://HOST:PORT of a Ray cluster's head",
    ),
]
ByTemplates = Annotated[
    str,
    Field(
        pattern=r"^(auto|oneprompt|promptseg(:[1-9][0-9]{0,3})?)$",
        description="auto, oneprompt, promptseg, or promptseg:N for structures that N templates or more show",
    ),
]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of seconds, 0 or more")]


class AppConfig(Options):
    """Settings of one running app.

    Attributes:
        labels: structure names in the order of their indices, from 1; empty: learnt from the saved labels.
        weights: safetensors file to serve; None: the weights that ship with the app.
        models: folder of published weights and training runs; None: `model` inside the app's folder.
        device: `cpu`, `cuda`, `cuda:N` or `auto` (a GPU where there is one).
        templates: how many templates one study is segmented with, at most; None: as many as the model asks best, 8 of
            PromptSeg and 4 of One-Prompt.
        auto_propagate: segment the rest of the list whenever a final label is saved.
        quiet_seconds: a result marked *use as template* becomes one after this many seconds without a newer one.
        state: folder for masks and their records where the study list itself is a DICOMweb server.
        auto_finetune: train after so many new final labels; 0: only when told to.
        specialist: a training is followed by one of a network for this list alone from so many labelled studies on; 0:
            only when told to.
        finetuning: numbers of a training, as `epochs=2,steps=10` (`lib.finetuning.tuning.FineTuning`).
        model: what segments the list's studies by templates: `oneprompt`; `promptseg`, or `promptseg:N` for structures
            that N templates or more show; or `auto`, PromptSeg from where it measured better than One-Prompt.
        promptseg: safetensors file of a PromptSeg (`scripts.pretrain --network promptseg`) to offer; None: the weights
            that ship, where `model` may use them.
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

    labels: Names = ()
    weights: ExistingFile = None
    models: Folder = None
    device: Device = "auto"
    templates: AnyCount = None
    auto_propagate: Switch = True
    quiet_seconds: Seconds = 20.0
    state: Folder = None
    auto_finetune: CountOrNone = 0
    specialist: CountOrNone = 1
    finetuning: Annotated[FineTuning, BeforeValidator(_finetuning)] = FineTuning()
    model: ByTemplates = "auto"
    promptseg: ExistingFile = None
    uniseg: ExistingFile = None
    uniseg_lists: Folders = ()
    versions: Count = 10
    versions_mb: Count = 1024
    upload_mb: Count = 2048
    image_mb: Count = 2048
    memory: AnyCount = None
    hosts: Hosts = ()
    engine: Cluster = None

    @property
    def promptseg_from(self) -> int | None:
        """Templates of a structure from which on PromptSeg segments the list; 0: never; None: where it measured better.

        Workers of a cluster make One-Prompt alone, so that nothing but One-Prompt is chosen for them.
        """
        name, _, least = self.model.partition(":")
        if name == "promptseg":
            return int(least or 1)
        return None if name == "auto" and self.engine is None else 0

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> AppConfig:
        """Read `--conf` values; `server_mode` is MONAI Label's own key and passes.

        Raises:
            ConfigError: unknown key, or a value that does not fit; the message says what is allowed.
        """
        own = {key: str(value) for key, value in conf.items() if key != "server_mode"}
        if former := own.pop("promptseg_from", None):  # of earlier releases
            own.setdefault("model", "oneprompt" if former == "0" else f"promptseg:{former}")
        try:
            return parse(cls, own, "--conf keys", before="--conf ")
        except ParseError as error:
            raise ConfigError(str(error)) from error

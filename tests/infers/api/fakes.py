"""A stand-in for the app behind the routes: each test gives it the parts that it asks, all others are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from infers.annotate.desk import Desk
from infers.annotate.prompted import PromptedStudies
from infers.api.app import Archives, HoldsImages, Infers, Publishes, SavesLabels
from infers.board.board import Board
from infers.jobs.propagation import Propagation
from infers.jobs.training import Trainings
from infers.label_records import Statement
from infers.limits import Limits
from infers.study_list.studies import Studies
from infers.use_cases.status import Status

Act = Callable[[], dict[str, Any]]


def unexpected() -> NoReturn:
    """What a part does that no test asks for."""
    raise AssertionError("this part is not asked in this test")


@dataclass
class FakeSettings:
    """As `--conf` gives them."""

    hosts: tuple[str, ...] = ("app",)


@dataclass
class FakeLabels:
    """Notes nothing; `act` answers, or refuses."""

    act: Act = unexpected

    def save(
        self, image_id: str, path: Path, tag: str, statement: Statement, user: str | None, seen: str | None
    ) -> dict[str, Any]:
        return self.act()

    def describe(self, image_id: str, tag: str, statement: Statement, user: str | None) -> None:
        self.act()


@dataclass
class FakeImages:
    """The same for images."""

    act: Act = unexpected

    def add(self, name: str, path: Path, info: Mapping[str, Any]) -> str:
        self.act()
        return name

    def path(self, image_id: str) -> Path:
        unexpected()

    def as_file(self, folder: Path) -> Path:
        unexpected()

    def stored_elsewhere(self) -> None:
        unexpected()


@dataclass
class FakeInference:
    """Keeps what it was asked; `act` answers `run`, `write` what is to be written as DICOM."""

    act: Act = unexpected
    write: Callable[[], str] = unexpected
    requests: list[Mapping[str, Any]] = field(default_factory=list)

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        return self.act()

    def check_batch(self, name: str, params: Mapping[str, Any]) -> None:
        unexpected()

    def as_dicom_seg(self, image_id: str, result: Mapping[str, Any]) -> str:
        return self.write()

    def as_rtstruct(self, image_id: str, result: Mapping[str, Any]) -> str:
        return self.write()


@dataclass
class FakePublishing:
    """Takes uploads as `act` says."""

    act: Act = unexpected

    def upload(self, name: str, path: Path) -> dict[str, Any]:
        return self.act()

    def remove(self, name: str) -> dict[str, Any]:
        unexpected()

    def serve(self, version: str) -> dict[str, Any]:
        unexpected()

    def use_list_unet(self, use: bool) -> dict[str, Any]:
        unexpected()


@dataclass
class FakeArchives:
    """Gives one archive."""

    archive: Path = Path("none.zip")

    def check_there(self) -> None:
        pass

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        unexpected()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        return str(self.archive)


class Uploaded:
    """An upload session."""

    image = "image"


class FakeSessions:
    """Knows every session."""

    def get_session(self, session_id: str) -> Uploaded:
        return Uploaded()

    def add_session(self, data_in: str, expiry: int) -> tuple[str, Any]:
        unexpected()


@dataclass
class FakeApp:
    """See `infers.api.app.App`."""

    labels: SavesLabels = field(default_factory=FakeLabels)
    images: HoldsImages = field(default_factory=FakeImages)
    inference: Infers = field(default_factory=FakeInference)
    publishing: Publishes = field(default_factory=FakePublishing)
    datastore: Archives = field(default_factory=FakeArchives)
    config: FakeSettings = field(default_factory=FakeSettings)
    limits: Limits = field(default_factory=Limits)

    @property
    def studies(self) -> Studies:
        unexpected()

    @property
    def trainings(self) -> Trainings:
        unexpected()

    @property
    def status(self) -> Status:
        unexpected()

    # Routes are made with these, and no test here asks them
    job: Propagation = field(default_factory=lambda: _blank(Propagation))
    board: Board = field(default_factory=lambda: _blank(Board))
    desk: Desk = field(default_factory=lambda: _blank(Desk))
    prompted: PromptedStudies = field(default_factory=lambda: _blank(PromptedStudies))


def _blank(kind: type) -> Any:
    return object.__new__(kind)

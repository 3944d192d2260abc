"""3D Slicer's released extension, live on its own panel and replayed byte for byte, against the real server.

`python -m tests.slicer.record --out tests/slicer/recordings` makes the recordings anew.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from lib.imaging.images import read_image, read_label
from scripts.measure.torture.starts import Nursery
from scripts.servers.client import Client, Server
from tests.slicer.emulator.panel import SHA256, Panel, PanelError
from tests.slicer.emulator.wire import essence, line, read_recording, send
from tests.slicer.record import (
    FIRST,
    GRIDS,
    LOCAL,
    add_study,
    add_uniseg,
    make_study,
    recording_session,
    server_conf,
    wait_for_training,
    write_study,
)

RECORDINGS = Path(__file__).parent / "recordings"
STEPS = [path.stem for path in sorted(RECORDINGS.glob("*.http"))]
JOINS = {"submit": "b_ras", "submit_after_scribbles": "c_oblique"}  # the list grows after these steps
FOUND = 0.3  # Dice; of another structure, or mirrored, nearly nothing is left. How good masks are is measured elsewhere
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / max(1, mask.sum() + truth.sum()))


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Any]:
    """Starts servers with the first study; gives the port and the study folder."""
    running = []

    def start() -> tuple[int, Path]:
        folder = tmp_path_factory.mktemp("slicer")
        write_study(folder / "studies", FIRST)
        conf = server_conf(folder)
        server = Server(folder / "studies", log=folder / "server.log", conf=conf, launch=nursery.launch)
        running.append(server.__enter__())
        return int(server.url.rpartition(":")[2]), folder / "studies"

    yield start
    for server in running:
        server.stop()


class Live:
    """The panel's session: what it sent, and how much of each structure its segments showed after each step."""

    def __init__(self, port: int) -> None:
        self.sent: dict[str, list[bytes]] = {}
        self.shown: dict[str, dict[str, float]] = {}
        self.values: dict[str, Any] = {}
        self.offered: dict[str, list[str]] = {}
        with recording_session(port, look=self.look) as steps:
            for number, (step, requests) in enumerate(steps, start=1):
                self.sent[f"{number:02d}-{step}"] = requests

    def look(self, session: Any, step: str) -> None:
        panel = session.panel
        self.offered = {box: panel.choices(box) for box in ("segmentationModelSelector", "trainerBox")}
        if panel.segmentation is not None:
            segments = {segment.name: segment.mask for segment in panel.segmentation.segments.values()}
            truth = session.truth
            self.shown[step] = {name: dice(segments[name], truth[name]) for name in truth if name in segments}
            self.values[step] = {name: mask.any(axis=(0, 1)).sum() for name, mask in segments.items()}


@pytest.fixture(scope="module")
def live(serve: Any) -> Live:
    return Live(serve()[0])


class Replayed:
    """The recordings, sent to a fresh server: status and body of every answer by step."""

    def __init__(self, port: int, studies: Path) -> None:
        self.port, self.studies = port, studies
        self.answers: defaultdict[str, list[tuple[str, int, str, bytes]]] = defaultdict(list)
        recorded_session = session = b""
        with Client(f"http://127.0.0.1:{port}") as client:
            for name in STEPS:
                for request in read_recording(RECORDINGS / f"{name}.http"):
                    if found := re.search(rb"(?:session_id=|/session/)([0-9a-f-]{36})", request):
                        recorded_session = recorded_session or found[1]
                        request = request.replace(recorded_session, session)  # the server gave another one
                    answer = send(request, port)
                    body = answer.read()
                    if line(request) == "PUT /session/":
                        session = json.loads(body)["session_id"].encode()
                    kind = answer.getheader("content-type", "")
                    self.answers[name[3:]].append((line(request), answer.status, kind, body))
                if joins := JOINS.get(name[3:]):
                    add_study(client, joins)
                if name.endswith("-train"):
                    wait_for_training(client)
                if name.endswith("-session_submit"):
                    add_uniseg(client)

    def one(self, step: str, start: str) -> tuple[int, str, bytes]:
        """The step's answer to the request whose line begins so."""
        found = [answer[1:] for answer in self.answers[step] if answer[0].startswith(start)]
        assert len(found) == 1, [answer[0] for answer in self.answers[step]]
        return found[0]

    def final(self, study: str) -> tuple[np.ndarray, dict[str, int]]:
        """A study's stored label, and which value means what."""
        with Client(f"http://127.0.0.1:{self.port}") as client:
            names = client.label_info(study, "final")["structures"]
            path = client.download_label(study, "final", self.studies.parent)
        return read_label(path, read_image(next(self.studies.glob(f"{study}.*")))), names


@pytest.fixture(scope="module")
def replayed(serve: Any) -> Replayed:
    return Replayed(*serve())


@pytest.fixture(scope="module")
def client_module() -> Any:
    return Panel("http://127.0.0.1:1").client


def test_the_recordings_name_the_extension_that_made_them() -> None:
    assert json.loads((RECORDINGS / "recorded.json").read_text())["sha256"] == SHA256


def test_the_walk_through_names_every_recorded_step_and_no_other() -> None:
    """Variants of a step (an oblique study, another structure, a point more) need no line of their own."""
    text = (Path(__file__).parents[2] / "docs" / "slicer.md").read_text()
    named = {name for names in re.findall(r"\[([a-z_, \n]+)\](?!\()", text) for name in re.split(r",\s*", names)}
    steps = {step[3:] for step in STEPS}
    assert named <= steps
    for step in steps:
        assert any(step.startswith(name) for name in named), f"docs/slicer.md does not mention {step}"


def test_another_extension_than_the_released_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MONAILabel.py").write_text("something else")
    with pytest.raises(PanelError, match=r"must be that of MONAI Label 0\.8\.5"):
        Panel("http://127.0.0.1:1", tmp_path)


def test_the_panel_shows_what_to_do_where_there_is_no_server() -> None:
    with pytest.raises(PanelError, match="Make sure server address is correct"):
        Panel("http://127.0.0.1:1").press("fetchServerInfoButton")


def test_the_released_panel_sends_what_the_recordings_hold(live: Live) -> None:
    assert list(live.sent) == STEPS
    for step, requests in live.sent.items():
        recorded = read_recording(RECORDINGS / f"{step}.http")
        for now, then in zip(requests, recorded, strict=True):
            assert essence(now) == essence(then), f"{step} {line(then)}: record it again (see above)"


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("points", "spleen"),
        ("points_background", "spleen"),
        ("roi_reversed", "liver"),  # LPS: the region's corners come in falling order
        ("points_second_label", "liver"),  # its index is not 1
        ("roi", "spleen"),  # RAS: in rising order
        ("scribbles", "liver"),
        ("scribbles_roi", "liver"),
        ("points_oblique", "liver"),
        ("roi_oblique", "spleen"),
        ("session_points", "spleen"),
    ],
)
def test_slicer_shows_the_prompted_structure_where_it_is(live: Live, step: str, name: str) -> None:
    assert live.shown[step][name] > FOUND, live.shown[step]


@pytest.mark.parametrize(
    "step", ["next_sample_automatic", "auto_segmentation", "next_sample_oblique", "session_segmentation"]
)
def test_automatic_masks_come_under_their_own_names(live: Live, step: str) -> None:
    assert live.shown[step].keys() == {"liver", "spleen"}
    assert min(live.shown[step].values()) > FOUND, live.shown[step]


def test_a_click_with_the_slice_model_changes_one_slice(live: Live) -> None:
    before, after = (live.values[step]["liver"] for step in ("roi_reversed", "slice"))
    assert after >= before > 0


def test_every_recorded_request_is_answered(replayed: Replayed) -> None:
    for step, answers in replayed.answers.items():
        for request, status, _, body in answers:
            unanswered = request == "GET /auth/" or "check_if_running" in request  # 404 means no
            assert status == 200 or (unanswered and status == 404), (step, request, status, body[:500])


@pytest.mark.parametrize(("study", "order"), [(FIRST, 1), ("b_ras", 1), ("c_oblique", 2), (LOCAL, 1)])
def test_submitted_names_and_voxels_survive_the_round_trip(replayed: Replayed, study: str, order: int) -> None:
    label, names = replayed.final(study)
    for name, truth in make_study(study)[1].items():
        np.testing.assert_array_equal(label == names[name], truth)
    assert names == ({"spleen": 1, "liver": 2} if order == 1 else {"liver": 1, "spleen": 2})


def parts(client_module: Any, kind: str, body: bytes) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """An answer as the extension's own client takes it apart: parameters, mask (i, j, k), NRRD header."""
    headers = client_module.http.client.parse_headers(io.BytesIO(f"Content-Type: {kind}\r\n\r\n".encode()))
    form, files = client_module.MONAILabelUtils.parse_multipart(io.BytesIO(body), headers)
    ((name, content),) = files.items()
    assert name.endswith(".nrrd")
    file = io.BytesIO(content)
    header = nrrd.read_header(file)
    return json.loads(form["params"]), nrrd.read_data(header, file, index_order="F"), header


@pytest.mark.parametrize(
    ("step", "study", "name"),
    [
        ("points_background", FIRST, "spleen"),
        ("roi_reversed", FIRST, "liver"),
        ("points_second_label", "b_ras", "liver"),
        ("roi", "b_ras", "spleen"),
        ("scribbles", "b_ras", "liver"),
        ("scribbles_roi", "b_ras", "liver"),
        ("points_oblique", "c_oblique", "liver"),
        ("session_points", LOCAL, "spleen"),
    ],
)
def test_an_answer_holds_the_prompted_structure_as_value_1_on_the_images_grid(
    replayed: Replayed, client_module: Any, step: str, study: str, name: str
) -> None:
    status, kind, body = replayed.one(step, "POST /infer/")
    params, mask, header = parts(client_module, kind, body)
    assert (status, params["label_names"], set(np.unique(mask))) == (200, {name: 1}, {0, 1})
    _, truth, affine = make_study(study)
    assert dice(mask == 1, truth[name]) > FOUND
    np.testing.assert_allclose(np.array(header["space directions"]).T, (RAS_TO_LPS @ affine)[:3, :3], atol=1e-4)
    np.testing.assert_allclose(header["space origin"], (RAS_TO_LPS @ affine)[:3, 3], atol=1e-3)


@pytest.mark.parametrize(("step", "study"), [("auto_segmentation", "b_ras"), ("session_segmentation", LOCAL)])
def test_an_automatic_answer_names_its_values_in_order(
    replayed: Replayed, client_module: Any, step: str, study: str
) -> None:
    _, kind, body = replayed.one(step, "POST /infer/")
    params, mask, _ = parts(client_module, kind, body)
    assert list(params["label_names"].items()) == [("spleen", 1), ("liver", 2)]
    for name, truth in make_study(study)[1].items():
        assert dice(mask == params["label_names"][name], truth) > FOUND


def test_the_slice_model_answers_one_slice(replayed: Replayed, client_module: Any) -> None:
    _, kind, body = replayed.one("slice", "POST /infer/oneprompt_slice")
    _, mask, _ = parts(client_module, kind, body)
    assert mask.any(axis=(0, 1)).sum() == 1


def test_the_next_sample_comes_with_its_automatic_label(replayed: Replayed) -> None:
    _, _, body = replayed.one("next_sample_automatic", "GET /datastore/?output=all")
    told = json.loads(body)["objects"]["b_ras"]["labels"]["original"]["info"]["params"]
    assert list(told["label_names"]) == ["spleen", "liver"]  # the panel goes by this order
    status, _, _ = replayed.one("next_sample_automatic", "GET /datastore/label?label=b_ras&tag=original")
    assert status == 200


def test_an_upload_lasts_for_a_session_and_is_asked_for_again(replayed: Replayed) -> None:
    assert [a[0] for a in replayed.answers["session_segmentation"] if a[0].startswith("PUT")] == ["PUT /session/"]
    assert [a[0][:13] for a in replayed.answers["session_points"] if "/session/" in a[0]] == ["GET /session/"]


def test_the_panel_offers_the_other_models_to_segment_with_and_to_train(live: Live) -> None:
    assert all({"oneprompt", "promptseg", "uniseg"} <= set(names) for names in live.offered.values()), live.offered


def test_a_mask_of_uniseg_comes_on_the_images_grid_under_its_own_names(replayed: Replayed, client_module: Any) -> None:
    status, kind, body = replayed.one("segmentation_uniseg", "POST /infer/uniseg")
    params, mask, header = parts(client_module, kind, body)
    _, truth, affine = make_study(LOCAL)
    assert (status, params["model"], params["tasks"]) == (200, "uniseg", ["abdomen"])
    assert params["label_names"].keys() == truth.keys()
    assert set(np.unique(mask)) - {0} == set(params["label_names"].values())
    np.testing.assert_allclose(np.array(header["space directions"]).T, (RAS_TO_LPS @ affine)[:3, :3], atol=1e-4)


def test_a_mask_of_promptseg_comes_under_the_templates_names_with_how_much_each_counted(
    replayed: Replayed, client_module: Any
) -> None:
    status, kind, body = replayed.one("segmentation_promptseg", "POST /infer/promptseg")
    params, mask, header = parts(client_module, kind, body)
    _, truth, affine = make_study(LOCAL)
    assert (status, params["model"]) == (200, "promptseg")
    assert params["label_names"].keys() == truth.keys()
    assert mask.any()
    for weights in params["template_weights"].values():
        assert weights.keys() == set(GRIDS)  # the studies that were submitted before
        assert sum(weights.values()) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(np.array(header["space directions"]).T, (RAS_TO_LPS @ affine)[:3, :3], atol=1e-4)


def test_training_starts_is_followed_and_stops(replayed: Replayed) -> None:
    status, _, body = replayed.one("train", "POST /train/oneprompt")
    # The answer is read from the task after its worker has been told, so that the worker may have begun.
    assert (status, json.loads(body)["status"] in ("SUBMITTED", "RUNNING")) == (200, True)
    _, _, body = replayed.one("train_progress", "GET /train/")
    assert json.loads(body)["status"] in ("SUBMITTED", "RUNNING")
    _, _, body = replayed.one("stop_training", "DELETE /train/")
    assert json.loads(body)["status"] == "STOPPED"

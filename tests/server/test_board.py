"""The review board on the real server: what its JSON answers, and what a person does in a real browser."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import pytest
import torch
from PIL import Image as Pillow
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.training_record import write_record
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.networks import OnePrompt
from lib.networks.checkpoints import save_network
from lib.networks.list_unet import ListUNetConfig, ListUNetNetwork
from lib.networks.uniseg import UniSeg, UniSegConfig
from lib.segmenters.list_unet import ListUNet
from lib.segmenters.uniseg.model import UniSegModel
from lib.segmenters.uniseg.tasks import Channel, Task
from tests.samples import TINY, organ_volume, write_nifti
from tests.server.browser import chromium
from tests.server.conftest import Server

SHAPE = (32, 32, 32)  # large enough that the job can be cancelled in its middle
HOSTILE = "<img src=x onerror=alert(1)> & 'co'"  # a file name that is also HTML
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes, one of them with a hostile name, and a label."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "studies").mkdir()
    for number in range(COUNT - 1):
        write_nifti(folder / "studies" / f"s{number:02d}.nii.gz", organ_volume(number, SHAPE)[0])
    write_nifti(folder / "studies" / f"{HOSTILE}.nii.gz", organ_volume(COUNT, SHAPE)[0])
    write_nifti(folder / "label.nii.gz", organ_volume(0, SHAPE)[1])
    (folder / "studies" / "sub").mkdir()
    write_nifti(folder / "studies" / "sub" / "s99.nii.gz", organ_volume(0, SHAPE)[0])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    """A server whose first study is a template, and whose others have masks; as open as MONAI Label's command makes
    it."""
    server = start_server(folder / "studies", host="0.0.0.0", quiet_seconds="600")
    assert server.save_label("s00", folder / "label.nii.gz", ["organ"]).status_code == 200
    server.wait_for_masks(templates=1)
    return server


def studies(server: Server, **query: Any) -> dict[str, Any]:
    """GET /oneprompt/studies."""
    answer = server.request("GET", "/oneprompt/studies", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(server: Server, action: str, **body: Any) -> dict[str, Any]:
    """POST of a decision that must be understood."""
    answer = server.request("POST", f"/oneprompt/{action}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def statuses(server: Server) -> dict[str, str]:
    """{id: status}."""
    return {row["id"]: row["status"] for row in studies(server, per_page=200)["studies"]}


# Over HTTP


def test_the_worst_predicted_come_first_in_pages(server: Server) -> None:
    first, second = studies(server, per_page=7), studies(server, per_page=7, page=2)
    assert (first["total"], first["pages"], first["counts"]) == (COUNT, 2, {"automatic": COUNT - 1, "template": 1})
    rows = first["studies"] + second["studies"]
    predicted = [row["predicted"] for row in rows if row["predicted"] is not None]
    assert predicted == sorted(predicted)
    assert len(predicted) == COUNT - 1
    assert rows[-1]["id"] == "s00"
    assert [row["id"] for row in studies(server, search="S0", sort="name", status="automatic")["studies"]][:2] == [
        "s01", "s02",
    ]  # fmt: skip


def test_pictures_come_in_two_sizes_and_stay_off_the_disk(server: Server) -> None:
    answer = server.request("GET", "/oneprompt/studies/s01/thumbnail.png")
    assert answer.headers["cache-control"] == "no-store"
    picture = Pillow.open(io.BytesIO(answer.content))
    assert max(picture.size) == 192
    assert (
        max(
            Pillow.open(io.BytesIO(server.request("GET", "/oneprompt/studies/s01/thumbnail.png?size=640").content)).size
        )
        == 640
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/oneprompt/studies/gone/thumbnail.png", None),
        ("GET", "/oneprompt/studies/gone/ohif", None),
        ("GET", "/oneprompt/studies?show=gone", None),
        *(("POST", f"/oneprompt/{action}", {"ids": ["s01", "gone"]})
          for action in ("accept", "reject", "undo", "again", "accept_result")),
        ("POST", "/oneprompt/template", {"ids": ["gone"], "use": False}),
    ],
)  # fmt: skip
def test_a_study_that_does_not_exist_is_not_found(server: Server, method: str, path: str, body: Any) -> None:
    answer = server.request(method, path, json=body)
    assert answer.status_code == 404, answer.text
    assert "gone" in answer.json()["detail"]
    assert statuses(server)["s01"] == "automatic"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("accept", {}, 400),
        ("accept", {"ids": ["s01"], "bound": 0.5}, 400),
        ("accept", {"bound": 1.5}, 422),
        ("accept", {"ids": []}, 422),
        ("reject", {"ids": "s01"}, 422),
        ("template", {"ids": ["s00"]}, 422),
    ],
)
def test_decisions_that_make_no_sense_are_refused(server: Server, path: str, body: Any, status: int) -> None:
    assert server.request("POST", f"/oneprompt/{path}", json=body).status_code == status


def test_another_web_sites_form_changes_nothing(server: Server) -> None:
    text = '{"ids": ["s01"]}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = server.request("POST", "/oneprompt/accept", data=text, headers={"Content-Type": kind})
        assert answer.status_code == 422, kind
    evil = {"Origin": "https://evil.example"}
    for method, path in (("POST", "accept"), ("POST", "job"), ("DELETE", "job")):
        answer = server.request(method, f"/oneprompt/{path}", json={"ids": ["s01"]}, headers=evil)
        assert answer.status_code == 403, path
    assert statuses(server)["s01"] == "automatic"


def test_a_persons_label_is_refused_by_every_decision(server: Server, tmp_path: Path) -> None:
    before = server.mask("s00", tmp_path, "final").read_bytes()
    for action in ("accept", "reject", "undo", "again"):
        answer = post(server, action, ids=["s00"])
        assert answer["done"] == []
        assert list(answer["refused"]) == ["s00"]
    assert server.mask("s00", tmp_path, "final").read_bytes() == before


def test_an_accepted_mask_becomes_a_template_and_undo_takes_it_back(server: Server) -> None:
    run = server.status()["job"]["run"]
    assert post(server, "accept", ids=["s01"]) == {"done": ["s01"], "refused": {}}
    assert sorted(server.status()["templates"]) == ["s00", "s01"]
    assert server.status()["studies"]["s01"]["status"] == "accepted"
    info = server.get("/datastore/label/info?label=s01&tag=final")
    assert (info["accepted"], info["user"], info["provenance"]["templates"]) == ("review board", "admin", ["s00"])
    server.wait_for(lambda status: status["job"]["run"] > run)
    assert post(server, "undo", ids=["s01"])["done"] == ["s01"]
    server.wait_for(lambda status: status["templates"] == ["s00"] and status["job"]["state"] == "done")
    assert statuses(server)["s01"] == "automatic"


def test_a_result_for_ohif_is_accepted_without_waiting(server: Server) -> None:
    click = {"foreground": [[16, 16, 16]], "label": "organ", "use_as_template": True}
    assert server.infer("oneprompt_click", "s02", click).status_code == 200
    assert [row["id"] for row in studies(server)["studies"] if row["offered"]] == ["s02"]
    answer = post(server, "accept_result", ids=["s02"])
    # An untrained network may find nothing, which is no label
    assert (answer["done"] == ["s02"]) == (statuses(server)["s02"] == "template")
    if answer["done"]:
        assert post(server, "undo", ids=["s02"])["done"] == ["s02"]
    server.wait_for(lambda status: status["job"]["state"] == "done" and status["templates"] == ["s00"])


# In a browser

needs_browser = pytest.mark.needs("chromium", "chromedriver")


class Board:
    """What a person sees and does."""

    def __init__(self, browser: Chrome, server: Server) -> None:
        self.browser, self.address = browser, f"http://127.0.0.1:{server.port}/oneprompt/"

    def open(self, query: str = "", shows: str = ".card") -> None:
        self.browser.get(self.address + query)
        self.one(shows)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        """The first that there is, as soon as the page shows one."""
        return self.wait(lambda: self.all(selector))[0]

    def cards(self) -> list[str]:
        return self.browser.execute_script("return [...document.querySelectorAll('.card')].map(c => c.dataset.id)")

    def card(self, image_id: str) -> Any:
        return next(card for card in self.all(".card") if card.get_attribute("data-id") == image_id)

    def badge(self, image_id: str) -> str:
        return self.browser.execute_script(
            "return [...document.querySelectorAll('.card')].find(c => c.dataset.id === arguments[0])"
            "?.querySelector('.badge').textContent ?? ''", image_id,
        )  # fmt: skip

    def press(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def wait(self, condition: Callable[[], Any], seconds: float = 180) -> Any:
        redrawn = [StaleElementReferenceException]  # between an element's being found and its being read
        return WebDriverWait(self.browser, seconds, 0.05, redrawn).until(lambda browser: condition())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def board(browser: Chrome, server: Server) -> Iterator[Board]:
    """The board, opened; afterwards the browser must have complained about nothing but refused requests."""
    browser.get_log("browser")
    board = Board(browser, server)
    board.open()
    yield board
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert [text for text in complaints if "status of 4" not in text] == []


@needs_browser
def test_the_list_shows_every_study_with_its_picture_and_hostile_names_as_text(board: Board) -> None:
    board.wait(lambda: len(board.cards()) == COUNT)
    assert board.cards()[-1] == "s00"
    board.wait(lambda: len(board.all(".card img[src^='blob:']")) == COUNT)
    name = board.card(HOSTILE).find_element(By.CSS_SELECTOR, ".name span")
    assert name.text == HOSTILE
    assert board.all("img[src=x]") == []
    assert "9 of 10 masks" in board.one(".note").text
    assert "[" in board.one(".card .dice small").text
    picture, name = (board.one(f".card {part}").rect for part in (".picture", ".name"))
    image = board.one(".card img").rect
    assert picture["y"] <= image["y"]
    assert image["y"] + image["height"] <= picture["y"] + picture["height"] <= name["y"]


@needs_browser
def test_what_is_open_is_told_in_the_log_and_above_the_list(board: Board, server: Server) -> None:
    warnings = server.status()["warnings"]
    assert [f"{sentence}." for sentence in warnings] == [line.text for line in board.all(".warning.open")]
    reached, unencrypted = warnings
    assert reached.startswith("Everybody on the network can read images, annotate, train and delete here")
    assert "Start it with --host 127.0.0.1" in reached
    assert "cross the network unencrypted" in unencrypted
    assert all(f"{sentence}." in server.log.read_text() for sentence in warnings)


@needs_browser
def test_every_file_is_listed_and_what_is_left_out_is_counted_with_the_reason(board: Board) -> None:
    board.wait(lambda: board.one("#unreadable summary").text == "1 file is left out")
    board.one("#unreadable summary").click()
    assert "sub/s99.nii.gz: it lies in a sub-folder" in board.one("#unreadable li").text
    board.one("#files summary").click()
    rows = board.wait(lambda: [row.text for row in board.all("#files tr")])
    assert f"{HOSTILE}.nii.gz image {HOSTILE}" in rows
    assert "labels/final/s00.nii.gz label s00" in rows
    assert any(row.startswith("sub/s99.nii.gz left out it lies in a sub-folder") for row in rows)


@needs_browser
def test_filter_search_and_order_change_the_list_and_the_address(board: Board) -> None:
    board.one("[data-status=template]").click()
    board.wait(lambda: board.cards() == ["s00"])
    board.one("[data-status='']").click()
    board.press("/")
    board.press("s1")
    board.wait(lambda: sorted(board.cards()) == ["s10"])
    assert "search=s1" in board.browser.current_url
    board.browser.refresh()
    board.wait(lambda: board.cards() == ["s10"])
    board.one("#search").clear()
    board.one("#search").send_keys("nothing like this")
    board.wait(lambda: board.all(".empty"))
    board.one(".empty button").click()
    board.wait(lambda: len(board.cards()) == COUNT)


@needs_browser
def test_a_link_to_a_study_opens_it_large_and_a_wrong_one_says_so(board: Board) -> None:
    board.open("?study=s07")
    assert board.wait(lambda: board.one("#large[open] h2").text).startswith("s07")
    board.press(Keys.ESCAPE)
    board.wait(lambda: not board.all("#large[open]"))
    board.open("?study=gone", shows="[role=alert]")
    assert "no study 'gone'" in board.wait(lambda: board.one("[role=alert]").text)


@needs_browser
def test_the_keyboard_alone_goes_through_the_list(board: Board, server: Server) -> None:
    first, second = board.cards()[:2]
    board.press("j")
    assert board.browser.switch_to.active_element.get_attribute("data-id") == first
    board.press("j", "k", Keys.ARROW_RIGHT)
    assert board.browser.switch_to.active_element.get_attribute("data-id") == second
    board.press("r")
    board.wait(lambda: board.badge(second) == "rejected")
    board.wait(lambda: statuses(server)[second] == "rejected")
    board.press("u")
    board.wait(lambda: board.badge(second) == "to review")
    board.press("?")
    board.wait(lambda: board.all("#help[open]"))
    board.press(Keys.ESCAPE)


@needs_browser
def test_many_are_accepted_at_once_and_one_is_taken_back(board: Board, server: Server) -> None:
    masks = studies(server, sort="best", status="automatic", per_page=200)["studies"]
    best = [row["id"] for row in masks[:3]]
    server.request("DELETE", "/oneprompt/job")
    board.browser.execute_script(
        "const b = document.querySelector('#bound'); b.value = 0; b.dispatchEvent(new Event('input'))"
    )
    calm = [row for row in masks if not row["alarms"]]  # what is alarming is never accepted unseen
    board.wait(lambda: board.one("#accept-above").text == f"Accept {len(calm)}")
    for image_id in best:
        board.card(image_id).find_element(By.CSS_SELECTOR, "input[type=checkbox]").click()
    board.browser.execute_script("window.scrollTo(0, 0)")
    board.one("#accept-selected").click()
    board.wait(lambda: all(board.badge(image_id) == "accepted" for image_id in best))
    assert set(server.status()["templates"]) == {"s00", *best}
    board.card(best[0]).find_element(By.CSS_SELECTOR, ".undo").click()
    board.wait(lambda: best[0] not in server.status()["templates"])
    board.card("s00").find_element(By.CSS_SELECTOR, ".actions .template").click()
    board.wait(lambda: board.badge("s00") == "not a template")
    assert set(server.status()["templates"]) == set(best[1:])


@needs_browser
def test_the_job_is_followed_and_cancelled_and_run_again(board: Board, server: Server) -> None:
    # The templates changed in the test before, so the job is at work or about to be; make sure of work
    post(server, "again", ids=[row["id"] for row in studies(server, status="automatic", per_page=200)["studies"]])
    board.browser.refresh()
    board.wait(lambda: board.all("#cancel:enabled"))
    board.one("#cancel").click()
    status = server.wait_for(lambda status: status["job"]["state"] == "cancelled")
    assert status["job"]["done"] < status["job"]["total"]
    board.wait(lambda: "job cancelled" in board.one(".job .state").text)
    board.one("#run").click()
    server.wait_for(lambda status: status["job"]["state"] == "done")
    board.wait(lambda: "job done" in board.one(".job .state").text)
    assert not any(row["outdated"] for row in studies(server, per_page=200)["studies"])


@needs_browser
def test_trainings_and_versions_are_shown_and_gone_back_to(board: Board, server: Server, tmp_path: Path) -> None:
    curve = [{"phase": f"fold {n}", "epoch": n, "loss": 0.5, "dice": 0.4 + n / 10} for n in (1, 2)]
    write_record(
        server.folder / "models", state="candidate", reason="not better by 0.005 Dice", epoch=2, epochs=2, curve=curve
    )
    torch.manual_seed(5)
    save_network(tmp_path / "other.safetensors", OnePrompt(TINY), {})
    with (tmp_path / "other.safetensors").open("rb") as file:
        weights = server.request("PUT", "/model/oneprompt", files={"file": file}).json()["weights"]
    board.browser.refresh()
    board.wait(lambda: "Not better" in board.one("#training summary").text)
    board.one("#training summary").click()
    board.wait(lambda: len(board.all("#training .curve circle")) == 2)
    assert "not better by 0.005" in board.one("#training .reason").text
    rows = {row.get_attribute("data-version"): row for row in board.all(".versions [data-version]")}
    assert "served" in rows.pop(weights).text
    [(base, row)] = rows.items()
    row.find_element(By.CSS_SELECTOR, "button").click()
    board.wait(lambda: f"{base} is served" in board.one(".message").text)
    assert server.status()["weights"] == base
    assert board.one("#train").is_enabled()
    server.wait_for(lambda status: status["job"]["state"] == "done")


@needs_browser
def test_a_specialist_is_shown_withdrawn_and_used_again(board: Board, server: Server) -> None:
    specialist_folder = Path(server.studies) / ".oneprompt" / "specialist"
    torch.manual_seed(5)
    name = next(iter(server.status()["labels"]))
    record = {"studies": dict.fromkeys("abc", "x"), "state": "published", "parent": "0123", "examined_on": "others"}
    ServedListUNet(specialist_folder).publish(ListUNet(ListUNetNetwork(ListUNetConfig((name,))).eval(), 0.5, record))
    write_record(specialist_folder, state="published", reason="it won", epoch=2, epochs=2)
    offered = server.get("/oneprompt/training")["specialist"]["offered"]["hash"]
    board.browser.refresh()
    board.wait(lambda: board.all("#training summary"))
    board.one("#training summary").click()
    board.wait(lambda: offered in board.one("#specialist").text)
    text = board.one("#specialist").text
    assert "One-Prompt is better with it on this list: it won" in text
    told = f"for {name}, better from 3 labelled studies on. It counts for 50 %. It was tested on others, beside"
    assert told in " ".join(text.split())
    board.one("#withdraw-specialist").click()
    board.wait(lambda: board.all("#use-specialist"))
    assert server.get("/oneprompt/training")["specialist"]["offered"] == {"hash": None, "withdrawn": True}
    board.one("#use-specialist").click()
    board.wait(lambda: offered in board.one("#specialist").text)
    board.one("#withdraw-specialist").click()
    board.wait(lambda: board.all("#use-specialist"))
    server.wait_for(lambda status: status["job"]["state"] == "done")


@needs_browser
def test_a_list_is_handed_over_to_a_uniseg_that_was_better_and_back(board: Board, server: Server) -> None:
    def models(status: dict[str, Any]) -> set[str]:
        ids = [id for id, study in status["studies"].items() if study["status"] == "automatic"]
        infos = [server.request("GET", "/datastore/label/info", params={"label": id, "tag": "original"}) for id in ids]
        return {info.json()["model"] for info in infos}

    torch.manual_seed(6)
    config = UniSegConfig(patch=(8, 16, 16), base=2, most_features=8, strides=((1, 2, 2), (2, 2, 2)))
    task = Task("this list", ("organ",), (Channel("other"),), (3.0, 3.0, 3.0))
    record = {"after": {"dice": 0.9}, "licence": "for tests only"}
    served = ServedUniSeg(Path(server.studies) / ".oneprompt" / "uniseg")
    name = served.publish(UniSegModel(UniSeg(config).eval(), (task,), record))
    status = server.wait_for(lambda status: status["job"]["state"] == "done" and models(status) == {"uniseg"})
    board.browser.refresh()
    board.wait(lambda: board.all("#training summary"))
    board.one("#training summary").click()
    board.wait(lambda: name in board.one("#uniseg").text)
    assert "for organ. Licence: for tests only." in " ".join(board.one("#uniseg").text.split())
    board.one("#withdraw-uniseg").click()
    server.wait_for(lambda status: status["job"]["state"] == "done" and models(status) == {"oneprompt"})
    assert not board.all("#withdraw-uniseg")
    assert len(status["studies"]) == COUNT


@needs_browser
def test_the_whole_job_is_undone_after_a_question_and_run_again(board: Board, server: Server) -> None:
    before = statuses(server)
    board.one("#undo-job").click()
    board.browser.switch_to.alert.dismiss()
    assert statuses(server) == before
    board.one("#undo-job").click()
    board.browser.switch_to.alert.accept()
    board.wait(lambda: "automatic masks are gone" in board.one(".message").text)
    after = statuses(server)
    assert "automatic" not in after.values()
    people = {"template", "accepted", "excluded"}
    assert all(after[image_id] == status for image_id, status in before.items() if status in people)
    board.wait(lambda: not board.all("#undo-job"))
    board.one("#run").click()
    server.wait_for(lambda status: status["job"]["state"] == "done")
    assert statuses(server) == before


@needs_browser
def test_nothing_overflows_on_a_tablet_and_the_contrast_is_readable(board: Board) -> None:
    board.browser.set_window_size(768, 1024)
    board.wait(lambda: board.browser.execute_script("return innerWidth") == 768)
    assert board.browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert worst_contrast(board) >= 4.5
    board.browser.set_window_size(1280, 900)


def worst_contrast(board: Board) -> float:
    """Lowest WCAG contrast between the text that is shown and what lies behind it."""
    pairs = board.browser.execute_script("""
        const behind = (e) => { for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)')) return c; } return 'rgb(0, 0, 0)'; };
        return [...document.querySelectorAll('#board *')]
          .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
          .filter((e) => !e.disabled)
          .map((e) => [getComputedStyle(e).color, behind(e)]);""")
    assert pairs
    return min(contrast(*(luminance(colour) for colour in pair)) for pair in pairs)


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_final_labels_are_what_was_decided(server: Server, folder: Path, tmp_path: Path) -> None:
    """Whatever the tests before did, the label that a person submitted is still there, voxel for voxel."""
    kept = nibabel.load(server.mask("s00", tmp_path, "final")).get_fdata()
    assert (kept == nibabel.load(folder / "label.nii.gz").get_fdata()).all()

"""The annotation page in a real browser against the real server: what a person draws is what arrives."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lib.imaging.images import read_image, read_label
from lib.imaging.volumes import Stack
from scripts.phantoms.dicom_series import make_uid, write_series
from tests.dicom_samples import oblique
from tests.samples import organ_volume, write_nifti
from tests.server.browser import WEBGL, chromium
from tests.server.conftest import Server
from tests.server.test_board import contrast, luminance

pytestmark = pytest.mark.needs("chromium", "chromedriver")

SHAPE = (40, 32, 12)  # odd proportions: an axis that is exchanged shows
MARKS = {"slanted": (29, 9, 4), "picture": (31, 9, 0)}  # middle of the bright block in each image
SERIES = str(make_uid("annotate"))
MARKS[SERIES] = (8, 22, 8)
SLANTED = oblique() @ np.array([[0, 0, -3.1, 0], [0.9, 0, 0, 0], [0, 1.3, 0, 0], [0, 0, 0, 1]])


def marked(shape: tuple[int, ...], mark: tuple[int, ...]) -> np.ndarray:
    """Dark, with a bright block of five voxels a side."""
    array = np.full(shape, 40, np.int16)
    array[::2] = 60
    array[tuple(slice(n - 2, n + 3) for n in mark[: len(shape)])] = 1000
    return array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique volume, a colour picture and a DICOM series with a bright block each, and volumes with an organ."""
    folder = tmp_path_factory.mktemp("annotate")
    studies = folder / "studies"
    studies.mkdir()
    write_nifti(studies / "slanted.nii.gz", marked(SHAPE, MARKS["slanted"]), SLANTED)
    write_series(studies / SERIES, marked(SHAPE, MARKS[SERIES]), oblique(), uid=SERIES, patient="p", modality="MR")
    grey = (marked((40, 30), MARKS["picture"]) // 4).clip(0, 255).astype(np.uint8)
    Pillow.fromarray(np.stack([grey.T, grey.T, grey.T // 2], -1)).save(studies / "picture.png")
    for number in range(4):
        write_nifti(studies / f"organ{number}.nii.gz", organ_volume(number, (32, 32, 32))[0])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(folder / "studies")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium"), WEBGL) as browser:
        yield browser


class Page:
    """What a person sees and does on the annotation page."""

    def __init__(self, browser: Chrome, server: Server) -> None:
        self.browser, self.server = browser, server
        self.address = f"http://127.0.0.1:{server.port}/oneprompt/annotate"

    def open(self, study: str = "") -> None:
        self.browser.get(self.address + (f"?study={study}" if study else ""))
        self.loaded(study)

    def loaded(self, study: str = "") -> None:
        self.wait(lambda: self.one("#top h1").text.startswith(study) and self.all("#readout, .card-over"))
        self.wait(lambda: not self.all(".loading-over"))
        for close in self.all("#close-tour"):
            close.click()

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        """The first that there is, as soon as the page shows one."""
        return self.wait(lambda: self.all(selector))[0]

    def wait(self, condition: Callable[[], Any], seconds: float = 90) -> Any:
        redrawn = [StaleElementReferenceException]
        return WebDriverWait(self.browser, seconds, 0.05, redrawn).until(lambda browser: condition())

    def inside(self, code: str, *arguments: Any) -> Any:
        """What the page itself knows: `page` is its own object."""
        script = """const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);
            import("/oneprompt/annotate/static/page.js").then(
              async ({ page }) => done(await (async (page, given) => {"""
        return self.browser.execute_async_script(f"{script}{code}}})(page, given)))", *arguments)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def tool(self, name: str) -> None:
        self.one(f"[data-tool={name}]").click()

    def structure(self, name: str) -> None:
        self.one("#new-structure").send_keys(name + Keys.ENTER)
        self.wait(lambda: self.inside("return page.work.current?.name") == name)

    def drawn(self) -> None:
        """Wait until the page drew what was last asked for."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def look_at(self, voxel: tuple[int, ...]) -> None:
        """Scroll all planes to a voxel of the file."""
        self.inside("page.viewer.go(page.marks.grid.fromFile(given[0]))", [*voxel, 0][:3])
        self.drawn()

    def cells(self) -> list[list[float]]:
        """[left, top, width, height] of each plane on the image, in CSS pixels."""
        return self.inside("""const unit = page.viewer.canvas.width / page.viewer.canvas.clientWidth;
            return page.viewer.nv.screenSlices.map((tile) => tile.leftTopWidthHeight.map((one) => one / unit));""")

    def bright(self, cell: list[float]) -> tuple[int, int]:
        """The middle of what is brightest in a cell, in CSS pixels of the image: seen in a picture of the screen."""
        away = ActionChains(self.browser, duration=20)
        away.move_to_element(self.one("#top h1")).perform()  # no tool says what it does
        # What an answer changed no longer stands out
        self.wait(lambda: self.inside("return page.marks.flash === null"))
        self.drawn()
        shown = Pillow.open(io.BytesIO(self.one("#stage").screenshot_as_png)).convert("RGB")
        unit = shown.width / self.one("#stage").size["width"]
        pixels = np.asarray(shown).astype(int)[..., :2].min(-1)
        left, top, width, height = (int(value * unit) for value in cell)
        inner = pixels[top + 50 : top + height - 70, left + 30 : left + width - 30]  # without letters and the bar above
        rows, columns = np.nonzero(inner > 200)
        assert rows.size, "nothing bright is shown"
        return (
            round((columns.mean() + left + 30) / unit),
            round((rows.mean() + top + 50) / unit),
        )

    def click(self, x: int, y: int, outside: bool = False) -> None:
        """A click on the image, with the right button for outside."""
        actions = self._to(x, y)
        (actions.context_click() if outside else actions.click()).perform()

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        actions = self._to(*start).click_and_hold()
        actions.move_by_offset(end[0] - start[0], end[1] - start[1]).release().perform()

    def _to(self, x: int, y: int) -> ActionChains:
        marks = self.one("#marks")
        size = marks.size
        return ActionChains(self.browser, duration=20).move_to_element_with_offset(
            marks, x - size["width"] // 2, y - size["height"] // 2
        )

    def answered(self) -> None:
        self.wait(lambda: self.inside("return page.state.busy === 0"))

    def count(self) -> int:
        """Voxels that the label shows."""
        return self.inside("return page.work.labels.values.reduce((sum, value) => sum + (value ? 1 : 0), 0)")

    def status(self, study: str) -> str:
        return self.server.status()["studies"][study]["status"]


@pytest.fixture
def page(browser: Chrome, server: Server) -> Iterator[Page]:
    """The page; afterwards the browser must have complained about nothing but refused requests."""
    browser.get_log("browser")
    yield Page(browser, server)
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    known = ("status of 4", "GPU stall", "GL Driver Message")  # software rendering says how slow it is
    assert [text for text in complaints if not any(words in text for words in known)] == []


@pytest.mark.parametrize("study", ["slanted", SERIES, "picture"])
def test_a_click_lands_on_the_voxel_that_was_clicked_in_every_plane(
    page: Page, folder: Path, server: Server, study: str
) -> None:
    page.open(study)
    page.structure("block")
    path = next(path for path in (folder / "studies").iterdir() if path.name.startswith(study))
    array = read_image(path).array
    if study != "picture":
        page.inside("page.act.setWindow(0, 1000)")
    page.inside("page.act.opacity(0)")
    page.look_at(MARKS[study])
    cells = page.cells()
    assert len(cells) == (1 if study == "picture" else 3)
    for cell in cells:
        page.click(*page.bright(cell))
        page.answered()
        page.look_at(MARKS[study])
    clicks = page.inside("return page.work.current.prompts.foreground")
    assert len(clicks) == len(cells)
    bright = array >= 200
    assert all(bright[tuple(click[: array.ndim])] for click in clicks)
    page.tool("brush")
    page.inside("page.act.size(0.5)")
    before = page.inside("return page.work.past.length")
    for cell in cells:
        page.click(*page.bright(cell))
    page.wait(lambda: page.inside("return page.work.past.length") >= before + 1)
    painted = page.inside("""const { labels, grid } = page.work;
        const found = []; labels.painted.forEach((one, n) => { if (one) found.push(n); });
        const [w, h] = labels.dims;
        return found.map((n) => grid.toFile([n % w, Math.floor(n / w) % h, Math.floor(n / (w * h))]));""")
    assert painted
    assert all(bright[tuple(voxel[: array.ndim])] for voxel in painted)
    page.inside("page.work.saved = page.work.changes")  # this study is as it was for the next test


def test_what_was_painted_and_taken_back_and_painted_again_arrives_on_the_images_grid(
    page: Page, folder: Path, server: Server, tmp_path: Path
) -> None:
    page.open("slanted")
    page.structure("block")
    page.structure("rest")
    page.press("1")
    page.tool("brush")
    page.inside("page.act.setWindow(0, 1000)")
    page.look_at(MARKS["slanted"])
    x, y = page.bright(page.cells()[0])
    page.drag((x - 20, y), (x + 20, y))
    page.wait(lambda: page.count() > 3)
    first = page.count()
    page.press("2")
    page.drag((x - 20, y + 90), (x + 20, y + 90))
    page.wait(lambda: page.count() > first)
    both = page.count()
    page.press("z")
    page.wait(lambda: page.count() == first)
    page.press("y")
    page.wait(lambda: page.count() == both)
    shown = page.inside("""const { grid, labels } = page.work;
        return Array.from(grid.file(labels.values, Uint8Array.from({ length: 256 }, (_, n) => n)));""")
    page.press(Keys.ENTER)
    page.wait(lambda: page.status("slanted") == "template")
    path = server.mask("slanted", tmp_path, "final")
    image = read_image(folder / "studies" / "slanted.nii.gz")
    stored = nibabel.load(path)
    assert np.array_equal(stored.affine, image.affine)
    label = np.asarray(stored.dataobj)
    assert np.array_equal(label.ravel("F"), shown)
    assert set(np.unique(label)) == {0, 1, 2}
    info = server.get("/datastore/label/info?label=slanted&tag=final")
    assert info["structures"] == {"block": 1, "rest": 2}
    page.wait(lambda: page.all(".done"))


def test_a_label_of_a_dicom_series_has_its_affine_bit_for_bit(
    page: Page, folder: Path, server: Server, tmp_path: Path
) -> None:
    page.open(SERIES)
    page.tool("brush")
    x, y, width, height = page.cells()[0]
    page.click(round(x + width / 2), round(y + height / 2))
    page.wait(lambda: page.count() > 0)
    page.one("#submit").click()
    page.wait(lambda: page.status(SERIES) == "template")
    answer = server.request("GET", "/datastore/label", params={"label": SERIES, "tag": "final"})
    path = tmp_path / "label.nrrd"
    path.write_bytes(answer.content)
    image = read_image(folder / "studies" / SERIES)
    assert np.array_equal(read_image(path).affine, image.affine)
    assert read_label(path, image).any()


def test_answers_never_change_what_a_person_painted(page: Page) -> None:
    page.open("organ0")
    page.structure("organ")
    page.tool("brush")
    x, y, width, height = page.cells()[0]
    middle = (round(x + width / 2), round(y + height / 2))
    page.drag((middle[0] - 60, middle[1]), (middle[0] + 60, middle[1]))
    page.wait(lambda: page.count() > 0)
    page.tool("eraser")
    page.drag((middle[0], middle[1] - 30), (middle[0], middle[1] + 30))
    page.wait(lambda: page.inside("return page.work.past.length") == 2)
    own = """const { painted, values } = page.work.labels;
        return painted.reduce((sum, one, n) => one ? (sum * 31 + values[n] + n) % 1e9 : sum, 7);"""
    before = page.inside(own)
    page.tool("click")
    page.click(middle[0] - 30, middle[1])
    page.answered()
    page.tool("box")
    page.drag((middle[0] - 90, middle[1] - 90), (middle[0] + 90, middle[1] + 90))
    page.answered()
    page.tool("stroke")
    page.drag((middle[0] - 30, middle[1] - 30), (middle[0] + 30, middle[1] - 30))
    page.answered()
    prompts = page.inside("return page.work.current.prompts")
    assert (len(prompts["foreground"]), len(prompts["strokes"])) == (1, 1)
    assert prompts["roi"]
    assert page.inside(own) == before


def test_unsaved_work_is_offered_after_a_reload_and_never_sent_by_itself(page: Page, server: Server) -> None:
    page.open("organ0")
    if page.all("#discard"):  # of the test before
        page.one("#discard").click()
    page.structure("organ")
    page.tool("brush")
    x, y, width, height = page.cells()[0]
    page.drag((round(x + width / 2), round(y + height / 2)), (round(x + width / 2) + 40, round(y + height / 2)))
    page.wait(lambda: page.count() > 0)
    drawn = page.count()
    page.wait(lambda: page.inside("return page.work.kept === page.work.changes"))
    page.open("organ0")
    assert "Unsaved work" in page.one("#unfinished").text
    assert page.inside("return page.work.labels.painted.indexOf(1)") == -1
    assert page.status("organ0") in ("unlabelled", "automatic")
    page.one("#take-up").click()
    page.wait(lambda: page.count() == drawn)
    page.open("organ0")
    page.one("#discard").click()
    page.wait(lambda: not page.all("#unfinished"))
    page.open("organ0")
    assert not page.all("#unfinished")


def test_prompts_alone_make_a_template_of_their_kind_until_a_label_is_painted(
    page: Page, server: Server, folder: Path, tmp_path: Path
) -> None:
    page.open("organ1")
    page.structure("organ")
    x, y, width, height = page.cells()[0]
    page.click(round(x + width / 2), round(y + height / 2))
    page.answered()
    page.one("#submit-prompts").click()
    page.wait(lambda: page.status("organ1") == "prompted")
    said = page.inside("return page.work.current.prompts.foreground")
    info = server.get("/datastore/label/info?label=organ1&tag=prompted")
    assert info["prompts"] == {"organ": {"foreground": said}}
    server.wait_for(lambda status: status["job"]["state"] == "done" and "organ1" in status["templates"])
    made = server.get("/datastore/label/info?label=organ2&tag=original")["params"]
    assert made["prompt_types"]["organ"] == ["click"]
    assert "organ1" in made["templates"]
    page.open("organ1")
    assert page.inside("return page.work.current.prompts.foreground") == said
    write_nifti(tmp_path / "label.nii.gz", organ_volume(1, (32, 32, 32))[1])
    assert server.save_label("organ1", tmp_path / "label.nii.gz", ["organ"]).status_code == 200
    server.wait_for(lambda status: status["studies"]["organ1"]["status"] == "template")
    assert server.request("GET", "/datastore/label/info?label=organ1&tag=prompted").json() == {}
    refused = server.request("PUT", "/oneprompt/studies/organ1/prompts", json={"prompts": info["prompts"]})
    assert refused.status_code == 409
    server.wait_for(lambda status: status["job"]["state"] == "done")
    made = server.get("/datastore/label/info?label=organ2&tag=original")["params"]
    assert made["prompt_types"]["organ"] == ["seglab"]


def test_the_loop_goes_on_from_study_to_study_by_keys(page: Page, server: Server) -> None:
    server.wait_for(lambda status: status["job"]["state"] == "done")
    page.open("organ2")
    assert page.one(".review .big").text
    page.press("k")
    assert page.inside("return page.state.tool") == "click"
    page.press("r")
    page.wait(lambda: page.status("organ2") == "rejected")
    page.wait(lambda: page.one("#top h1").text not in ("", "organ2"))
    page.loaded()
    page.press("u")
    page.wait(lambda: page.status("organ2") == "automatic")
    page.wait(lambda: page.one("#top h1").text == "organ2")
    page.loaded("organ2")
    page.wait(lambda: page.all("#accept"))
    page.press("a")
    page.wait(lambda: page.status("organ2") == "accepted")
    page.wait(lambda: page.one("#top h1").text not in ("", "organ2"))
    page.loaded()
    here = page.one("#top h1").text
    if page.all("#discard"):
        page.one("#discard").click()
    page.press("n")
    page.wait(lambda: page.one("#top h1").text != here or "last study" in page.one(".toast").text)


def test_two_people_on_one_study_are_told_before_one_overwrites_the_other(
    page: Page, server: Server, tmp_path: Path
) -> None:
    page.open("organ3")
    if page.all("#discard"):
        page.one("#discard").click()
    present = {"session": "another", "name": "Anna"}
    server.request("POST", "/oneprompt/studies/organ3/presence", json=present)
    page.inside("page.attend()")
    page.wait(lambda: "Anna has this study open" in page.one(".others").text)
    page.structure("organ")
    page.tool("brush")
    x, y, width, height = page.cells()[0]
    page.click(round(x + width / 2), round(y + height / 2))
    page.wait(lambda: page.inside("return page.work.past.length") == 1)
    write_nifti(tmp_path / "label.nii.gz", organ_volume(3, (32, 32, 32))[1])
    assert server.save_label("organ3", tmp_path / "label.nii.gz", ["organ"]).status_code == 200
    theirs = server.mask("organ3", tmp_path, "final").read_bytes()
    page.press(Keys.ENTER)
    assert "saved a label for this study meanwhile" in page.one("#conflict").text
    assert server.mask("organ3", tmp_path, "final").read_bytes() == theirs
    page.one("#replace").click()
    page.wait(lambda: page.all(".done"))
    assert server.mask("organ3", tmp_path, "final").read_bytes() != theirs
    assert server.mask("organ3", tmp_path, "former").read_bytes() == theirs


def test_without_webgl_the_page_says_so_and_names_the_other_ways(page: Page) -> None:
    script = "HTMLCanvasElement.prototype.getContext = () => null"
    added = page.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page.browser.get(f"{page.address}?study=organ0")
        text = page.one("[role=alert]").text
        assert "WebGL 2" in text
        assert "3D Slicer" in text
    finally:
        page.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_study_that_is_gone_or_a_name_in_other_capitals_is_told(page: Page) -> None:
    page.open("gone")
    assert "no study 'gone'" in page.one("[role=alert]").text
    page.open("organ0")
    page.one("#new-structure").send_keys("ORGAN" + Keys.ENTER)
    page.wait(lambda: "organ is there already" in page.one(".toast").text)
    assert "ORGAN" not in page.inside("return page.work.structures.map(({ name }) => name)")


def test_the_page_fits_a_tablet_and_its_text_can_be_read(page: Page) -> None:
    page.browser.set_window_size(820, 1180)
    page.open("organ0")
    assert page.browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    pairs = page.browser.execute_script("""
        const behind = (e) => { for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)') && !c.includes('/ ')) return c; }
          return 'rgb(0, 0, 0)'; };
        return [...document.querySelectorAll('#top *, #rail *, #side *')]
          .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
          .filter((e) => !e.disabled).map((e) => [getComputedStyle(e).color, behind(e)]);""")
    assert min(contrast(*(luminance(colour) for colour in pair)) for pair in pairs) >= 4.5
    page.browser.set_window_size(1280, 900)


# Over HTTP


def test_a_study_is_handed_over_with_what_a_label_of_it_begins_with(server: Server, folder: Path) -> None:
    told = server.get("/oneprompt/studies/slanted/open")
    image = read_image(folder / "studies" / "slanted.nii.gz")
    assert np.array_equal(told["affine"], image.affine)
    assert told["shape"] == [*SHAPE]
    assert told["slice_axis"] == Stack.of(image).own_axis
    assert told["label"]["suffix"] == ".nii.gz"
    answer = server.request("GET", "/oneprompt/studies/slanted/volume.nii")
    assert answer.headers["cache-control"] == "no-store"
    assert np.array_equal(nibabel.Nifti1Image.from_bytes(answer.content).get_fdata(), image.array)
    packed = server.request("GET", "/oneprompt/studies/slanted/volume.nii", headers={"X-Forwarded-For": "10.0.0.7"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == answer.content
    assert server.request("GET", "/oneprompt/studies/slanted/open?shrink=5").status_code == 400
    assert server.request("GET", "/oneprompt/studies/slanted/mask.nii?tag=secret").status_code == 400


def test_ohif_submits_its_last_result_with_a_model(server: Server) -> None:
    assert server.infer("oneprompt_submit", "organ2", {}).status_code == 409
    prompts = {"organ": {"roi": [4, 28, 4, 28, 4, 28], "foreground": [[16, 16, 16]]}}
    assert server.infer("oneprompt_click", "organ2", {"prompts": prompts}).status_code == 200
    answer = server.infer("oneprompt_submit", "organ2", {}, output="json")
    # An untrained network may find nothing, which is no label
    saved = server.status()["studies"]["organ2"]["status"] == "template"
    assert saved == (answer.status_code == 200)
    if saved:
        told = json.loads(answer.text)
        assert told["saved"] == ["organ"]
        assert told["following_studies"] >= 0

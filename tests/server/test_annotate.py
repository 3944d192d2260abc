"""The annotation page in a real browser against the real server: what a person draws is what arrives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from lib.imaging.images import read_image, read_label
from lib.imaging.label_maps import boxes_of
from lib.imaging.volumes import Stack
from lib.quality.slice_errors import slice_errors
from scripts.phantoms.dicom_series import make_uid, write_series
from tests.dicom_samples import oblique
from tests.samples import organ_volume, write_nifti
from tests.server.annotation_page import FINGER, PATIENCE, PEN, AnnotationPage
from tests.server.browser import WEBGL, chromium
from tests.server.conftest import Server
from tests.server.test_board import contrast, luminance

pytestmark = pytest.mark.needs("chromium", "chromedriver")

SHAPE = (40, 32, 12)  # odd proportions: an axis that is exchanged shows
ORGAN = (32, 32, 10)  # few slices: the job makes all masks twice
LONG = (2100, 8, 8)  # longer than what a graphics card holds along one side
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
    """An oblique volume, a colour picture and a DICOM series with a bright block each, a long volume, and volumes with
    an organ."""
    folder = tmp_path_factory.mktemp("annotate")
    studies = folder / "studies"
    studies.mkdir()
    write_nifti(studies / "slanted.nii.gz", marked(SHAPE, MARKS["slanted"]), SLANTED)
    write_series(studies / SERIES, marked(SHAPE, MARKS[SERIES]), oblique(), uid=SERIES, patient="p", modality="MR")
    grey = (marked((40, 30), MARKS["picture"]) // 4).clip(0, 255).astype(np.uint8)
    Pillow.fromarray(np.stack([grey.T, grey.T, grey.T // 2], -1)).save(studies / "picture.png")
    write_nifti(studies / "long.nii.gz", marked(LONG, (1051, 4, 4)))
    for number in range(5):
        write_nifti(studies / f"organ{number}.nii.gz", organ_volume(number, ORGAN)[0])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(folder / "studies")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium"), WEBGL) as browser:
        browser.set_script_timeout(PATIENCE)
        yield browser


@pytest.fixture
def page(browser: Chrome, server: Server) -> Iterator[AnnotationPage]:
    """The page; afterwards the browser must have complained about nothing but refused requests."""
    browser.get_log("browser")
    yield AnnotationPage(browser, server)
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    known = ("status of 4", "GPU stall", "GL Driver Message")  # software rendering says how slow it is
    assert [text for text in complaints if not any(words in text for words in known)] == []


def status(server: Server, study: str) -> str:
    return server.status()["studies"][study]["status"]


def replace_by_theirs(server: Server, study: str, number: int, folder: Path) -> bytes:
    """Another client saves a label."""
    write_nifti(folder / "theirs.nii.gz", organ_volume(number, ORGAN)[1])
    assert server.save_label(study, folder / "theirs.nii.gz", ["organ"]).status_code == 200
    return server.mask(study, folder, "final").read_bytes()


def test_the_tour_of_the_first_visit_is_closed_for_good(page: AnnotationPage) -> None:
    page.load("organ0")
    for step in ("1 of 3", "2 of 3", "3 of 3"):
        page.wait(lambda step=step: step in page.text(".tour"))
        page.one(".tour .accept").click()
    page.wait(lambda: not page.all(".tour"))
    page.load("organ0")
    assert not page.all(".tour")


@pytest.mark.parametrize("study", ["slanted", SERIES, "picture"])
def test_a_click_lands_on_the_voxel_that_was_clicked_in_every_plane(
    page: AnnotationPage, folder: Path, study: str
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
    clicks = page.prompts()["foreground"]
    assert len(clicks) == len(cells)
    bright = array >= 200
    assert all(bright[tuple(click[: array.ndim])] for click in clicks)
    page.tool("brush")
    page.inside("page.act.size(0.5)")
    before = page.steps()
    for cell in cells:
        page.click(*page.bright(cell))
    page.wait(lambda: page.steps() >= before + 1)
    painted = page.inside("""const { labels, grid } = page.work;
        const found = []; labels.painted.forEach((one, n) => { if (one) found.push(n); });
        const [w, h] = labels.dims;
        return found.map((n) => grid.toFile([n % w, Math.floor(n / w) % h, Math.floor(n / (w * h))]));""")
    assert painted
    assert all(bright[tuple(voxel[: array.ndim])] for voxel in painted)


def test_what_was_painted_and_taken_back_and_painted_again_arrives_on_the_images_grid(
    page: AnnotationPage, folder: Path, server: Server, tmp_path: Path
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
    page.press("2")
    first = page.count()
    page.drag((x - 20, y + 90), (x + 20, y + 90))
    page.wait(lambda: page.count() > first)
    both = page.count()
    page.press("z")
    page.wait(lambda: page.count() == first)
    page.press("y")
    page.wait(lambda: page.count() == both)
    page.press(Keys.ARROW_UP, Keys.ARROW_UP)
    page.drawn()
    page.drag((x - 20, y + 90), (x + 20, y + 90))
    page.wait(lambda: page.count() > both)
    twice = page.count()
    page.press("f")  # the slice between
    page.wait(lambda: page.count() > twice)
    shown = page.inside("""const { grid, labels } = page.work;
        return Array.from(grid.file(labels.values, Uint8Array.from({ length: 256 }, (_, n) => n)));""")
    page.press(Keys.ENTER)
    page.wait(lambda: page.all(".done"))
    assert status(server, "slanted") == "template"
    image = read_image(folder / "studies" / "slanted.nii.gz")
    stored = nibabel.load(server.mask("slanted", tmp_path, "final"))
    assert np.array_equal(stored.affine, image.affine)
    label = np.asarray(stored.dataobj)
    assert np.array_equal(label.ravel("F"), shown)
    assert set(np.unique(label)) == {0, 1, 2}
    axis = Stack.of(image).own_axis
    other_axes = tuple(n for n in range(3) if n != axis)
    assert (label == 2).any(other_axes).sum() == 3
    info = server.get("/datastore/label/info?label=slanted&tag=final")
    assert info["structures"] == {"block": 1, "rest": 2}


def test_a_label_of_a_dicom_series_has_its_affine_bit_for_bit(
    page: AnnotationPage, folder: Path, server: Server, tmp_path: Path
) -> None:
    page.open(SERIES)
    page.structure("organ")
    page.tool("brush")
    page.click(*page.middle())
    page.wait(lambda: page.painted() > 0)
    page.one("#submit").click()
    page.wait(lambda: page.all(".done"))
    answer = server.request("GET", "/datastore/label", params={"label": SERIES, "tag": "final"})
    path = tmp_path / "label.nrrd"
    path.write_bytes(answer.content)
    image = read_image(folder / "studies" / SERIES)
    assert np.array_equal(read_image(path).affine, image.affine)
    assert read_label(path, image).any()


def test_a_volume_too_large_for_the_browser_is_shown_coarser_and_labelled_on_its_own_grid(
    page: AnnotationPage, server: Server, tmp_path: Path
) -> None:
    fine = np.zeros(LONG, np.uint8)
    fine[1:100:3, ::3, 1::2] = 1  # finer than what is shown
    fine[1, 1, 1] = 2  # where nothing is shown of it
    write_nifti(tmp_path / "fine.nii.gz", fine)
    assert server.save_label("long", tmp_path / "fine.nii.gz", ["comb", "dot"]).status_code == 200
    page.open("long")
    assert "1/2 resolution" in page.text(".coarse")
    page.structure("block")
    page.tool("brush")
    page.click(*page.middle())
    page.wait(lambda: page.painted() > 0)
    page.press(Keys.ENTER)
    page.wait(lambda: page.all(".done"))
    label = np.asarray(nibabel.load(server.mask("long", tmp_path, "final")).dataobj)
    assert label.shape == LONG
    numbers = server.get("/datastore/label/info?label=long&tag=final")["structures"]
    for name, number in (("comb", 1), ("dot", 2)):  # what nobody touched
        np.testing.assert_array_equal(label == numbers[name], fine == number)
    assert (label == numbers["block"]).any()


def test_answers_never_change_what_a_person_painted(page: AnnotationPage) -> None:
    page.open("organ0")
    page.structure("organ")
    page.tool("brush")
    x, y = page.middle()
    page.drag((x - 60, y), (x + 60, y))
    page.wait(lambda: page.steps() == 1)
    page.tool("eraser")
    page.drag((x, y - 30), (x, y + 30))
    page.wait(lambda: page.steps() == 2)
    own = """const { painted, values } = page.work.labels;
        return painted.reduce((sum, one, n) => one ? (sum * 31 + values[n] + n) % 1e9 : sum, 7);"""
    before = page.inside(own)
    page.tool("click")
    page.click(x - 30, y)
    page.answered()
    page.tool("box")
    page.drag((x - 90, y - 90), (x + 90, y + 90))
    page.answered()
    page.tool("stroke")
    page.drag((x - 30, y - 30), (x + 30, y - 30))
    page.answered()
    prompts = page.prompts()
    assert (len(prompts["foreground"]), len(prompts["strokes"])) == (1, 1)
    assert prompts["roi"]
    assert page.inside(own) == before


def test_undo_goes_back_through_every_state_whenever_answers_came(page: AnnotationPage) -> None:
    page.open("organ0")
    states = page.inside("""const { work } = page, { labels } = work;
        const add = (sum, one, n) => (sum * 31 + one * (n + 1)) % 1e9;
        const seen = () => [...labels.values, ...labels.painted].reduce(add);
        const [one, other] = ["one", "other"].map((name) => work.add(name)), found = [seen()];
        const answers = (structure, from) => () => {
          const edit = labels.edit();
          for (let n = from; n < from + 900; n += 1) edit.answer(n, structure.value);
          return edit;
        };
        const first = work.step("click", one, structuredClone(one.prompts));
        const second = work.step("click", other, structuredClone(other.prompts));
        work.answer(second, answers(other, 500));
        const third = work.step("paint"), paint = labels.edit();
        for (let n = 700; n < 800; n += 1) paint.paint(n, 0);
        work.extend(third, paint);
        work.answer(first, answers(one, 100)); // comes last, though it was asked for first
        const painted = [...labels.painted].every((value, n) => Boolean(value) === (n >= 700 && n < 800));
        const newest = [300, 600, 750].map((n) => labels.values[n]).join() === [one.value, other.value, 0].join();
        const forth = [seen()], back = [];
        for (let n = 0; n < 3; n += 1) { work.undo(); forth.push(seen()); }
        for (let n = 0; n < 3; n += 1) { work.redo(); back.unshift(seen()); }
        back.push(found[0]);
        return { painted, newest, forth, back, start: found[0] };""")
    assert states["painted"]
    assert states["newest"]
    assert states["forth"] == states["back"]
    assert states["forth"][-1] == states["start"]
    assert len(set(states["forth"])) == 4


def test_the_strip_shows_where_a_structure_is_likely_wrong_and_leads_there(page: AnnotationPage) -> None:
    page.open("slanted")
    page.structure("wedge")
    voxels = page.inside("""const { labels, grid, current } = page.work, edit = labels.edit();
        const [w, h, d] = labels.dims;
        for (let n = 0; n < labels.values.length; n += 1) {
          const [r, a, s] = [n % w, Math.floor(n / w) % h, Math.floor(n / (w * h))];
          const inside = r >= 2 && r < 6 + (s % 3) && a >= 3 && a < 6 + 2 * (s % 4) && s >= 2 && s < d - 3;
          if (inside) edit.paint(n, current.value);
        }
        page.work.extend(page.work.step("paint"), edit);
        page.draw();
        const own = Uint8Array.from({ length: 256 }, (_, n) => n === current.value);
        return Array.from(grid.file(labels.values, own));""")
    mask = np.reshape(voxels, SHAPE, order="F").astype(np.uint8)
    axes, steps = page.inside("return [page.marks.grid.axes, page.marks.grid.step]")
    for shown, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        told = slice_errors(mask, {"wedge": 1}, {"wedge": boxes_of(mask)[1]}, axis)["wedge"]
        expected = np.zeros(SHAPE[axis])
        expected[told["first"] :][: len(told["expected"])] = told["expected"]
        found = page.inside("return page.work.errors(given[0]).expected", shown)
        np.testing.assert_allclose(found, expected[:: int(np.sign(step))], atol=0.06)
    errors = page.inside("return page.act.errors().expected")
    worst, second = np.argsort(np.negative(errors), kind="stable")[:2].tolist()
    assert page.one("#errors .worst").get_attribute("data-slice") == str(worst)
    page.press("d")
    assert page.inside("return page.act.slices().at") == worst
    page.press("d")
    assert page.inside("return page.act.slices().at") == second
    strip = page.one("#errors")
    beside = round((worst + 0.5 - len(errors) / 2) * strip.size["width"] / len(errors))
    ActionChains(page.browser).move_to_element_with_offset(strip, beside, 0).click().perform()
    assert page.inside("return page.act.slices().at") == worst
    page.press("z")
    page.wait(lambda: not page.all("#errors"))  # of a structure that is nowhere nothing is wrong


def test_paint_that_corrects_a_mask_is_carried_to_the_slices_around(page: AnnotationPage) -> None:
    page.open("organ0")
    page.structure("bar")
    page.inside("""const { labels, current } = page.work, edit = labels.edit(), [w, h, d] = labels.dims;
        for (let n = 0; n < labels.values.length; n += 1) {
          const there = [n % w, Math.floor(n / w) % h, Math.floor(n / (w * h))];
          if (there.every((index) => index >= 2 && index < 9)) edit.answer(n, current.value);
        }
        page.work.extend(page.work.step("click"), edit);
        page.viewer.go([5, 5, 5]);""")
    areas = """const { labels, current } = page.work, along = 2 - page.viewer.main, [w, h] = labels.dims;
        const found = new Array(labels.dims[along]).fill(0);
        labels.values.forEach((value, n) => {
          const there = [n % w, Math.floor(n / w) % h, Math.floor(n / (w * h))];
          if (value === current.value) found[there[along]] += 1;
        });
        return found;"""
    before = page.inside(areas)
    page.inside("""const { labels, current } = page.work, edit = labels.edit(), along = 2 - page.viewer.main;
        const [across] = [0, 1, 2].filter((axis) => axis !== along);
        for (let up = 2; up < 9; up += 1) for (const further of [9, 10, 11]) {
          const there = [up, up, up];
          there[along] = 5;
          there[across] = further;
          edit.paint(labels.index(there), current.value);
        }
        page.act.painted(edit);""")
    page.press("g")
    page.answered()
    after = page.inside(areas)
    assert after[5] == before[5] + 21
    assert before[4] < after[4] < after[5]
    assert before[6] < after[6] < after[5]
    page.press("z", "z")
    assert page.inside(areas) == before


def test_the_keyboard_alone_prompts_paints_and_takes_back(page: AnnotationPage) -> None:
    page.open("organ0")
    page.look_at((16, 14, 5))
    page.press("t")
    page.press("organ" + Keys.ENTER)
    page.press("i")
    page.answered()
    assert page.prompts()["foreground"] == [[16, 14, 5]]
    page.press("b", "i", *[Keys.ARROW_RIGHT] * 4)
    page.shift(Keys.ARROW_UP)
    page.press("i")
    page.answered()
    roi = np.reshape(page.prompts()["roi"], (3, 2))
    assert sorted(np.diff(roi).ravel().tolist()) == [0, 1, 4]
    page.press("z")
    assert page.prompts()["roi"] is None
    page.press("p", "i")
    assert page.inside("return page.work.labels.painted[page.work.labels.index(page.viewer.at)]") == 1
    page.press(Keys.DELETE)
    page.wait(lambda: page.painted() == 0)
    page.press("m")
    assert page.inside("return page.viewer.main") != 0


def test_a_pen_draws_and_fingers_only_move_once_one_was_seen(page: AnnotationPage) -> None:
    page.open("organ0")
    page.structure("organ")
    page.tool("brush")
    x, y = page.middle()
    page.draw((x - 30, y), (x + 30, y), PEN)
    page.wait(lambda: page.steps() == 1)
    drawn = page.count()
    page.draw((x - 30, y - 60), (x + 30, y - 60), FINGER)
    assert page.steps() == 1
    assert any(page.inside("return page.viewer.zoom.slice(0, 3)"))
    page.press("0")
    page.draw((x - 30, y), (x, y), PEN, button=2)  # the one on its side
    page.wait(lambda: page.steps() == 2)
    assert 0 < page.count() < drawn
    assert (
        page.browser.execute_script("return getComputedStyle(document.querySelector('#marks')).touchAction") == "none"
    )


def test_unsaved_work_is_offered_after_a_reload_and_never_sent_by_itself(page: AnnotationPage, server: Server) -> None:
    page.open("organ0")
    page.structure("organ")
    page.tool("brush")
    x, y = page.middle()
    page.drag((x, y), (x + 40, y))
    page.wait(lambda: page.painted() > 0)
    drawn = page.painted()
    page.wait(lambda: page.inside("return page.work.kept === page.work.changes"))
    page.load("organ0")
    assert "Unsaved work" in page.text("#unfinished")
    assert page.inside("return page.work.labels.painted.indexOf(1)") == -1
    page.press(Keys.ENTER)  # its first answer has the focus: go on with it
    page.wait(lambda: page.painted() == drawn)
    assert status(server, "organ0") in ("unlabelled", "automatic")
    page.load("organ0")
    page.one("#discard").click()
    page.wait(lambda: not page.all("#unfinished"))
    page.load("organ0")
    assert not page.all("#unfinished")


def test_prompts_alone_make_a_template_of_their_kind_until_a_label_is_painted(
    page: AnnotationPage, server: Server, tmp_path: Path
) -> None:
    page.open("organ1")
    page.structure("organ")
    page.click(*page.middle())
    page.answered()
    said = page.prompts()["foreground"]
    page.one("#submit-prompts").click()
    page.wait(lambda: page.all(".done"))
    assert status(server, "organ1") == "prompted"
    info = server.get("/datastore/label/info?label=organ1&tag=prompted")
    assert info["prompts"] == {"organ": {"foreground": said}}
    server.wait_for(lambda status: status["job"]["state"] == "done" and "organ1" in status["templates"])
    made = server.get("/datastore/label/info?label=organ2&tag=original")["params"]
    assert made["prompt_types"]["organ"] == ["click"]
    assert "organ1" in made["templates"]
    page.open("organ1")
    assert page.prompts()["foreground"] == said
    replace_by_theirs(server, "organ1", 1, tmp_path)
    assert status(server, "organ1") == "template"
    assert server.request("GET", "/datastore/label/info?label=organ1&tag=prompted").json() == {}
    refused = server.request("PUT", "/oneprompt/studies/organ1/prompts", json={"prompts": info["prompts"]})
    assert refused.status_code == 409
    server.wait_for(lambda status: status["job"]["state"] == "done")
    made = server.get("/datastore/label/info?label=organ2&tag=original")["params"]
    assert made["prompt_types"]["organ"] == ["seglab"]


def test_the_loop_goes_on_from_study_to_study_by_keys(page: AnnotationPage, server: Server) -> None:
    server.wait_for(lambda status: status["job"]["state"] == "done")
    page.open("organ2")
    assert page.text(".review .big")
    page.press("k")
    assert page.inside("return page.state.tool") == "click"
    page.press("r")
    page.wait(lambda: page.one("#top h1").text not in ("", "organ2"))
    assert status(server, "organ2") == "rejected"
    page.loaded()
    page.press("u")
    page.loaded("organ2")
    assert status(server, "organ2") == "automatic"
    page.one("#accept")
    page.press("a")
    page.wait(lambda: page.one("#top h1").text not in ("", "organ2"))
    assert status(server, "organ2") == "accepted"
    page.loaded()
    here = page.one("#top h1").text
    page.press("n")
    page.wait(lambda: page.one("#top h1").text != here or "last study" in page.text(".toast"))
    page.loaded()


def test_two_people_on_one_study_are_told_before_one_overwrites_the_other(
    page: AnnotationPage, server: Server, tmp_path: Path
) -> None:
    page.open("organ3")
    present = {"session": "another", "name": "Anna"}
    server.request("POST", "/oneprompt/studies/organ3/presence", json=present)
    page.inside("page.attend()")
    page.wait(lambda: "Anna has this study open" in page.text(".others"))
    page.structure("organ")
    page.tool("brush")
    page.click(*page.middle())
    page.wait(lambda: page.steps() == 1)
    theirs = replace_by_theirs(server, "organ3", 3, tmp_path)
    page.press(Keys.ENTER)
    assert "saved a label for this study meanwhile" in page.text("#conflict")
    assert server.mask("organ3", tmp_path, "final").read_bytes() == theirs
    page.one("#replace").click()
    page.wait(lambda: page.all(".done"))
    assert server.mask("organ3", tmp_path, "final").read_bytes() != theirs
    assert server.mask("organ3", tmp_path, "former").read_bytes() == theirs


def test_a_lost_answer_and_an_expired_login_cost_nothing_that_was_drawn(page: AnnotationPage, server: Server) -> None:
    page.open("organ4")
    page.inside("""window.reach = window.fetch;
        window.fetch = async (path, options) => {
          const answer = await window.reach(path, options);
          if (options?.method === "PUT") throw new TypeError("the connection broke");
          return answer;
        };""")
    page.structure("organ")
    page.tool("brush")
    x, y = page.middle()
    page.drag((x, y), (x + 40, y))
    page.wait(lambda: page.steps() == 1)
    drawn = page.count()
    page.press(Keys.ENTER)
    page.wait(lambda: "Not saved, and nothing is lost" in page.text(".toast"))
    page.inside("""window.fetch = async (path, options) => (
        String(path).includes("auth/token") ? Response.json({ access_token: "a" })
          : options?.headers?.Authorization ? window.reach(path, options) : new Response("{}", { status: 401 }));""")
    page.press("c")
    page.click(x, y)
    page.one(".login [name=username]").send_keys("anna")
    page.one(".login [name=password]").send_keys("secret" + Keys.ENTER)
    page.wait(lambda: not page.all(".login"))
    page.answered()
    assert page.inside("return page.work.past.at(-1).answered")  # what was asked for is asked for again
    page.press("z")
    page.wait(lambda: page.count() == drawn)
    page.press(Keys.ENTER)  # the server has this label already
    page.wait(lambda: page.all(".done"))
    assert status(server, "organ4") == "template"
    page.inside("window.fetch = window.reach; sessionStorage.clear();")


def test_without_webgl_the_page_says_so_and_names_the_other_ways(page: AnnotationPage) -> None:
    script = "HTMLCanvasElement.prototype.getContext = () => null"
    added = page.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page.browser.get(f"{page.address}?study=organ0")
        text = page.one("[role=alert]").text
        assert "WebGL 2" in text
        assert "3D Slicer" in text
    finally:
        page.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_study_that_is_gone_or_a_name_in_other_capitals_is_told(
    page: AnnotationPage, server: Server, folder: Path
) -> None:
    page.load("gone")
    assert "'gone'" in page.text("[role=alert]")  # whichever of two answers came first
    page.open("organ0")
    page.one("#new-structure").send_keys("ORGAN" + Keys.ENTER)
    page.wait(lambda: "organ is there already" in page.text(".toast"))
    assert "ORGAN" not in page.inside("return page.work.structures.map(({ name }) => name)")
    page.tool("brush")
    page.click(*page.middle())
    page.wait(lambda: page.steps() == 1)
    (folder / "studies" / "organ0.nii.gz").rename(folder / "organ0.nii.gz")
    server.wait_for(lambda status: "organ0" not in status["studies"])
    page.inside("await page.refresh()")
    assert "no study 'organ0'" in page.text("#gone")
    assert page.one("#download").is_displayed()
    (folder / "organ0.nii.gz").rename(folder / "studies" / "organ0.nii.gz")
    server.wait_for(lambda status: "organ0" in status["studies"])
    page.inside("await page.refresh()")
    page.wait(lambda: not page.all("#gone"))
    assert page.steps() == 1


def test_the_page_fits_a_tablet_and_its_text_can_be_read(page: AnnotationPage) -> None:
    page.open("organ0")
    page.browser.set_window_size(820, 1180)
    page.drawn()
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
    prompts = {"organ": {"roi": [4, 28, 4, 28, 1, 8], "foreground": [[16, 16, 5]]}}
    assert server.infer("oneprompt_click", "organ2", {"prompts": prompts}).status_code == 200
    answer = server.infer("oneprompt_submit", "organ2", {}, output="json")
    # An untrained network may find nothing, which is no label
    saved = server.status()["studies"]["organ2"]["status"] == "template"
    assert saved == (answer.status_code == 200)
    if saved:
        told = json.loads(answer.text)
        assert "organ" in told["saved"]  # beside what the accepted mask shows
        assert told["following_studies"] >= 0

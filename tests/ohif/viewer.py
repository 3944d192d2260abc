"""OHIF as MONAI Label's wheel brings it, unmodified, in a headless Chromium, with an annotator's hands and eyes.

Hands are real mouse events. Eyes are pixels of the page, and what OHIF itself holds: its views, which say where a place
in the patient lies on the screen, and its label map. A recorder notes what its panel asks and what it is answered.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import PIL.Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from scripts.ohif import ohif_address

PATIENCE = 180.0  # seconds: software rendering on a busy machine
LOST = 10.0  # seconds after which a click that nothing came of is one that went astray
WINDOW = (1500, 900)
# Rendering without a graphics card; nothing that would look for the network
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-device-scale-factor=1"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
)

# What the panel's requests carry and bring, kept before OHIF changes it
RECORDER = """
if (!window.recorded) {
  window.recorded = [];
  window.asked = [];
  const open = XMLHttpRequest.prototype.open, send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.open = function (method, url) {
    this.noted = { method, url: String(url) };
    return open.apply(this, arguments);
  };
  XMLHttpRequest.prototype.send = function (body) {
    const noted = this.noted;
    if (/[/](infer|activelearning|train|info)[/]/.test(noted.url)) {
      noted.params = body instanceof FormData ? body.get('params') : body;
      window.asked.push(noted.url);
      this.addEventListener('load', () => {
        noted.status = this.status;
        if (this.response instanceof ArrayBuffer) {
          let text = '';
          for (const byte of new Uint8Array(this.response)) text += String.fromCharCode(byte);
          noted.answer = btoa(text);
        } else noted.answer = typeof this.response === 'string' ? this.response : JSON.stringify(this.response);
        window.recorded.push(noted);
      });
    }
    return send.apply(this, arguments);
  };
}
"""

# One viewport as data: where it is on the page, and the world coordinates of its canvas' corner and of one pixel on
VIEWPORTS = """
return window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports()).map(viewport => {
  const box = viewport.element.getBoundingClientRect();
  const at = (x, y) => Array.from(viewport.canvasToWorld([x, y]));
  const place = [box.left, box.top, box.width, box.height];
  return { id: viewport.id, box: place, corner: at(0, 0), right: at(100, 0), down: at(0, 100) };
});
"""
LABELMAP = """
const volume = window.services.segmentationService.getLabelmapVolume('1');
if (!volume) return null;
const values = new Uint8Array(volume.voxelManager.getCompleteScalarDataArray());
let text = '';
for (const value of values) text += String.fromCharCode(value);
return { dimensions: Array.from(volume.dimensions), data: btoa(text) };
"""
JUMP = """
const point = arguments[0];
for (const viewport of window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports())) {
  const camera = viewport.getCamera(), normal = camera.viewPlaneNormal;
  const along = normal.reduce((sum, n, axis) => sum + n * (point[axis] - camera.focalPoint[axis]), 0);
  const moved = place => place.map((value, axis) => value + along * normal[axis]);
  viewport.setCamera({ focalPoint: moved(camera.focalPoint), position: moved(camera.position) });
  viewport.render();
}
"""
POINTS = """
const marks = window.cornerstoneTools.annotation.state.getAnnotationManager().getAllAnnotations();
return marks.filter(mark => mark.metadata.toolName === 'ProbeMONAILabel').length;
"""
SHOW = """
const service = window.services.segmentationService;
for (const viewport of window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports()))
  for (const shown of service.getSegmentationRepresentations(viewport.id, { segmentationId: '1' }))
    service.toggleSegmentationRepresentationVisibility(viewport.id, { segmentationId: '1', type: shown.type });
"""


@dataclass(frozen=True)
class Viewport:
    """One of OHIF's views. Coordinates on the screen are CSS pixels, in the patient LPS millimetres."""

    id: str
    box: tuple[float, float, float, float]  # left, top, width, height on the page
    corner: np.ndarray  # LPS of the box's upper left corner
    steps: np.ndarray  # (3, 2): LPS for one pixel to the right and one down

    def pixel(self, lps: np.ndarray) -> tuple[float, float]:
        """Where a place lies within the box: pixels to the right and down."""
        right, down = np.linalg.lstsq(self.steps, lps - self.corner, rcond=None)[0]
        return float(right), float(down)

    def places(self) -> np.ndarray:
        """LPS of the middle of every pixel: (height, width, 3)."""
        height, width = int(self.box[3]), int(self.box[2])
        down, right = np.mgrid[:height, :width] + 0.5
        return self.corner + right[..., None] * self.steps[:, 0] + down[..., None] * self.steps[:, 1]


@dataclass(frozen=True)
class Exchange:
    """A request of the panel and its answer."""

    path: str
    params: dict[str, Any]
    status: int
    answer: bytes


class Viewer:
    """OHIF on one page, at a server's address."""

    def __init__(self, base: str, profile: Path) -> None:
        options = ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={WINDOW[0]},{WINDOW[1]}"):
            options.add_argument(flag)
        self._base = base
        self._driver = Chrome(options, ChromeService("/usr/bin/chromedriver"))
        self._driver.set_page_load_timeout(PATIENCE)
        self._driver.set_script_timeout(PATIENCE)

    def close(self) -> None:
        """End the browser."""
        self._driver.quit()

    @property
    def browser(self) -> Chrome:
        """What it is shown in, for other pages of the server."""
        return self._driver

    # Hands

    def log_in(self, base: str, name: str, password: str) -> None:
        """Go on at another address, whose authority nobody knows, with what its browser would ask for."""
        self._base = base
        self._driver.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
        self._driver.get(f"{base.replace('://', f'://{quote(name)}:{quote(password)}@')}/info/")  # remembers them

    def open(self, study: str) -> None:
        """Open a study in MONAI Label mode and wait until its three views show it."""
        self._driver.get(ohif_address(self._base, study))
        self._wait_for_views()

    def _wait_for_views(self) -> None:
        self.wait(lambda: self._find("#monailabelServerURL"))
        self.wait(lambda: len(self.viewports()) == 3 and min(self.grey(view).std() for view in self.viewports()) > 5)
        self._driver.execute_script(RECORDER)
        for notice in self._driver.find_elements(By.XPATH, "//*[text()='Confirm and Hide']"):
            notice.click()  # OHIF's own: for investigational use only

    def connect(self) -> None:
        """Give the panel the server's address and press the button beside it."""
        self.wait(self._give_address)
        self._press(".settingsTable button.actionButton", lambda: self._find(".modelSelector"))
        self.wait(lambda: self.labelmap() is not None)

    def models(self) -> dict[str, list[str]]:
        """{tab of the panel: models it lists}."""
        tabs = self._driver.find_elements(By.CSS_SELECTOR, ".tabs .tab")
        return {
            tab.find_element(By.CSS_SELECTOR, ".tab-label").get_attribute("textContent"): [
                option.get_attribute("value") for option in tab.find_elements(By.CSS_SELECTOR, ".modelSelector option")
            ]
            for tab in tabs
        }

    def choose(self, tab: str, model: str = "", label: str = "") -> None:
        """Open a tab of the panel, select a model and a label in it."""
        self._open_tab(tab)
        if model:
            self.wait(lambda: self._select(tab, model))  # the tab unfolds first
        if label:
            row = f"{self._tab(tab)}//tr[td[text()='{label}']]"
            self._press(row, lambda: "transparent" not in self._find(row).get_attribute("style"))

    def _select(self, tab: str, model: str) -> bool:
        choice = Select(self._find(f"{self._tab(tab)}//*[contains(@class,'modelSelector')]//select"))
        choice.select_by_value(model)
        return choice.first_selected_option.get_attribute("value") == model

    def click(self, viewport: str, lps: np.ndarray) -> None:
        """Click where a view shows a place."""
        view = next(view for view in self.viewports() if view.id == viewport)
        right, down = view.pixel(lps)
        left, top, width, height = view.box
        assert 0 < right < width, (right, view)
        assert 0 < down < height, (down, view)
        before = self._driver.execute_script(POINTS)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            event = {"type": kind, "x": round(left + right), "y": round(top + down), **button}
            self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        self.wait(lambda: self._driver.execute_script(POINTS) == before + 1)

    def run(self, tab: str) -> Exchange:
        """Press a tab's *Run*, and wait until its answer is in the label map."""
        before = len(self.exchanges())
        self._ask(f"{self._tab(tab)}//button[text()='Run']")
        self.wait(lambda: len(self.exchanges()) > before)
        self.settle()
        return self.exchanges()[-1]

    def set_option(self, model: str, name: str) -> None:
        """Switch an option of a model on, in the panel's dialogue."""
        form = self._open_options("infer")
        Select(self._find("select[name=selectName]")).select_by_value(model)
        box = f"//div[contains(@class,'optionsForm')]//tr[td[contains(., '{name}')]]//input[@type='checkbox']"
        self._press(box, lambda: self._find(box).is_selected())
        self._press("//button[contains(., 'Confirm')]", lambda: not self._driver.find_elements(By.CSS_SELECTOR, form))

    def choices(self, section: str) -> list[str]:
        """What has options in a section of the panel's dialogue."""
        form = self._open_options(section)
        names = [option.get_attribute("value") for option in Select(self._find("select[name=selectName]")).options]
        self._press("//button[contains(., 'Confirm')]", lambda: not self._driver.find_elements(By.CSS_SELECTOR, form))
        return names

    def _open_options(self, section: str) -> str:
        """Open the panel's dialogue; CSS of what closes with it."""
        form = "select[name=selectSection]"
        self._press("//a[normalize-space()='Options / Configurations']", lambda: self._find(form))
        Select(self._find(form)).select_by_value(section)
        return form

    def next_sample(self) -> None:
        """Ask for the next sample, and press the button that opens it."""
        before = self.study()
        self._open_tab("Active Learning")
        form = "//*[contains(@class,'nextSampleForm')]//button"
        self._press("//button[text()='Next Sample']", lambda: self._find(form))
        self._press(form, lambda: self._driver.switch_to.alert)
        self._driver.switch_to.alert.accept()  # whether to leave this study
        self.wait(lambda: self.study() != before)
        self._wait_for_views()

    def update_model(self) -> None:
        """Press *Update Model*."""
        self._open_tab("Active Learning")
        self._ask("//button[text()='Update Model']")

    def jump(self, lps: np.ndarray) -> None:
        """Move all views to the planes through a place."""
        self._driver.execute_script(JUMP, [float(value) for value in lps])
        self.settle()

    def toggle_labels(self) -> None:
        """Hide the label map, or show it again."""
        self._driver.execute_script(SHOW)
        self.settle()

    # Eyes

    def study(self) -> str:
        """StudyInstanceUID of what is open."""
        return self._driver.current_url.rpartition("StudyInstanceUIDs=")[2].partition("&")[0]

    def viewports(self) -> list[Viewport]:
        """The views as they are now."""
        found = self._driver.execute_script(f"try {{ {VIEWPORTS} }} catch (error) {{ return [] }}") or []
        views = []
        for told in found:
            corner, right, down = (np.array(told[key], float) for key in ("corner", "right", "down"))
            steps = np.stack([(right - corner) / 100, (down - corner) / 100], axis=1)
            views.append(Viewport(told["id"], tuple(told["box"]), corner, steps))
        return views

    def labelmap(self) -> np.ndarray | None:
        """The label map that OHIF shows, uint8 (i, j, k); None before it has one."""
        told = self._driver.execute_script(f"try {{ {LABELMAP} }} catch (error) {{ return null }}")
        if not told:
            return None
        flat = np.frombuffer(base64.b64decode(told["data"]), np.uint8)
        return flat.reshape(told["dimensions"], order="F")

    def grey(self, viewport: Viewport | None = None) -> np.ndarray:
        """The page's pixels, or those of one view: (height, width, 3), 0 to 255."""
        pixels = np.asarray(PIL.Image.open(io.BytesIO(self._driver.get_screenshot_as_png())).convert("RGB"), float)
        if viewport is None:
            return pixels
        left, top, width, height = (int(value) for value in viewport.box)
        return pixels[top : top + height, left : left + width]

    def exchanges(self) -> list[Exchange]:
        """What the panel asked so far, and was answered."""
        return [
            Exchange(
                path=noted["url"].partition("//")[2].partition("/")[2],
                params=json.loads(noted.get("params") or "{}"),
                status=noted["status"],
                answer=base64.b64decode(noted["answer"]) if "/infer/" in noted["url"] else noted["answer"].encode(),
            )
            for noted in self._driver.execute_script("return window.recorded || []")
        ]

    def save_picture(self, path: Path) -> None:
        """The page as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._driver.get_screenshot_as_png())

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition is true; its value."""
        end, value, reason = time.monotonic() + PATIENCE, None, ""
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except Exception as error:  # an element that is not there yet, or no longer
                reason = str(error)
            time.sleep(0.3)
        raise AssertionError(f"OHIF was waited for in vain. {reason}\n{self._driver.get_log('browser')[-5:]}")

    def settle(self) -> None:
        """Wait until the views show what they are told: they are drawn one after the other, and only when idle."""

        def still() -> bool:
            before = [self.grey(view) for view in self.viewports()]
            time.sleep(1.0)
            return all(np.array_equal(*pair) for pair in zip(before, map(self.grey, self.viewports()), strict=True))

        self.wait(still)

    def _find(self, selector: str) -> WebElement:
        """By CSS, or by XPath where it begins with a slash."""
        return self._driver.find_element(By.XPATH if selector.startswith("/") else By.CSS_SELECTOR, selector)

    def _tab(self, name: str) -> str:
        """XPath of a tab of the panel."""
        return f"//*[contains(@class,'tab-label')][text()='{name}']/ancestor::*[contains(@class,'tab')][1]"

    def _give_address(self) -> bool:
        field = self._find("#monailabelServerURL")
        # Typed over, as a person would: the panel breaks when it is told of an empty address
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(f"{self._base}/")
        return field.get_attribute("value") == f"{self._base}/"

    def _open_tab(self, name: str) -> None:
        """Unfold a tab of the panel; a click on an open one might fold it."""

        switch, label = (f"{self._tab(name)}//*[contains(@class,'{part}')]" for part in ("tab-switch", "tab-label"))
        if not self.wait(lambda: self._find(switch)).is_selected():
            self._press(label, lambda: self._find(switch).is_selected())

    def _ask(self, button: str) -> None:
        """Press a button that sends a request to the server."""
        asked = "return window.asked.length"
        before = self._driver.execute_script(asked)
        self._press(button, lambda: self._driver.execute_script(asked) > before)

    def _press(self, what: str, effect: Callable[[], Any]) -> None:
        """Click an element, until its effect is seen.

        Again where OHIF exchanged it meanwhile, and where the click went astray: what is in a tab moves while it
        unfolds, and may be gone from under the mouse before the button is up again.
        """
        pressed = False

        def seen() -> bool:
            with suppress(WebDriverException):  # what is looked for is not there yet
                return bool(effect())
            return False

        def press() -> bool:
            nonlocal pressed
            if pressed and seen():
                return True
            element = self._find(what)
            self._driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
            place = element.rect
            time.sleep(0.1)
            if element.rect != place:
                return False  # not yet: it still moves
            element.click()
            pressed, end = True, time.monotonic() + LOST
            while not (found := seen()) and time.monotonic() < end:
                time.sleep(0.3)
            return found

        self.wait(press)

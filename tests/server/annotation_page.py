"""The annotation page in a browser, with an annotator's hands and eyes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image as Pillow
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.actions import interaction
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.server.conftest import Server

PATIENCE = 180.0  # seconds: software rendering on a busy machine
QUICK = 20  # milliseconds that the mouse takes from place to place
WHITE = 200  # grey values above this are the block that the tests look for

Place = tuple[int, int]


class AnnotationPage:
    """What a person sees and does on the annotation page."""

    def __init__(self, browser: Chrome, server: Server) -> None:
        self.browser, self.server = browser, server
        self.address = f"http://127.0.0.1:{server.port}/oneprompt/annotate"

    # Opening

    def open(self, study: str) -> None:
        """Open a study from what is saved, with the first tool in the hand; in a new page where this is none yet."""
        if not self.browser.current_url.startswith(self.address):
            self.load(study)
            return
        self.inside("""const { state, act } = page;
            if (state.outside) act.turnOutside();
            act.tool("click"); act.opacity(0.35); act.size(6);
            await page.open(given[0]);""", study)  # fmt: skip
        if self.all("#discard"):
            self.one("#discard").click()
            self.wait(lambda: not self.all("#unfinished"))

    def load(self, study: str = "") -> None:
        """Load the page anew; what was drawn before is offered, and nobody has taken it up yet."""
        self.browser.get(self.address + (f"?study={study}" if study else ""))
        self.loaded(study)

    def loaded(self, study: str = "") -> None:
        """Wait until a study is shown, or why it is not."""
        self.wait(lambda: self.one("#top h1").text.startswith(study) and self.all("#readout, .card-over"))
        self.wait(lambda: not self.all(".loading-over"))

    # Looking

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        """The first that there is, as soon as the page shows one."""
        return self.wait(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        """What one says, all at once: it may be redrawn at any moment."""
        script = "return document.querySelector(arguments[0])?.textContent.replace(/\\s+/g, ' ') ?? null"
        return self.wait(
            lambda: [text for text in [self.browser.execute_script(script, selector)] if text is not None]
        )[0]

    def wait(self, condition: Callable[[], Any]) -> Any:
        redrawn = [StaleElementReferenceException]
        return WebDriverWait(self.browser, PATIENCE, 0.05, redrawn).until(lambda browser: condition())

    def inside(self, code: str, *arguments: Any) -> Any:
        """What the page itself knows: `page` is its own object."""
        script = """const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);
            import("/oneprompt/annotate/static/page.js").then(({ page }) => (async () => {"""
        end = "})()).then((value) => done({ value }), (error) => done({ error: String(error) }))"
        answer = self.browser.execute_async_script(f"{script}{code}{end}", *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

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
        self.drawn()
        return self.inside("""const unit = page.viewer.canvas.width / page.viewer.canvas.clientWidth;
            return page.viewer.nv.screenSlices.map((tile) => tile.leftTopWidthHeight.map((one) => one / unit));""")

    def middle(self) -> Place:
        """Of the large plane."""
        left, top, width, height = self.cells()[0]
        return round(left + width / 2), round(top + height / 2)

    def bright(self, cell: list[float]) -> Place:
        """The middle of what is brightest in a cell, in CSS pixels of the image: seen in a picture of the screen."""
        away = ActionChains(self.browser, duration=QUICK)
        away.move_to_element(self.one("#top h1")).perform()  # no tool says what it does
        self.wait(lambda: self.inside("return page.marks.flash === null"))  # nor stands out what an answer changed
        self.drawn()
        shown = Pillow.open(io.BytesIO(self.one("#stage").screenshot_as_png)).convert("RGB")
        unit = shown.width / self.one("#stage").size["width"]
        pixels = np.asarray(shown).astype(int)[..., :2].min(-1)
        left, top, width, height = (int(value * unit) for value in cell)
        inner = pixels[top + 50 : top + height - 70, left + 30 : left + width - 30]  # without letters and the bar above
        rows, columns = np.nonzero(inner > WHITE)
        assert rows.size, "nothing bright is shown"
        return round((columns.mean() + left + 30) / unit), round((rows.mean() + top + 50) / unit)

    def count(self) -> int:
        """Voxels that the label shows."""
        return self.inside("return page.work.labels.values.reduce((sum, value) => sum + (value ? 1 : 0), 0)")

    def painted(self) -> int:
        """Voxels that were painted or erased by hand."""
        return self.inside("return page.work.labels.painted.reduce((sum, one) => sum + one, 0)")

    def steps(self) -> int:
        """How many steps can be taken back."""
        return self.inside("return page.work.past.length")

    def answered(self) -> None:
        """Wait until nothing is on its way."""
        self.wait(lambda: self.inside("return page.state.busy === 0"))

    def prompts(self) -> dict[str, Any]:
        """Of the chosen structure, in voxels of the file."""
        return self.inside("return page.work.current.prompts")

    # Acting

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def shift(self, key: str) -> None:
        ActionChains(self.browser).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    def tool(self, name: str) -> None:
        self.one(f"[data-tool={name}]").click()

    def structure(self, name: str) -> None:
        self.one("#new-structure").send_keys(name + Keys.ENTER)
        self.wait(lambda: self.inside("return page.work.current?.name") == name)

    def click(self, x: int, y: int, outside: bool = False) -> None:
        """A click on the image, with the right button for outside."""
        actions = self._to(x, y)
        (actions.context_click() if outside else actions.click()).perform()

    def drag(self, start: Place, end: Place) -> None:
        actions = self._to(*start).click_and_hold()
        actions.move_by_offset(end[0] - start[0], end[1] - start[1]).release().perform()

    def draw(self, start: Place, end: Place, pointer: str, button: int = 0) -> None:
        """A line with a pen or a finger (`interaction.POINTER_PEN`, `POINTER_TOUCH`)."""
        box = self.one("#marks").rect
        builder = ActionBuilder(self.browser, mouse=PointerInput(pointer, pointer), duration=QUICK)
        action = builder.pointer_action
        action.move_to_location(round(box["x"]) + start[0], round(box["y"]) + start[1])
        action.pointer_down(button=button)
        action.move_to_location(round(box["x"]) + end[0], round(box["y"]) + end[1])
        action.pointer_up(button=button)
        builder.perform()

    def _to(self, x: int, y: int) -> ActionChains:
        marks = self.one("#marks")
        size = marks.size
        return ActionChains(self.browser, duration=QUICK).move_to_element_with_offset(
            marks, x - size["width"] // 2, y - size["height"] // 2
        )


PEN, FINGER = interaction.POINTER_PEN, interaction.POINTER_TOUCH

"""How long an annotator waits on the annotation page: for the first template, a volume to open, a click to be answered.

    python -m scripts.time_annotate --studies IMAGES --json OUT

Starts the real server on a copy of the study folder and drives the page in a headless Chromium: opens it, names a
structure, clicks, submits, and counts what a person did and what the machine took. Then opens CT phantoms of the sizes
that are asked for, and clicks on the last of them. Chromium draws with the processor here; a graphics card is faster.
Seconds depend on the machine; whether they were measured on an idle one is for the reader to say.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests
from scipy import ndimage
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.support.ui import WebDriverWait

from lib.imaging.images import ImageError
from scripts.command_line import parser_of
from scripts.measure.study_list import StudyListError, copy_studies, find_studies
from scripts.phantoms.phantom import make_phantom
from scripts.servers.client import Server, ServerError, ended_by_signals

PATIENCE = 1800  # seconds for anything to happen
FLAGS = (
    "--headless=new --no-sandbox --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --window-size=1280,900 --use-angle=swiftshader "
    "--enable-unsafe-swiftshader --ignore-gpu-blocklist"
).split()
ELSEWHERE = {"X-Forwarded-For": "10.0.0.7", "Accept-Encoding": "gzip"}  # to whom volumes are sent packed
EXAMPLE = (128, 128)  # in-plane size of the phantom that large volumes are enlarged from


class Page:
    """The annotation page, and how often a person had to do something on it."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser, self.url = browser, f"{url}/oneprompt/annotate"
        self.actions: list[str] = []
        browser.set_script_timeout(PATIENCE)
        assert isinstance(browser.command_executor, RemoteConnection)
        browser.command_executor.client_config.timeout = PATIENCE  # what draws a large volume answers nobody meanwhile

    def open(self, study: str = "") -> float:
        """Open the page; returns the seconds until the study is shown."""
        self.actions.append("open the address")
        return timed(self._open, study)

    def click(self, voxel: Sequence[int] | None = None) -> None:
        """Click a voxel of the study's file in the large plane; by default the one that the cross is on."""
        self.actions.append("click inside it")
        x, y = self.inside(f"""const {{ viewer, marks }} = page, unit = viewer.canvas.width / viewer.canvas.clientWidth;
            const voxel = {json.dumps(voxel and list(voxel))};
            if (voxel) viewer.go(marks.grid.fromFile(voxel));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            const middle = viewer.at.map((index) => index + 0.5);
            return viewer.pixel(viewer.tileOf(viewer.main), middle).map((one) => one / unit);""")
        marks = self.browser.find_element("id", "marks")
        hand = ActionChains(self.browser, duration=0)
        hand.move_to_element_with_offset(marks, round(x - marks.size["width"] / 2), round(y - marks.size["height"] / 2))
        hand.click().perform()

    def answers(self, shape: Sequence[int], clicks: int) -> dict[str, Any]:
        """Seconds from clicks, each taken back, to what is shown: the slice and then the volume, or all at once."""
        self.inside("page.state.times.length = 0")
        for share in np.random.default_rng(0).uniform(0.35, 0.65, (clicks, 3)):
            self.click([int(n) for n in share * shape])
            self.wait("page.state.busy === 0")
            self.press("take it back", "z")
        times = self.inside("return page.state.times")
        return {what: waits(times, what) for what in ("slice", "volume", "all")}

    def press(self, what: str, *keys: str) -> None:
        """Press keys, as one thing that a person does."""
        self.actions.append(what)
        ActionChains(self.browser).send_keys(*keys).perform()

    def wait(self, condition: str) -> None:
        """Wait until JavaScript about `page`, the page's own object, holds."""
        WebDriverWait(self.browser, PATIENCE, 0.01).until(lambda _: self.inside(f"return {condition}"))

    def inside(self, code: str) -> Any:
        """What the page itself knows."""
        return self.browser.execute_async_script(
            f"""const done = arguments[0]; import("/oneprompt/annotate/static/page.js").then(
                async ({{ page }}) => done(await (async (page) => {{{code}}})(page)));"""
        )

    def _open(self, study: str) -> None:
        self.browser.get(self.url + (f"?study={study}" if study else ""))
        self.wait("page.state.study !== null && page.state.loading === null")


def timed(act: Callable[..., Any], *arguments: Any) -> float:
    """Seconds that something takes."""
    began = time.monotonic()
    act(*arguments)
    return time.monotonic() - began


@contextmanager
def page_of(server: Server, profile: Path) -> Iterator[Page]:
    """The page in a browser of its own, as on a first visit."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Page(browser, server.url)
    finally:
        browser.quit()


def first_template(options: argparse.Namespace, studies: Path, folder: Path) -> dict[str, Any]:
    """From the start of the server to the first label that it saved, with a picture in between where one is wanted."""
    server = Server(studies, log=folder / "server.log", conf={"models": str(folder / "models")}, cwd=folder)
    seconds = {"server starts": timed(server.__enter__)}
    try:
        with page_of(server, folder / "first") as page:
            seconds["page shows the study"] = page.open(options.study)
            page.press("close the tour", Keys.ESCAPE)
            page.press("name the structure", "t", options.structure, Keys.ENTER)
            page.wait("page.work.current !== null")
            page.click(options.voxel)
            seconds["click is answered"] = timed(page.wait, "page.state.busy === 0")
            if options.picture:
                page.wait("page.marks.flash === null")  # what the answer changed stands out no longer
                options.picture.write_bytes(page.browser.get_screenshot_as_png())
            page.press("submit", Keys.ENTER)
            seconds["label is saved"] = timed(page.wait, "Boolean(page.state.done)")
            actions = page.actions.copy()
            answers = page.answers(page.inside("return page.state.study.shape"), options.clicks)
        templates = requests.get(f"{server.url}/oneprompt/status", timeout=60).json()["templates"]
    finally:
        server.stop()
    total = round(sum(seconds.values()), 2)
    return {
        "actions": actions,
        "seconds": rounded(seconds),
        "total": total,
        "templates": templates,
        "answers_on_it": answers,
    }


def volumes(sizes: Sequence[tuple[int, int, int]], clicks: int, folder: Path) -> dict[str, Any]:
    """Bytes and seconds to open CT phantoms, and the waits for answers to clicks on each."""
    studies = folder / "volumes"
    studies.mkdir()
    for size in sizes:
        write_ct(studies / f"ct{size[2]}.nii.gz", size)
    figures: dict[str, Any] = {}
    with Server(studies, log=folder / "volumes.log", conf={"models": str(folder / "models")}, cwd=folder) as server:
        for size in sizes:
            study = f"ct{size[2]}"
            with page_of(server, folder / study) as page:
                first, again = page.open(study), page.open(study)
                page.press("close the tour", Keys.ESCAPE)
                page.press("name the structure", "t", "organ", Keys.ENTER)
                answers = page.answers(size, clicks)
            content = requests.get(
                f"{server.url}/oneprompt/studies/{study}/volume.nii", headers=ELSEWHERE, stream=True, timeout=PATIENCE
            )
            sent = len(content.raw.read(decode_content=False))
            figures["x".join(map(str, size))] = {
                "megabytes": round(int(content.headers["X-Length"]) / 1e6, 1),
                "megabytes_packed": round(sent / 1e6, 1),
                "seconds": rounded({"opened for the first time": first, "opened again": again}),
                "answers": answers,
            }
    return figures


def write_ct(path: Path, size: tuple[int, int, int]) -> None:
    """A CT phantom, enlarged, with the noise of a scanner."""
    small = (*EXAMPLE, max(16, size[2] // 8))
    phantom = make_phantom(0, small, (370 / small[0], 370 / small[1], 300 / small[2]))
    factors = [n / m for n, m in zip(size, small, strict=True)]
    array = ndimage.zoom(phantom.array.astype(np.float32), factors, order=1)
    array += 12 * np.random.default_rng(0).standard_normal(array.shape, np.float32)
    affine = phantom.affine @ np.diag([*(1 / np.array(factors)), 1])
    nibabel.save(nibabel.Nifti1Image(np.rint(array).astype(np.int16), affine), path)


def waits(times: Sequence[dict[str, Any]], what: str) -> dict[str, float]:
    """Seconds from a click to the answer shown: median and 95th percentile."""
    seconds = [one["ms"] / 1000 for one in times if one["what"] == what]
    if not seconds:
        return {}
    middle, high = np.percentile(seconds, (50, 95))
    return {"clicks": len(seconds), "median": round(float(middle), 2), "p95": round(float(high), 2)}


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """To hundredths."""
    return {name: round(value, 2) for name, value in seconds.items()}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of("time_annotate", __doc__)
    parser.add_argument("--studies", type=Path, required=True, metavar="IMAGES", help="a study folder")
    parser.add_argument("--study", default="", metavar="ID", help="which to open (default: what the page begins with)")
    parser.add_argument("--structure", default="organ", metavar="NAME", help="what it is called (default organ)")
    parser.add_argument(
        "--voxel", type=int, nargs=3, metavar=("I", "J", "K"), help="what to click (default: the middle)"
    )
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the page as the answer is shown")
    parser.add_argument("--slices", type=int, nargs="*", default=[100, 400], help="of 512 x 512 CT phantoms")
    parser.add_argument("--clicks", type=int, default=20, help="on the study and on each of them (default 20)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        with ended_by_signals(), tempfile.TemporaryDirectory(prefix="oneprompt-annotate-") as name:
            folder = Path(name)
            copy_studies(find_studies(options.studies), folder / "studies")
            figures = {"first_template": first_template(options, folder / "studies", folder)}
            figures["volumes"] = volumes([(512, 512, slices) for slices in options.slices], options.clicks, folder)
    except (StudyListError, ServerError, ImageError) as error:
        print(f"time_annotate: {error}", file=sys.stderr)
        return 2
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

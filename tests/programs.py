"""Tests that need programs, or optional Python packages, say so: `@pytest.mark.needs("Orthanc", "chromium")`.

Where one is missing its tests are deselected, and the end of the run says what was left out and how to get it. With
CI=true nothing is deselected, so a missing program fails.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PACKAGES = {  # program: Debian packages
    "Orthanc": "orthanc orthanc-dicomweb",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "dciodvfy": "dicom3tools",
    "caddy": "caddy",
    "nginx": "nginx-light",
    "openssl": "openssl",
}
OPTIONAL = {"ray": "pip install -r requirements-scale.txt"}  # Python package: how it is installed
_left_out: dict[str, set[str]] = {}  # test files by missing program


def missing(item: pytest.Item) -> Iterator[str]:
    """The programs that a test needs and that are not installed."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if program in OPTIONAL:
                lacks, how = importlib.util.find_spec(program) is None, OPTIONAL[program]
            else:  # KeyError: a program without a package cannot be installed in CI
                how = f"apt-get install {PACKAGES[program]}"
                lacks = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
            if lacks:
                _left_out.setdefault(f"{program} ({how})", set()).add(item.nodeid.split("::")[0])
                yield program


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose programs are missing, except with CI=true."""
    if os.environ.get("CI") == "true":
        return
    without = [item for item in items if list(missing(item))]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist, which has collected the tests, tells the one that writes the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = {program: sorted(files) for program, files in _left_out.items()}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """What such a process left out."""
    for program, files in getattr(node, "workeroutput", {}).get("left_out", {}).items():
        _left_out.setdefault(program, set()).update(files)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for program, files in sorted(_left_out.items()):
        terminalreporter.write_line(f"LEFT OUT for want of {program}: {', '.join(sorted(files))}", yellow=True)

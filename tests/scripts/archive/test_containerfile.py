"""The container file of workers, as far as that can be told without building it."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from lib.cluster.identity import CODE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "scripts" / "archive" / "Containerfile").read_text()


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name; lines that go on are joined."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    found = [line.partition(" ") for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines() if line]
    assert {word for word, _, _ in found} <= {"FROM", "WORKDIR", "ENV", "COPY", "RUN", "CMD"}
    return [rest for word, _, rest in found if word == name]


def copied() -> list[str]:
    """Files and folders of the repository that the image gets."""
    return [source for rest in instructions("COPY") for source in rest.split()[:-1]]


def test_what_is_copied_is_there_and_all_that_workers_are_compared_by():
    for source in copied():
        assert (ROOT / source).exists(), source
    for package in CODE:
        assert any(Path(package).is_relative_to(source) for source in copied()), package


def test_it_is_installed_by_the_projects_own_script_and_requirements():
    (run,) = instructions("RUN")
    setup, install = (shlex.split(command) for command in run.split("&&"))
    script = (ROOT / "scripts" / "setup").read_text()
    assert setup[:2] == ["scripts/setup", "--cpu"]
    assert f"CPU_INDEX={setup[2]}\n" in script
    assert {setup[0], install[-1], *re.findall(r"requirements[\w-]*\.txt", script)} <= set(copied())
    (environment,) = (dict(word.split("=") for word in rest.split()) for rest in instructions("ENV"))
    assert install[0] == "$VENV/bin/pip"
    assert [environment["PYTHONPATH"]] == instructions("WORKDIR")
    assert "VENV=${VENV:-.venv}" in script


@pytest.mark.needs("ray")
def test_its_command_is_one_that_ray_takes():
    from ray.scripts.scripts import cli

    (command,) = instructions("CMD")
    shell, option, line = json.loads(command)
    assert (shell, option) == ("/bin/sh", "-c")
    program, start, *arguments = shlex.split(line.removeprefix("exec "))
    assert program == "$VENV/bin/ray"
    assert Path(sys.executable).with_name("ray").exists()
    options = cli.commands[start].make_context(start, arguments).params
    assert (options["address"], options["block"], options["head"]) == ("$HEAD", True, False)
    assert "-e HEAD=HOST:6379" in TEXT

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def tree():
    """{folder: names listed below it} of the tree in docs/architecture.md."""
    blocks = ARCHITECTURE.split("```")[1::2]
    block = next(block for block in blocks if "apps/oneprompt/main.py" in block)
    listed, folder = {}, ""
    for line in block.splitlines():
        names = re.findall(r"[\w/]+(?:\.\w+|/)(?=,? |$)", line[:28])
        if not line.startswith(" "):
            folder = names[0].rstrip("/") if names else ""
        elif folder:
            listed.setdefault(folder, set()).update(name.rstrip("/") for name in names)
    return listed


@pytest.mark.parametrize("folder", ["lib", "infers", "trainers", "scripts"])
def test_the_tree_lists_every_module_and_nothing_that_is_not_there(folder):
    there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    there |= {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert tree()[folder] == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_linked_or_shown_exists(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).is_file()] == []


# But for the log of experiments, which names what was there then
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "experiments.md"], ids=lambda page: page.name)
def test_every_command_is_a_script_or_module_of_this_project(page):
    modules = re.findall(r"python -m ((?:scripts|tests|infers|lib)\.[\w.]+)", page.read_text())
    scripts = set(re.findall(r"(?<![\w/])scripts/(\w+)(?=[ `\n])", page.read_text())) - {"oneprompt"}  # in a bundle
    names = [name for name in modules if name != "scripts.NAME"]
    assert [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    assert [name for name in scripts if not (ROOT / "scripts" / name).is_file()] == []


def test_every_path_in_the_index_of_rooms_exists():
    index = ARCHITECTURE[: ARCHITECTURE.index("## The tree")]
    paths = re.findall(r"`((?:lib|infers|trainers|scripts)/[\w/.]+)`", index)
    assert len(paths) >= 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_lines_of_markdown_wrap_at_120(page):
    code, long = False, []
    for line in page.read_text().splitlines():
        code ^= line.lstrip().startswith("```")
        if len(line) > 120 and not code and not line.startswith(("|", "![", "```")):
            long.append(line)
    assert long == []

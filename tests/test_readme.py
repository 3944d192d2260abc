import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def tree():
    """{folder: names listed below it} of README's tree."""
    blocks = README.split("```")[1::2]
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


def test_every_file_that_is_linked_or_shown_exists():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert "docs/images/demo.png" in targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_every_command_is_a_script_or_module_of_this_project():
    modules = re.findall(r"python -m ([\w.]+)", README)
    scripts = re.findall(r"\bscripts/(\w+)(?=[ `\n])", README)
    assert {"scripts.demo", "scripts.make_demo_data", "infers.environment"} <= set(modules)
    assert {"serve", "test", "setup", "check"} <= set(scripts)
    names = [name for name in modules if name != "scripts.NAME"]
    assert [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    assert [name for name in scripts if not (ROOT / "scripts" / name).is_file()] == []

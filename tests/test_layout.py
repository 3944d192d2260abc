"""What keeps the rooms of the house apart, and what MONAI Label expects of the entry file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = {"apps", "infers", "lib", "scripts", "trainers"}
# main -> infers, trainers -> lib <- scripts
MAY_IMPORT = {
    "lib": {"lib"},
    "scripts": {"scripts", "lib"},
    "infers": {"infers", "lib"},
    "trainers": {"trainers", "lib"},
    "apps": {"infers", "trainers", "lib"},
}


def imports_of(file):
    """Top-level names of all packages that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_go_one_way(room):
    files = [file for file in (ROOT / room).rglob("*.py") if not {"model", "logs"} & set(file.relative_to(ROOT).parts)]
    assert files
    for file in files:
        found = set(imports_of(file))
        assert found & OWN <= MAY_IMPORT[room], f"{file.relative_to(ROOT)} imports {found & OWN}"
        assert room != "lib" or "monailabel" not in found, file


def test_lib_works_where_monai_label_is_not_imported():
    code = """
import importlib, pkgutil, sys
import lib
for module in pkgutil.walk_packages(lib.__path__, "lib."):
    importlib.import_module(module.name)
sys.exit(str(loaded) if (loaded := [name for name in sys.modules if name.split(".")[0] == "monailabel"]) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_monai_label_finds_exactly_one_app_in_the_entry_file():
    code = f"""
import inspect
from monailabel.utils.others.class_utils import module_from_file
main = module_from_file("main", {str(ROOT / "apps" / "oneprompt" / "main.py")!r})
found = [name for name, value in inspect.getmembers(main, inspect.isclass)
         if "MONAILabelApp" in [base.__name__ for base in value.__bases__]]
assert found == ["OnePromptApp"], found
"""
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

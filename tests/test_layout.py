"""What keeps the rooms of the house apart, and what MONAI Label expects of the entry file."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from monailabel.utils.others.class_utils import module_from_file

ROOT = Path(__file__).resolve().parents[1]
# main -> infers, trainers -> lib <- scripts
MAY_IMPORT = {
    "lib": {"lib"},
    "scripts": {"scripts", "lib"},
    "infers": {"infers", "lib"},
    "trainers": {"trainers", "lib"},
    "apps": {"infers", "trainers", "lib"},
}
ALSO_IMPORT = {  # they look at study folders and DICOM with the server's own eyes
    "scripts.doctor": {"infers"},
    "scripts.archive.servers": {"infers"},
    "scripts.archive.seg_files": {"infers"},
}
# The rooms of each package, from the ground up: one imports those of lower floors, and of its own where that makes no
# circle. What is not named here stands on the top floor.
FLOORS = {
    "lib": [
        *("parsing plain_json", "imaging", "networks", "learning", "inference", "quality", "segmenters"),
        "cluster finetuning",
    ],
    "infers": [
        "disks environment errors guards label_records limits names params prompts records settings temporary",
        "patches",
        "store",
        "dicom study_list",
        "serving",
        "jobs",
        "tasks",
        "board",
        "annotate",
        "use_cases",
        "operations",
        "api",
    ],
    "scripts": ["phantoms servers", "measure pretraining"],
}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60
REASON = "Longer than most because"  # in a file's own docstring
# Words that name no kind of thing: a noun that tells the type, of docs/glossary.md, stands in their place
NO_NAMES = {"asked", "copies", "drawn", "evidence", "examined", "found", "gate", "judged", "looks", "offers", "said",
            "specialist", "told"}  # fmt: skip
STANDING_NAMES = {"NotFound", "BodyPartExamined", "specialist"}  # HTTP's, DICOM's, and a setting that users give


@cache
def files() -> dict[str, Path]:
    """{module: file} of the whole product; `lib` is `lib/__init__.py`."""
    found = [path.relative_to(ROOT) for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    own = [path for path in found if path.parts[:1] != ("apps",) or path.name == "main.py"]  # MONAI Label makes others
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in own}


def imports_of(module: str, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, inside functions and for type checking too, or only as it is imported."""
    tree = ast.parse(files()[module].read_text())
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> str:
    """The module of ours in which a dotted name stands; empty for others' names."""
    while name and name not in files():
        name = name.rpartition(".")[0]
    return name


@cache
def arrows() -> dict[str, set[str]]:
    """{module: the modules of ours that it imports}."""
    return {module: {file_of(name) for name in imports_of(module)} - {"", module} for module in files()}


def imported_with(module: str) -> set[str]:
    """Dotted names that are imported before a module is, its own among them."""
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        own = file_of(name)
        packages = {own.rpartition(".")[0]} if own else set()
        waiting |= {*packages, *(imports_of(own, at_import=True) if own else ())} - found - {""}
    return found


def room(module: str) -> str:
    """`lib.imaging` of `lib.imaging.images`."""
    return ".".join(module.split(".")[:2])


def floor(module: str) -> int:
    """Which floor of its package a module stands on."""
    package, _, rest = module.partition(".")
    floors = [number for number, rooms in enumerate(FLOORS[package]) if rest.split(".")[0] in rooms.split()]
    return floors[0] if floors else len(FLOORS[package])


def refuse_circles(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_between_packages_go_one_way(package):
    modules = [module for module in files() if module.split(".")[0] == package]
    assert modules
    for module in modules:
        packages = {name.split(".")[0] for name in imports_of(module)}
        allowed = MAY_IMPORT[package] | ALSO_IMPORT.get(module, set())
        assert packages & MAY_IMPORT.keys() <= allowed, module
        assert package != "lib" or "monailabel" not in packages, module


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_no_import_goes_up_a_floor(package):
    rooms = " ".join(FLOORS[package]).split()
    assert [name for name in rooms if f"{package}.{name}" not in files()] == []
    up = [
        f"{module} -> {other}"
        for module, others in arrows().items()
        for other in others
        if module.startswith(f"{package}.") and other.startswith(f"{package}.") and floor(other) > floor(module)
    ]
    assert up == []


def test_no_files_import_each_other_in_a_circle():
    refuse_circles(arrows())


def test_no_rooms_import_each_other_in_a_circle():
    between: dict[str, set[str]] = defaultdict(set)
    for module, others in arrows().items():
        between[room(module)] |= {room(other) for other in others} - {room(module)}
    refuse_circles(between)


@pytest.mark.parametrize(
    "command", ["lib.cluster.segmenting", "scripts.segment_archive", "scripts.predict", "scripts.pretrain"]
)
def test_nobody_waits_for_monai_who_needs_one_prompt_alone(command):
    """Each worker of a cluster imports these, and MONAI takes longer than all else together."""
    packages = {name.partition(".")[0] for name in imported_with(command)}
    assert "torch" in packages
    assert not packages & {"monai", "monailabel"}


def test_a_long_file_says_why_it_is_no_two():
    texts = {path.relative_to(ROOT): path.read_text() for path in files().values()}
    long = [
        str(path) for path, text in texts.items() if len(text.splitlines()) > LONGEST_FILE and REASON not in text[:1000]
    ]
    assert not long


def own_lines(function: ast.AST) -> int:
    """How many lines a function has, without those of functions inside it."""
    inner = [node for node in ast.walk(function) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {number for node in inner[1:] for number in range(node.lineno, node.end_lineno + 1)}
    return function.end_lineno - function.lineno + 1 - len(lines)


def test_no_function_is_long():
    long = [
        f"{module}.{node.name} has {own_lines(node)} lines"
        for module, path in files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and own_lines(node) > LONGEST_FUNCTION
    ]
    assert long == []


def names_given(module: str) -> Iterator[str]:
    """Names that a module gives to variables, attributes, parameters, functions and classes."""
    for node in ast.walk(ast.parse(files()[module].read_text())):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def test_names_are_nouns_that_tell_the_type():
    words = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
    private = [
        f"{module}: {name}"
        for module in files()
        for name in names_given(module)
        if name not in STANDING_NAMES and NO_NAMES & {word.lower() for word in words.findall(name)}
    ]
    assert private == []


def test_monai_label_finds_exactly_one_app_in_the_entry_file(monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_RELOAD_APP_LIB", "false")  # other tests hold classes of `lib` already
    main = module_from_file("main", str(ROOT / "apps" / "oneprompt" / "main.py"))
    apps = [
        name
        for name, value in inspect.getmembers(main, inspect.isclass)
        if "MONAILabelApp" in [base.__name__ for base in value.__bases__]
    ]
    assert apps == ["OnePromptApp"]

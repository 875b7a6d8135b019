"""The order of the layers that docs/architecture.md states, held against every import of the
source."""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
FILES = sorted((SOURCE / "humanpref").rglob("*.py"))
NAMES = {
    path: ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
}
MODULES = set(NAMES.values())
MODULE = re.compile(r"humanpref(\.\w+)+\.?")

LATE = {("humanpref.models", "humanpref.models.blend")}
"""Imports by string that close a circle: they happen at the first use of a name, when both modules
are whole. No new ones."""


def module_named(name: str) -> str:
    """The module that a dotted name lies in: `humanpref.data` for `humanpref.data.read_pairs`."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def imports(code: str) -> set[str]:
    """The package's modules that a piece of source imports, names of modules in strings included:
    they are imported by `importlib`, or run by `python -m`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: expected an absolute import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            found.add(node.value)
    return {module_named(name) for name in found} - {""}


def layer_of(module: str) -> str:
    """`data` for `humanpref.data.pairs`; the layers of `kaggle` count one by one."""
    match module.split(".")[1:]:
        case ["kaggle", layer, *_]:
            return f"kaggle.{layer}"
        case [layer, *_]:
            return layer
    return "humanpref"


@pytest.fixture(scope="module")
def order() -> list[str]:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = text.partition("```order\n")[2].partition("```")[0]
    return re.split(r"[\s<]+", block.strip())


@pytest.fixture(scope="module")
def edges() -> set[tuple[str, str]]:
    """Every import, as the module that imports and the one that is imported. A package's
    `__init__.py` always runs before its modules do, so that these may look at it."""
    return {
        (NAMES[path], other)
        for path in FILES
        for other in imports(path.read_text(encoding="utf-8"))
        if other != NAMES[path]
    }


def test_imports_by_string_are_seen():
    code = "import humanpref.data.pairs\nfrom humanpref.text import cases\nX = 'humanpref.files'"
    assert imports(code) == {"humanpref.data.pairs", "humanpref.text.cases", "humanpref.files"}
    assert imports("importlib.import_module(f'humanpref.models.{name}')") == {"humanpref.models"}
    assert imports("import numpy\n'humanpref reads humanpref.data'") == set()
    with pytest.raises(AssertionError, match="absolute"):
        imports("from . import data")


def test_every_layer_has_its_place_in_the_order(order):
    assert len(order) == len(set(order))
    assert set(order) == {layer_of(module) for module in MODULES} - {"kaggle"}


def test_a_layer_imports_only_layers_before_it(edges, order):
    place = {layer: number for number, layer in enumerate(order)}
    against = {
        (module, other)
        for module, other in edges
        if not module.startswith(f"{other}.") and place[layer_of(other)] > place[layer_of(module)]
    }
    assert against == set()


def test_no_circle_between_modules(edges):
    graph = {module: set() for module in MODULES}
    for module, other in edges - LATE:
        graph[module].add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' > '.join(reversed(error.args[1]))}")


def test_the_command_line_and_the_kernels_alone_know_kaggle(edges):
    knowing = {layer_of(module) for module, other in edges if layer_of(other).startswith("kaggle")}
    assert {layer for layer in knowing if not layer.startswith("kaggle")} == {"cli"}


def test_no_file_is_over_400_lines():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: number for path, number in lines.items() if number > 400} == {}


def test_every_file_has_a_namesake():
    tests = REPOSITORY / "tests"
    expected = [
        tests / path.relative_to(SOURCE / "humanpref").parent / f"test_{path.name}"
        for path in FILES
        if not path.name.startswith("__")
    ]
    assert [path for path in expected if not path.is_file()] == []


@functools.cache
def parsed(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def private_names(path: Path) -> set[str]:
    """The private functions, classes and attributes of `self` that a file defines."""
    names = set()
    for node in parsed(path):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return {name for name in names if re.match(r"_[^_]", name)}


def test_tests_touch_no_private_name():
    # A named tuple's methods are public in spite of their names.
    private = set().union(*map(private_names, FILES)) - {"_replace", "_asdict"}
    touched = []
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        foreign = private - private_names(path)
        for node in parsed(path):
            used = {getattr(node, "attr", None)}
            if isinstance(node, ast.ImportFrom):
                used = {alias.name for alias in node.names}
            elif isinstance(node, ast.Call) and (
                getattr(node.func, "attr", getattr(node.func, "id", "")).endswith("attr")
            ):
                used = {getattr(argument, "value", None) for argument in node.args}
            touched += [f"{path}:{node.lineno}: {name}" for name in used & foreign]
    assert touched == []

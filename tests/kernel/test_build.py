"""What is pushed is written from the scripts in `kernel/`."""

import ast
import runpy
from pathlib import Path

import pytest

from humanpref.kaggle.bundle.metadata import fill_manifest, kernel_code

pytest.importorskip("jupytext")
KERNEL = Path(__file__).parents[2] / "kernel"


@pytest.fixture(scope="module")
def build() -> dict:
    return runpy.run_path(str(KERNEL / "build.py"))


def test_the_pushed_files_are_up_to_date(build):
    for path, text in build["pushed"]().items():
        assert path.read_text(encoding="utf-8") == text, "run: make kernels"


@pytest.mark.parametrize("name", ["train", "infer", "accept"])
def test_a_kernel_holds_the_shared_text_once_and_imports_nothing_of_it(build, name):
    text = build["assemble"](KERNEL / f"{name}.py")
    body = ast.parse(text).body
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert len(functions) == len(set(functions))
    assert {"find", "tree", "check_dataset", "install"} <= set(functions)
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    assert classes == (["Competition"] if name == "infer" else [])
    imported = {ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not [line for line in imported if "bootstrap" in line or "humanpref" in line]
    assert 'MANIFEST = "digest"' in fill_manifest(text, "digest")


def test_the_notebook_is_the_script_by_cells(build):
    script = ast.unparse(ast.parse(build["assemble"](KERNEL / "infer.py")))
    assert ast.unparse(ast.parse(kernel_code(build["INFER"]))) == script

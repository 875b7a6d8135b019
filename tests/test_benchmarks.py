"""Every benchmark can be imported: its imports and signatures follow the package."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    assert importlib.import_module(name).__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_it_names_by_a_string_exists(name):
    pytest.importorskip("torch")
    for dotted in re.findall(r'"(humanpref\.[\w.]+)"', (FOLDER / f"{name}.py").read_text()):
        pkgutil.resolve_name(dotted)

"""Every example in a docstring says what Python prints."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
EXTRAS = ("torch", "starlette", "uvicorn")
OWN_NAMES = {"humanpref.models.base", "humanpref.runs.budget"}
"""Modules whose examples use names that their namesake tests supply, and run there."""


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if name not in OWN_NAMES])
def test_examples(name, arena, monkeypatch):
    monkeypatch.chdir(arena)  # where train.csv and test.csv are
    missing = [extra for extra in EXTRAS if importlib.util.find_spec(extra) is None]
    if missing:
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"not importable without {' and '.join(missing)} ({error})")
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0

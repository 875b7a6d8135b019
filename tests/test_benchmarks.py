"""Every benchmark can be imported: its imports and signatures follow the package. A small part of
`damaged_inputs.py` is run for every commit."""

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


@pytest.fixture
def damaged(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("damaged_inputs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("families", "rows", "artifacts"),
    [(("prior",), 200, 6), (("sparse", "encoder", "decoder", "blend"), 2_000, 60)],
)
def test_damaged_inputs_are_refused_or_read_the_same(damaged, tmp_path, families, rows, artifacts):
    if len(families) > 1:
        pytest.importorskip("torch")
    counts = damaged.study(tmp_path, families, rows, artifacts, seed=2)
    assert damaged.faults(counts) == []
    assert counts["rows"].total() == rows
    assert 1 / 4 < counts["rows"][damaged.REFUSED] / rows < 3 / 4
    assert counts["artifacts"].total() == artifacts
    assert counts["artifacts"][damaged.REFUSED] > 2 / 3 * artifacts


def test_what_is_read_otherwise_is_counted(damaged, monkeypatch, write_csv):
    path = write_csv([(["p"], ["a"], ["b"], 0), (["q"], ["c"], ["d"], 1)])
    assert damaged.judged_rows(path) == damaged.SAME
    read = damaged.read_pairs
    for change in ({"prompt": [("p",), ("other",)]}, {"winner_tie": 0.5}, {"id": ["1", "1"]}):
        monkeypatch.setattr(damaged, "read_pairs", lambda path, c=change: read(path).assign(**c))
        assert damaged.judged_rows(path) == damaged.DIFFERENT
    monkeypatch.setattr(damaged, "read_pairs", lambda path: read(path)[:1])
    assert damaged.judged_rows(path) == damaged.DIFFERENT
    counts = {damaged.SEALED: {"otherwise": 1}, "artifacts": {damaged.DIFFERENT: 2, "x": 1}}
    assert damaged.faults(counts) == ["artifacts: differently (2 times)", "artifacts: x (1 times)"]

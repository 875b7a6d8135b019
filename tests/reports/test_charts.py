"""Charts, read back from SVG files, which name each text that they draw in a comment."""

import re
import sys

import numpy as np
import pandas as pd
import pytest

from humanpref.reports import charts
from humanpref.schema import InputError

pytest.importorskip("matplotlib")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chart.svg"


def drawn(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL)


@pytest.fixture
def losses():
    ends = {"log_loss_low": [0.9, 0.8], "log_loss_high": [1.2, 1.0]}
    return pd.DataFrame({"name": ["worse", "better"], "log_loss": [1.0, 0.9], **ends})


def test_bars_have_totals_and_a_legend_only_for_several_parts(path):
    counts = pd.DataFrame({"wins": [1_000, 2], "ties": [234, 1]})
    charts.bars(path, ["m", "k"], counts, "rows")
    assert {"m", "k", "rows", "1,234", "3", "wins", "ties"} <= set(drawn(path))
    charts.bars(path, ["m", "k"], counts[["wins"]], "rows")
    assert "1,000" in drawn(path)
    assert "wins" not in drawn(path)


def test_names_are_text_and_not_formulas(path):
    estimates = np.array([[0.5, 0.4, 0.6]])
    charts.points(path, ["$x_{" + "y" * 50], {"share": estimates}, 1 / 3, xlabel="share")
    assert any(text.startswith("$x_{yyy") and text.endswith("…") for text in drawn(path))
    assert "share" in drawn(path)


def test_the_best_log_loss_stands_on_top(path, losses):
    charts.interval_figure(losses, path, "two models", 1.0986)
    found = drawn(path)
    assert found.index("better") < found.index("worse")
    assert "two models" in found
    assert any("prior, 1.0986" in text for text in found)


def test_models_that_never_met_leave_the_matrix_white(path):
    charts.matrix(path, ["m", "k"], np.zeros((2, 2)), "rows")
    assert {"m", "k", "rows"} <= set(drawn(path))


def test_curves_without_intervals_and_over_names(path, caplog):
    caplog.set_level("INFO")
    series = {"wins": np.array([[0.5, 0.4, 0.6], [0.6, 0.5, 0.7]]), "tie": np.array([[0.1], [0.2]])}
    charts.curves(path, ["1-2", "over 2"], series, 0.5, xlabel="ratio", ylabel="share")
    assert {"1-2", "over 2", "ratio", "share", "wins", "tie"} <= set(drawn(path))
    charts.curves(path, ["512", "1024"], series, xlabel="tokens")  # names that look like numbers
    assert {"512", "1024"} <= set(drawn(path))
    assert caplog.text == ""
    charts.curves(path, [90, 110], {"wins": series["wins"]}, xlabel="characters", xscale="log")
    assert "100" in drawn(path)


def test_reliability_ends_above_the_largest_probability(path):
    bins = pd.DataFrame({"predicted": [0.2], "observed": [0.3], "low": [0.1], "high": [0.5]})
    charts.reliability(path, {"A": bins, "B": bins})
    assert {"A", "B", "0.5"} <= set(drawn(path))
    assert "0.6" not in drawn(path)


def test_steps_of_one_selection_are_named(path):
    steps = pd.DataFrame({"model": "sparse", "step": [1, 2], "action": "add", "column": ["x", "y"]})
    steps = steps.assign(log_loss=[1.0, 1.1], kept=[True, False])
    charts.selection_figure(steps, path, "selection")
    assert {" add x", " add y", "selection"} <= set(drawn(path))
    charts.selection_figure(pd.concat([steps, steps.assign(model="boosted")]), path, "selection")
    assert {"sparse", "boosted"} <= set(drawn(path))
    assert " add x" not in drawn(path)


def test_without_matplotlib(path, losses, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install .*\[figures\]"):
        charts.interval_figure(losses, path, "two models")

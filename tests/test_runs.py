"""The table of runs: what it lists, and that it says when runs must not be compared."""

import json
import shutil

import pandas as pd
import pytest

from humanpref.cli import main
from humanpref.config import load_config
from humanpref.experiment import train
from humanpref.runs import COLUMNS, differences, runs
from humanpref.schema import InputError


@pytest.fixture(scope="module")
def folder(arena, tmp_path_factory):
    """Two runs on the same folds, one of them two levels down, and a broken one."""
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("prior")
    train(config, arena / "train.csv", folder / "two", folds=2)
    shutil.copytree(folder / "two", folder / "deep" / "again")
    (folder / "broken").mkdir()
    (folder / "broken" / "artifact.json").write_text("{")
    return folder


def test_lists_runs_at_all_levels_and_passes_over_broken_ones(folder, caplog):
    table = runs(folder, "name")
    assert table["name"].tolist() == ["deep/again", "two"]
    assert tuple(table) == COLUMNS
    metrics = json.loads((folder / "two" / "metrics.json").read_text())
    run = table.iloc[1]
    assert (run["log_loss"], run["rows"], run["models"], run["preset"]) == (metrics["log_loss"], 120, 2, "prior")
    assert "broken" in caplog.text
    assert differences(table) == []


def test_says_when_rows_or_folds_differ(folder, arena, tmp_path):
    everything = tmp_path / "runs"
    shutil.copytree(folder, everything)
    train(load_config("prior"), arena / "train.csv", everything / "three", folds=3)
    (difference,) = differences(runs(everything))
    assert "held out different rows" in difference
    assert ": three" in difference
    train(load_config("prior"), arena / "test_labels.csv", everything / "other", folds=3)
    assert "different rows (data" in differences(runs(everything))[0]


def test_the_command_sorts_and_writes(folder, tmp_path, capsys):
    out = tmp_path / "runs.csv"
    assert main(["--quiet", "runs", str(folder), "--sort", "seconds", "--csv", str(out)]) == 0
    assert "| deep/again | prior |" in capsys.readouterr().out
    assert pd.read_csv(out)["seconds"].is_monotonic_increasing
    with pytest.raises(InputError, match="--sort loss: expected one of name"):
        runs(folder, "loss")
    with pytest.raises(InputError, match="no artifact"):
        runs(tmp_path)

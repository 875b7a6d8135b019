"""The table of runs: what it lists, and that it says when runs must not be compared."""

import json
import os
import shutil

import pytest

from humanpref.config import load_config
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend
from humanpref.runs.train import train
from humanpref.schema import InputError
from humanpref.studies.listing import COLUMNS, differences, in_short, runs


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
    assert (run["log_loss"], run["rows"], run["models"], run["preset"]) == (
        metrics["log_loss"],
        120,
        2,
        "prior",
    )
    assert "broken" in caplog.text
    assert differences(table) == []


def test_names_that_are_not_utf8_are_escaped(folder, tmp_path):
    shutil.copytree(folder / "two", tmp_path / os.fsdecode(b"caf\xe9"))
    table = runs(tmp_path)
    assert table["name"].tolist() == ["caf\\udce9"]
    assert "caf\\udce9" in markdown(in_short(table))


def test_says_when_rows_or_folds_differ(folder, arena, tmp_path):
    everything = tmp_path / "runs"
    shutil.copytree(folder, everything)
    train(load_config("prior"), arena / "train.csv", everything / "three", folds=3)
    (difference,) = differences(runs(everything))
    assert "held out different rows" in difference
    assert ": three" in difference
    train(load_config("prior"), arena / "test_labels.csv", everything / "other", folds=3)
    assert (
        "different rows, or on rows in a different order (data" in differences(runs(everything))[0]
    )


def test_a_blend_is_compared_with_those_that_held_out_the_same_rows(folder, arena, tmp_path):
    everything = tmp_path / "runs"
    shutil.copytree(folder / "two", everything / "two")
    sparse = load_config(
        "sparse", overrides=["model.term_penalties=3", "model.structure_penalties=10"]
    )
    train(sparse, arena / "train.csv", everything / "sparse", folds=2)
    blended = blend([everything / "two", everything / "sparse"], everything / "blend")
    assert blended.oof["fold"].nunique() == 5  # its own
    assert differences(runs(everything)) == []
    train(load_config("prior"), arena / "train.csv", everything / "fifth")
    (difference,) = differences(runs(everything))
    group = next(part for part in difference.split("; ") if "blend" in part)
    assert all(name in group for name in ("two", "sparse"))
    assert "fifth" not in group
    shutil.rmtree(everything / "two")
    shutil.rmtree(everything / "sparse")
    (difference,) = differences(runs(everything))
    assert "held out different rows" in difference


@pytest.mark.parametrize(
    "change",
    [
        {"members": ["x"]},
        {"members": {"fold-0": {"training": {"seconds": "long"}}}},
        {"members": {"fold-0": 3}},
        {"log_loss": "low"},
        {"rows": [120]},
    ],
)
def test_metrics_that_no_run_writes_are_passed_over(folder, tmp_path, change, caplog):
    shutil.copytree(folder / "two", tmp_path / "runs" / "good")
    odd = shutil.copytree(folder / "two", tmp_path / "runs" / "odd")
    metrics = json.loads((odd / "metrics.json").read_text())
    (odd / "metrics.json").write_text(json.dumps(metrics | change))
    seal(odd, json.loads((odd / "artifact.json").read_text()))
    assert runs(tmp_path / "runs")["name"].tolist() == ["good"]
    assert "odd: artifact.json or metrics.json is damaged or not written by a run" in caplog.text


def test_one_table_that_is_cut_off_does_not_end_the_list(folder, tmp_path, caplog):
    shutil.copytree(folder / "two", tmp_path / "good")
    cut = shutil.copytree(folder / "two", tmp_path / "cut")
    (cut / "oof.csv").write_text("")
    assert runs(tmp_path)["name"].tolist() == ["good"]
    assert "oof.csv: damaged or changed" in caplog.text
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(InputError, match=r"readable artifacts, got none \(skipped: 1"):
        runs(tmp_path)


def test_sorting_and_folders_that_cannot_be_used(folder, tmp_path):
    assert runs(folder, "seconds")["seconds"].is_monotonic_increasing
    with pytest.raises(InputError, match=r"--sort: expected one of name.*, got loss"):
        runs(folder, "loss")
    with pytest.raises(InputError, match=r"got none \(skipped: 0"):
        runs(tmp_path)
    with pytest.raises(InputError, match="nowhere: expected a folder"):
        runs(tmp_path / "nowhere")

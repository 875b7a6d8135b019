import os
import shutil
from datetime import datetime

import pandas as pd

from humanpref.studies.listing import COLUMNS


def test_runs_are_printed_and_written(run, artifact, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(artifact, tmp_path / "runs" / name)
    code, out, _ = run("--quiet", "runs", "runs", "--sort", "name", "--csv", "runs.csv")
    assert code == 0
    assert [line[:12] for line in out.splitlines()[2:]] == ["| a | prior ", "| b | prior "]
    table = pd.read_csv("runs.csv")
    assert table["name"].tolist() == ["a", "b"]
    assert f"| {table['log_loss'][0]:.4f} |" in out
    assert tuple(table) == COLUMNS


def test_lines_fit_a_terminal_unless_all_columns_are_asked_for(run, artifact, tmp_path):
    name = "a-very-long-name-of-a-folder/" + "experiment-" * 8 + "2"
    shutil.copytree(artifact, tmp_path / "runs" / name)
    os.utime(tmp_path / "runs" / name / "artifact.json", (1e9, 1e9))
    when = datetime.fromtimestamp(1e9).strftime("%Y-%m-%d %H:%M")
    head, _, line = run("--quiet", "runs", "runs")[1].splitlines()
    assert head == "| name | preset | rows | log_loss | 95 % interval | written |"
    assert len(line) == 100
    shortened, preset, rows, _, interval, written = line.strip("| ").split(" | ")
    assert (preset, rows, written) == ("prior", "120", when)
    first, last = shortened.split("…")
    assert name.startswith(first)
    assert name.endswith(last)
    whole = run("--quiet", "runs", "runs", "--all")[1]
    table = dict(
        zip(*(row.strip("| ").split(" | ") for row in whole.splitlines()[::2]), strict=True)
    )
    assert tuple(table) == COLUMNS
    assert table["name"] == name
    assert interval == f"{table['log_loss_low']} to {table['log_loss_high']}"


def test_runs_that_must_not_be_compared_are_named(run, artifact, arena):
    shutil.copytree(artifact, "runs/a")
    train = ("train", "--preset", "prior", "--train", arena / "train.csv", "--folds", 3)
    assert run(*train, "--out", "runs/b")[0] == 0
    assert "not comparable: these runs held out different rows" in run("runs", "runs")[1]

import shutil

import pandas as pd


def test_runs_are_printed_and_written(run, artifact, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(artifact, tmp_path / "runs" / name)
    code, out, _ = run("--quiet", "runs", "runs", "--sort", "name", "--csv", "runs.csv")
    assert code == 0
    assert [line[:12] for line in out.splitlines()[2:]] == ["| a | prior ", "| b | prior "]
    table = pd.read_csv("runs.csv")
    assert table["name"].tolist() == ["a", "b"]
    assert f"| {table['log_loss'][0]:.4f} |" in out


def test_runs_that_must_not_be_compared_are_named(run, artifact, arena):
    shutil.copytree(artifact, "runs/a")
    train = ("train", "--preset", "prior", "--train", arena / "train.csv", "--folds", 3)
    assert run(*train, "--out", "runs/b")[0] == 0
    assert "not comparable: these runs held out different rows" in run("runs", "runs")[1]

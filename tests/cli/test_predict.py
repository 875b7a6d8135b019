import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.runs.budget import Budget

from .refusals import GOOD, refused


def test_a_degraded_prediction_says_so(run, arena, monkeypatch):
    """Also with --quiet, which mutes the log; and one that predicts nothing writes nothing."""
    assert run("train", "--preset", "prior", "--train", arena / "train.csv", "--out", "A")[0] == 0
    predict = ["--quiet", "predict", "A", "--test", arena / "test.csv", "--out", "s.csv"]
    refused(run(*predict, "--seconds", 1e-9), "not enough time for even one row", "--seconds")
    assert not Path("s.csv").exists()
    left = iter([100.0] * 2)  # the artifact's share, and what is left before the first block
    monkeypatch.setattr(Budget, "left", lambda _: next(left, 0.0))
    code, out, _ = run(*predict, "--seconds", 100)
    assert code == 0
    assert out.splitlines() == [
        "s.csv: 24 rows",
        "degraded: not predicted: 20 row predictions (out of time)",
        "degraded: 20 of 24 rows have the prior",
    ]


def test_soft_labels_keep_the_rows_weights(run, arena, artifact, caplog):
    rows = pd.read_csv(arena / "test_labels.csv").assign(weight=np.arange(24) / 4)
    rows.to_csv("rows.csv", index=False)
    predict = ["predict", artifact, "--labels", "--test", "rows.csv", "--out", "soft.csv"]
    with caplog.at_level(logging.INFO):
        assert run(*predict)[0] == 0
    assert "rows.csv: 24 rows, labels not read" in caplog.text
    assert pd.read_csv("soft.csv")["weight"].tolist() == rows["weight"].tolist()
    assert run(*predict, "--weight", 3)[0] == 0
    assert pd.read_csv("soft.csv")["weight"].tolist() == [3.0] * 24
    rows.assign(weight="heavy").to_csv("rows.csv", index=False)
    refused(run(*predict), "rows.csv: row 1", "'weight'", "'heavy'")
    # A submission has no use for them.
    assert run("predict", artifact, "--test", "rows.csv", "--out", "s.csv")[0] == 0


def test_rows_that_cannot_be_used(run, artifact, tmp_path):
    refused(
        run("predict", artifact, "--test", "none.csv", "--out", "s.csv"),
        "none.csv",
        "cannot be read",
    )
    pd.DataFrame([GOOD | {"response_a": "oops"}]).to_csv("bad.csv", index=False)
    refused(run("predict", artifact, "--test", "bad.csv", "--out", "s.csv"), "'response_a'")
    pd.DataFrame([GOOD]).to_csv("good.csv", index=False)
    refused(
        run("predict", artifact, "--test", "good.csv", "--out", "no/folder/s.csv"),
        "cannot be written",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"bad.csv", "good.csv"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--weight", 2), ("--weight: can only be used with --labels",)),
        (("--seconds", 5, "--labels"), ("--seconds: cannot be used with --labels",)),
        (("--seconds", 0), ("--seconds: expected a number above 0, got 0",)),
        (("--seconds", "inf"), ("expected a number above 0, got inf",)),
    ],
)
def test_flags_that_contradict(run, flags, words):
    refused(run("predict", "none", "--test", "none.csv", "--out", "s.csv", *flags), *words)


def test_several_artifacts_give_their_mean(run, artifact, arena):
    assert (
        run("train", "--preset", "prior", "--train", arena / "test_labels.csv", "--out", "B")[0]
        == 0
    )
    rates = []
    for name, artifacts in (("a.csv", [artifact]), ("b.csv", ["B"]), ("both.csv", [artifact, "B"])):
        code, out, _ = run("predict", *artifacts, "--test", arena / "test.csv", "--out", name)
        assert (code, out) == (0, f"{name}: 24 rows\n")
        rates.append(pd.read_csv(name).iloc[0, 1:].to_numpy(float))
    assert rates[2] == pytest.approx((rates[0] + rates[1]) / 2, abs=1e-6)
    assert np.abs(rates[0] - rates[1]).max() > 0.01

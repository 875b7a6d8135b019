"""Artifacts on the same rows: their mean, their time, and the rows that they learned from."""

import functools
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import (
    Extra,
    grouped_folds,
    read_pairs,
    read_training_rows,
    swap_pairs,
    write_pairs,
)
from humanpref.files import read_json
from humanpref.models.prior import PriorModel
from humanpref.reports.evaluate import evaluate
from humanpref.runs import predict as module
from humanpref.runs.artifact import Artifact, load_model
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend
from humanpref.runs.budget import UNREAD, Budget
from humanpref.runs.distillation import Teacher, soft_labels, taught
from humanpref.runs.predict import predict, rows_to_judge
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError

SPARSE = load_config(
    "sparse", overrides=["model.term_penalties=10", "model.structure_penalties=100"]
)


@pytest.fixture(scope="module")
def folds_artifact(arena, tmp_path_factory):
    return train(SPARSE, arena / "train.csv", tmp_path_factory.mktemp("run") / "artifact", folds=3)


@pytest.fixture
def slow(arena, tmp_path, monkeypatch):
    """Two artifacts whose model takes a second for each of 24 rows; gives them and the rows."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    both = [train(load_config("prior"), arena / "train.csv", tmp_path / name) for name in "ab"]

    def predict_proba(model, pairs):
        clock.now += len(pairs)
        return np.tile([0.7, 0.2, 0.1], (len(pairs), 1))

    monkeypatch.setattr(PriorModel, "predict_proba", predict_proba)
    monkeypatch.setattr(PriorModel, "try_out", lambda model: None)
    monkeypatch.setattr(PriorModel, "costs", lambda model, pairs: np.ones(len(pairs)))
    monkeypatch.setattr(module, "Budget", functools.partial(Budget, clock=clock))
    return both, read_pairs(arena / "test.csv")


def test_several_artifacts_are_averaged(folds_artifact, arena, tmp_path):
    prior = train(load_config("prior"), arena / "train.csv", tmp_path / "prior")
    rows = read_pairs(arena / "test.csv")
    expected = (folds_artifact.predict_proba(rows) + prior.predict_proba(rows)) / 2
    probabilities, degraded = predict([folds_artifact, prior], rows)
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)
    assert degraded == []


def test_the_time_is_shared_and_the_prior_is_for_rows_that_no_artifact_had_time_for(slow):
    (one, two), rows = slow
    two.facts["prior"] = [4, 1, 1]  # rates need not sum to 1
    probabilities, degraded = predict([one, two], rows, seconds=12)
    # 4 rows and 1 in half of the time, 4, 1 and 1 in the other half and what was left over.
    expected = np.tile([0.7, 0.2, 0.1], (24, 1))
    expected[6:] = np.mean([one.prior, [2 / 3, 1 / 6, 1 / 6]], axis=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)
    assert degraded == [
        f"{UNREAD}: {19 + 18} row predictions (out of time)",
        "18 of 24 rows have the prior",
    ]


def test_without_a_common_time_each_artifact_has_its_own(slow, monkeypatch):
    (one, two), rows = slow
    limits = {one.folder: 6, two.folder: math.inf}
    monkeypatch.setattr(Artifact, "seconds", property(lambda own: limits[own.folder]))
    probabilities, degraded = predict([one, two], rows)
    # Its word stands, not half of it and half of the other's prior.
    np.testing.assert_allclose(probabilities, np.tile([0.7, 0.2, 0.1], (24, 1)))
    assert degraded == [f"{UNREAD}: 19 row predictions (out of time)"]


def test_no_time_for_a_single_row_is_an_error(slow):
    (one, two), rows = slow
    with pytest.raises(InputError, match="not enough time for even one row"):
        predict([one, two], rows, seconds=0)
    assert predict([one], rows[:0], seconds=0)[0].shape == (0, 3)


def test_an_artifact_that_is_named_twice_is_asked_once(slow, monkeypatch):
    (one, _), rows = slow
    probabilities, degraded = predict([one, one], rows, seconds=49)
    np.testing.assert_allclose(probabilities, np.tile([0.7, 0.2, 0.1], (24, 1)))
    assert degraded == []


@pytest.mark.slow
def test_the_time_limit_of_an_artifact_bounds_predict_and_no_metric(pairs, tmp_path):
    pytest.importorskip("torch")
    micro = ["model.max_length=32", "model.scratch_hidden_size=8", "model.scratch_vocabulary=300"]
    config = load_config("tiny", None, [*micro, "training.validation_fraction=0"])
    write_pairs(tmp_path / "few.csv", pairs[:30])
    whole = train(config, tmp_path / "few.csv", tmp_path / "whole", folds=2)
    bounded = Artifact.load(shutil.copytree(whole.folder, tmp_path / "bounded"))
    assert bounded.seconds == math.inf
    for member in bounded.facts["members"]:
        config = read_json(bounded.folder / member / "config.json")
        config["inference"]["seconds"] = 1e-6
        (bounded.folder / member / "config.json").write_text(json.dumps(config))
    seal(bounded.folder, bounded.facts)
    bounded = Artifact.load(bounded.folder)
    assert bounded.seconds == 1e-6
    new = pairs[:6].assign(
        id=[f"new-{i}" for i in range(6)], prompt=[(f"another {i}",) for i in range(6)]
    )
    expected = whole.predict_proba(new)
    with pytest.raises(InputError, match="not enough time for even one row"):
        predict([bounded], new)
    np.testing.assert_allclose(predict([bounded], new, seconds=1_000)[0], expected, atol=1e-5)
    # Metrics, soft labels and what a teacher says are those of the whole model; the latter two are
    # averaged over both orders of A and B.
    both_orders = (expected + whole.predict_proba(swap_pairs(new))[:, [1, 0, 2]]) / 2
    np.testing.assert_allclose(soft_labels([bounded], new), both_orders, atol=1e-5)
    write_pairs(tmp_path / "new.csv", new)
    taught_rows = taught(read_training_rows(tmp_path / "new.csv"), [Teacher(bounded.folder)])
    np.testing.assert_allclose(taught_rows.targets, both_orders, atol=1e-5)
    metrics, _ = evaluate([bounded, whole], new)
    assert metrics["differences"][0]["log_loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_a_raw_frame_is_predicted_as_the_file(folds_artifact, arena, tmp_path):
    one = train(SPARSE, arena / "train.csv", tmp_path / "one")
    prior = train(load_config("prior"), arena / "train.csv", tmp_path / "prior", folds=3)
    blended = blend([folds_artifact.folder, prior.folder], tmp_path / "blend")
    raw = pd.read_csv(arena / "test.csv")
    for artifact in (one, folds_artifact, blended):
        command = ["--quiet", "predict", str(artifact.folder), "--test", str(arena / "test.csv")]
        assert main([*command, "--out", str(tmp_path / "submission.csv")]) == 0
        # Python's own parser reads every digit.
        written = pd.read_csv(tmp_path / "submission.csv", dtype=str)
        written = written[list(LABEL_COLUMNS)].map(float).to_numpy()
        np.testing.assert_array_equal(Artifact.load(artifact.folder).predict_proba(raw), written)
        np.testing.assert_array_equal(load_model(artifact.folder).predict_proba(raw), written)
        np.testing.assert_array_equal(predict([artifact], raw)[0], written)
        np.testing.assert_allclose(predict([artifact], raw, seconds=600)[0], written, atol=1e-15)


def test_training_rows_among_those_to_judge_by_are_warned_of(folds_artifact, arena, caplog):
    pairs, trained_on = rows_to_judge([folds_artifact], arena / "test_labels.csv")
    assert len(pairs) == 24
    assert trained_on == [0]
    assert "flatter" not in caplog.text
    assert rows_to_judge([folds_artifact], arena / "train.csv")[1] == [120]
    assert "these metrics flatter" in caplog.text


def test_some_training_rows_among_those_to_judge_by_are_warned_of(
    folds_artifact, arena, pairs, tmp_path, caplog
):
    held = grouped_folds(pairs, 5, seed=42) == 0
    one = train(SPARSE, arena / "train.csv", tmp_path / "one")
    mixed = tmp_path / "mixed.csv"
    rows = pd.read_csv(arena / "train.csv", dtype=str, keep_default_na=False)
    new = pd.read_csv(arena / "test_labels.csv", dtype=str, keep_default_na=False)
    pd.concat([rows[held], rows[~held][:5], new])[::-1].drop(
        columns=["model_a", "model_b"], errors="ignore"
    ).to_csv(mixed, index=False)
    count = held.sum() + 5 + len(new)
    for artifact, learned in ((one, 5), (folds_artifact, held.sum() + 5)):
        caplog.clear()
        assert len(rows_to_judge([artifact], mixed)[0]) == count
        assert f"was trained on {learned} of the {count} rows" in caplog.text


def test_extra_rows_with_the_ids_of_held_out_rows_were_learned_from(arena, pairs, tmp_path, caplog):
    held = pairs[:60][grouped_folds(pairs[:60], 5, seed=42) == 0]
    other = pairs[60 : 60 + len(held)].reset_index(drop=True).assign(id=held["id"].tolist())
    for name, rows in (("train", pairs[:60]), ("more", other)):
        write_pairs(tmp_path / f"{name}.csv", rows)
    artifact = train(
        load_config("prior"),
        tmp_path / "train.csv",
        tmp_path / "a",
        extra=[Extra(tmp_path / "more.csv")],
    )
    assert artifact.oof["id"].tolist() == other["id"].tolist()
    rows_to_judge([artifact], tmp_path / "more.csv")
    assert f"was trained on {len(other)} of the {len(other)} rows" in caplog.text

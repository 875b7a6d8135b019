"""What is particular to the boosted trees; what holds for every family is in test_contract.py."""

import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xgboost")

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.logloss import log_loss
from humanpref.models import boosted, build_model, load_model
from humanpref.models.boosted import COLUMNS, Rows, columns_of
from humanpref.schema import InputError

QUICK = ["model.seeds=1", "model.learning_rate=0.2", "model.max_rounds=60", "model.patience=5"]
SELECTING = ["model.selection=forward", "model.candidates=3", "model.rounds=5"]


def build(*overrides):
    return build_model(load_config("boosted", overrides=[*QUICK, *overrides]))


@pytest.fixture(scope="module")
def model(pairs):
    return build("model.seeds=2").fit(pairs, labels_of(pairs))


@pytest.fixture(scope="module")
def rows(pairs, model):
    x, z = columns_of(pairs, model.similarities_)
    return Rows(x, z, labels_of(pairs), np.ones(len(pairs)))


def test_columns_and_their_symmetry(pairs, model):
    few = pairs[:30].reset_index(drop=True)
    x, z = columns_of(few, model.similarities_)
    assert x.shape[0] == z.shape[0] == 30
    assert x.shape[1] + z.shape[1] == len(COLUMNS) == len(set(COLUMNS))
    swapped_x, swapped_z = columns_of(swap_pairs(few), model.similarities_)
    np.testing.assert_array_equal(swapped_x, -x)
    np.testing.assert_array_equal(swapped_z, z)


def test_both_orders_of_hard_and_soft_labels():
    x, z = np.array([[1.0], [2.0]]), np.array([[5.0], [6.0]])
    labels = np.array([[1, 0, 0], [0.25, 0, 0.75]])
    features, owners, classes, weights = boosted._expanded(Rows(x, z, labels, np.array([2.0, 4.0])))
    found = sorted(
        zip(features.tolist(), owners.tolist(), classes.tolist(), weights.tolist(), strict=True)
    )
    assert found == sorted(
        [
            ([1, 5], 0, 0, 1.0),
            ([-1, 5], 0, 1, 1.0),
            ([2, 6], 1, 0, 0.5),
            ([2, 6], 1, 2, 1.5),
            ([-2, 6], 1, 1, 0.5),
            ([-2, 6], 1, 2, 1.5),
        ]
    )


def test_what_is_held_out_changes_nothing(pairs, model):
    """Neither there, nor with other labels, do validation rows have a part in the fit."""
    kept, out = pairs[:90].reset_index(drop=True), pairs[90:].reset_index(drop=True)
    labels = labels_of(out)
    fits = [
        build().fit(kept, labels_of(kept), validation=validation)
        for validation in (None, (out, labels), (out, np.roll(labels, 1, axis=1)))
    ]
    for fit in fits[1:]:
        assert fit.report_ == fits[0].report_
        np.testing.assert_array_equal(fit.predict_proba(out), fits[0].predict_proba(out))


def test_an_inner_fold_is_not_learned_from_when_it_is_judged(pairs, model, rows):
    splits = boosted._inner_splits(pairs, rows.labels, 42)
    assert len(splits) == 5
    first = splits[0][1]
    margins, judged = model._inner_margins(rows, splits, model.columns_, 10)
    assert len(judged.x) == len(pairs)
    other = np.where(first[:, None], np.roll(rows.labels, 1, axis=1), rows.labels)
    changed, _ = model._inner_margins(rows._replace(labels=other), splits, model.columns_, 10)
    np.testing.assert_array_equal(changed[first], margins[first])
    assert np.abs(changed[~first] - margins[~first]).max() > 0.01


def test_extra_rows_are_learned_and_judge_nothing(pairs, monkeypatch):
    extra = pairs.iloc[:40].assign(
        id=[f"extra-1:{i}" for i in range(40)], prompt=[(f"another {i}",) for i in range(40)]
    )
    judged, trained, fit, cv = [], [], boosted._fit_temperature, boosted.xgboost.cv
    monkeypatch.setattr(
        boosted, "_fit_temperature", lambda margins, rows: judged.append(rows) or fit(margins, rows)
    )
    monkeypatch.setattr(
        boosted.xgboost,
        "cv",
        lambda *args, folds, **named: trained.append(folds) or cv(*args, folds=folds, **named),
    )
    together = pd.concat([pairs, extra], ignore_index=True)
    build().fit(together, labels_of(together))
    assert judged[0].labels.shape == (120, 3)
    np.testing.assert_array_equal(judged[0].labels, labels_of(pairs))
    for learned, out in trained[0]:  # every row in both orders
        assert len(learned) + len(out) == 2 * 160
    assert sum(len(out) for _, out in trained[0]) == 2 * 120


def test_a_value_that_is_different_for_each_fold_does_not_help_out_of_fold(pairs, monkeypatch):
    monkeypatch.setattr(boosted, "INNER_FOLDS", 2)
    labels = labels_of(pairs)
    folds = np.where(boosted._inner_splits(pairs, labels, 42)[0][1], 0, 1)
    # In fold 0 the winner has four exclamation marks, in fold 1 the loser 64: within a fold they
    # give the winner away (not the tie).
    winner = np.where(labels[:, 2] == 1, np.arange(len(pairs)) % 2, labels[:, 1]).astype(int)
    in_b = np.where(folds == 0, winner, 1 - winner)
    marked = pairs.copy()
    for side, column in enumerate(("response_a", "response_b")):
        marks = np.where(in_b == side, np.where(folds == 0, "!" * 4, "!" * 64), "")
        marked[column] = pd.Series(
            [(*turns, mark) for turns, mark in zip(pairs[column], marks, strict=True)], dtype=object
        )
    options = ["model.min_child_weight=2", "model.rounds=30"]
    plain, leaking = (
        build(*options).fit(rows, labels).report_["inner_log_loss"] for rows in (pairs, marked)
    )
    assert leaking > plain - 0.02
    # On folds that cut across the marks the leak shows: it is one that trees can learn.
    across = np.arange(len(pairs)) // 2 % 2 == 0
    monkeypatch.setattr(boosted, "_inner_splits", lambda *_: [(across, ~across), (~across, across)])
    assert build(*options).fit(marked, labels).report_["inner_log_loss"] < plain - 0.05


def test_early_stopping_finds_where_the_inner_loss_is_lowest(pairs, model, rows):
    splits = boosted._inner_splits(pairs, rows.labels, 42)
    rounds = model._early_stopping(rows, splits)
    assert 1 <= rounds < 60
    at_best, at_60 = (
        boosted._log_loss(*model._inner_margins(rows, splits, model.columns_, n))
        for n in (rounds, 60)
    )
    assert at_best < at_60
    assert model.report_["rounds"] == rounds
    assert all(booster.num_boosted_rounds() == rounds for booster in model.boosters_)


def test_the_temperature_softens_what_is_too_sure():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=(2_000, 3))
    raised = np.exp(margins)
    drawn = (
        rng.random((2_000, 1)) > (raised / raised.sum(axis=1, keepdims=True)).cumsum(axis=1)
    ).sum(axis=1)
    rows = Rows(
        np.empty((2_000, 0)), np.empty((2_000, 0)), np.eye(3)[drawn.clip(max=2)], np.ones(2_000)
    )
    assert boosted._fit_temperature(3 * margins, rows) == pytest.approx(3, rel=0.1)
    assert boosted._fit_temperature(margins / 2, rows) == pytest.approx(0.5, rel=0.1)


def test_many_rows_use_one_inner_fold(monkeypatch, pairs):
    monkeypatch.setattr(boosted, "INNER_ROWS", 20)
    assert len(boosted._inner_splits(pairs, labels_of(pairs), 1)) == 1
    labels = longer_wins(pairs)
    prior = log_loss(labels, np.tile(labels.mean(axis=0), (len(labels), 1)))
    assert build("model.rounds=30").fit(pairs, labels).report_["inner_log_loss"] < prior - 0.1


def test_trained_at_once_or_in_turn_the_boosters_are_the_same(pairs, monkeypatch):
    class Three(boosted.joblib.Parallel):
        def __init__(self, cores, **keywords):
            super().__init__(3, **keywords)

    monkeypatch.setattr(boosted.joblib, "Parallel", Three)
    at_once = build("model.rounds=10").fit(pairs, labels_of(pairs)).predict_proba(pairs)
    monkeypatch.setattr(
        boosted, "_at_once", lambda calls: [call(*given, **named) for call, given, named in calls]
    )
    in_turn = build("model.rounds=10").fit(pairs, labels_of(pairs)).predict_proba(pairs)
    np.testing.assert_array_equal(at_once, in_turn)


def test_the_selection_is_the_same_for_the_same_seed_and_goes_on(pairs, tmp_path, monkeypatch):
    pytest.importorskip("lightgbm")
    labels = labels_of(pairs)
    first, again = (build(*SELECTING).fit(pairs, labels) for _ in range(2))
    assert 1 <= len(first.columns_) <= 3
    assert first.columns_ == again.columns_
    assert first.selection_.path.equals(again.selection_.path)
    np.testing.assert_array_equal(first.predict_proba(pairs), again.predict_proba(pairs))
    # Stopped after two evaluations, and started again.
    checkpoint = tmp_path / "checkpoint"
    inner, calls = boosted.BoostedModel._inner_margins, []

    def counted(self, *arguments):
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(self, *arguments)

    monkeypatch.setattr(boosted.BoostedModel, "_inner_margins", counted)
    with pytest.raises(KeyboardInterrupt):
        build(*SELECTING).fit(pairs, labels, checkpoint=checkpoint)
    resumed = build(*SELECTING).fit(pairs, labels, checkpoint=checkpoint)
    assert resumed.selection_.path.equals(first.selection_.path)
    assert not any(columns in calls[:2] for columns in calls[3:-1])
    resumed.save(tmp_path / "model")
    assert (
        pd.read_csv(tmp_path / "model" / "selection.csv")["column"].tolist()
        == first.selection_.path["column"].tolist()
    )
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(pairs), first.predict_proba(pairs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "booster-1.ubj").unlink(), "expected the boosters"),
        (lambda folder: (folder / "booster-2.ubj").write_bytes(b"x"), "expected the boosters"),
        (
            lambda folder: (folder / "booster-1.ubj").write_bytes(b"{"),
            "cannot be read as an XGBoost model",
        ),
        (
            lambda folder: (folder / "columns.json").write_text("[]"),
            "expected a list of distinct columns",
        ),
        (
            lambda folder: (folder / "columns.json").write_text('["age"]'),
            "expected a list of distinct columns",
        ),
        (
            lambda folder: (folder / "columns.json").write_text('["identical"]'),
            "expected the columns of columns.json",
        ),
    ],
)
def test_loading_is_strict(model, tmp_path, change, message):
    model.save(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


def test_a_missing_library_is_named(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(
        InputError,
        match=r"option model.selection: forward needs lightgbm: pip install 'humanpref\[boosted\]'",
    ):
        build(*SELECTING)  # and not after hours of other work
    build("model.rounds=1").fit(pairs, labels_of(pairs))  # it is needed for selection alone
    monkeypatch.delitem(sys.modules, "humanpref.models.boosted")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(InputError, match=r"needs xgboost: pip install 'humanpref\[boosted\]'"):
        build_model(load_config("boosted"))


def longer_wins(pairs):
    """Labels that can be learned: of two answers the one of more words wins."""
    words = [
        np.array([len(" ".join(turns).split()) for turns in pairs[column]])
        for column in ("response_a", "response_b")
    ]
    return np.eye(3)[np.where(words[0] == words[1], 2, words[0] < words[1])]


def test_it_learns_what_there_is_to_learn(pairs):
    labels = longer_wins(pairs)
    fitted = build("model.rounds=30").fit(pairs[:80], labels[:80])
    assert log_loss(labels[80:], fitted.predict_proba(pairs[80:].reset_index(drop=True))) < 0.6

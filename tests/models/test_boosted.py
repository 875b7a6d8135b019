"""What is particular to the boosted trees; what holds for every family is in test_contract.py."""

import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xgboost")

import xgboost

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.logloss import log_loss
from humanpref.models import boosted, build_model, load_model
from humanpref.models.boosted import COLUMNS, columns_of, fit_temperature, select_columns
from humanpref.models.inner_folds import Labelled, choosing_splits
from humanpref.models.trees import Columns, Examples, Trainer
from humanpref.schema import InputError
from humanpref.text.overlap import Similarities

QUICK = ["model.seeds=1", "model.learning_rate=0.2", "model.max_rounds=60", "model.patience=5"]
SELECTING = ["model.selection=forward", "model.candidates=3", "model.rounds=5"]


def build(*overrides):
    return build_model(load_config("boosted", overrides=[*QUICK, *overrides]))


@pytest.fixture(scope="module")
def model(pairs):
    return build("model.seeds=2").fit(pairs, labels_of(pairs))


def test_columns_and_their_symmetry(pairs):
    few = pairs[:30].reset_index(drop=True)
    similarities = Similarities().fit(few)
    columns, swapped = columns_of(few, similarities), columns_of(swap_pairs(few), similarities)
    assert columns.values.shape == (30, len(COLUMNS))
    assert columns.values.dtype == np.float32
    assert columns.names == list(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert set(columns.signs) == {1, -1}
    np.testing.assert_array_equal(swapped.values, columns.values * columns.signs)
    # Each name goes with its own values.
    words = columns.values[:, COLUMNS.index("word_cosine_to_prompt_difference")]
    np.testing.assert_allclose(words, similarities.columns(few)[0][:, 0], atol=1e-6)


def test_what_is_held_out_changes_nothing(pairs):
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


def test_extra_rows_are_learned_and_judge_nothing(pairs, monkeypatch):
    extra = pairs.iloc[:40].assign(
        id=[f"extra-1:{i}" for i in range(40)], prompt=[(f"another {i}",) for i in range(40)]
    )
    together = pd.concat([pairs, extra], ignore_index=True)
    judged, trained, best = [], [], Trainer.best_rounds

    def spied(self, examples, splits):
        trained.append((len(examples.labels), splits))
        return best(self, examples, splits)

    monkeypatch.setattr(Trainer, "best_rounds", spied)
    monkeypatch.setattr(
        boosted,
        "fit_temperature",
        lambda margins, rows: judged.append(rows) or fit_temperature(margins, rows),
    )
    build().fit(together, labels_of(together))
    np.testing.assert_array_equal(judged[0].labels, labels_of(pairs))
    ((rows, splits),) = trained
    assert rows == 160
    for learned, out in splits:
        assert learned[120:].all()
        assert not out[120:].any()


def test_a_value_that_is_different_for_each_fold_does_not_help_out_of_fold(pairs, monkeypatch):
    monkeypatch.setattr(boosted, "INNER_FOLDS", 2)
    labels = labels_of(pairs)
    (_, first), _ = choosing_splits(Labelled(pairs, labels, np.ones(len(pairs))), 2, 42)
    # In fold 0 the winner has four exclamation marks, in fold 1 the loser 64: within a fold they
    # give the winner away (not the tie).
    winner = np.where(labels[:, 2] == 1, np.arange(len(pairs)) % 2, labels[:, 1]).astype(int)
    in_b = np.where(first, winner, 1 - winner)
    marked = pairs.copy()
    for side, column in enumerate(("response_a", "response_b")):
        marks = np.where(in_b == side, np.where(first, "!" * 4, "!" * 64), "")
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
    splits = [(across, ~across), (~across, across)]
    monkeypatch.setattr(boosted, "choosing_splits", lambda *_: splits)
    assert build(*options).fit(marked, labels).report_["inner_log_loss"] < plain - 0.03


def test_the_temperature_softens_what_is_too_sure():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=(2_000, 3))
    raised = np.exp(margins)
    drawn = (
        rng.random((2_000, 1)) > (raised / raised.sum(axis=1, keepdims=True)).cumsum(axis=1)
    ).sum(axis=1)
    columns = Columns([], np.empty(0), np.empty((2_000, 0)))
    rows = Examples(columns, np.eye(3)[drawn.clip(max=2)], np.ones(2_000))
    assert fit_temperature(3 * margins, rows) == pytest.approx(3, rel=0.1)
    assert fit_temperature(margins / 2, rows) == pytest.approx(0.5, rel=0.1)


def test_few_prompts_choose_nothing(pairs, monkeypatch):
    monkeypatch.setattr(boosted, "INNER_PROMPTS", 10_000)
    monkeypatch.setattr(boosted, "DEFAULT_ROUNDS", 3)
    fitted = build("model.selection=backward").fit(pairs, labels_of(pairs))
    expected = {"columns": len(COLUMNS), "rounds": 3, "temperature": 1.0, "inner_log_loss": None}
    assert fitted.report_ == expected
    assert fitted.selection_ is None
    assert build("model.rounds=2").fit(pairs, labels_of(pairs)).report_["rounds"] == 2


@pytest.mark.slow
def test_the_selection_is_the_same_for_the_same_seed_and_resumes(pairs, tmp_path, monkeypatch):
    pytest.importorskip("lightgbm")
    labels = labels_of(pairs)
    first, again = (build(*SELECTING).fit(pairs, labels) for _ in range(2))
    assert 1 <= len(first.columns_) <= 3
    assert first.report_["columns"] == len(first.columns_)
    assert first.columns_ == again.columns_
    assert first.selection_.path.equals(again.selection_.path)
    np.testing.assert_array_equal(first.predict_proba(pairs), again.predict_proba(pairs))
    # Stopped after two evaluations, and started again.
    checkpoint = tmp_path / "checkpoint"
    evaluate, calls = Trainer.held_out_margins, []

    def counted(self, examples, *rest):
        calls.append(examples.columns.names)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, examples, *rest)

    monkeypatch.setattr(Trainer, "held_out_margins", counted)
    with pytest.raises(KeyboardInterrupt):
        build(*SELECTING).fit(pairs, labels, checkpoint=checkpoint)
    resumed = build(*SELECTING).fit(pairs, labels, checkpoint=checkpoint)
    assert resumed.selection_.path.equals(first.selection_.path)
    assert not any(names in calls[:2] for names in calls[3:-1])
    resumed.save(tmp_path / "model")
    assert (
        pd.read_csv(tmp_path / "model" / "selection.csv")["column"].tolist()
        == first.selection_.path["column"].tolist()
    )
    loaded = load_model(tmp_path / "model")
    assert loaded.columns_ == first.columns_
    np.testing.assert_array_equal(loaded.predict_proba(pairs), first.predict_proba(pairs))


def test_the_columns_to_select_from_are_those_that_rank_highest(pairs, monkeypatch):
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    labels = longer_wins(pairs)
    values = rng.normal(size=(len(pairs), 4))
    values[:, 2] = labels[:, 0] - labels[:, 1]
    columns = Columns(list(COLUMNS[:4]), -np.ones(4), values)
    config = load_config("boosted", overrides=[*QUICK, *SELECTING, "model.candidates=1"])
    rows = Labelled(pairs, labels, np.ones(len(pairs)))
    trainer, splits = Trainer(config.model, 1), choosing_splits(rows, 2, 1)
    selection = select_columns(trainer, Examples(columns, labels, rows.weights), splits, None)
    assert selection.columns == [2]
    assert selection.path["log_loss"][0] < 0.9
    # The ranking is drawn with the first booster's seed, as the losses are.
    seeds, several = [], Trainer(dataclasses.replace(config.model, seeds=3), 1)
    monkeypatch.setattr(
        boosted, "importance_order", lambda *args: seeds.append(args[3]) or np.arange(4)
    )
    examples = Examples(columns, labels, rows.weights)
    assert set(select_columns(several, examples, splits, None).columns) <= {0}
    assert seeds == several.seeds()[:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "booster-1.json").unlink(), "booster-1.json: cannot be read"),
        (
            lambda folder: (folder / "booster-1.json").write_bytes(b"{"),
            "booster-1.json: not valid JSON",
        ),
    ],
)
def test_loading_is_strict(model, tmp_path, change, message):
    model.save(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("names", [["age"], ["identical"], None])
def test_boosters_of_other_columns_are_refused(model, tmp_path, names):
    """One of an unknown column, of other columns than the first booster's, or of none by name."""
    model.save(tmp_path)
    matrix = xgboost.DMatrix(np.zeros((3, 1)), [0, 1, 2], feature_names=names)
    other = xgboost.train({"objective": "multi:softprob", "num_class": 3}, matrix, 1)
    other.save_model(tmp_path / "booster-1.json")
    with pytest.raises(InputError, match="expected boosters that all use the same columns"):
        load_model(tmp_path)
    other.save_model(tmp_path / "booster-0.json")
    if names == ["identical"]:
        assert load_model(tmp_path).columns_ == [COLUMNS.index("identical")]
    else:
        with pytest.raises(InputError, match="expected boosters that all use the same columns"):
            load_model(tmp_path)


def test_a_missing_library_is_named(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(
        InputError,
        match=r"option model.selection: forward needs lightgbm: pip install .*\[boosted\]",
    ):
        build(*SELECTING)  # and not after hours of other work
    build("model.rounds=1").fit(pairs, labels_of(pairs))  # it is needed for selection alone
    for name in ("boosted", "trees"):
        monkeypatch.delitem(sys.modules, f"humanpref.models.{name}")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(InputError, match=r"needs xgboost: pip install .*\[boosted\]"):
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

"""Boosted trees in both orders of A and B: what they learn from, rounds, held-out scores."""

import copy
import functools
import json
import math

import numpy as np
import pytest

pytest.importorskip("xgboost")

import joblib
import xgboost
from scipy.special import softmax

from humanpref.config.cpu import BoostedOptions
from humanpref.logloss import log_loss
from humanpref.models.trees import Columns, Examples, Trainer, load_booster, margins
from humanpref.schema import InputError

QUICK = BoostedOptions(learning_rate=0.2, max_rounds=60, patience=5, seeds=2)


@pytest.fixture(scope="module")
def examples():
    """120 rows in which the first column tells the winner, with noise."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 3)).astype(np.float32)
    score = values[:, 0] + rng.normal(size=120)
    labels = np.eye(3)[np.digitize(-score, [-0.5, 0.5])][:, [0, 2, 1]]
    columns = Columns(["d", "noise", "length"], np.array([-1, -1, 1], np.float32), values)
    return Examples(columns, labels, rng.choice([0.5, 1.0, 2.0], 120))


@pytest.fixture(scope="module")
def splits():
    folds = np.arange(120) % 3
    return [(folds != fold, folds == fold) for fold in range(3)]


def test_both_orders_of_hard_and_soft_labels():
    columns = Columns(["x", "z"], np.array([-1.0, 1.0]), np.array([[1.0, 5.0], [2.0, 6.0]]))
    labels = np.array([[1, 0, 0], [0.25, 0, 0.75]])
    values, owners, classes, weights = Examples(columns, labels, np.array([2.0, 4.0])).expanded()
    found = sorted(
        zip(values.tolist(), owners.tolist(), classes.tolist(), weights.tolist(), strict=True)
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


def test_some_columns_and_some_rows(examples):
    chosen = examples.columns.chosen([2, 0])
    assert chosen.names == ["length", "d"]
    assert chosen.signs.tolist() == [1, -1]
    np.testing.assert_array_equal(chosen.values, examples.columns.values[:, [2, 0]])
    mask = np.arange(120) == 7
    part = examples.rows(mask)
    np.testing.assert_array_equal(part.columns.values, examples.columns.values[[7]])
    np.testing.assert_array_equal(part.labels, examples.labels[[7]])
    assert part.weights.tolist() == [examples.weights[7]]


def test_scores_of_exchanged_rows_are_exchanged(examples):
    boosters = Trainer(QUICK, 1).ensemble(examples, 10)
    scores = margins(boosters, examples.columns)
    swapped = examples.columns._replace(values=examples.columns.values * examples.columns.signs)
    np.testing.assert_allclose(margins(boosters, swapped)[:, [1, 0, 2]], scores, atol=1e-12)
    # And are the mean over both boosters and both orders.
    names = examples.columns.names
    found = np.zeros((120, 3))
    for booster in boosters:
        for values, order in ((examples.columns.values, [0, 1, 2]), (swapped.values, [1, 0, 2])):
            matrix = xgboost.DMatrix(values, feature_names=names)
            found += booster.predict(matrix, output_margin=True)[:, order] / 4
    np.testing.assert_allclose(scores, found, atol=1e-6)
    assert log_loss(examples.labels, softmax(scores, axis=1)) < 1


def test_seeds_differ_and_are_those_of_the_seed(examples):
    seeds = Trainer(QUICK, 1).seeds()
    assert len(set(seeds)) == 2
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert Trainer(QUICK, 1).seeds() == seeds
    assert not set(Trainer(QUICK, 2).seeds()) & set(seeds)
    first, second = Trainer(QUICK, 1).ensemble(examples, 5)
    one, other = (margins([booster], examples.columns) for booster in (first, second))
    assert np.abs(one - other).max() > 1e-3


def test_a_row_is_not_learned_from_when_it_is_judged(examples, splits):
    trainer, judged = Trainer(QUICK, 1), splits[0][1]
    scores, rows = trainer.held_out_margins(examples, splits, 10)
    np.testing.assert_array_equal(rows.labels, examples.labels)
    other = np.where(judged[:, None], np.roll(examples.labels, 1, axis=1), examples.labels)
    changed, _ = trainer.held_out_margins(examples._replace(labels=other), splits, 10)
    np.testing.assert_array_equal(changed[judged], scores[judged])
    assert np.abs(changed[~judged] - scores[~judged]).max() > 0.01
    # With fewer folds only the judged rows come back.
    few, rows = trainer.held_out_margins(examples, splits[:1], 10)
    np.testing.assert_array_equal(few, scores[judged])
    np.testing.assert_array_equal(rows.weights, examples.weights[judged])


def test_early_stopping_finds_where_the_held_out_loss_is_lowest(examples, splits):
    trainer = Trainer(QUICK, 1)
    rounds = trainer.best_rounds(examples, splits)
    assert 1 <= rounds < 100
    losses = []
    for trees in (1, rounds, 400):
        scores, rows = trainer.held_out_margins(examples, splits, trees)
        losses.append(log_loss(rows.labels, softmax(scores, axis=1), rows.weights))
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]
    assert Trainer(BoostedOptions(rounds=7), 1).best_rounds(examples, splits) == 7
    assert all(b.num_boosted_rounds() == 4 for b in trainer.ensemble(examples, 4))


def test_trained_at_once_or_in_turn_the_boosters_are_the_same(examples, monkeypatch):
    parallel = joblib.Parallel
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(joblib, "Parallel", lambda _, cores=cores, **k: parallel(cores, **k))
        boosters = Trainer(QUICK, 1).ensemble(examples, 10)
        found.append(margins(boosters, examples.columns))
    np.testing.assert_array_equal(*found)


def test_a_booster_is_read_back(examples, tmp_path):
    (booster, _) = Trainer(QUICK, 1).ensemble(examples, 3)
    booster.save_model(tmp_path / "b.json")
    loaded = load_booster(tmp_path / "b.json")
    np.testing.assert_array_equal(
        margins([loaded], examples.columns), margins([booster], examples.columns)
    )


@pytest.fixture(scope="module")
def saved(examples, tmp_path_factory):
    """A booster's file, as plain JSON types."""
    path = tmp_path_factory.mktemp("booster") / "b.json"
    Trainer(QUICK, 1).ensemble(examples, 2)[0].save_model(path)
    return json.loads(path.read_text())


INDEX = 2**31 - 1


@pytest.mark.parametrize(
    ("key", "node", "value"),
    [
        ("left_children", 0, 0),
        ("left_children", 0, INDEX),
        ("left_children", 0, 2),
        ("left_children", 0, 1.5),
        ("right_children", 0, -1),
        ("right_children", -1, -2),
        ("parents", 1, 7),
        ("split_indices", 0, INDEX),
        ("split_indices", 0, -1),
        ("split_indices", -1, INDEX),
        ("split_type", 0, 1),
        ("default_left", 0, 7),
        ("split_conditions", 0, math.nan),
        ("base_weights", -1, math.inf),
        ("sum_hessian", 0, "1"),
    ],
)
def test_a_wrong_index_in_a_tree_never_reaches_xgboost(
    saved, tmp_path, monkeypatch, key, node, value
):
    """It would read outside its memory, and the process end with SIGSEGV."""
    booster = copy.deepcopy(saved)
    tree = booster["learner"]["gradient_booster"]["model"]["trees"][4]
    assert load(tmp_path, saved) is not None
    monkeypatch.setattr(xgboost, "Booster", None)
    tree[key][node] = value
    with pytest.raises(InputError, match=r"b\.json: cannot be read as an XGBoost model .*tree 4"):
        load(tmp_path, booster)
    for shorter in (tree[key][:-1], [], None):
        tree[key] = shorter
        with pytest.raises(InputError, match=r"b\.json: cannot be read as an XGBoost model"):
            load(tmp_path, booster)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("learner_model_param", "num_feature"), "99"),
        (("learner_model_param", "num_class"), "2"),
        (("learner_model_param", "num_target"), "3"),
        (("gradient_booster", "name"), "gblinear"),
        (("objective", "name"), "reg:squarederror"),
        (("gradient_booster", "model", "tree_info"), [0, 1, 2, 0, 1, 9]),
        (("gradient_booster", "model", "iteration_indptr"), [0, 3, 99]),
        (("gradient_booster", "model", "gbtree_model_param", "num_trees"), "600"),
        (("gradient_booster", "model", "cats"), {"enc": [1]}),
        (("gradient_booster", "model", "trees"), []),
        (("gradient_booster", "model"), None),
        (("feature_names",), ["age"]),
    ],
)
def test_a_booster_of_another_kind_is_refused(saved, tmp_path, monkeypatch, place, value):
    monkeypatch.setattr(xgboost, "Booster", None)
    booster = copy.deepcopy(saved)
    *path, key = place
    functools.reduce(dict.get, path, booster["learner"])[key] = value
    with pytest.raises(InputError, match=r"b\.json: cannot be read as an XGBoost model"):
        load(tmp_path, booster)


def load(folder, booster):
    (folder / "b.json").write_text(json.dumps(booster))
    return load_booster(folder / "b.json")

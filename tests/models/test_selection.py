"""Wrapper selection: both directions by hand, an interrupted one, and the ranking before it."""

import json

import numpy as np
import pytest

from humanpref.models.selection import importance_order, select

NAMES = ["noise", "good", "better", "harmful", "spare"]
GAIN = {"noise": 0.0, "good": 0.02, "better": 0.03, "harmful": -0.01, "spare": 0.001}


def loss_of(columns):
    names = {NAMES[column] for column in columns}
    # What `spare` brings, `better` has already.
    return 1.1 - sum(GAIN[name] for name in names) + (0.001 if {"spare", "better"} <= names else 0)


def test_forward():
    columns, path = select("forward", [3, 2, 1, 0, 4], NAMES, loss_of)
    assert [NAMES[column] for column in columns] == ["good", "better"]
    assert path["column"].tolist()[:2] == ["better", "good"]
    assert path["kept"].tolist() == [True, True, False]
    assert path["columns"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(path["log_loss"], [1.07, 1.05, 1.05])
    assert path["step"].tolist() == [0, 1, 2]
    assert path["action"].tolist() == ["add"] * 3


def test_backward():
    columns, path = select("backward", [3, 2, 1], NAMES, loss_of)
    assert [NAMES[column] for column in columns] == ["good", "better"]
    assert path["action"].tolist() == ["start", "remove", "remove"]
    assert path["column"].tolist()[1] == "harmful"
    assert path["kept"].tolist() == [True, True, False]
    assert path["columns"].tolist() == [3, 2, 1]
    np.testing.assert_allclose(path["log_loss"], [1.06, 1.05, 1.07])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_only_candidates_are_chosen_and_one_is_left(direction):
    assert select(direction, [3], NAMES, loss_of).columns == [3]
    assert select(direction, [0, 3], NAMES, loss_of).columns == [0]


def test_an_interrupted_selection_goes_on(tmp_path):
    checkpoint = tmp_path / "member.checkpoint"
    whole = select("forward", range(5), NAMES, loss_of)
    asked = []

    def interrupted(columns):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(columns)
        return loss_of(columns)

    with pytest.raises(KeyboardInterrupt):
        select("forward", range(5), NAMES, interrupted, checkpoint)
    assert len(json.loads(checkpoint.read_text())) == 7

    def counted(columns):
        assert columns not in asked
        more.append(columns)
        return loss_of(columns)

    more = []
    resumed = select("forward", range(5), NAMES, counted, checkpoint)
    assert resumed.columns == whole.columns
    assert resumed.path.equals(whole.path)
    assert len(more) == 5 + 4 + 3 - 7


def test_importance_order():
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(300, 4))
    classes = np.digitize(matrix[:, 2] + 0.2 * matrix[:, 0], [-0.5, 0.5])
    order = importance_order(matrix, classes, np.ones(300), seed=1)
    assert sorted(order) == [0, 1, 2, 3]
    assert order[:2].tolist() == [2, 0]
    np.testing.assert_array_equal(importance_order(matrix, classes, np.ones(300), seed=1), order)
    # Weight 0: only the other rows count, in which column 1 tells the classes.
    other = np.digitize(matrix[:, 1], [-0.5, 0.5])
    both, weights = np.concatenate([classes, other]), np.repeat([0.0, 1.0], 300)
    assert importance_order(np.vstack([matrix, matrix]), both, weights, seed=1)[0] == 1

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, precision_recall_fscore_support

from humanpref.evaluation.calibration import calibration_error, calibration_null, reliability
from humanpref.evaluation.metrics import brier, confusion, per_class
from humanpref.logloss import log_loss


@pytest.fixture(scope="module")
def drawn():
    """Probabilities, and labels that are drawn from them."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([2, 2, 2], size=3_000)
    classes = (rng.random((3_000, 1)) > probabilities.cumsum(axis=1)[:, :2]).sum(axis=1)
    return np.eye(3)[classes], probabilities


def test_by_hand():
    labels = np.eye(3)[[0, 0, 1, 2]]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]])
    assert brier(labels, probabilities) == pytest.approx((0.06 + 0.62 + 0.14 + 1.34) / 4)
    # One bin: A is seen in 1/2 and predicted in 0.4, B in 1/4 and 1/2, the tie in 1/4 and 0.1.
    assert calibration_error(labels, probabilities, bins=1) == pytest.approx(
        (0.1 + 0.25 + 0.15) / 3
    )
    # Two: for A the rows of 0.2 and 0.2 (none seen), and of 0.4 and 0.8 (both seen).
    table = reliability(labels, probabilities, bins=2)
    assert table.loc[table["label"] == "A", ["predicted", "observed"]].to_numpy().tolist() == [
        [0.2, 0],
        [pytest.approx(0.6), 1],
    ]
    records = per_class(labels[:3], probabilities[:3])
    assert records[2] == {
        "label": "tie",
        "rows": 0,
        "precision": None,
        "recall": None,
        "log_loss": None,
        "predicted": pytest.approx(0.1),
    }


def test_agrees_with_scikit_learn(drawn):
    labels, probabilities = drawn
    classes, likeliest = labels.argmax(axis=1), probabilities.argmax(axis=1)
    one_class = [brier_score_loss(labels[:, c], probabilities[:, c]) for c in range(3)]
    assert brier(labels, probabilities) == pytest.approx(sum(one_class))
    assert (confusion(labels, probabilities) == confusion_matrix(classes, likeliest)).all()
    precision, recall, _, rows = precision_recall_fscore_support(classes, likeliest)
    records = per_class(labels, probabilities)
    assert [r["precision"] for r in records] == pytest.approx(precision)
    assert [r["recall"] for r in records] == pytest.approx(recall)
    assert [r["rows"] for r in records] == rows.tolist()
    weighted = sum(r["rows"] * r["log_loss"] for r in records) / len(labels)
    assert weighted == pytest.approx(log_loss(labels, probabilities))


def test_the_error_of_true_probabilities_is_within_the_null_range(drawn):
    labels, probabilities = drawn
    null = calibration_null(probabilities)
    assert 0 < null["low"] < null["median"] < null["high"]
    assert null["low"] <= calibration_error(labels, probabilities) <= null["high"]
    sharpened = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    assert calibration_error(labels, sharpened) > calibration_null(sharpened)["high"]

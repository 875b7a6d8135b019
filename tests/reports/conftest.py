import pytest

from humanpref.data import read_faulty

A, B, TIE = 0, 1, 2


@pytest.fixture
def few(write_csv):
    """Five rows that can be counted by hand, and the faults found while reading them."""
    rows = [
        (["Who?"], ["long answer"], ["short"], A),
        (["who? "], ["b"], ["bbbb"], B),
        (["Where is the house of the king?", "And?"], ["x"], ["x"], A),
        (["Где и что"], [""], ["y"], B),
        (["Who?"], ["short"], ["long answer"], TIE),
    ]
    models = {"model_a": ["m", "m", "k", "m", "m"], "model_b": ["k", "k", "m", "n", "k"]}
    return read_faulty(write_csv(rows, **models))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures empty: `test_the_report_is_whole` and `test_the_page_and_the_json_agree`
    draw each of them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: path.touch())

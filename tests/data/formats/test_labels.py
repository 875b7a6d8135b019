import numpy as np
import pytest

from humanpref.data.formats.labels import OneHot, Winner, probability, weight
from humanpref.data.formats.row import CellError
from humanpref.schema import LABEL_COLUMNS


@pytest.mark.parametrize(
    ("cell", "label", "lost"),
    [
        ("model_a", [1, 0, 0], ""),
        (" MODEL_B ", [0, 1, 0], ""),
        ("Tie", [0, 0, 1], ""),
        ("tie (bothbad)", [0, 0, 1], "ties in which both are bad"),
        ("both_bad", [0, 0, 1], "ties in which both are bad"),
    ],
)
def test_the_winner_as_text(cell, label, lost):
    assert Winner(ties=True).read([cell]) == (label, lost)


@pytest.mark.parametrize("cell", ["a", "", None, 0, float("nan"), "model_c"])
def test_what_is_no_winner(cell):
    with pytest.raises(CellError, match=r"expected model_a, model_b, tie, .*, got"):
        Winner(ties=True).read([cell])


def test_a_format_without_ties_refuses_them():
    assert Winner(ties=False).read(["model_b"]) == ([0, 1], "")
    with pytest.raises(CellError, match="expected model_a, model_b, got 'tie'"):
        Winner(ties=False).read(["tie"])


def test_numbers():
    assert OneHot(LABEL_COLUMNS).read(["0", 1, np.float64(0)]) == ([0, 1, 0], "")
    assert OneHot(LABEL_COLUMNS[:2]).read([True, False]) == ([1, 0], "")
    for cells, column, message in (
        (["1", "0", None], "winner_tie", r"expected a number in \[0, 1\], got 'None'"),
        (["1", "x", "0"], "winner_model_b", "got 'x'"),
        (["1", "1", "0"], "", "expected a sum of 1, got 2"),
    ):
        with pytest.raises(CellError, match=message) as caught:
            OneHot(LABEL_COLUMNS).read(cells)
        assert caught.value.column == column
    assert (probability("0.5"), weight("7")) == (0.5, 7)
    with pytest.raises(ValueError, match="1e-9 to 1e9"):
        weight("inf")

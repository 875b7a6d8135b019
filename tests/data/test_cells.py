"""Single cells: ids, and the turns of a text."""

import numpy as np
import pandas as pd
import pytest

from humanpref.data.cells import as_turns, id_text, is_missing, parsed_turns, short


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "expected printable text, got ''"),
        ("a\nb", "expected printable text"),
        (None, "got nothing"),
        (pd.NA, "got nothing"),
        (1.5, r"below 2\*\*53, got 1\.5"),
        (2.0**53, r"below 2\*\*53"),
    ],
)
def test_an_id_that_cannot_be_told_is_refused(key, message):
    assert id_text(np.float64(7)) == id_text(np.int64(7)) == "7"
    with pytest.raises(ValueError, match=message):
        id_text(key)


def test_turns_of_a_cell():
    assert parsed_turns('["a", null, "\\ud83d"]') == ("a", "", "\N{REPLACEMENT CHARACTER}")
    assert parsed_turns("") == parsed_turns("null") == parsed_turns("[]") == ()
    for cell, message in (
        ("plain", "not JSON, expected a list of strings"),
        ('{"a": 1}', "got a JSON object"),
        ('"a"', "got a JSON string"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "turn 1: expected a string or null, got '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            parsed_turns(cell)
    with pytest.raises(ValueError, match="turn 2"):
        as_turns(["a", ["b"]])


def test_missing_cells_and_messages():
    assert [is_missing(cell) for cell in (None, np.nan, pd.NA, pd.NaT, "", [], np.zeros(2))] == [
        *[True] * 4,
        *[False] * 3,
    ]
    assert short("a" * 70) == repr("a" * 60 + "…")

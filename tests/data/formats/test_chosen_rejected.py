"""trl's pairs: which answer is A says nothing about which was chosen."""

import json

import numpy as np
import pandas as pd
import pytest

from humanpref.data import read_pairs
from humanpref.data.formats.chosen_rejected import ChosenRejected
from humanpref.data.formats.forms import Form
from humanpref.data.formats.row import CellError
from humanpref.schema import InputError

TEXTS = ["prompt", "response_a", "response_b"]


def said(*texts, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def rows_of(number, seed=0):
    """Rows in which the chosen answer is the longer one, and comes first in the alphabet."""
    lengths = np.random.default_rng(seed).integers(1, 30, number)
    return [
        {"prompt": f"p{i}", "chosen": "a" * (40 + n), "rejected": "b" * n}
        for i, n in enumerate(lengths.tolist())
    ]


def test_half_of_the_rows_come_out_as_a():
    pairs = read_pairs(rows_of(400))
    wins = pairs["winner_model_a"].sum()
    assert 160 < wins < 240  # four standard deviations
    assert list(pairs) == ["id", *TEXTS, "winner_model_a", "winner_model_b"]
    longer = pairs["response_a"].str[0].str.len() > pairs["response_b"].str[0].str.len()
    np.testing.assert_array_equal(longer, pairs["winner_model_a"] == 1)


def test_the_draw_does_not_depend_on_the_other_rows_or_their_order():
    rows = [row | {"id": i} for i, row in enumerate(rows_of(400))]
    pairs = read_pairs(rows).set_index("id")
    order = np.random.default_rng(1).permutation(400)[:150]
    shuffled = read_pairs([rows[i] for i in order]).set_index("id")
    pd.testing.assert_frame_equal(shuffled, pairs.loc[shuffled.index])


@pytest.mark.parametrize("messages", [False, True])
def test_exchanging_the_columns_turns_the_label_and_nothing_else(messages):
    rows = rows_of(100)
    if messages:
        rows = [
            {side: said(row["prompt"], "so", "and?", row[side]) for side in ("chosen", "rejected")}
            for row in rows
        ]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    pairs, other = read_pairs(rows), read_pairs(turned)
    pd.testing.assert_frame_equal(pairs[["id", *TEXTS]], other[["id", *TEXTS]])
    np.testing.assert_array_equal(pairs["winner_model_a"], 1 - other["winner_model_a"])
    np.testing.assert_array_equal(pairs["winner_model_b"], 1 - other["winner_model_b"])


def test_equal_answers_are_left_out_and_counted_unless_rows_are_predicted(caplog, tmp_path):
    rows = [*rows_of(3), {"prompt": "p", "chosen": "a", "rejected": "a"}]
    with caplog.at_level("INFO"):
        assert read_pairs(rows)["id"].tolist() == ["0", "1", "2"]
    assert "3 rows; " in caplog.text
    assert "1 row left out because chosen equals rejected" in caplog.text
    assert read_pairs(rows, labels=False)["id"].tolist() == ["0", "1", "2", "3"]
    with pytest.raises(InputError, match="chosen equals rejected in each of its rows"):
        read_pairs(rows[3:])


def sides(row):
    """The prompt, the chosen and the rejected answer of a row."""
    both = (row.response_a, row.response_b)
    return row.prompt, both[row.label], both[1 - row.label]


@pytest.mark.parametrize(
    ("form", "prompt_form", "cells"),
    [
        (Form.TEXT, Form.TEXT, ["p", "c", "r"]),
        (Form.TEXT, None, ["p c", "p r"]),
        (Form.TEXT, None, ["p\nc", "p\nr"]),
        (Form.TEXT, None, [f"\n\nHuman: p\n\nAssistant: {x}" for x in "cr"]),
        (Form.TURNS, Form.TURNS, [["p"], ["c"], ["r"]]),
        (Form.MESSAGES, None, [said("p", x) for x in "cr"]),
        (Form.JSON_MESSAGES, None, [json.dumps(said("p", x)) for x in "cr"]),
        (Form.MESSAGES, Form.MESSAGES, [said("p"), *(said(x, first="assistant") for x in "cr")]),
        (Form.MESSAGES, Form.MESSAGES, [said("p"), *(said("p", x) for x in "cr")]),
        (Form.MESSAGES, Form.TEXT, ["p", *(said("p", x) for x in "cr")]),
        (Form.MESSAGES, Form.TEXT, ["p", *(said(x, first="assistant") for x in "cr")]),
        (Form.TEXT, Form.MESSAGES, [said("p"), "c", "r"]),
    ],
)
def test_every_way_to_say_the_same(form, prompt_form, cells):
    row = ChosenRejected(form, prompt_form).read(cells)
    assert sides(row) == (("p",), ("c",), ("r",))


def test_several_turns_are_kept_on_both_sides():
    row = ChosenRejected(Form.MESSAGES).read([said("p", "a", "q", x) for x in "cr"])
    assert sides(row) == (("p", "q"), ("a", "c"), ("a", "r"))
    text = "\n\nHuman: p\n\nAssistant: a\n\nHuman: q\n\nAssistant:"
    row = ChosenRejected(Form.TEXT).read([f"{text} c", f"{text} r"])
    assert sides(row) == (("p", "q"), ("a", "c"), ("a", "r"))


@pytest.mark.parametrize(
    ("form", "cells", "column", "message"),
    [
        (Form.TEXT, ["c", "r"], "chosen", "no column 'prompt'; the two begin differently"),
        (Form.MESSAGES, [said("p", "c"), said("q", "r")], "rejected", "message 1 of the user"),
        (Form.MESSAGES, [said("p", "c"), said("p")], "rejected", "ends with a message of the user"),
        (Form.MESSAGES, [said("p", "c"), "text"], "rejected", "expected a list of messages"),
        (Form.TEXT, ["p c", '["r"]'], "rejected", "got a JSON list of strings"),
        (Form.TEXT, ["p c", 3], "rejected", "expected a plain string, got int '3'"),
    ],
)
def test_what_is_in_doubt_is_refused(form, cells, column, message):
    with pytest.raises(CellError, match=message) as caught:
        ChosenRejected(form).read(cells)
    assert caught.value.column == column


def test_a_row_that_is_refused_can_be_salvaged():
    row, (error,) = ChosenRejected(Form.MESSAGES).salvaged([said("p", "c"), "text"])
    assert error.column == "rejected"
    assert {row.response_a, row.response_b} == {(json.dumps(said("p", "c")),), ("text",)}
    row, errors = ChosenRejected(Form.TEXT, Form.TEXT).salvaged(["p", "c", "r"])
    assert (sides(row), errors) == ((("p",), ("c",), ("r",)), [])

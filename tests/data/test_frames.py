"""One rule for the texts of frames: what is turns, what is parsed, what is text, and what is
refused with its row and column."""

import json

import numpy as np
import pandas as pd
import pytest

from humanpref.data import (
    CellRule,
    as_pairs,
    digest_of,
    grouped_folds,
    labels_of,
    prompt_keys,
    read_pairs,
    swap_pairs,
    weights_of,
    write_pairs,
)
from humanpref.schema import LABEL_COLUMNS, TEXT_COLUMNS, InputError


def frame(*rows, **columns):
    columns_of_rows = zip(TEXT_COLUMNS, zip(*rows, strict=True), strict=True)
    made = {name: pd.Series(list(cells), dtype=object) for name, cells in columns_of_rows}
    return pd.DataFrame({"id": [str(i) for i in range(len(rows))], **made, **columns})


def turns_of(*rows):
    return as_pairs(frame(*rows))[list(TEXT_COLUMNS)].to_numpy().tolist()


def test_a_raw_frame_of_the_competitions_file_is_what_read_pairs_reads(arena):
    read, raw = read_pairs(arena / "train.csv"), pd.read_csv(arena / "train.csv")
    assert raw["id"].dtype == np.int64
    made = as_pairs(raw)
    pd.testing.assert_frame_equal(made[["id", *TEXT_COLUMNS]], read[["id", *TEXT_COLUMNS]])
    np.testing.assert_array_equal(labels_of(raw), labels_of(read))
    np.testing.assert_array_equal(prompt_keys(raw), prompt_keys(read))
    np.testing.assert_array_equal(grouped_folds(raw, 4, seed=1), grouped_folds(read, 4, seed=1))
    texts = ["id", *TEXT_COLUMNS]
    assert digest_of(raw[texts]) == digest_of(read[texts])


def test_what_is_validated_comes_back_as_it_is(pairs):
    assert as_pairs(pairs) is pairs


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda turns: np.array(turns, dtype=object)]
)
def test_lists_tuples_and_arrays_are_turns(kind):
    assert turns_of((kind(["p", "q"]), kind(["a"]), kind(["b"]))) == [[("p", "q"), ("a",), ("b",)]]
    turn = as_pairs(frame((kind(["p"]), kind(["a"]), kind(["b"]))))["prompt"][0][0]
    assert type(turn) is str


def test_strings_that_are_all_json_lists_or_nulls_are_parsed():
    made = turns_of(('["p", null]', "null", ""), ('["\\ud83d"]', "[]", ' [""] '))
    assert made == [[("p", ""), (), ()], [("\N{REPLACEMENT CHARACTER}",), (), ("",)]]
    assert turns_of(("null", "", None)) == [[(), (), ()]]


@pytest.mark.parametrize(
    "text", ["[1]", "null", "", "[not JSON", '{"a": 1}', '"quoted"', '["a", 1]', " "]
)
def test_beside_plain_texts_a_text_is_one_turn_as_it_stands(text):
    assert turns_of(("What?", "This.", text)) == [[("What?",), ("This.",), (text,)]]


def test_white_space_is_a_text_even_where_it_comes_first():
    assert turns_of((" ", "\n", ""), ("p", "a", "b")) == [
        [(" ",), ("\n",), ("",)],
        [("p",), ("a",), ("b",)],
    ]


def test_none_and_nan_are_conversations_without_turns():
    for row in (("p", "a"), (["p"], ["a"]), ('["p"]', '["a"]')):
        for nothing in (None, float("nan"), np.nan, pd.NA):
            assert turns_of((*row, nothing)) == [[("p",), ("a",), ()]]
    assert turns_of(("", ["a"], "null")) == [[(), ("a",), ()]]
    strings = frame(("p", "a", None)).astype(dict.fromkeys(TEXT_COLUMNS, "string"))
    assert as_pairs(strings)["response_b"].tolist() == [()]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [('["p"]', '["a"]', '["b"]'), ('["p"]', "plain", '["b"]')],
            r"row 2 \(id '1'\): column 'response_a': expected a JSON list of strings as in row 1, "
            r"column 'prompt', got 'plain'",
        ),
        (
            [('["p"]', "a", "b")],
            r"row 1 \(id '0'\): column 'response_a': expected a JSON list of strings",
        ),
        (
            [("p", "a", '["b"]')],
            r"column 'response_b': expected a plain string as in row 1, column 'prompt'",
        ),
        (
            [('["p"]', '["a", 1]', '["b"]')],
            r"column 'response_a': expected a JSON list .* got '\[\"a\", 1\]'",
        ),
        (
            [(["p"], "a", ["b"])],
            r"column 'response_a': expected a list of strings as in row 1, column 'prompt', got",
        ),
        (
            [("", (), "b")],
            r"'response_b': expected a list of strings as in row 1, column 'response_a', got 'b'",
        ),
        (
            [(["p", 1], ["a"], ["b"])],
            r"row 1 \(id '0'\): column 'prompt': turn 2: expected a string or null, got '1'",
        ),
        (
            [([{"role": "user"}], ["a"], ["b"])],
            r"column 'prompt': turn 1: expected a string or null",
        ),
        ([(["p"], ["a"], [["b"]])], r"column 'response_b': turn 1"),
        ([("p", "a", 3)], r"column 'response_b': expected a plain string, got int '3'"),
        ([(b"p", "a", "b")], r"column 'prompt': expected a plain string, got bytes"),
        ([({"p"}, ["a"], ["b"])], r"column 'prompt': expected a plain string, got set"),
        (
            [(np.zeros((2, 2)), ["a"], ["b"])],
            r"column 'prompt': expected a plain string, got ndarray",
        ),
    ],
)
def test_a_mixture_or_anything_else_is_refused_with_its_place(rows, message):
    with pytest.raises(InputError, match=message):
        as_pairs(frame(*rows))


def test_columns_ids_and_index():
    rows = frame((["p"], ["a"], ["b"]), (["q"], ["c"], ["d"]))
    with pytest.raises(
        InputError, match=r"missing column 'response_a', 'response_b'; they have 'id', 'prompt'"
    ):
        as_pairs(rows[["id", "prompt"]])
    with pytest.raises(InputError, match="column 'prompt' appears twice"):
        as_pairs(rows[["id", "prompt", *TEXT_COLUMNS]])
    with pytest.raises(InputError, match="row 2: column 'id': expected a text or a number, got no"):
        as_pairs(rows.assign(id=["1", None]))
    with pytest.raises(InputError, match=r"row 1: column 'id': .* below 2\*\*53, got 1\.15"):
        as_pairs(rows.assign(id=[2.0**60 + 1, 1.0]))
    assert as_pairs(rows.drop(columns="id"))["id"].tolist() == ["0", "1"]
    assert as_pairs(rows.assign(id=[2**60 + 1, 2]))["id"].tolist() == [str(2**60 + 1), "2"]
    assert as_pairs(rows.assign(id=[7, 8]))["id"].tolist() == ["7", "8"]
    turned = as_pairs(rows[::-1])
    assert turned.index.tolist() == [0, 1]
    assert turned["prompt"].tolist() == [("q",), ("p",)]
    assert rows["prompt"].tolist() == [["p"], ["q"]]  # the caller's own frame stays


def test_ids_are_those_of_the_file_whatever_pandas_made_of_them(arena, tmp_path):
    """Otherwise a row that was trained on is taken for a new one."""
    raw = pd.read_csv(arena / "train.csv")
    expected = read_pairs(arena / "train.csv")["id"].tolist()
    for made in (raw.astype({"id": float}), raw.astype({"id": "Float64"}), raw.set_index("id")):
        assert as_pairs(made)["id"].tolist() == expected
        write_pairs(tmp_path / "again.csv", made)
        assert read_pairs(tmp_path / "again.csv")["id"].tolist() == expected


def test_a_rule_is_decided_by_all_cells_that_it_saw():
    rule = CellRule()
    for cell in (None, "null", '["a"]'):
        rule.see(cell, "here")
    assert [rule.turns(cell) for cell in (None, "null", '["a"]')] == [(), (), ("a",)]
    with pytest.raises(ValueError, match="as in here, got 'b'"):
        rule.see("b", "there")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[1, 0, 0], [0, np.nan, 1]],
            r"row 2: column 'winner_model_b': expected a number in \[0, 1\], got nan",
        ),
        (
            [[1, 0, 0], [0, 2, -1]],
            r"row 2: column 'winner_model_b': expected a number in \[0, 1\], got 2",
        ),
        (
            [["A", 0, 0], [0, 0, 1]],
            r"row 1: column 'winner_model_a': expected a number in \[0, 1\], got 'A'",
        ),
        ([[1, 0, 0], [1, 1, 0]], r"row 2: columns .*: expected a sum of 1, got 2"),
    ],
)
def test_labels_of_a_callers_frame_are_checked_as_those_of_a_file(labels, message):
    with pytest.raises(InputError, match=message):
        labels_of(pd.DataFrame(labels, columns=list(LABEL_COLUMNS)))


def test_rounded_labels_are_rescaled_and_weights_checked(tmp_path):
    rows = frame(*[(["p"], ["a"], ["b"])] * 2)
    rows[list(LABEL_COLUMNS)] = [[0.333, 0.333, 0.333], [0.25, 0.25, 0.5]]
    write_pairs(tmp_path / "rows.csv", rows)
    np.testing.assert_array_equal(labels_of(rows), labels_of(read_pairs(tmp_path / "rows.csv")))
    assert weights_of(rows.assign(weight=["1", 2.5])).tolist() == [1, 2.5]
    for wrong in (-1, np.inf, np.nan, "x"):
        with pytest.raises(
            InputError, match="row 2: column 'weight': expected 0, or a number from 1e-9"
        ):
            weights_of(rows.assign(weight=[1, wrong]))


def test_plain_texts_are_written_as_turns(tmp_path):
    write_pairs(tmp_path / "rows.csv", frame(("p", "a", "b")))
    assert read_pairs(tmp_path / "rows.csv")["prompt"].tolist() == [("p",)]
    assert json.loads(pd.read_csv(tmp_path / "rows.csv")["prompt"][0]) == ["p"]


def test_a_column_without_its_other_half_is_swapped_by_name():
    swapped = swap_pairs(frame(("p", "a", "b"), model_a=["m"]))
    assert list(swapped) == ["id", *TEXT_COLUMNS, "model_b"]
    assert swapped.loc[0].tolist() == ["0", "p", "b", "a", "m"]

import numpy as np
import pandas as pd
import pytest

from humanpref.data import swap_pairs
from humanpref.runs.artifact_tables import read_oof, read_rows, rows_among, write_oof, write_rows
from humanpref.schema import InputError

PROBABILITIES = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])


@pytest.fixture
def three(pairs):
    return pairs[:3].reset_index(drop=True)


def test_held_out_predictions_come_back(three, tmp_path):
    write_oof(tmp_path / "oof.csv", three, PROBABILITIES, np.array([1, 0, 1]))
    table = read_oof(tmp_path / "oof.csv")
    assert table["id"].tolist() == three["id"].tolist()
    assert table["fold"].tolist() == [1, 0, 1]
    assert table["fold"].dtype == np.int64
    np.testing.assert_array_equal(table.iloc[:, 2:], PROBABILITIES)
    write_oof(tmp_path / "without.csv", three, PROBABILITIES)
    assert "fold" not in read_oof(tmp_path / "without.csv")


def test_training_rows_come_back_without_texts(three, tmp_path):
    write_rows(tmp_path / "rows.csv", three.assign(weight=[1.0, 2.5, 0.0]))
    rows = read_rows(tmp_path / "rows.csv")
    assert rows["weight"].tolist() == [1.0, 2.5, 0.0]
    labels = ["winner_model_a", "winner_model_b", "winner_tie"]
    np.testing.assert_array_equal(rows[labels], three[labels])
    text = (tmp_path / "rows.csv").read_text()
    assert not any(turn in text for turns in three["response_a"] for turn in turns if len(turn) > 9)
    write_rows(tmp_path / "plain.csv", three)
    assert read_rows(tmp_path / "plain.csv")["weight"].tolist() == [1.0] * 3


def test_a_row_is_known_by_id_prompt_and_answers(pairs, three, tmp_path):
    write_rows(tmp_path / "rows.csv", three)
    rows = read_rows(tmp_path / "rows.csv")
    assert rows_among(pairs[:5], rows).tolist() == [True, True, True, False, False]
    assert not rows_among(three.assign(id=["x", "y", "z"]), rows).any()
    assert not rows_among(three.assign(prompt=[("other",)] * 3), rows).any()
    assert not rows_among(swap_pairs(three), rows).any()


def damaged(table, row, column, value):
    changed = table.astype(object)
    changed.loc[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="id"), "missing column 'id'"),
        (lambda t: t.drop(columns="winner_tie"), "missing column 'winner_tie'"),
        (
            lambda t: t.assign(id=["a", "b", "a"]),
            r"row 3 \(id 'a'\): column 'id': expected each row",
        ),
        (
            lambda t: damaged(t, 1, "winner_tie", "x"),
            r"row 2 .*'winner_tie': expected a number in \[0, 1\], got 'x'",
        ),
        (lambda t: damaged(t, 0, "winner_tie", 1.01), r"row 1 .* got '1\.01'"),
        (lambda t: damaged(t, 0, "winner_tie", -0.1), r"row 1 .* got '-0\.1'"),
        (lambda t: damaged(t, 0, "winner_tie", 0.4), "row 1 .*: expected a sum of 1, got 0.9"),
        (lambda t: damaged(t, 2, "fold", 0.5), "row 3 .*'fold': expected a fold index, got '0.5'"),
        (lambda t: damaged(t, 2, "fold", -1), "row 3 .*'fold': .* got '-1'"),
    ],
)
def test_a_damaged_table_is_refused(three, tmp_path, change, message):
    path = tmp_path / "oof.csv"
    write_oof(path, three, PROBABILITIES, np.array([0, 0, 1]))
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=f"oof.csv: {message}"):
        read_oof(path)


@pytest.mark.parametrize("weight", ["inf", "-1", "heavy"])
def test_a_damaged_weight_is_refused(three, tmp_path, weight):
    path = tmp_path / "rows.csv"
    write_rows(path, three)
    damaged(pd.read_csv(path), 0, "weight", weight).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row 1 .*'weight': expected a finite number"):
        read_rows(path)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_oof(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"id,\xff\n")
    with pytest.raises(InputError, match=r"bytes\.csv: not a valid CSV .*; is it complete\?"):
        read_oof(tmp_path / "bytes.csv")

import numpy as np
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
    random = np.random.default_rng(0).dirichlet([1, 1, 1], size=3)
    write_oof(tmp_path / "one.csv", three, random, 4)
    np.testing.assert_array_equal(read_oof(tmp_path / "one.csv").iloc[:, 2:], random)


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


@pytest.mark.parametrize(
    "text",
    [
        "id,\xff\n",
        "",
        "id,fold\n1,0\n",
        "id,fold,winner_model_a,winner_model_b,winner_tie\n1,0,x,0,0\n",
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "oof.csv"
    with pytest.raises(InputError, match=r"oof\.csv: not a table of an artifact"):
        read_oof(path)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"oof\.csv: not a table of an artifact") as caught:
        read_oof(path)
    assert "\n" not in str(caught.value)

import numpy as np
import pytest

from humanpref.data import read_faulty
from humanpref.evaluation.intervals import ratio_interval, share_interval
from humanpref.reports import tables

A, B, TIE = 0, 1, 2


@pytest.fixture
def few(write_csv):
    """Five rows that can be counted by hand."""
    rows = [
        (["Who?"], ["long answer"], ["short"], A),
        (["who? "], ["b"], ["bbbb"], B),
        (["Where is the house of the king?", "And?"], ["x"], ["x"], A),
        (["Где и что"], [""], ["y"], B),
        (["Who?"], ["short"], ["long answer"], TIE),
    ]
    models = {"model_a": ["m", "m", "k", "m", "m"], "model_b": ["k", "k", "m", "n", "k"]}
    return read_faulty(write_csv(rows, **models))


def test_intervals_by_hand():
    assert [float(end) for end in share_interval(8, 10)] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert share_interval(0, 5)[0] == 0
    assert share_interval(5, 5)[1] == 1
    assert np.isnan(share_interval(0, 0)).all()
    assert [float(end) for end in ratio_interval(10, 5)] == pytest.approx([0.6805, 5.3560], abs=1e-3)
    low, high = ratio_interval(0, 3)
    assert 0 < low < 1 / 7 < high


def test_wins_and_pairs(few):
    pairs, _ = few
    table = tables.model_table(pairs).set_index("model")
    assert table.loc["m", ["rows", "as_a", "wins", "losses", "ties"]].tolist() == [5, 4, 1, 3, 1]
    assert table.loc["k", ["rows", "as_a", "wins", "losses", "ties"]].tolist() == [4, 1, 2, 1, 1]
    assert table.loc["m", "win_loss_ratio"] == pytest.approx(1.5 / 3.5)
    assert table.loc["m", "win_share"] == pytest.approx(1.5 / 5)
    met = tables.pair_table(pairs)
    assert met.iloc[0].tolist() == ["k", "m", 4, 2, 1, 1]
    assert met.iloc[1].tolist() == ["m", "n", 1, 0, 1, 0]


def test_lengths_groups_and_special_answers(few):
    pairs, _ = few
    characters = tables.characters_of(pairs)
    bias = tables.length_bias(pairs, characters)
    assert bias["rows"].sum() == 4  # row 3's answers are equally long
    assert (bias["longer_wins"].dropna() == 1).all()
    assert tables.ties_by_turns(pairs)[["slice", "rows", "tie_share"]].to_numpy().tolist() == [
        ["1", 4, 0.25],
        ["2", 1, 0],
    ]
    by_size, largest = tables.prompt_groups(pairs)
    assert by_size.to_numpy().tolist() == [[1, 2, 2], [3, 1, 3]]
    assert largest.to_numpy().tolist() == [[3, "Who?", "100"]]
    special = tables.special_answers(pairs).set_index("case")
    assert special["rows"].tolist() == [1, 0, 0, 1]
    assert special.loc["only A is empty", ["A", "B", "tie"]].tolist() == [0, 1, 0]
    assert np.isnan(special.loc["both are empty", "tie"])
    languages = tables.languages(pairs).set_index("language")["rows"]
    assert languages["russian"] == 1
    assert languages["english"] == 1 or languages["english"] == 4


def test_faults_name_their_rows(few):
    pairs, faults = few
    assert faults == []
    found = tables.row_faults(pairs, np.arange(1, 6))
    assert [(fault.row, fault.id, fault.kind) for fault in found] == [
        (3, "102", "turns"),
        (3, "102", "decided, identical"),
        (5, "104", "mirror"),
        (5, "104", "contradiction"),
    ]
    table = tables.fault_table(found).set_index("kind")
    assert table.loc["mirror", "first_ids"] == "104"
    assert set(table.index) <= set(tables.FAULT_MEANINGS)


def test_truncation_counts_tokens(few):
    class Words:
        """One token a word."""

        def __call__(self, texts, **options):
            return {"input_ids": [text.split() for text in texts]}

        def num_special_tokens_to_add(self, pair):
            return 3

    pairs, _ = few
    pairs.at[0, "response_a"] = ("word " * 1100,)
    table = tables.truncation(pairs, Words()).set_index(["inputs", "max_length"])
    assert table.loc["dual", "cut"].tolist() == [0.2, 0.2, 0]
    pairs.at[0, "response_a"], pairs.at[0, "response_b"] = ("word " * 508,), ("word",)
    # 1 + 508 + 3 tokens just fit; with B's word and one separator more they do not.
    table = tables.truncation(pairs, Words()).set_index(["inputs", "max_length"])
    assert (table.loc[("dual", 512), "cut"], table.loc[("joint", 512), "cut"]) == (0, 0.2)

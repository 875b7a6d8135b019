from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.evaluation.slices import characters_of
from humanpref.reports import tables


def test_wins_and_pairs(few):
    pairs, _ = few
    table = tables.model_table(pairs).set_index("model")
    counts = ["rows", "as_a", "wins", "losses", "ties"]
    assert table.loc["m", counts].tolist() == [5, 4, 1, 3, 1]
    assert table.loc["k", counts].tolist() == [4, 1, 2, 1, 1]
    assert table.loc["m", "win_loss_ratio"] == pytest.approx(1.5 / 3.5)
    assert table.loc["m", "win_share"] == pytest.approx(1.5 / 5)
    met = tables.pair_table(pairs)
    assert met.iloc[0].tolist() == ["k", "m", 4, 2, 1, 1]
    assert met.iloc[1].tolist() == ["m", "n", 1, 0, 1, 0]


def test_lengths_and_ties(few):
    pairs, _ = few
    characters = characters_of(pairs)
    bias = tables.length_bias(pairs, characters)
    assert bias["rows"].sum() == 4  # row 3's answers are equally long
    assert bias.iloc[0, [0, 1, 2, 5]].tolist() == ["2-3", 4, 1, 0.25]
    by_turns = tables.ties_by_turns(pairs)
    assert by_turns[["slice", "rows", "tie_share"]].to_numpy().tolist() == [
        ["1", 4, 0.25],
        ["2", 1, 0],
    ]
    by_length = tables.ties_by_length(pairs, characters)
    assert by_length["slice"].tolist() == ["0-0", "1-1", "2-2", "8-8"]
    assert by_length["characters"].tolist() == [0.5, 1, 2.5, 8]
    assert by_length["tie_share"].tolist() == [0, 0, 0, 0.5]
    sizes = tables.sizes(pairs, characters).set_index("what")
    assert sizes.loc["turns"].tolist() == [1, 2, 2, 2]
    assert sizes.loc["characters of response_a"].tolist() == [1, 11, 11, 11]


def test_groups_languages_and_special_answers(few):
    pairs, _ = few
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


def test_the_shorter_answer_wins(few):
    pairs, _ = few
    pairs.at[0, "response_a"] = ("long",)
    bias = tables.length_bias(pairs, characters_of(pairs))
    assert bias[["longer_by", "rows", "longer_wins", "tie_share"]].to_numpy().tolist() == [
        ["1.1-1.25", 1, 0, 0],
        ["2-3", 3, 1, 1 / 3],
    ]


def test_answers_in_another_language(few):
    pairs, _ = few
    english, russian = ("Where is the house of the king?",), ("Где и что",)
    pairs["prompt"] = [english, english, russian, russian, ("?",)]
    pairs["response_a"] = [russian, english, russian, ("?",), english]
    pairs["response_b"] = [english, ("?",), russian, russian, russian]
    table = tables.languages(pairs.drop(columns="winner_tie"))
    assert list(table.columns) == ["language", "rows", "share", "another"]
    assert table.to_numpy().tolist() == [
        ["english", 2, 0.4, 0.5],
        ["russian", 2, 0.4, 0],
        ["unknown", 1, 0.2, 0],
    ]


class Words:
    """A tokenizer with one token per word."""

    added_tokens_decoder, unk_token_id, name_or_path = {}, 0, "words"

    def __call__(self, texts, **options):
        return SimpleNamespace(input_ids=[text.split() for text in texts])

    def num_special_tokens_to_add(self, pair):
        return 3


def test_truncation_counts_tokens(few):
    pairs, _ = few
    pairs.at[0, "response_a"] = ("word " * 1100,)
    table = tables.truncation(pairs, Words()).set_index(["inputs", "max_length"])
    assert table.loc["dual", "cut"].tolist() == [0.2, 0.2, 0]
    pairs.at[0, "response_a"], pairs.at[0, "response_b"] = ("word " * 508,), ("word",)
    # 1 + 508 + 3 tokens just fit; with B's word and one more separator they do not.
    table = tables.truncation(pairs, Words()).set_index(["inputs", "max_length"])
    assert (table.loc[("dual", 512), "cut"], table.loc[("joint", 512), "cut"]) == (0, 0.2)


def test_truncation_of_many_rows_counts_a_sample(few, monkeypatch):
    pairs, _ = few
    monkeypatch.setattr(tables, "TRUNCATION_ROWS", 3)
    assert tables.truncation(pairs, Words())["rows"].tolist() == [3] * 6

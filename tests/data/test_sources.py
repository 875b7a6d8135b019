"""Where training rows come from: extra files with weights, prompts that must not be learned, and
what is counted."""

import numpy as np
import pandas as pd
import pytest

from humanpref.data import (
    Extra,
    grouped_folds,
    inner_splits,
    labels_of,
    prompt_keys,
    read_pairs,
    read_training_rows,
    write_pairs,
)
from humanpref.schema import LABEL_COLUMNS, InputError


def rows(*prompts):
    return [([prompt], [f"a{i}"], [f"b{i}"], i % 3) for i, prompt in enumerate(prompts)]


@pytest.fixture
def train_csv(write_csv):
    return write_csv(rows("one", "two", "three", "four"), name="train.csv")


def test_extra_rows_without_ties_lower_the_rate_of_ties(train_csv, caplog):
    extra = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    told = "extra rows these rows have no ties"
    assert read_training_rows(train_csv, [Extra(extra)]).ties
    assert told in caplog.text
    caplog.clear()
    assert not read_training_rows(extra, [Extra(extra)]).ties
    assert told not in caplog.text


def test_extra_rows_carry_their_sources_weight(write_csv, train_csv):
    plain = write_csv(rows("five", "six"), name="plain.csv")
    weighted = write_csv(rows("seven", "eight"), name="weighted.csv", weight=[1.0, 0.0])
    found = read_training_rows(train_csv, [Extra(plain), Extra(weighted, 0.5)])
    assert found.extra["weight"].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert found.extra["id"].tolist() == [
        "extra-1:100",
        "extra-1:101",
        "extra-2:100",
        "extra-2:101",
    ]
    own, extra, shared = found.kept(np.array([True, False, False, False]))
    assert (own.tolist(), extra.tolist(), shared) == (
        [False, True, True, True],
        [True, True, True, False],
        0,
    )
    pairs, targets = found.gathered(own, extra)
    assert pairs["prompt"].tolist() == [
        ("two",),
        ("three",),
        ("four",),
        ("five",),
        ("six",),
        ("seven",),
    ]
    assert pairs["weight"].tolist() == [1, 1, 1, 1, 1, 0.5]
    np.testing.assert_array_equal(targets, labels_of(pairs))


def test_extra_rows_that_share_a_prompt_with_a_held_out_row_are_left_out_and_counted(
    write_csv, train_csv
):
    extra = write_csv(rows("  ONE ", "two", "five"), name="extra.csv")
    found = read_training_rows(train_csv, [Extra(extra)])
    for held, left, shared in (
        (0, ["two", "five"], 1),
        (1, ["  ONE ", "five"], 1),
        (2, ["  ONE ", "two", "five"], 0),
    ):
        own, more, count = found.kept(np.arange(4) == held)
        pairs, _ = found.gathered(own, more)
        assert [turns[0] for turns in pairs["prompt"][3:]] == left
        assert count == shared


def test_excluded_prompts_leave_every_source_and_are_counted(write_csv, train_csv):
    extra = write_csv(rows("five", "Two", "six"), name="extra.csv")
    unlabelled = write_csv(rows("THREE", " two"), name="test.csv", labels=False)
    found = read_training_rows(train_csv, [Extra(extra)], [unlabelled])
    assert found.pairs["prompt"].tolist() == [("one",), ("four",)]
    assert found.extra["prompt"].tolist() == [("five",), ("six",)]
    assert found.targets.shape == (2, 3)
    assert found.facts["excluded"] == 2
    assert found.facts["extra"] == [{"file": "extra.csv", "weight": 1.0, "rows": 3, "excluded": 1}]
    with pytest.raises(InputError, match="the prompts of all its rows are excluded"):
        read_training_rows(train_csv, (), [train_csv])


def test_weights_that_cannot_be_used(train_csv):
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected a positive weight"):
            read_training_rows(train_csv, [Extra(train_csv, weight)])


def test_without_extra_rows_nothing_is_added(train_csv):
    found = read_training_rows(train_csv)
    own, extra, shared = found.kept(np.zeros(4, dtype=bool))
    pairs, _ = found.gathered(own, extra)
    pd.testing.assert_frame_equal(pairs, read_pairs(train_csv))
    assert (len(extra), shared) == (0, 0)


def test_written_pairs_are_read_back_as_they_are(arena, tmp_path, write_csv):
    for path in (arena / "train.csv", arena / "test.csv"):
        pairs = read_pairs(path)
        write_pairs(tmp_path / "again.csv", pairs)
        pd.testing.assert_frame_equal(read_pairs(tmp_path / "again.csv"), pairs)
    odd = write_csv(
        [
            (['line\nbreak "quoted", comma'], [None, ""], "", 0),
            (["\ud83d"], ["é☃\u2028"], ["\r\0"], 2),
        ],
        name="odd.csv",
    )
    pairs = read_pairs(odd).assign(weight=[0.1 + 0.2, 3.0])
    pairs[list(LABEL_COLUMNS)] = [[1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]]
    write_pairs(tmp_path / "again.csv", pairs)
    again = read_pairs(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(again, pairs)
    np.testing.assert_array_equal(prompt_keys(again), prompt_keys(pairs))
    assert (grouped_folds(again, 2, 0) == grouped_folds(pairs, 2, 0)).all()


def test_inner_splits_judge_by_the_files_own_rows(write_csv, pairs):
    names = [f"prompt {i}" for i in range(9)]
    train_csv = write_csv(rows(*names, "prompt 0"), name="train.csv")
    extra = write_csv(
        rows("PROMPT 0", "prompt 5", *(f"new {i}" for i in range(20))), name="extra.csv"
    )
    found = read_training_rows(train_csv, [Extra(extra)])
    together, targets = found.gathered(np.ones(10, dtype=bool), np.ones(22, dtype=bool))
    keys = prompt_keys(together)
    splits = inner_splits(together, 3, 42, targets)
    assert np.sum([judged for _, judged in splits], axis=0).tolist() == [1] * 10 + [0] * 22
    own = grouped_folds(found.pairs, 3, 42)
    for fold, (learned, judged) in enumerate(splits):
        np.testing.assert_array_equal(judged[:10], own == fold)
        assert not set(keys[learned]) & set(keys[judged])
        assert learned[12:].all()
        np.testing.assert_array_equal(learned[[10, 11]], own[[0, 5]] != fold)
    assert inner_splits(together, 10, 42, targets) == []
    assert inner_splits(together, 3, 42, targets, least=10) == []
    # Without extra rows they are the grouped folds.
    folds = grouped_folds(pairs, 4, 1)
    for fold, (learned, judged) in enumerate(inner_splits(pairs, 4, 1, labels_of(pairs))):
        np.testing.assert_array_equal(judged, folds == fold)
        np.testing.assert_array_equal(learned, folds != fold)

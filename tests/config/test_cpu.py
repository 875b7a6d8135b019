import pytest

from humanpref.config.cpu import (
    BlendOptions,
    BoostedOptions,
    EmbeddingOptions,
    HoldOut,
    SparseOptions,
)
from humanpref.schema import InputError


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        (
            BoostedOptions,
            "leaves",
            99999999999,
            "model.leaves: expected a whole number from 2 to 1000000",
        ),
        (
            BoostedOptions,
            "l2",
            1e300,
            r"model.l2: expected 0, or a number in \[1e-9, 1e9\], got 1e\+300",
        ),
        (BoostedOptions, "min_child_weight", 1e300, "model.min_child_weight: .*got 1e\\+300"),
        (BoostedOptions, "min_child_weight", 1e-300, "model.min_child_weight: .*got 1e-300"),
        (
            BoostedOptions,
            "learning_rate",
            1e-300,
            r"model.learning_rate: expected a number in \[1e-6, 1\]",
        ),
        (BoostedOptions, "row_share", 1e-300, "model.row_share: .*got 1e-300"),
        (BoostedOptions, "column_share", 1.1, "model.column_share: .*got 1.1"),
        (
            BoostedOptions,
            "selection",
            "both",
            "model.selection: expected one of none, forward, backward",
        ),
        (SparseOptions, "word_ngrams", 6, "model.word_ngrams: expected a whole number from 1 to 5"),
        (
            SparseOptions,
            "term_penalties",
            (1.0, -1.0),
            "model.term_penalties: expected positive numbers",
        ),
        (
            EmbeddingOptions,
            "backbone",
            "",
            "model.backbone: expected a folder or a hub name, got ''",
        ),
        (EmbeddingOptions, "max_length", 7, "model.max_length: expected 8 to 32768 tokens"),
        (BlendOptions, "members", ["sparse", " "], "model.members: expected names of presets"),
        (BlendOptions, "folds", 1, "model.folds: expected at least 2"),
        (HoldOut, "validation_fraction", 0.9, "training.validation_fraction: expected 0, or 1/k"),
        (
            HoldOut,
            "validation_fraction",
            1e-310,
            "training.validation_fraction: expected 0, or 1/k .*got 1e-310",
        ),
        (HoldOut, "seeds", 0, "training.seeds: expected at least 1"),
    ],
)
def test_values_out_of_bounds(kind, option, value, message):
    with pytest.raises(InputError, match=message):
        kind(**{option: value})


@pytest.mark.parametrize("fraction", [0, 0.5, 1 / 3, 0.33333, 0.2, 1e-6])
def test_a_part_of_the_rows(fraction):
    assert HoldOut(validation_fraction=fraction).validation_fraction == fraction


def test_a_penalty_of_zero_is_in_bounds():
    assert BoostedOptions(l2=0, min_child_weight=1e-9).l2 == 0.0

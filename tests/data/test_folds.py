import numpy as np
import pandas as pd
import pytest

from humanpref.data import answer_keys, grouped_folds, held_out, labels_of, prompt_keys, swap_pairs
from humanpref.schema import LABEL_COLUMNS, InputError


def frame(prompts, labels=None):
    pairs = pd.DataFrame(
        {
            "id": [str(i) for i in range(len(prompts))],
            "prompt": [(p,) if isinstance(p, str) else p for p in prompts],
        }
    )
    if labels is not None:
        pairs[list(LABEL_COLUMNS)] = np.eye(3)[labels]
    return pairs


def test_prompts_that_differ_only_in_form_share_a_key():
    alike = ["What is Ｘ?", "what  is x?", " WHAT IS X?\n"]
    keys = prompt_keys(frame([*alike, "What is y?", ("What is x?", "And y?")]))
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 3


def test_groups_stay_whole_and_folds_are_even():
    rng = np.random.default_rng(0)
    prompts = [f"prompt {i}" for i in rng.integers(300, size=900)] + ["the same"] * 100
    labels = rng.choice(3, size=1_000, p=[0.35, 0.34, 0.31])
    pairs = frame(prompts, labels)
    folds = grouped_folds(pairs, 5, seed=1)
    assert pd.Series(folds).groupby(prompt_keys(pairs)).nunique().max() == 1
    assert np.bincount(folds).tolist() == pytest.approx([200] * 5, abs=5)
    for fold in range(5):
        np.testing.assert_allclose(
            labels_of(pairs)[folds == fold].mean(axis=0), labels_of(pairs).mean(axis=0), atol=0.03
        )


def test_the_same_rows_and_seed_give_the_same_folds_in_any_order(pairs):
    folds = dict(zip(pairs["id"], grouped_folds(pairs, 4, seed=3), strict=True))
    shuffled = pairs.sample(frac=1, random_state=0).reset_index(drop=True)
    assert dict(zip(shuffled["id"], grouped_folds(shuffled, 4, seed=3), strict=True)) == folds
    assert dict(zip(pairs["id"], grouped_folds(pairs, 4, seed=4), strict=True)) != folds


def test_folds_never_change():
    # A frozen example: figures in docs/results.md of different versions are comparable only while
    # this holds.
    assert grouped_folds(
        frame(list("abcdefgh"), [0, 0, 1, 1, 2, 2, 0, 1]), 2, seed=42
    ).tolist() == [0, 1, 1, 1, 1, 0, 0, 0]


def test_held_out_is_fold_zero_and_zero_holds_nothing(pairs):
    assert (held_out(pairs, 0.2, seed=5) == (grouped_folds(pairs, 5, seed=5) == 0)).all()
    assert not held_out(pairs, 0, seed=5).any()
    with pytest.raises(
        InputError, match=r"validation_fraction: 5 folds need at .*; use 0 to train"
    ):
        held_out(pairs[:4], 0.2, seed=5)


def test_rows_without_labels_have_folds_too(pairs):
    assert set(grouped_folds(pairs.drop(columns=list(LABEL_COLUMNS)), 3, seed=0)) == {0, 1, 2}


def test_rows_without_ties_have_the_folds_of_their_training(pairs):
    """Training adds the column of ties, and so must not change how the rows are stratified."""
    decided = pairs[pairs["winner_tie"] == 0].reset_index(drop=True)
    without = decided.drop(columns="winner_tie")
    folds = grouped_folds(without, 3, seed=0)
    assert folds.tolist() == grouped_folds(decided, 3, seed=0).tolist()
    unlabeled = without.drop(columns=list(LABEL_COLUMNS[:2]))
    assert folds.tolist() != grouped_folds(unlabeled, 3, seed=0).tolist()


@pytest.mark.parametrize(("prompts", "k"), [(["x"] * 10, 2), (["x", "y"], 3), (["x", "y"], 1)])
def test_too_few_prompts(prompts, k):
    with pytest.raises(InputError, match="folds"):
        grouped_folds(frame(prompts), k, seed=0)


def test_answers_are_known_by_their_texts_in_order(pairs):
    two = pairs[:2].reset_index(drop=True)
    keys = answer_keys(two)
    assert len(set(keys)) == 2
    assert answer_keys(two.assign(prompt=[("other",)] * 2)).tolist() == keys.tolist()
    assert not set(answer_keys(swap_pairs(two))) & set(keys)
    one_differs = two.assign(response_a=[("other",), two["response_a"][1]])
    assert (answer_keys(one_differs) == keys).tolist() == [False, True]

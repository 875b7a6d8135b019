"""Folds grouped by prompt: rows that share a prompt never end up on both sides of a split."""

import hashlib
import json
import unicodedata
from operator import add, mul

import numpy as np
import pandas as pd

from humanpref.data.frames import as_pairs
from humanpref.data.pairs import labels_of
from humanpref.schema import LABEL_COLUMNS, TEXT_COLUMNS, InputError, counted

PAIR = TEXT_COLUMNS[1:]


def prompt_keys(pairs: pd.DataFrame) -> np.ndarray:
    """Return one key per row, (n,) of str. Two rows have the same key if their prompts differ only
    in case, white space or Unicode normalization form.

    A key depends on all turns of the prompt. It is a short digest, so it can be stored in files.
    """
    return np.array([_key(turns) for turns in as_pairs(pairs, ["prompt"])["prompt"]], dtype=object)


def answer_keys(pairs: pd.DataFrame) -> np.ndarray:
    """Return one key per row, (n,) of str. Two rows have the same key if they have the same answer
    A and the same answer B."""
    answers = zip(*(as_pairs(pairs, PAIR)[column] for column in PAIR), strict=True)
    return np.array([_digest(json.dumps(row)) for row in answers], dtype=object)


def _key(turns: tuple[str, ...]) -> str:
    text = unicodedata.normalize("NFKC", "\n".join(turns)).casefold()
    return _digest(" ".join(text.split()))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def grouped_folds(
    pairs: pd.DataFrame, k: int, seed: int, labels: np.ndarray | None = None
) -> np.ndarray:
    """Assign each row to one of `k` folds, grouped by prompt and, if there are labels, stratified
    by label.

    For a given `k`, the folds depend only on the rows and the seed, not on the order of the rows,
    so all models and commands that get the same rows and seed use the same folds.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows.
    k : int
        Number of folds, at least 2.
    seed : int
        Seed of the shuffling.
    labels : ndarray, optional
        (n, 3), used for stratification instead of the frame's own labels.

    Returns
    -------
    ndarray
        (n,) int64 in [0, k).

    Raises
    ------
    InputError
        If `k` is less than 2, or there are fewer distinct prompts than folds.
    """
    keys = prompt_keys(pairs)
    distinct = len(set(keys))
    if k < 2:
        raise InputError(f"folds: expected at least 2, got {k}")
    if distinct < k:
        raise InputError(
            f"{k} folds need at least {k} distinct prompts, got {distinct} in "
            f"{counted(len(pairs), 'row')}"
        )
    if labels is None and LABEL_COLUMNS[0] in pairs:
        labels = labels_of(pairs)
    classes = np.zeros(len(pairs), dtype=np.int64) if labels is None else labels.argmax(axis=1)
    groups: dict[str, list[int]] = {}
    for key, label in zip(keys, classes, strict=True):
        groups.setdefault(key, [0, 0, 0])[label] += 1
    # scikit-learn's StratifiedGroupKFold was tried: class shares in its shuffled folds differ by
    # several points, it takes half a minute at the competition's size, and its folds depend on its
    # version and on the order of the rows. Instead, groups are assigned from the largest to the
    # smallest, each to the fold with the fewest rows of the group's classes. Groups of equal size
    # are in an order drawn from the seed.
    counts = [[0, 0, 0] for _ in range(k)]
    fold_of = {}
    for key in sorted(groups, key=lambda key: (-sum(groups[key]), _draw(key, seed))):
        group = groups[key]
        fold = min(range(k), key=lambda f: (sum(map(mul, counts[f], group)), sum(counts[f])))
        counts[fold] = list(map(add, counts[fold], group))
        fold_of[key] = fold
    return np.array([fold_of[key] for key in keys], dtype=np.int64)


def _draw(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()


def held_out(pairs: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Return a mask (n,) of the rows to hold out: about `fraction` of all rows, stratified by
    label. Rows that share a prompt stay together.

    A fraction of 0 holds out no rows; 1/k holds out fold 0 of `grouped_folds(pairs, k, seed)`.

    Raises
    ------
    InputError
        If there are too few distinct prompts to hold out that fraction.
    """
    if fraction == 0:
        return np.zeros(len(pairs), dtype=bool)
    try:
        return grouped_folds(pairs, round(1 / fraction), seed) == 0
    except InputError as error:
        raise InputError(
            f"option training.validation_fraction: {error}; use 0 to train on all rows"
        ) from None

"""Rows: reading, checking, splitting, swapping and writing them. Knows nothing of texts' meaning, models or Kaggle."""

from humanpref.data.folds import grouped_folds, held_out, prompt_keys
from humanpref.data.pairs import digest_of, labels_of, read_pairs, swap_pairs, weights_of
from humanpref.data.submission import check_submission, write_submission

__all__ = [
    "check_submission",
    "digest_of",
    "grouped_folds",
    "held_out",
    "labels_of",
    "prompt_keys",
    "read_pairs",
    "swap_pairs",
    "weights_of",
    "write_submission",
]

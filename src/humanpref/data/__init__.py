"""Read, check, split, swap and write rows. This package knows nothing about the meaning of texts,
about models or about Kaggle."""

from humanpref.data.cells import CellRule, as_pairs
from humanpref.data.folds import answer_keys, grouped_folds, held_out, prompt_keys
from humanpref.data.pairs import digest_of, labels_of, swap_pairs, weights_of
from humanpref.data.pairs_csv import Fault, read_faulty, read_labels, read_pairs, write_pairs
from humanpref.data.sources import (
    EXTRA_ID,
    Extra,
    Source,
    TrainingRows,
    inner_splits,
    name_of,
    positive_weight_mask,
    read_training_rows,
    rows_of,
)
from humanpref.data.submission import check_submission, write_submission

__all__ = [
    "EXTRA_ID",
    "CellRule",
    "Extra",
    "Fault",
    "Source",
    "TrainingRows",
    "answer_keys",
    "as_pairs",
    "check_submission",
    "digest_of",
    "grouped_folds",
    "held_out",
    "inner_splits",
    "labels_of",
    "name_of",
    "positive_weight_mask",
    "prompt_keys",
    "read_faulty",
    "read_labels",
    "read_pairs",
    "read_training_rows",
    "rows_of",
    "swap_pairs",
    "weights_of",
    "write_pairs",
    "write_submission",
]

"""Read, check, split, swap and write rows. This package knows nothing about the meaning of texts,
about models or about Kaggle."""

from humanpref.data.folds import answer_keys, grouped_folds, held_out, prompt_keys
from humanpref.data.frames import CellRule, as_pairs
from humanpref.data.pairs import (
    digest_of,
    has_ties,
    labels_of,
    refuse_ties,
    swap_pairs,
    weights_of,
    with_tie_column,
    without_ties,
)
from humanpref.data.reading import read_faulty, read_labels, read_pairs
from humanpref.data.rows import Fault
from humanpref.data.sources import (
    EXTRA_ID,
    Extra,
    TrainingRows,
    inner_splits,
    positive_weight_mask,
    read_training_rows,
)
from humanpref.data.submission import check_submission, write_submission
from humanpref.data.writing import competition_cells, write_pairs

__all__ = [
    "EXTRA_ID",
    "CellRule",
    "Extra",
    "Fault",
    "TrainingRows",
    "answer_keys",
    "as_pairs",
    "check_submission",
    "competition_cells",
    "digest_of",
    "grouped_folds",
    "has_ties",
    "held_out",
    "inner_splits",
    "labels_of",
    "positive_weight_mask",
    "prompt_keys",
    "read_faulty",
    "read_labels",
    "read_pairs",
    "read_training_rows",
    "refuse_ties",
    "swap_pairs",
    "weights_of",
    "with_tie_column",
    "without_ties",
    "write_pairs",
    "write_submission",
]

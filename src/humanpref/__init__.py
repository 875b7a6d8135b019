"""humanpref: which of two language-model answers does a human prefer? P(A), P(B), P(tie).

>>> from humanpref import build_model, labels_of, load_config, read_pairs
>>> pairs = read_pairs("train.csv", labels=True)
>>> model = build_model(load_config("sparse")).fit(pairs, labels_of(pairs))
>>> model.predict_proba(read_pairs("test.csv"))  # (n, 3), columns A, B, tie
"""

__version__ = "0.1.0"

from humanpref.config import load_config
from humanpref.data import labels_of, read_pairs, swap_pairs, write_submission
from humanpref.models import build_model, load_model

__all__ = [
    "build_model",
    "labels_of",
    "load_config",
    "load_model",
    "read_pairs",
    "swap_pairs",
    "write_submission",
]

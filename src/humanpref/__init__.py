"""humanpref: predict which of two language-model answers a human prefers, as P(A), P(B), P(tie).

>>> import humanpref
>>> judge = humanpref.load()  # the packaged judge
>>> judge.judge("Why is the sky blue?", "Rayleigh scattering.", "I cannot say.").winner
'A'

>>> from humanpref import build_model, labels_of, load_config, read_pairs
>>> pairs = read_pairs("train.csv", labels=True)
>>> model = build_model(load_config("sparse")).fit(pairs, labels_of(pairs))
>>> probabilities = model.predict_proba(read_pairs("test.csv"))  # (n, 3), columns A, B, tie
"""

import importlib
from typing import Any

from humanpref.version import __version__ as __version__

_HOMES = {
    "BatchJudge": "humanpref.interfaces.batch",
    "build_model": "humanpref.models",
    "evaluate": "humanpref.reports.evaluate",
    "labels_of": "humanpref.data",
    "load": "humanpref.interfaces.judge",
    "load_config": "humanpref.config",
    "load_model": "humanpref.runs.artifact",
    "read_pairs": "humanpref.data",
    "reward": "humanpref.interfaces.reward",
    "swap_pairs": "humanpref.data",
    "train": "humanpref.runs.train",
    "write_submission": "humanpref.data",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `humanpref --help` need not import pandas."""
    if name not in _HOMES:
        raise AttributeError(f"module 'humanpref' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

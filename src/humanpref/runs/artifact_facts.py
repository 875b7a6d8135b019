"""The facts about a training run in `artifact.json`, the file that makes a folder an artifact."""

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from humanpref.config import Config
from humanpref.models.bases import public_config, public_name
from humanpref.schema import FORMATS
from humanpref.version import __version__

FORMAT = 1
_LIBRARIES = (
    *("numpy", "pandas", "scikit-learn", "scipy", "safetensors", "torch", "transformers"),
    *("tokenizers", "accelerate", "peft", "bitsandbytes", "lightgbm", "xgboost", "xgboost-cpu"),
)


def facts_of(
    config: Config,
    members: list[str],
    prior: np.ndarray,
    training_rows: int,
    data_sha256: str,
    backbone: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of `artifact.json` without the digests, which
    `humanpref.runs.artifact_files.seal` adds.

    Parameters
    ----------
    config : Config
        The run's configuration.
    members : list of str
        The models' folders inside the artifact.
    prior : ndarray
        (3,) class rates of the training rows.
    training_rows : int
        Number of rows on which at least one model was trained.
    data_sha256 : str
        Digest of the training rows (`humanpref.data.digest_of`).
    backbone : dict, optional
        The pretrained model that was actually used, regardless of the preset's name.
    """
    return {
        "format": FORMAT,
        "preset": config.preset,
        "family": config.family,
        "seed": config.seed,
        "classes": config.training.classes or 3,
        "backbone": backbone,
        "members": members,
        "prior": [float(rate) for rate in prior],
        "training_rows": training_rows,
        "data_sha256": data_sha256,
        "command": [_without_path(argument) for argument in sys.argv],
        "versions": versions(),
    }


_ARGUMENT = re.compile(
    rf"((?:[\w.:-]+=)*(?:(?:{'|'.join(FORMATS)}):)?)(.*?)(=[\d.eE+-]+)?", re.DOTALL
)
"""An argument of the command line: `[OPTION=…][FORMAT:]VALUE[=NUMBER]`."""


def _without_path(argument: str) -> str:
    """Reduce a path in an argument of the command line to its last part, since artifacts are
    published and should not reveal local folders. The hub names of backbones stay unchanged."""
    before, value, number = _ARGUMENT.fullmatch(argument).groups(default="")
    is_path = os.sep in value and (os.path.exists(value) or not re.search(r"\s", value))
    if is_path or value.startswith(("/", "~", ".")):
        name = public_name(value) if before.endswith("backbone=") else Path(value).name
        return before + name + number
    return public_config(argument)


def versions() -> dict[str, str]:
    """Return the installed versions of Python, this package and the libraries that affect
    results."""
    installed = {"python": platform.python_version(), "humanpref": __version__}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # xgboost-cpu provides the same module as xgboost.
            installed[name.removesuffix("-cpu")] = importlib.metadata.version(name)
    return installed

"""What a bundle says and both kernels read: names of files, and the run that they are for."""

import json
import logging
from dataclasses import dataclass, fields
from typing import Any

from humanpref.schema import InputError

logger = logging.getLogger(__name__)

MARKER = "humanpref-dataset.json"
"""The manifest by which the kernels find the wheel dataset, and check it."""
WEIGHTS_MARKER = "humanpref-weights.json"
"""The manifest of a dataset of weights."""
COMPETITION = "llm-classification-finetuning"
"""Slug of the competition, which both kernels mount."""
UNFINISHED = "UNFINISHED:"
"""Stands in the log of a training kernel that left no artifact, though it ended well."""
TRAIN_SECONDS = 11.5 * 3600
"""The training kernel's time, of the 12 hours that Kaggle gives a run, where `run.toml` has no
other."""


@dataclass(frozen=True)
class KernelRun:
    """What the dataset's `run.toml` says: the run that both kernels are for."""

    preset: str
    """A name from `humanpref.config.preset_names()`; empty: nothing is trained, the dataset's
    artifacts predict."""
    overrides: tuple[str, ...] = ()
    """`section.key=value`, as for `--set`."""
    backbone: str = ""
    """The folder of the pretrained model under the input root, by the last part or parts of its
    path; empty: none is needed."""
    backbone_manifest: str = ""
    """Of packed weights the SHA-256 of their manifest: no others are taken. Empty: any."""
    folds: int | None = None
    """Train so many fold models instead of one."""
    train_seconds: float | None = None
    """What the training kernel may take, from its first line to its last; unset:
    `TRAIN_SECONDS`."""
    inference_seconds: float | None = None
    """What the inference kernel may take, from its first line: what will not fit is given up
    (`humanpref.runs.schedule`). Unset: the kernel's own limit."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "KernelRun":
        """Build a run from the values of a TOML file. Raises InputError for an unknown or a missing
        key, or a wrong type."""
        kinds = {
            "preset": str,
            "overrides": list,
            "backbone": str,
            "backbone_manifest": str,
            "folds": int,
        }
        kinds |= dict.fromkeys(("train_seconds", "inference_seconds"), (int, float))
        for key, value in values.items():
            if key not in kinds:
                raise InputError(f"run.toml: unknown key {key!r}; the keys are {', '.join(kinds)}")
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise InputError(f"run.toml: key {key}: got {value!r}")
        if "preset" not in values:
            raise InputError("run.toml: key preset is missing")
        return cls(**{**values, "overrides": tuple(values.get("overrides", ()))})

    @property
    def train_limit(self) -> float:
        """Seconds."""
        return TRAIN_SECONDS if self.train_seconds is None else self.train_seconds

    def to_toml(self) -> str:
        """The TOML text that `from_dict` reads back."""
        # A JSON string, number or list of strings is TOML too, as long as no character beyond the
        # BMP is escaped.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in values.items()
            if value is not None
        ]
        return "\n".join(lines) + "\n"

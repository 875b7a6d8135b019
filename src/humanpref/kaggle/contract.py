"""The names and settings that a bundle and both kernels share."""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from humanpref.config import Config, load_config
from humanpref.config.bounds import Bound, NonNegative, Options, Positive, at_least
from humanpref.config.neural import SCRATCH
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, Competition
from humanpref.schema import InputError

MARKER = "humanpref-dataset.json"
"""Manifest of the wheel dataset; the kernels use it to find and check the dataset."""
WEIGHTS_MARKER = "humanpref-weights.json"
"""Manifest of a dataset of packed weights."""
UNFINISHED = "UNFINISHED:"
"""Marker in the log of a training kernel that ended with exit code 0 but left no artifact."""
TRAIN_SECONDS = 11.5 * 3600
"""Default time limit of the training kernel; Kaggle allows a run 12 hours."""


_Slug = Annotated[str, Bound(f"one of {', '.join(COMPETITIONS)}", COMPETITIONS.__contains__)]


def check_classes(artifact: Path, classes: int, competition: Competition) -> None:
    """Raise InputError if the artifact predicts no ties, having only two `classes`, but the
    competition has ties. The reverse is allowed: P(A) and P(B) are then divided by their sum."""
    if classes < competition.classes:
        raise InputError(
            f"{artifact}: predicts no ties, but the competition {competition.slug} has ties"
        )


@dataclass(frozen=True)
class KernelRun(Options):
    """The run that both kernels are built for: the contents of the dataset's `run.toml`."""

    section: ClassVar[str] = "run.toml"

    preset: str
    """A name from `humanpref.config.preset_names()`. If empty, nothing is trained, and the
    dataset's artifacts make the predictions."""
    overrides: tuple[str, ...] = ()
    """Overrides of the form `section.key=value`, as for `--set`."""
    backbone: str = ""
    """One or more consecutive parts of the path at which Kaggle mounts the pretrained model; empty
    if the run needs none."""
    backbone_manifest: str = ""
    """SHA-256 of the packed weights' manifest; weights with a different manifest are refused. If
    empty, any weights are accepted."""
    folds: Annotated[int, at_least(2)] | None = None
    """Number of fold models to train. If None, a single model is trained."""
    train_seconds: Positive = TRAIN_SECONDS
    """Time limit of the training kernel, including installation."""
    inference_seconds: NonNegative | None = None
    """Time limit of the inference kernel, including installation; predictions that do not fit are
    skipped (`humanpref.runs.schedule`). If None, the kernel's own limit applies."""
    competition: _Slug = DEFAULT
    """Slug of the competition, one of `humanpref.kaggle.competitions.COMPETITIONS`."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "KernelRun":
        """Build a run from the values of a TOML file.

        Raises
        ------
        InputError
            If a key is unknown, the preset is missing, or a value has the wrong type.
        """
        names = [field.name for field in fields(cls)]
        if unknown := values.keys() - set(names):
            raise InputError(
                f"run.toml: unknown key {unknown.pop()!r}; the keys are {', '.join(names)}"
            )
        if "preset" not in values:
            raise InputError("run.toml: key preset is missing")
        return cls(**values)

    @cached_property  # so that a warning about an option is given once
    def config(self) -> Config | None:
        """The configuration of the training; None if nothing is trained.

        Raises
        ------
        InputError
            If the preset or an override is unknown.
        """
        return load_config(self.preset, None, self.settings) if self.preset else None

    @property
    def settings(self) -> list[str]:
        """The overrides, preceded by `training.classes=2` if the competition has no ties."""
        two = ["training.classes=2"] if self.rules.classes == 2 else []
        return [*two, *self.overrides]

    @property
    def rules(self) -> Competition:
        """The competition that the run predicts: its files, its classes and the form of a
        submission."""
        return COMPETITIONS[self.competition]

    @property
    def pretrained(self) -> str | None:
        """The pretrained model that the configuration names; None if none is needed."""
        backbone = getattr(self.config.model, "backbone", "") if self.config else ""
        return backbone if backbone not in ("", SCRATCH) else None

    def to_toml(self) -> str:
        """Return the TOML text that `from_dict` reads back."""
        # JSON strings, numbers and lists of strings are valid TOML, except for escaped characters
        # beyond the BMP, hence ensure_ascii=False.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return "".join(
            f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
            for key, value in values.items()
            if value is not None
        )

"""The artifacts under a folder as one table, and whether their figures may be compared."""

import hashlib
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.runs.artifact import FACTS_FILE, METRICS_FILE, Artifact
from humanpref.runs.artifact_tables import FOLD
from humanpref.schema import ID, InputError

logger = logging.getLogger(__name__)

COLUMNS = (
    *(
        "name",
        "preset",
        "backbone",
        "training_rows",
        "data",
        "models",
        "held_out",
        "folds",
        "rows",
        "log_loss",
    ),
    *(
        "log_loss_low",
        "log_loss_high",
        "accuracy",
        "seconds",
        "tokens_per_second",
        "humanpref",
        "torch",
        "command",
    ),
)
"""`data` and `folds` are beginnings of digests: of the training rows, and of which of them were
held out, then of which of those together. A blend has no such second part: its folds are its own,
whatever those of its members."""
_PART = "-"
_NUMBERS = (
    "training_rows",
    "rows",
    "log_loss",
    "log_loss_low",
    "log_loss_high",
    "accuracy",
    "seconds",
)


def runs(folder: str | Path, sort: str = "log_loss") -> pd.DataFrame:
    """List every artifact under `folder`; what is no whole artifact is passed over with a warning.

    Parameters
    ----------
    folder : path
        Searched through all its levels.
    sort : str
        One of `COLUMNS`; runs without a value come last.

    Returns
    -------
    DataFrame
        One row per artifact, the columns of `COLUMNS`; what a run does not have is None or NaN.

    Raises
    ------
    InputError
        If there is no such column, no such folder, or no artifact in it that can be read.
    """
    folder = Path(folder)
    if sort not in COLUMNS:
        raise InputError(f"--sort {sort}: expected one of {', '.join(COLUMNS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    records, files = [], sorted(folder.rglob(FACTS_FILE))
    for file in files:
        try:
            records.append(_record(Artifact.load(file.parent), file.parent.relative_to(folder)))
        except InputError as error:
            logger.warning("passed over: %s", error)
    if not files:
        raise InputError(f"{folder}: no artifact in it (no {FACTS_FILE})")
    if not records:
        raise InputError(
            f"{folder}: none of the {len(files)} artifacts in it can be read (the reasons are "
            "above)"
        )
    table = pd.DataFrame(records, columns=list(COLUMNS))
    return table.sort_values(sort, ignore_index=True, kind="stable", na_position="last")


def differences(table: pd.DataFrame) -> list[str]:
    """Why the log losses of a table of runs may not be compared, one sentence each; none: they
    may."""
    judged = table[table["log_loss"].notna()]
    # A blend stands with those that held out the same rows, whatever their folds.
    parted = {
        folds.partition(_PART)[0]: folds for folds in judged["folds"].dropna() if _PART in folds
    }
    judged = judged.assign(folds=judged["folds"].map(lambda folds: parted.get(folds, folds)))
    found = []
    for column, what in (
        ("data", "were trained and judged on different rows, or the same in another order"),
        ("folds", "held out different rows, or the same in other folds"),
    ):
        values: Sequence[Any] = judged[column].dropna().unique()
        if len(values) > 1:
            groups = (
                f"{value}: {', '.join(judged.loc[judged[column] == value, 'name'])}"
                for value in values
            )
            found.append(f"not comparable, these runs {what} ({column} {'; '.join(groups)})")
    return found


def _record(artifact: Artifact, name: Path) -> dict[str, Any]:
    """The artifact's line of the table. Its JSON may hold anything: whoever looks at all runs wants
    to see the others."""
    try:
        record = _line(artifact, artifact.metrics, name)
        wrong = [key for key in _NUMBERS if not isinstance(record[key], int | float | None)]
        if wrong:
            raise TypeError(f"{wrong[0]} {record[wrong[0]]!r} is no number")
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{artifact.folder}: {FACTS_FILE} or {METRICS_FILE} holds what no run writes ({error})"
        ) from None
    return record


def _line(artifact: Artifact, metrics: dict[str, Any], name: Path) -> dict[str, Any]:
    facts = artifact.facts
    members = metrics.get("members") or {}
    trainings = [member["training"] for member in members.values() if "training" in member]
    seconds = sum(training["seconds"] for training in trainings)
    backbone, versions = facts.get("backbone"), facts.get("versions", {})
    record = {name: metrics.get(name) for name in COLUMNS}
    return record | {
        "name": str(name),
        "preset": facts.get("preset") or facts["family"],
        "backbone": backbone["name"] if backbone else None,
        "training_rows": facts.get("training_rows"),
        "data": (facts.get("data_sha256") or "")[:12] or None,
        "models": len(facts["members"]),
        "folds": _folds(artifact, "blend" in metrics) if "log_loss" in metrics else None,
        "tokens_per_second": sum(t["tokens"] for t in trainings) / seconds if seconds else None,
        "humanpref": versions.get("humanpref"),
        "torch": versions.get("torch"),
        "command": shlex.join(facts.get("command", [])),
    }


def _folds(artifact: Artifact, blend: bool) -> str:
    """Equal for two runs that held out the same rows in the same parts; up to `_PART`, if they held
    out the same rows."""
    oof = artifact.oof.sort_values(ID)
    rows = _digest(oof[ID].tolist())
    return rows if blend else f"{rows}{_PART}{_digest(oof[FOLD].tolist())}"


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]

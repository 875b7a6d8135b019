"""The artifacts under a folder as one table, and whether their figures may be compared."""

import hashlib
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.artifact import FACTS_FILE, METRICS_FILE, Artifact
from humanpref.files import read_json
from humanpref.schema import ID, InputError

logger = logging.getLogger(__name__)

COLUMNS = (
    *("name", "preset", "backbone", "training_rows", "data", "models", "held_out", "folds", "rows", "log_loss"),
    *("log_loss_low", "log_loss_high", "accuracy", "seconds", "tokens_per_second", "humanpref", "torch", "command"),
)
"""`data` and `folds` are beginnings of digests: of the training rows, and of which of them were held out together."""


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
        If there is no such column, no such folder, or no artifact in it.
    """
    folder = Path(folder)
    if sort not in COLUMNS:
        raise InputError(f"--sort {sort}: expected one of {', '.join(COLUMNS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    records = []
    for file in sorted(folder.rglob(FACTS_FILE)):
        try:
            records.append(_record(Artifact.load(file.parent), file.parent.relative_to(folder)))
        except InputError as error:
            logger.warning("passed over: %s", error)
    if not records:
        raise InputError(f"{folder}: no artifact in it (no {FACTS_FILE})")
    table = pd.DataFrame(records, columns=list(COLUMNS))
    return table.sort_values(sort, ignore_index=True, kind="stable", na_position="last")


def differences(table: pd.DataFrame) -> list[str]:
    """Why the log losses of a table of runs may not be compared, one sentence each; none: they may."""
    judged = table[table["log_loss"].notna()]
    found = []
    for column, what in (
        ("data", "were trained and judged on different rows"),
        ("folds", "held out different rows, or the same in other folds"),
    ):
        values: Sequence[Any] = judged[column].dropna().unique()
        if len(values) > 1:
            groups = (f"{value}: {', '.join(judged.loc[judged[column] == value, 'name'])}" for value in values)
            found.append(f"not comparable, these runs {what} ({column} {'; '.join(groups)})")
    return found


def _record(artifact: Artifact, name: Path) -> dict[str, Any]:
    facts = artifact.facts
    metrics = read_json(artifact.folder / METRICS_FILE)
    if not isinstance(metrics, dict):
        raise InputError(f"{artifact.folder / METRICS_FILE}: expected an object, got {metrics!r}")
    members = metrics.get("members") or {}
    trainings = [member["training"] for member in members.values() if "training" in member]
    seconds = sum(training["seconds"] for training in trainings)
    backbone, versions = facts.get("backbone"), facts.get("versions", {})
    record = {name: metrics.get(name) for name in COLUMNS}
    return record | {
        "name": str(name),
        "preset": facts.get("preset") or facts.get("family"),
        "backbone": backbone["name"] if backbone else None,
        "training_rows": facts.get("training_rows"),
        "data": (facts.get("data_sha256") or "")[:12] or None,
        "models": len(facts["members"]),
        "folds": _folds(artifact) if "log_loss" in metrics else None,
        "tokens_per_second": sum(t["tokens"] for t in trainings) / seconds if seconds else None,
        "humanpref": versions.get("humanpref"),
        "torch": versions.get("torch"),
        "command": shlex.join(facts.get("command", [])),
    }


def _folds(artifact: Artifact) -> str:
    """Equal for two runs that held out the same rows in the same parts."""
    oof = artifact.oof.sort_values(ID)
    parts = zip(oof[ID], oof["fold"] if "fold" in oof else [0] * len(oof), strict=True)
    return hashlib.sha256(repr([(key, int(fold)) for key, fold in parts]).encode()).hexdigest()[:12]

"""List the artifacts under a folder, and tell whether their metrics may be compared."""

import hashlib
import logging
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.runs.artifact import FACTS_FILE, METRICS_FILE, Artifact
from humanpref.runs.artifact_tables import FOLD
from humanpref.schema import ID, InputError

logger = logging.getLogger(__name__)

_METRICS = ("rows", "log_loss", "log_loss_low", "log_loss_high", "accuracy", "seconds")
_FACTS = ("name", "preset", "backbone", "training_rows", "data", "models", "held_out", "folds")
COLUMNS = (*_FACTS, *_METRICS, "tokens_per_second", "humanpref", "torch", "command")
"""`data` and `folds` are beginnings of digests: of the training rows; of which rows were held out,
then of how these fall into folds. A blend has no such second part: its folds are its own, whatever
those of the artifacts in it."""
_SEPARATOR = "-"


def runs(folder: str | Path, sort: str = "log_loss") -> pd.DataFrame:
    """List every artifact under a folder; one that cannot be read is skipped with a warning.

    Parameters
    ----------
    folder : path
        Searched through all its levels.
    sort : str
        One of `COLUMNS`; runs without a value come last.

    Returns
    -------
    DataFrame
        One row per artifact, the columns of `COLUMNS`; None or NaN where a run has no value.

    Raises
    ------
    InputError
        If there is no such column, no such folder, or no artifact in it that can be read.
    """
    folder = Path(folder)
    if sort not in COLUMNS:
        raise InputError(f"--sort: expected one of {', '.join(COLUMNS)}, got {sort}")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder")
    records, files = [], sorted(folder.rglob(FACTS_FILE))
    for file in files:
        try:
            artifact = Artifact.load(file.parent)
            records.append(_record(artifact) | {"name": str(file.parent.relative_to(folder))})
        except InputError as error:
            logger.warning("skipped: %s", error)
    if not records:
        raise InputError(
            f"{folder}: expected artifacts that can be read, got none ({len(files)} were skipped)"
        )
    table = pd.DataFrame(records, columns=list(COLUMNS))
    return table.sort_values(sort, ignore_index=True, kind="stable", na_position="last")


def differences(table: pd.DataFrame) -> list[str]:
    """Return why the log losses of a table of runs may not be compared, one sentence per reason."""
    judged = table[table["log_loss"].notna()]
    # A blend is comparable with runs that held out the same rows, whatever their folds.
    by_rows = {
        folds.partition(_SEPARATOR)[0]: folds
        for folds in judged["folds"].dropna()
        if _SEPARATOR in folds
    }
    judged = judged.assign(folds=judged["folds"].replace(by_rows))
    reasons = []
    for column, reason in (
        ("data", "were trained and judged on different rows, or the same in another order"),
        ("folds", "held out different rows, or the same in other folds"),
    ):
        names = judged.groupby(column, sort=False)["name"].agg(", ".join)
        if len(names) > 1:
            groups = "; ".join(f"{value}: {listed}" for value, listed in names.items())
            reasons.append(f"not comparable, these runs {reason} ({column} {groups})")
    return reasons


def training_summary(artifact: Artifact) -> dict[str, Any]:
    """Return what training an artifact's models took, over all its folds.

    Returns
    -------
    dict
        `backbone` (its name), `parameters` and `trainable_parameters` of one model,
        `tokens_per_second` (without padding), `peak_memory_gib`; None where a model has none.
    """
    members = artifact.metrics.get("members") or {}
    trainings = [member["training"] for member in members.values() if "training" in member]
    seconds = sum(training["seconds"] for training in trainings)
    peak = max((training["peak_memory_bytes"] for training in trainings), default=None)
    backbone = artifact.facts.get("backbone") or {}
    return {
        "backbone": backbone.get("name"),
        "parameters": backbone.get("parameters"),
        "trainable_parameters": trainings[0].get("trainable_parameters") if trainings else None,
        "tokens_per_second": sum(t["tokens"] for t in trainings) / seconds if seconds else None,
        "peak_memory_gib": peak and peak / 2**30,
    }


def _record(artifact: Artifact) -> dict[str, Any]:
    """Build an artifact's line of the table; raise InputError for JSON that no run writes."""
    facts = artifact.facts
    try:
        metrics = artifact.metrics
        for name in _METRICS:
            if not isinstance(metrics.get(name), int | float | None):
                raise TypeError(f"{name}: expected a number, got {metrics[name]!r}")
        values = metrics | facts | training_summary(artifact) | facts.get("versions", {})
        return {column: values.get(column) for column in COLUMNS} | {
            "preset": facts.get("preset") or facts["family"],
            "data": facts.get("data_sha256", "")[:12] or None,
            "models": len(facts["members"]),
            "folds": _folds(artifact, "blend" in metrics) if "log_loss" in metrics else None,
            "command": shlex.join(facts.get("command", [])),
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{artifact.folder}: {FACTS_FILE} or {METRICS_FILE} holds what no run writes ({error})"
        ) from None


def _folds(artifact: Artifact, blend: bool) -> str:
    """Return text that is equal for runs that held out the same rows in the same folds.

    Up to the separator it is equal if they held out the same rows.
    """
    oof = artifact.oof.sort_values(ID)
    parts = [ID] if blend else [ID, FOLD]
    digests = [hashlib.sha256(repr(oof[part].tolist()).encode()).hexdigest() for part in parts]
    return _SEPARATOR.join(digest[:8] for digest in digests)

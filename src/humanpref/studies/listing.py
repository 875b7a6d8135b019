"""List the artifacts under a folder, and determine whether their metrics are comparable."""

import hashlib
import logging
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import CHAIN, METRICS_FILE, Artifact
from humanpref.runs.artifact_files import FACTS_FILE
from humanpref.runs.artifact_tables import FOLD
from humanpref.schema import ID, InputError, refuse_failures

logger = logging.getLogger(__name__)

_METRICS = ("rows", "log_loss", "log_loss_low", "log_loss_high", "accuracy", "seconds")
_FACTS = ("name", "preset", "backbone", "training_rows", "data", "models", "held_out", "folds")
_COSTS = ("written", "tokens_per_second", "humanpref", "torch")
_STAGES = "from"
COLUMNS = (*_FACTS, *_METRICS, *_COSTS, _STAGES, "command")
"""The columns of the table of runs. `data` and `folds` are truncated digests. `data` is the digest
of the training rows. `folds` has two parts: the digest of the set of held-out rows, and that of
their assignment to folds. A blend has only the first part, since its own folds are independent of
its members' folds. `written` is the local time at which the artifact was completed. `from` names
the earlier stages (`train --from`), first stage first."""
WIDTH = 100
"""Maximum number of characters in a line of the short table."""
_SEPARATOR = "-"


def runs(folder: str | Path, sort: str = "log_loss") -> pd.DataFrame:
    """List every artifact under a folder; one that cannot be read is skipped with a warning.

    Parameters
    ----------
    folder : path
        The folder to search recursively.
    sort : str
        The column to sort by, lowest value first: one of `COLUMNS`. Runs without a value come last.

    Returns
    -------
    DataFrame
        One row per artifact, with the columns `COLUMNS`. A value that a run lacks is None or NaN.

    Raises
    ------
    InputError
        If the column or the folder does not exist, or the folder contains no readable artifact.
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
            record = _record(artifact) | {"name": str(file.parent.relative_to(folder))}
            records.append({column: _encodable(value) for column, value in record.items()})
        except InputError as error:
            logger.warning("skipped: %s", error)
    if not records:
        raise InputError(f"{folder}: expected readable artifacts, got none (skipped: {len(files)})")
    table = pd.DataFrame(records, columns=list(COLUMNS))
    return table.sort_values(sort, ignore_index=True, kind="stable", na_position="last")


def in_short(table: pd.DataFrame) -> pd.DataFrame:
    """Return only those columns of a table of runs that tell the runs apart. Long names are
    shortened in the middle, so that a line of the table in Markdown has at most `WIDTH`
    characters."""
    table = table.astype({"log_loss_low": float, "log_loss_high": float})
    shown = table[["name", "preset", "rows", "log_loss", "written"]].copy()
    bounds = zip(table["log_loss_low"], table["log_loss_high"], strict=True)
    interval = [None if pd.isna(low) else f"{low:.4f} to {high:.4f}" for low, high in bounds]
    shown.insert(4, "95 % interval", interval)
    _, _, *lines = markdown(shown.assign(name="")).splitlines()
    room = [WIDTH - len(line) for line in lines]
    shown["name"] = [_fitted(*each) for each in zip(shown["name"], room, strict=True)]
    return shown


def _fitted(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    half = max(2, room // 2)
    return f"{name[: half - 1]}…{name[len(name) - (room - half) :]}"


def differences(table: pd.DataFrame) -> list[str]:
    """Return the reasons why the log losses in a table of runs are not comparable, one line per
    reason. The list is empty if they are comparable."""
    judged = table[table["log_loss"].notna()]
    # A blend is comparable with runs that held out the same rows, regardless of their folds.
    by_rows = {
        folds.partition(_SEPARATOR)[0]: folds
        for folds in judged["folds"].dropna()
        if _SEPARATOR in folds
    }
    judged = judged.assign(folds=judged["folds"].replace(by_rows))
    reasons = []
    for column, reason in (
        ("data", "were trained and evaluated on different rows, or on rows in a different order"),
        ("folds", "held out different rows, or the same rows in different folds"),
    ):
        names = judged.groupby(column, sort=False)["name"].agg(", ".join)
        if len(names) > 1:
            groups = "; ".join(f"{value}: {listed}" for value, listed in names.items())
            reasons.append(f"not comparable: these runs {reason} ({column} {groups})")
    return reasons


def training_summary(artifact: Artifact) -> dict[str, Any]:
    """Summarize the cost of training an artifact's models.

    Returns
    -------
    dict
        The name of the `backbone`, `parameters` and `trainable_parameters` of one model, and
        `tokens_per_second` (without padding) and `peak_memory_gib` over all models. A value that
        does not exist is None.
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
    """Return an artifact's row of the table. Raises InputError for JSON that no run would write."""
    facts = artifact.facts
    with refuse_failures(
        f"{artifact.folder}: {FACTS_FILE} or {METRICS_FILE} is damaged or not written by a run"
    ):
        metrics, written = artifact.metrics, (artifact.folder / FACTS_FILE).stat().st_mtime
        for name in _METRICS:
            if not isinstance(metrics.get(name), int | float | None):
                raise TypeError(f"{name}: expected a number, got {metrics[name]!r}")
        values = facts | metrics | training_summary(artifact) | facts.get("versions", {})
        return {column: values.get(column) for column in COLUMNS} | {
            "preset": facts.get("preset") or facts["family"],
            "data": facts.get("data_sha256", "")[:12] or None,
            "models": len(facts["members"]),
            "written": f"{datetime.fromtimestamp(written):%Y-%m-%d %H:%M}",
            _STAGES: " > ".join(link["name"] for link in facts.get(CHAIN, [])) or None,
            "folds": _folds(artifact, "blend" in metrics) if "log_loss" in metrics else None,
            "command": shlex.join(facts.get("command", [])),
        }


def _encodable(value: Any) -> Any:
    """Return the value; if it is a string, with lone surrogates escaped. They come from file names
    that are not UTF-8, and pandas 3 refuses them in strings."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _folds(artifact: Artifact, blend: bool) -> str:
    """Return a digest of the held-out rows and, unless the artifact is a blend, a separator and a
    digest of their folds. Runs with equal digests held out the same rows in the same folds."""
    oof = artifact.oof.sort_values(ID)
    parts = [ID] if blend else [ID, FOLD]
    digests = [hashlib.sha256(repr(oof[part].tolist()).encode()).hexdigest() for part in parts]
    return _SEPARATOR.join(digest[:8] for digest in digests)

"""`humanpref evaluate`: compare artifacts on labeled rows, with metrics, slices and a page."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import has_ties, labels_of, prompt_keys, refuse_ties, swap_pairs
from humanpref.evaluation.axes import STATISTICS, axes_of, follow
from humanpref.evaluation.calibration import calibration_error, calibration_null, reliability
from humanpref.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    brier,
    confusion,
    mean_and_interval,
    per_class,
    summarise,
)
from humanpref.evaluation.slices import slices
from humanpref.files import folder_whole, write_json
from humanpref.logloss import row_log_losses
from humanpref.reports import charts
from humanpref.reports.page import write_page, write_tables
from humanpref.reports.table_text import columns
from humanpref.runs.artifact import Artifact
from humanpref.runs.predict import rows_to_judge
from humanpref.schema import CLASSES, ID, SWAPPED_CLASSES, TEXT_COLUMNS, InputError

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
WORST_ROWS = 20
LONGEST_TEXT = 5_000
"""Maximum number of characters shown of each text in the table of rows with the highest losses."""
SLICE_DRAWS = 500
"""Number of resamples for the interval of each slice."""
_LEVELS = ["axis", "rows", "preferred", "rejected", "unit", "measure"]

Tables = dict[str, pd.DataFrame]


def evaluate(
    artifacts: Sequence[str | Path | Artifact],
    data: Any,
    language_model: Path | None = None,
    sentence_encoder: Path | None = None,
    format: str | None = None,
) -> tuple[dict[str, Any], Tables]:
    """Evaluate artifacts on the same labeled rows, and compare each artifact with the first, row by
    row. Rows of weight 0 are skipped.

    Parameters
    ----------
    artifacts : sequence of path or Artifact
        The artifacts. Each is named by its folder, and no folder may occur twice.
    data : path or object
        Rows with labels: a file, a frame or any other source that `humanpref.data.read_pairs`
        reads.
    language_model, sentence_encoder : path, optional
        The models that measure fluency and relevance; see `humanpref.evaluation.axes.axes_of`.
    format : str, optional
        The format of `data`; by default, it is detected.

    Returns
    -------
    metrics : dict
        `artifacts` maps each name to a dict with

        - the metrics of `summarise`, and `brier`;
        - `calibration_error` and `calibration_null` (the error expected by chance), both over the
          artifact's classes;
        - `swap_difference`: the mean absolute change of a probability if A and B are swapped;
        - `swap_flips`: the share of rows whose most likely class then changes;
        - `swap_exact`: True if both swap metrics are 0 by construction, and so were not measured;
        - `confusion`, `per_class`, and `axes` (`humanpref.evaluation.axes.follow`);
        - `rows_trained_on`: the number of these rows on which the artifact was trained. If it is
          above 0, the artifact's metrics are optimistic.

        `differences` lists, for each artifact except the first, its log loss minus the first's,
        with a paired 95 % interval over prompts.
    tables : dict
        `slices`, `reliability`, `axes` and `worst` (the rows with the highest losses, with up to
        `LONGEST_TEXT` characters of each text). Each table has a column `artifact`.

    Raises
    ------
    InputError
        If an artifact or the rows cannot be used, if two artifacts have the same name, or if an
        artifact has two classes and a row is a tie.
    """
    loaded = [each if isinstance(each, Artifact) else Artifact.load(each) for each in artifacts]
    names = [str(artifact.folder) for artifact in loaded]
    if len(set(names)) < len(names):
        raise InputError(f"evaluate: expected different artifacts, got {', '.join(names)}")
    pairs, trained_on = rows_to_judge(loaded, data, format)
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    cuts, axes = slices(pairs), axes_of(pairs, language_model, sentence_encoder)
    metrics: dict[str, Any] = {"artifacts": {}, "differences": []}
    losses: list[np.ndarray] = []
    parts: list[Tables] = []
    classes = {artifact.classes for artifact in loaded}
    if 3 in classes and (len(classes) > 1 or not has_ties(pairs)):
        others = "other artifacts" if len(classes) > 1 else "these rows"
        text = f"evaluate: some artifacts have ties, which {others} lack; their P(tie) counts in "
        logger.warning(text + "their log loss and accuracy, so compare the decided metrics")
    for name, artifact, learned in zip(names, loaded, trained_on, strict=True):
        if artifact.classes == 2:
            refuse_ties(labels, None, name)
        probabilities = swapped = artifact.predict_proba(pairs)
        # A model that is swap-equivariant by construction (which a test verifies for every such
        # family) needs no second prediction.
        if not artifact.swap_equivariant:
            swapped = artifact.predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]
        losses.append(row_log_losses(labels, probabilities))
        preference = follow(axes, labels, probabilities, keys)
        of_classes = labels[:, : artifact.classes], probabilities[:, : artifact.classes]
        metrics["artifacts"][name] = {
            **summarise(labels, probabilities, np.array(artifact.prior), keys),
            "brier": brier(labels, probabilities),
            "calibration_error": calibration_error(*of_classes),
            "calibration_null": calibration_null(of_classes[1]),
            "swap_difference": float(np.abs(probabilities - swapped).mean()),
            "swap_flips": 1 - accuracy(swapped, probabilities),
            "swap_exact": artifact.swap_equivariant,
            "confusion": confusion(*of_classes).tolist(),
            "per_class": per_class(*of_classes),
            "axes": preference.to_dict("records"),
            "rows_trained_on": learned,
        }
        right = labels.argmax(axis=1) == probabilities.argmax(axis=1)
        tables = {
            "slices": _slices(cuts, losses[-1], right, keys),
            "reliability": reliability(*of_classes),
            "axes": preference,
            "worst": _worst(pairs, losses[-1], *of_classes),
        }
        parts.append({key: table.assign(artifact=name) for key, table in tables.items()})
        if len(losses) > 1:
            difference = losses[-1] - losses[0]
            low, high = bootstrap_interval(difference, keys)
            mean = float(difference.mean())
            record = {"artifact": name, "to": names[0], "log_loss": mean, "low": low, "high": high}
            metrics["differences"].append(record)
    return metrics, {key: pd.concat([t[key] for t in parts], ignore_index=True) for key in parts[0]}


def write_evaluation(out: Path, title: str, metrics: dict[str, Any], tables: Tables) -> None:
    """Write the result of `evaluate` into a new folder.

    The folder contains `index.html`, `metrics.json`, `figures/*.png` and `tables/*.csv`.
    """
    with folder_whole(out) as folder:
        (folder / "figures").mkdir()
        write_tables(folder, tables)
        write_json(folder / METRICS_FILE, metrics)
        artifacts = []
        for number, (name, numbers) in enumerate(metrics["artifacts"].items()):
            parts = {
                key: table[table["artifact"] == name].drop(columns="artifact")
                for key, table in tables.items()
            }
            _draw(folder / "figures", number, numbers["log_loss"], parts)
            classes = CLASSES[: len(numbers["confusion"])]
            counts = pd.DataFrame(numbers["confusion"], columns=[f"predicted {c}" for c in classes])
            counts.insert(0, "label", classes)
            parts |= {"confusion": counts, "per_class": pd.DataFrame(numbers["per_class"])}
            artifacts.append({"name": name, **parts, "axes": _with_intervals(parts["axes"])})
        axes = pd.DataFrame(next(iter(metrics["artifacts"].values()))["axes"])
        write_page(
            folder,
            "evaluate.html.j2",
            title=title,
            artifacts=artifacts,
            best=min(metrics["artifacts"].items(), key=lambda item: item[1]["log_loss"]),
            metrics=_side_by_side(metrics["artifacts"]),
            differences=pd.DataFrame(metrics["differences"]),
            levels=axes.reindex(columns=_LEVELS),
        )


def _side_by_side(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return a table of the scalar metrics as text, with one row per metric and one column per
    artifact."""
    table = pd.json_normalize([*metrics.values()], sep="_")
    table = table.drop(columns=["confusion", "per_class", "axes", "calibration_null_median"])
    records = [(name.replace("_", " "), *cells) for name, _, cells in columns(table)]
    return pd.DataFrame(records, columns=["metric", *metrics])


def _draw(figures: Path, number: int, log_loss: float, parts: Tables) -> None:
    by_label = dict(iter(parts["reliability"].groupby("label", sort=False)))
    charts.reliability(figures / f"reliability_{number}.png", by_label)
    cut = parts["slices"]
    losses = {"log loss": cut[["log_loss", "low", "high"]]}
    names = cut["slice"] + ":\n" + cut["part"]
    label = "log loss (nats per row; lower is better)"
    charts.points(figures / f"slices_{number}.png", names, losses, log_loss, xlabel=label)
    axes = parts["axes"]
    if len(axes):
        shown = {"people": "people", "model": "model", "model's margin": "margin"}
        series = {name: axes[_interval(column)] for name, column in shown.items()}
        label = "rank correlation with the difference A - B (-1 to 1)"
        charts.points(figures / f"axes_{number}.png", axes["axis"], series, 0.0, xlabel=label)


def _interval(column: str) -> list[str]:
    return [column, f"{column}_low", f"{column}_high"]


def _with_intervals(axes: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per axis, in which each correlation and its interval are text."""
    shown = axes.reindex(columns=["axis", *STATISTICS, "chosen", "passed_over"])
    for name in STATISTICS:
        values = axes.reindex(columns=_interval(name)).itertuples(index=False)
        shown[name] = ["{:.3f} [{:.3f}, {:.3f}]".format(*value) for value in values]
    return shown


def _slices(
    cuts: dict[str, pd.Categorical], losses: np.ndarray, right: np.ndarray, keys: np.ndarray
) -> pd.DataFrame:
    records = []
    for cut, parts in cuts.items():
        for part, rows in pd.Series(range(len(parts))).groupby(parts, observed=True):
            loss = mean_and_interval("log_loss", losses[rows], keys[rows], SLICE_DRAWS)
            counts = len(rows), *loss.values(), right[rows].mean()
            records.append((cut, part, *counts))
    columns = ["slice", "part", "rows", "log_loss", "low", "high", "accuracy"]
    return pd.DataFrame(records, columns=columns)


def _worst(
    pairs: pd.DataFrame, losses: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    rows = np.argsort(-losses, kind="stable")[:WORST_ROWS]
    table = pd.DataFrame({"id": pairs[ID].to_numpy()[rows], "log_loss": losses[rows]})
    table["label"] = np.take(CLASSES, labels[rows].argmax(axis=1))
    table[[f"P({c})" for c in CLASSES[: labels.shape[1]]]] = probabilities[rows]
    for column in TEXT_COLUMNS:
        table[column] = [shortened("\n\n".join(turns)) for turns in pairs[column].iloc[rows]]
    return table


def shortened(text: str) -> str:
    """Return a text, or its first `LONGEST_TEXT` characters and how many are missing.

    Examples
    --------
    >>> shortened("a" * 5_010)[-24:]
    'aa… (10 more characters)'
    """
    more = len(text) - LONGEST_TEXT
    return text if more <= 0 else f"{text[:LONGEST_TEXT]}… ({more:,} more characters)"

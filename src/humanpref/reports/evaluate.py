"""`humanpref evaluate`: artifacts side by side on labelled rows, as metrics, slices and a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import as_pairs, labels_of, prompt_keys, swap_pairs
from humanpref.evaluation.axes import axes_of, follow
from humanpref.evaluation.calibration import calibration_error, calibration_null, reliability
from humanpref.evaluation.metrics import bootstrap_interval, brier, confusion, per_class, summarise
from humanpref.evaluation.slices import slices
from humanpref.files import folder_whole, write_json
from humanpref.logloss import row_log_losses
from humanpref.reports import charts
from humanpref.reports.page import write_page, write_tables
from humanpref.runs.artifact import Artifact
from humanpref.schema import CLASSES, ID, SWAPPED_CLASSES, InputError

METRICS_FILE = "metrics.json"
WORST_ROWS = 20

Tables = dict[str, pd.DataFrame]


def evaluate_artifacts(
    artifacts: list[Artifact],
    pairs: pd.DataFrame,
    language_model: Path | None = None,
    sentence_encoder: Path | None = None,
) -> tuple[dict[str, Any], Tables]:
    """Evaluate artifacts on the same labelled rows, and compare each with the first, row by row.

    Parameters
    ----------
    artifacts : list of Artifact
        Named by their folders, which must differ.
    pairs : DataFrame
        Rows with labels, read by `humanpref.data.as_pairs`.
    language_model, sentence_encoder : path, optional
        What measures fluency and relevance: `humanpref.evaluation.axes.axes_of`.

    Returns
    -------
    metrics : dict
        `artifacts`: by name those of `summarise`, `brier`, `calibration_error` with its range under
        the null (`calibration_null`), `swap_difference` (mean absolute change of a probability when
        A and B change places), `swap_flips` (share of rows whose likeliest class then changes),
        `swap_exact` (both are 0 by construction, and were not measured), `confusion`, `per_class`
        and `axes` (`humanpref.evaluation.axes.follow`). `differences`: each later artifact's log
        loss minus the first's, with a paired 95 % interval over prompts.
    tables : dict
        `slices`, `reliability`, `axes` and `worst`, each with a column `artifact`.

    Raises
    ------
    InputError
        If two artifacts have one name.
    """
    names = [str(artifact.folder) for artifact in artifacts]
    if len(set(names)) < len(names):
        raise InputError(f"evaluate: expected different artifacts, got {', '.join(names)}")
    pairs = as_pairs(pairs)
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    cuts, axes = slices(pairs), axes_of(pairs, language_model, sentence_encoder)
    metrics: dict[str, Any] = {"artifacts": {}, "differences": []}
    losses: dict[str, np.ndarray] = {}
    found: list[Tables] = []
    for name, artifact in zip(names, artifacts, strict=True):
        probabilities = artifact.predict_proba(pairs)
        # What is exact by construction (a test holds every family to it) is not worth the time of
        # a second prediction.
        exact = artifact.swap_equivariant
        swapped = probabilities
        if not exact:
            swapped = artifact.predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]
        followed = follow(axes, labels, probabilities, keys)
        losses[name] = row_log_losses(labels, probabilities)
        flips = probabilities.argmax(axis=1) != swapped.argmax(axis=1)
        null = calibration_null(probabilities)
        metrics["artifacts"][name] = {
            **summarise(labels, probabilities, np.array(artifact.prior), keys),
            "brier": brier(labels, probabilities),
            "calibration_error": calibration_error(labels, probabilities),
            "calibration_null": dict(zip(("low", "median", "high"), null, strict=True)),
            "swap_difference": float(np.abs(probabilities - swapped).mean()),
            "swap_flips": float(flips.mean()),
            "swap_exact": exact,
            "confusion": confusion(labels, probabilities).tolist(),
            "per_class": per_class(labels, probabilities),
            "axes": followed.to_dict("records"),
        }
        tables = {
            "slices": _slices(cuts, losses[name], labels, probabilities, keys),
            "reliability": reliability(labels, probabilities),
            "axes": followed,
            "worst": _worst(pairs, losses[name], labels, probabilities),
        }
        found.append({key: table.assign(artifact=name) for key, table in tables.items()})
    for name in names[1:]:
        difference = losses[name] - losses[names[0]]
        low, high = bootstrap_interval(difference, keys)
        record = {"artifact": name, "to": names[0], "log_loss": float(difference.mean())}
        metrics["differences"].append({**record, "low": low, "high": high})
    return metrics, {key: pd.concat([t[key] for t in found], ignore_index=True) for key in found[0]}


def write_evaluation(out: Path, title: str, metrics: dict[str, Any], tables: Tables) -> None:
    """Write what `evaluate_artifacts` found into a new folder.

    It holds `index.html`, `metrics.json`, `figures/*.png` and `tables/*.csv`.
    """
    with folder_whole(out) as folder:
        (folder / "figures").mkdir()
        write_tables(folder, tables)
        write_json(folder / METRICS_FILE, metrics)
        artifacts = []
        for number, (name, of) in enumerate(metrics["artifacts"].items()):
            parts = {
                key: table[table["artifact"] == name].drop(columns="artifact")
                for key, table in tables.items()
            }
            _draw(folder / "figures", number, of, parts)
            counts = pd.DataFrame(of["confusion"], columns=[f"predicted {c}" for c in CLASSES])
            counts.insert(0, "label", CLASSES)
            parts |= {"confusion": counts, "per_class": pd.DataFrame(of["per_class"])}
            parts["axes"] = _with_intervals(parts["axes"])
            artifacts.append({"name": name, "metrics": of, **parts})
        levels = pd.DataFrame(artifacts[0]["metrics"]["axes"])
        columns = ["axis", "rows", "preferred", "rejected", "unit", "measure"]
        write_page(
            folder,
            "evaluate.html.j2",
            title=title,
            artifacts=artifacts,
            metrics=pd.DataFrame([_one_line(*item) for item in metrics["artifacts"].items()]),
            differences=pd.DataFrame(metrics["differences"]),
            levels=levels[columns] if len(levels) else levels,
        )


def _one_line(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    null = metrics["calibration_null"]
    return {"artifact": name, **numbers, "null_low": null["low"], "null_high": null["high"]}


def _draw(figures: Path, number: int, metrics: dict[str, Any], tables: Tables) -> None:
    by_label = dict(iter(tables["reliability"].groupby("label", sort=False)))
    charts.reliability(figures / f"reliability_{number}.png", by_label)
    cut, path = tables["slices"], figures / f"slices_{number}.png"
    losses = {"log loss": cut[["log_loss", "low", "high"]]}
    label = "log loss (nats per row; lower is better)"
    charts.points(path, cut["slice"] + ":\n" + cut["part"], losses, label, metrics["log_loss"])
    axes, path = tables["axes"], figures / f"axes_{number}.png"
    if len(axes):
        series = {
            shown: axes[[column, f"{column}_low", f"{column}_high"]]
            for column, shown in {
                "people": "people",
                "model": "model",
                "margin": "model's margin",
            }.items()
        }
        label = "rank correlation with the difference A - B (-1 to 1)"
        charts.points(path, axes["axis"], series, label, 0.0)


def _with_intervals(axes: pd.DataFrame) -> pd.DataFrame:
    """The correlations of each axis with their intervals, as text."""
    if axes.empty:
        return axes
    shown = axes[["axis", "chosen", "passed_over"]].copy()
    for place, name in enumerate(("people", "model", "excess", "margin"), start=1):
        values = axes[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        shown.insert(place, name, ["{:.3f} [{:.3f}, {:.3f}]".format(*value) for value in values])
    return shown


def _slices(
    cuts: dict[str, pd.Categorical],
    losses: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    keys: np.ndarray,
) -> pd.DataFrame:
    right = labels.argmax(axis=1) == probabilities.argmax(axis=1)
    records = []
    for cut, parts in cuts.items():
        for part in parts.remove_unused_categories().categories:
            rows = np.asarray(parts == part)
            low, high = bootstrap_interval(losses[rows], keys[rows], draws=500)
            counts = int(rows.sum()), losses[rows].mean(), low, high, right[rows].mean()
            records.append((cut, part, *counts))
    columns = ["slice", "part", "rows", "log_loss", "low", "high", "accuracy"]
    return pd.DataFrame(records, columns=columns)


def _worst(
    pairs: pd.DataFrame, losses: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    rows = np.argsort(-losses, kind="stable")[:WORST_ROWS]
    table = pd.DataFrame({"id": pairs[ID].to_numpy()[rows], "log_loss": losses[rows]})
    table["label"] = np.take(CLASSES, labels[rows].argmax(axis=1))
    table[[f"P({c})" for c in CLASSES]] = probabilities[rows]
    table["prompt"] = [
        " ".join(" ".join(turns).split())[:100] for turns in pairs["prompt"].iloc[rows]
    ]
    return table

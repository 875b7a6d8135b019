"""Judging artifacts on labelled rows, side by side, beyond the log loss: figures, slices, a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.artifact import Artifact
from humanpref.data import labels_of, prompt_keys, swap_pairs
from humanpref.evaluation.axes import axes_of, follow
from humanpref.evaluation.calibration import calibration_error, calibration_null, reliability
from humanpref.evaluation.metrics import bootstrap_interval, brier, confusion, per_class, row_log_losses, summarise
from humanpref.evaluation.slices import slices
from humanpref.files import folder_whole, write_json, write_whole
from humanpref.reports import charts
from humanpref.reports.page import Picture, Section, write_page
from humanpref.schema import CLASSES, ID, SWAPPED_CLASSES, InputError

PAGE_FILE = "index.html"
FIGURES_FILE = "figures.json"
_WORST_ROWS = 20


def judge(
    artifacts: list[Artifact],
    pairs: pd.DataFrame,
    language_model: Path | None = None,
    sentence_encoder: Path | None = None,
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Figures of every artifact on the same labelled rows, and the first compared with each other one, row by row.

    Parameters
    ----------
    artifacts : list of Artifact
        Named by their folders, which must differ.
    pairs : DataFrame
        A pairs frame with labels.
    language_model, sentence_encoder : path, optional
        What fluency and relevance are measured by: `humanpref.evaluation.axes.axes_of`.

    Returns
    -------
    figures : dict
        `artifacts`: by name `summarise`'s figures, `brier`, `calibration_error` with its range under the null
        (`calibration_null`), `swap_difference` (mean absolute change of a probability when A and B change places),
        `swap_flips` (share of rows whose likeliest class then changes), `swap_exact` (both are 0 by construction, and were not
        measured), `confusion`, `per_class` and `axes` (`humanpref.evaluation.axes.follow`); `differences`: of each later
        artifact's log loss to the first, with a paired 95 % interval over prompts.
    tables : dict
        `slices`, `reliability`, `axes` and `worst`, each with a column `artifact`.

    Raises
    ------
    InputError
        If two artifacts have one name.
    """
    names = [str(artifact.folder) for artifact in artifacts]
    if len(set(names)) < len(names):
        raise InputError(f"evaluate: an artifact stands twice in {', '.join(names)}")
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    cuts, axes = slices(pairs), axes_of(pairs, language_model, sentence_encoder)
    figures: dict[str, Any] = {"artifacts": {}, "differences": []}
    losses: dict[str, np.ndarray] = {}
    tables: dict[str, list[pd.DataFrame]] = {"slices": [], "reliability": [], "axes": [], "worst": []}
    for name, artifact in zip(names, artifacts, strict=True):
        # Afresh from the disk, so that no more than one artifact's models are in memory.
        opened = Artifact(artifact.folder, artifact.facts)
        probabilities = opened.predict_proba(pairs)
        # What is exact by construction (a test holds every family to it) is not worth the time of a second prediction.
        exact = opened.swap_equivariant
        swapped = probabilities if exact else opened.predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]
        followed = follow(axes, labels, probabilities, keys)
        losses[name] = row_log_losses(labels, probabilities)
        low, middle, high = calibration_null(probabilities)
        figures["artifacts"][name] = {
            **summarise(labels, probabilities, np.array(artifact.prior), keys),
            "brier": brier(labels, probabilities),
            "calibration_error": calibration_error(labels, probabilities),
            "calibration_null": {"low": low, "median": middle, "high": high},
            "swap_difference": float(np.abs(probabilities - swapped).mean()),
            "swap_flips": float((probabilities.argmax(axis=1) != swapped.argmax(axis=1)).mean()),
            "swap_exact": exact,
            "confusion": confusion(labels, probabilities).tolist(),
            "per_class": per_class(labels, probabilities),
            "axes": followed.to_dict("records"),
        }
        tables["reliability"].append(reliability(labels, probabilities).assign(artifact=name))
        tables["slices"].append(_slices(cuts, losses[name], labels, probabilities, keys).assign(artifact=name))
        tables["axes"].append(followed.assign(artifact=name))
        tables["worst"].append(_worst(pairs, losses[name], labels, probabilities).assign(artifact=name))
    first = losses[names[0]]
    for name in names[1:]:
        low, high = bootstrap_interval(losses[name] - first, keys)
        difference = float((losses[name] - first).mean())
        figures["differences"].append(
            {"artifact": name, "to": names[0], "log_loss": difference, "low": low, "high": high}
        )
    return figures, {key: pd.concat(parts, ignore_index=True) for key, parts in tables.items()}


def write_judgement(out: Path, title: str, figures: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """Write what `judge` found as `index.html`, `figures.json`, `figures/*.png` and `tables/*.csv` into a new folder."""
    with folder_whole(out) as folder:
        (folder / "figures").mkdir()
        (folder / "tables").mkdir()
        for name, table in tables.items():
            with write_whole(folder / "tables" / f"{name}.csv") as file:
                table.to_csv(file, index=False, lineterminator="\n")
        write_json(folder / FIGURES_FILE, figures)
        one_line = [
            {"artifact": name, **{key: value for key, value in of.items() if isinstance(value, int | float)}}
            | {"null_low": of["calibration_null"]["low"], "null_high": of["calibration_null"]["high"]}
            for name, of in figures["artifacts"].items()
        ]
        overview = Section(
            "Side by side",
            "Log loss in nats with its 95 % interval over prompts. A calibration error below null_high is what true "
            "probabilities would show by chance. Differences are taken row by row: an interval without 0 tells two models apart.",
        )
        overview.tables["Figures"] = pd.DataFrame(one_line)
        if figures["differences"]:
            overview.tables["Differences in log loss (below 0: better than the first)"] = pd.DataFrame(
                figures["differences"]
            )
        sections = [overview, *_axes(next(iter(figures["artifacts"].values()))["axes"])]
        for number, (name, of) in enumerate(figures["artifacts"].items()):
            section = Section(name)
            path = folder / "figures" / f"reliability_{number}.png"
            found = tables["reliability"][tables["reliability"]["artifact"] == name]
            series = {
                label: tuple(rows[column].to_numpy() for column in ("predicted", "observed", "low", "high"))
                for label, rows in found.groupby("label", sort=False)
            }
            charts.reliability(path, series)
            see = "On the dotted line a probability means what it says. Flatter: over-confident; steeper: under-confident."
            section.pictures.append(Picture(path, "Reliability", see))
            path = folder / "figures" / f"slices_{number}.png"
            cut = tables["slices"][tables["slices"]["artifact"] == name]
            shown = (cut["slice"] + ":\n" + cut["part"]).tolist()
            values = (cut[column].to_numpy() for column in ("log_loss", "low", "high"))
            charts.points(path, shown, *values, "log loss (nats per row; lower is better)", of["log_loss"])
            section.pictures.append(
                Picture(
                    path, "Slices", "The dashed line is the mean of all rows: an interval right of it, harder rows."
                )
            )
            if of["axes"]:
                path = folder / "figures" / f"axes_{number}.png"
                section.pictures.append(_followed(path, pd.DataFrame(of["axes"])))
                section.tables["What its preference follows, 95 % intervals"] = _with_intervals(of["axes"])
            table = pd.DataFrame(of["confusion"], columns=[f"predicted {c}" for c in CLASSES])
            table.insert(0, "label", list(CLASSES))
            section.tables["Confusion: rows by label and likeliest class"] = table
            section.tables["Per class"] = pd.DataFrame(of["per_class"])
            worst = tables["worst"][tables["worst"]["artifact"] == name]
            section.tables["Worst rows"] = worst.drop(columns="artifact")
            section.tables["Slices"] = cut.drop(columns="artifact")
            sections.append(section)
        rows = next(iter(figures["artifacts"].values()))["rows"]
        write_page(
            folder / PAGE_FILE, title, f"{rows:,} labelled rows. The numbers are in figures.json and tables/.", sections
        )


def _axes(records: list[dict[str, Any]]) -> list[Section]:
    """What was measured of the answers, whatever the artifact; nothing without a decided row."""
    if not records:
        return []
    section = Section(
        "Axes besides preference",
        "Measured on the answers of the rows whose label is A or B. A proxy is cheap and rough; evaluate --language-model and "
        "--sentence-encoder measure instead. Axes hang together: longer answers hold more formatting. Further down are rank "
        "correlations with the difference A - B on an axis. People: of which answer was preferred. Model: the same if labels "
        "were drawn from its probabilities. Excess: model less people; an interval above 0 says that the model favours the "
        "axis more than people do. Margin: of ln P(A) - ln P(B); near 1 or -1 the model goes by this axis and little else.",
    )
    columns = ["axis", "rows", "preferred", "rejected", "unit", "measure"]
    section.tables["Mean level of the answers that people preferred and rejected"] = pd.DataFrame(records)[columns]
    return [section]


def _followed(path: Path, table: pd.DataFrame) -> Picture:
    series = {
        shown: tuple(table[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
        for column, shown in (("people", "people"), ("model", "model"), ("margin", "model's margin"))
    }
    names = table["axis"].tolist()
    charts.compared_points(path, names, series, "rank correlation with the difference A - B (-1 to 1)", 0.0)
    see = (
        "Right of the dashed line more of the axis is preferred. Squares right of circles: the model favours it more than "
        "people do. Triangles near 1 or -1: it orders answers by this axis and little else."
    )
    return Picture(path, "What the preference follows", see)


def _with_intervals(records: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(records)
    shown = table[["axis"]].copy()
    for name in ("people", "model", "excess", "margin"):
        values = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        shown[name] = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in values]
    return shown.join(table[["chosen", "passed_over"]])


def _slices(
    cuts: dict[str, pd.Categorical], losses: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, keys: np.ndarray
) -> pd.DataFrame:
    right = labels.argmax(axis=1) == probabilities.argmax(axis=1)
    records = []
    for cut, parts in cuts.items():
        for part in parts.remove_unused_categories().categories:
            rows = np.asarray(parts == part)
            low, high = bootstrap_interval(losses[rows], keys[rows], draws=500)
            records.append((cut, part, int(rows.sum()), losses[rows].mean(), low, high, right[rows].mean()))
    return pd.DataFrame(records, columns=["slice", "part", "rows", "log_loss", "low", "high", "accuracy"])


def _worst(pairs: pd.DataFrame, losses: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    rows = np.argsort(-losses, kind="stable")[:_WORST_ROWS]
    table = pd.DataFrame({"id": pairs[ID].to_numpy()[rows], "log_loss": losses[rows]})
    table["label"] = [CLASSES[place] for place in labels[rows].argmax(axis=1)]
    table[[f"P({c})" for c in CLASSES]] = probabilities[rows]
    table["prompt"] = [" ".join(" ".join(turns).split())[:100] for turns in pairs["prompt"].iloc[rows]]
    return table

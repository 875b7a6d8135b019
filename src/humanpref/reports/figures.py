"""Figures, as PNG files. matplotlib is imported when one is drawn."""

from pathlib import Path

import pandas as pd

from humanpref.schema import InputError

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
"""Of the files that a figure can be written to, one kind each."""
INK, MUTED = "#1f3a5f", "#8a8f98"


def interval_figure(table: pd.DataFrame, path: Path, title: str, reference: float | None = None) -> None:
    """Log losses with their 95 % intervals, one line per row, best on top.

    Parameters
    ----------
    table : DataFrame
        Columns `name`, `log_loss`, `log_loss_low`, `log_loss_high` (nats).
    path : Path
        The PNG to write.
    title : str
        What the figure shows, and on what rows.
    reference : float, optional
        The prior's log loss, drawn as a dashed line.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    ordered = table.sort_values("log_loss", ascending=False)
    figure, axes = new_figure(1.2 + 0.45 * len(ordered))
    places = range(len(ordered))
    axes.hlines(places, ordered["log_loss_low"], ordered["log_loss_high"], color=INK, linewidth=2)
    axes.plot(ordered["log_loss"], places, "o", color=INK, label="log loss, 95 % interval over prompts")
    if reference is not None:
        axes.axvline(reference, color=MUTED, linestyle="--", label=f"prior: {reference:.4f}")
    axes.set_yticks(places, ordered["name"])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xlabel("log loss (nats per row; lower is better)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="best", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def selection_figure(table: pd.DataFrame, path: Path, title: str) -> None:
    """The path of a wrapper selection: held-out log loss after each step, one line per model; a cross where it did not fall.

    Parameters
    ----------
    table : DataFrame
        Columns `model`, `step`, `action`, `column`, `log_loss` and `kept`, as `humanpref.experiment.selection_path` gives them.
    path : Path
        The file to write; its name ends in one of `FIGURE_SUFFIXES`.
    title : str
        What the figure shows.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    figure, axes = new_figure(4.5)
    alone = table["model"].nunique() == 1
    for name, steps in table.groupby("model", sort=False):
        (line,) = axes.plot(
            steps["step"], steps["log_loss"], "-o", markersize=3, label=name, color=INK if alone else None
        )
        last = steps[~steps["kept"]]
        axes.plot(last["step"], last["log_loss"], "x", color=line.get_color(), markersize=8)
        if alone:
            for step in steps.itertuples():
                axes.annotate(
                    f" {step.action} {step.column}", (step.step, step.log_loss), rotation=60, fontsize=6, color=MUTED
                )
    axes.set_xlabel("step")
    axes.set_ylabel("log loss on inner folds (nats)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def new_figure(height: float, width: float = 8):
    """A matplotlib figure of so many inches and its axes; raises InputError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("figures need matplotlib: pip install 'humanpref[figures]'") from None
    # Figure without pyplot: no display is looked for, and no state is left behind.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()

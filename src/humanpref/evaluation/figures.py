"""Figures, as PNG files. matplotlib is imported when one is drawn."""

from pathlib import Path

import pandas as pd

from humanpref.schema import InputError

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
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("figures need matplotlib: pip install 'humanpref[figures]'") from None
    ordered = table.sort_values("log_loss", ascending=False)
    # Figure without pyplot: no display is looked for, and no state is left behind.
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(ordered)), layout="constrained")
    axes = figure.subplots()
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

"""Charts as image files, readable on a phone: narrow, with large letters.

The colors are Okabe and Ito's, which color-blind readers can tell apart; hatches and markers work
in grayscale. Estimates with a 95 % interval come as arrays or frames of shape (n, 3): value, low,
high. matplotlib is imported when a chart is drawn.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.schema import InputError

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
"""File name endings that a chart can be written to."""
WIDTH = 5.2
"""Inches, at 10-point letters: 500 pixels of a page, three quarters of that on a phone."""
DPI = 200
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", "-.", ":")
_GRAY, _GRID = "#666666", {"color": "#dddddd", "linewidth": 0.6}
_TALL = 30
"""With more names the axis is repeated above them."""

Estimates = np.ndarray | pd.DataFrame


def bars(
    path: Path,
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]] | pd.DataFrame,
    xlabel: str,
    height: float = 0.27,
) -> None:
    """Draw horizontal stacked bars, the first on top, each with its total behind it.

    Parameters
    ----------
    path : Path
        The file to write.
    names : sequence of str
        One per bar.
    parts : mapping or DataFrame
        The lengths of each part, one per bar.
    xlabel : str
        What the lengths count.
    height : float
        Of a bar, in inches.
    """
    places, left = np.arange(len(names)), np.zeros(len(names))
    with _chart(path, 0.9 + height * len(names), xlabel=xlabel) as axes:
        for number, (part, lengths) in enumerate(parts.items()):
            style = {"color": _COLORS[number], "hatch": _HATCHES[number], "edgecolor": "white"}
            axes.barh(places, lengths, left=left, height=0.75, label=part, linewidth=0.5, **style)
            left = left + np.asarray(lengths, dtype=np.float64)
        for place, total in enumerate(left):
            offset = {"xytext": (3, 0), "textcoords": "offset points"}
            axes.annotate(f"{total:,.0f}", (total, place), va="center", fontsize=9, **offset)
        _name_rows(axes, names)
        axes.set_xlim(0, 1.15 * max(left.max(), 1e-9))
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")


def points(
    path: Path,
    names: Sequence[str],
    series: Mapping[str, Estimates],
    xlabel: str,
    reference: float | None = None,
    log: bool = False,
    title: str = "",
    width: float = WIDTH,
) -> None:
    """Draw, for each name, the first on top, one estimate of each series with its interval.

    Parameters
    ----------
    path : Path
        The file to write.
    names : sequence of str
        n names; "\\n" starts a new line.
    series : mapping
        The estimates of each series, (n, 3).
    xlabel : str
        What is estimated.
    reference : float, optional
        Where to draw a dashed line.
    log : bool
        Whether the axis is logarithmic.
    title : str
        A line above the chart.
    width : float
        Inches.
    """
    crowd = len(series) > 1
    lines = sum(name.count("\n") for name in names)
    height = 0.9 + 0.3 * crowd + max(0.25, 0.2 * len(series)) * len(names) + 0.13 * lines
    with _chart(path, height, width, title) as axes:
        if reference is not None:
            axes.axvline(reference, color=_GRAY, linestyle="--", linewidth=1)
        for number, (name, estimates) in enumerate(series.items()):
            places = np.arange(len(names)) + 0.24 * (number - (len(series) - 1) / 2)
            value, low, high = np.asarray(estimates).T
            axes.hlines(places, low, high, color=_COLORS[number], linewidth=1.8)
            marker = {"marker": _MARKERS[number], "markersize": 5 + crowd, "linestyle": ""}
            axes.plot(value, places, color=_COLORS[number], label=name, **marker)
            if log:
                _log_scale(axes, low.min(), high.max())
        _name_rows(axes, names)
        # From the right end leftwards: there is room below the names.
        axes.set_xlabel(xlabel, loc="right")


def curves(
    path: Path,
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, Estimates],
    xlabel: str,
    ylabel: str,
    reference: float | None = None,
    log: bool = False,
) -> None:
    """Draw one line per series, with a marker at each of the n points.

    Parameters
    ----------
    path : Path
        The file to write.
    x : sequence
        n numbers, or names at equal steps.
    series : mapping
        The estimates of each series: (n, 3), or (n, 1) without intervals.
    xlabel, ylabel : str
        What the axes show.
    reference : float, optional
        Where to draw a dotted horizontal line.
    log : bool
        Whether the horizontal axis is logarithmic.
    """
    named = isinstance(x[0], str)
    places = np.arange(len(x)) if named else np.asarray(x, dtype=np.float64)
    with _chart(path, 3.4, xlabel=xlabel, ylabel=ylabel) as axes:
        for number, (name, estimates) in enumerate(series.items()):
            _curve(axes, number, name, places, estimates)
        if reference is not None:
            axes.axhline(reference, color=_GRAY, linestyle=":", linewidth=1)
        if named:
            tilted = {"rotation": 30, "ha": "right"} if sum(map(len, x)) > 30 else {}
            axes.set_xticks(places, x, **tilted)
        elif log:
            _log_scale(axes, places.min(), places.max())
        axes.grid(axis="y", **_GRID)


def reliability(path: Path, series: Mapping[str, pd.DataFrame]) -> None:
    """Draw observed shares over predicted probabilities: `evaluation.calibration.reliability`."""
    columns = ["predicted", "observed", "low", "high"]
    top = min(1, 0.05 + max(bins[columns].max(axis=None) for bins in series.values()))
    x, y = "predicted probability (mean of a bin)", "share of rows with that label"
    with _chart(path, 4.6, xlabel=x, ylabel=y, xlim=(0, top), ylim=(0, top)) as axes:
        axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=1)
        for number, (name, bins) in enumerate(series.items()):
            _curve(axes, number, name, bins["predicted"], bins[columns[1:]])
        axes.grid(**_GRID)


def matrix(path: Path, names: Sequence[str], counts: np.ndarray, label: str) -> None:
    """Draw a square of counts, (n, n), on a log scale, in the order of the names; 0 is white."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    size = max(WIDTH, 0.15 * len(names) + 2.2)
    low = min(counts[counts > 0], default=1)
    high = max(2 * low, counts.max())
    letters = 10 if len(names) <= 20 else 8
    with _chart(path, size, size) as axes:
        # Lightness falls steadily, so that the map works in grayscale.
        shown = np.where(counts > 0, counts, np.nan)
        image = axes.imshow(shown, cmap="cividis_r", norm=LogNorm(low, high))
        axes.set_xticks(range(len(names)), _tick_labels(names), rotation=90, fontsize=letters)
        axes.set_yticks(range(len(names)), _tick_labels(names), fontsize=letters)
        axes.spines[:].set_visible(True)
        ticks = LogLocator(10, _steps(low, high), numticks=12)
        look = {"shrink": 0.6, "location": "top", "format": "{x:,g}"}
        bar = axes.figure.colorbar(image, ax=axes, label=label, ticks=ticks, **look)
        bar.ax.minorticks_off()


def interval_figure(
    table: pd.DataFrame, path: Path, title: str, reference: float | None = None
) -> None:
    """Draw log losses with their 95 % intervals, one line per row, the best on top.

    Parameters
    ----------
    table : DataFrame
        Columns `name`, `log_loss`, `log_loss_low`, `log_loss_high` (nats).
    path : Path
        The PNG to write.
    title : str
        What is compared, and on which rows.
    reference : float, optional
        The prior's log loss, drawn as a dashed line.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    ordered = table.sort_values("log_loss")
    xlabel = "log loss (nats per row; lower is better), 95 % interval over prompts"
    xlabel += "" if reference is None else f"\ndashed: prior, {reference:.4f}"
    series = {"log loss": ordered[["log_loss", "log_loss_low", "log_loss_high"]]}
    points(path, ordered["name"], series, xlabel, reference, title=title, width=8)


def selection_figure(table: pd.DataFrame, path: Path, title: str) -> None:
    """Draw the path of a wrapper selection: the log loss after each step, one line per model.

    A cross marks a step that did not lower it.

    Parameters
    ----------
    table : DataFrame
        Columns `model`, `step`, `action`, `column`, `log_loss` and `kept`.
    path : Path
        The file to write; its name ends in one of `FIGURE_SUFFIXES`.
    title : str
        What was selected.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    models = table.groupby("model", sort=False)
    labels = {"xlabel": "step", "ylabel": "log loss on inner folds (nats)"}
    with _chart(path, 4.5, 8, title, **labels) as axes:
        for name, steps in models:
            (line,) = axes.plot(steps["step"], steps["log_loss"], "-o", markersize=3, label=name)
            last = steps[~steps["kept"]]
            axes.plot(last["step"], last["log_loss"], "x", color=line.get_color(), markersize=8)
            for step in steps.itertuples() if len(models) == 1 else ():
                place, text = (step.step, step.log_loss), f" {step.action} {step.column}"
                axes.annotate(text, place, rotation=60, fontsize=6, color=_GRAY)


@contextlib.contextmanager
def _chart(path: Path, height: float, width: float = WIDTH, title: str = "", **look) -> Iterator:
    """Yield the axes of a new figure of this size in inches, which is written when the block ends.

    `look` goes to the axes: `xlabel`, `ylabel`, `xlim`, `ylim`.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("figures need matplotlib: pip install 'humanpref[figures]'") from None
    # Figure without pyplot: it looks for no display and leaves no state behind.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(**look)
    yield axes
    _, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(loc="outside upper center", ncols=min(3, len(labels)), frameon=False)
    figure.savefig(path, dpi=DPI)


def _curve(axes, number: int, name: str, x: np.ndarray, estimates: Estimates) -> None:
    value, *interval = np.asarray(estimates).T
    style = {"marker": _MARKERS[number], "linestyle": _LINES[number % len(_LINES)]}
    if interval:
        axes.vlines(x, *interval, color=_COLORS[number], linewidth=1.5)
    axes.plot(x, value, label=name, markersize=6, color=_COLORS[number], **style)


def _log_scale(axes, low: float, high: float) -> None:
    """Make the horizontal axis logarithmic, with more than one number on it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, _steps(low, high), numticks=12))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _steps(low: float, high: float) -> tuple[int, ...]:
    """The multiples of powers of ten to label on a log axis."""
    return (1, 2, 5) if high < 40 * low else (1,)


def _name_rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), _tick_labels(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", **_GRID)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(names) > _TALL:
        axes.tick_params(axis="x", top=True, labeltop=True)


def _tick_labels(names: Sequence[str]) -> list[str]:
    lines = (
        [line if len(line) <= 36 else line[:35] + "…" for line in n.split("\n")] for n in names
    )
    # "$" would start a formula.
    return ["\n".join(line).replace("$", r"\$") for line in lines]

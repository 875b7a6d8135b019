"""Draw charts to image files. The charts are narrow and have large letters, so that they are
readable on a phone.

Their common style is in `templates/charts.mplstyle`. Estimates with a 95 % interval are passed as
arrays or frames of shape (n, 3), with the columns value, low and high. matplotlib is imported only
when a chart is drawn.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.extras import install_line
from humanpref.schema import InputError

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
"""The file name suffixes that a chart may have; the suffix selects the format."""
WIDTH, WIDE = 5.2, 8
"""The default width of a chart and the width of a wide one, in inches."""
_STYLE = Path(__file__).parent / "templates" / "charts.mplstyle"
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
_REFERENCE = {"color": "#666666", "linewidth": 1, "marker": ""}
_TALL = 30
"""If a chart has more rows than this, the horizontal axis is also shown at the top."""
_LONGEST_NAME = 36

Estimates = np.ndarray | pd.DataFrame


def bars(
    path: Path, names: Sequence[str], parts: pd.DataFrame, xlabel: str, height: float = 0.27
) -> None:
    """Draw horizontal stacked bars, each followed by its total. The first bar is at the top.

    Parameters
    ----------
    path : Path
        The file to write.
    names : sequence of str
        One name per bar.
    parts : DataFrame
        The lengths of the parts, with one row per bar and one column per part.
    xlabel : str
        The label of the horizontal axis, which names the quantity.
    height : float
        The height of each bar in inches, including the gap to the next one.
    """
    left = np.zeros(len(names))
    with _chart(path, 0.9 + height * len(names), xlabel=xlabel, xmargin=0.15) as axes:
        for hatch, (part, lengths) in zip(_HATCHES, parts.items(), strict=False):
            drawn = axes.barh(range(len(names)), lengths, 0.75, left, label=part, hatch=hatch)
            left = left + lengths.to_numpy()
        axes.bar_label(drawn, [f"{total:,.0f}" for total in left], padding=3, fontsize=9)
        _name_rows(axes, names)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")


def points(
    path: Path,
    names: Sequence[str],
    series: Mapping[str, Estimates],
    reference: float | None = None,
    width: float = WIDTH,
    **look: Any,
) -> None:
    """Draw, for each name, one estimate per series with its interval. The first name is at the top.

    Parameters
    ----------
    path : Path
        The file to write.
    names : sequence of str
        n names; "\\n" starts a new line.
    series : mapping
        The estimates of each series, (n, 3).
    reference : float, optional
        The position of a dashed vertical line.
    width : float
        The width of the chart in inches.
    **look
        Properties of the axes: `xlabel`, `xscale`, `title`.
    """
    crowd = len(series) > 1
    lines = sum(name.count("\n") for name in names)
    height = 0.9 + 0.3 * crowd + max(0.25, 0.2 * len(series)) * len(names) + 0.13 * lines
    with _chart(path, height, width, **look) as axes:
        if reference is not None:
            axes.axvline(reference, linestyle="--", **_REFERENCE)
        for number, (name, estimates) in enumerate(series.items()):
            places = np.arange(len(names)) + 0.24 * (number - (len(series) - 1) / 2)
            value, low, high = np.asarray(estimates).T
            (line,) = axes.plot(value, places, linestyle="", label=name)
            axes.hlines(places, low, high, color=line.get_color())
        _name_rows(axes, names)


def curves(
    path: Path,
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, Estimates],
    reference: float | None = None,
    **look: Any,
) -> None:
    """Draw one line per series, with a marker at each of the n points.

    Parameters
    ----------
    path : Path
        The file to write.
    x : sequence
        n numbers, or n names, which are placed at equal distances.
    series : mapping
        The estimates of each series: (n, 3), or (n, 1) without intervals.
    reference : float, optional
        The position of a dotted horizontal line.
    **look
        Properties of the axes: `xlabel`, `ylabel`, `xscale`.
    """
    named = isinstance(x[0], str)
    with _chart(path, 3.4, **look) as axes:
        for name, estimates in series.items():
            _curve(axes, name, range(len(x)) if named else x, estimates)
        if reference is not None:
            axes.axhline(reference, linestyle=":", **_REFERENCE)
        if named:
            crowded = sum(map(len, x)) > 30
            axes.set_xticks(
                range(len(x)), x, **({"rotation": 30, "ha": "right"} if crowded else {})
            )
        axes.grid(axis="y")


def reliability(path: Path, series: Mapping[str, pd.DataFrame]) -> None:
    """Plot observed shares against predicted probabilities, from the tables of
    `humanpref.evaluation.calibration.reliability`."""
    columns = ["predicted", "observed", "low", "high"]
    top = min(1, 0.05 + max(bins[columns].max(axis=None) for bins in series.values()))
    x, y = "predicted probability (mean of a bin)", "share of rows with that label"
    with _chart(path, 4.6, xlabel=x, ylabel=y, xlim=(0, top), ylim=(0, top)) as axes:
        axes.axline((0, 0), slope=1, linestyle=":", **_REFERENCE)
        for name, bins in series.items():
            _curve(axes, name, bins["predicted"], bins[columns[1:]])
        axes.grid()


def matrix(path: Path, names: Sequence[str], counts: np.ndarray, label: str) -> None:
    """Draw a matrix of counts, (n, n), in colors on a log scale; 0 is white. Rows and columns are
    in the order of the n names."""
    from matplotlib.colors import LogNorm

    size = max(WIDTH, 0.15 * len(names) + 2.2)
    low = min(counts[counts > 0], default=1)
    high = max(2 * low, counts.max())
    letters = 10 if len(names) <= 20 else 8
    with _chart(path, size, size) as axes:
        # Lightness decreases steadily, so that the color map works in grayscale.
        shown = np.where(counts > 0, counts, np.nan)
        image = axes.imshow(shown, cmap="cividis_r", norm=LogNorm(low, high))
        axes.set_xticks(range(len(names)), _tick_labels(names), rotation=90, fontsize=letters)
        axes.set_yticks(range(len(names)), _tick_labels(names), fontsize=letters)
        axes.spines[:].set_visible(True)
        look = {"shrink": 0.6, "location": "top", "format": "{x:,g}"}
        ticks = _log_locator(low, high)
        bar = axes.figure.colorbar(image, ax=axes, label=label, ticks=ticks, **look)
        bar.ax.minorticks_off()


def interval_figure(
    table: pd.DataFrame, path: Path, title: str, reference: float | None = None
) -> None:
    """Draw one log loss with its 95 % interval per table row. The lowest log loss is at the top.

    Parameters
    ----------
    table : DataFrame
        Columns `name`, `log_loss`, `log_loss_low`, `log_loss_high` (nats).
    path : Path
        The file to write.
    title : str
        The title, which names the compared models and the rows.
    reference : float, optional
        The prior's log loss, drawn as a dashed line.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    ordered = table.sort_values("log_loss")
    xlabel = "log loss (nats per row; lower is better), 95 % interval over prompts"
    if reference is not None:
        xlabel += f"\ndashed: prior, {reference:.4f}"
    series = {"log loss": ordered[["log_loss", "log_loss_low", "log_loss_high"]]}
    points(path, ordered["name"], series, reference, WIDE, xlabel=xlabel, title=title)


def selection_figure(table: pd.DataFrame, path: Path, title: str) -> None:
    """Draw the course of a wrapper selection: the log loss after each step, one line per model.

    A cross marks a step that did not lower the log loss.

    Parameters
    ----------
    table : DataFrame
        Columns `model`, `step`, `action`, `column`, `log_loss` and `kept`.
    path : Path
        The file to write; its name ends in one of `FIGURE_SUFFIXES`.
    title : str
        The title, which names the artifact.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    models = table.groupby("model", sort=False)
    look = {"title": title, "xlabel": "step", "ylabel": "log loss on inner folds (nats)"}
    with _chart(path, 4.5, WIDE, **look) as axes:
        for name, steps in models:
            (line,) = axes.plot(steps["step"], steps["log_loss"], "-o", markersize=3, label=name)
            last = steps[~steps["kept"]]
            axes.plot(last["step"], last["log_loss"], "x", color=line.get_color(), markersize=8)
            for step in steps.itertuples() if len(models) == 1 else ():
                place, text = (step.step, step.log_loss), f" {step.action} {step.column}"
                axes.annotate(text, place, rotation=60, fontsize=6, color=_REFERENCE["color"])


def scatter(path: Path, table: pd.DataFrame, name: str) -> None:
    """Draw a named point for each row of a table.

    Parameters
    ----------
    path : Path
        The file to write.
    table : DataFrame
        The first two columns are the positions; their names label the axes.
    name : str
        The column of the points' names.
    """
    across, up = table.columns[:2]
    with _chart(path, 4, xlabel=across, ylabel=up, xmargin=0.15) as axes:
        axes.plot(table[across], table[up], "o")
        for x, y, text in zip(table[across], table[up], table[name], strict=True):
            axes.annotate(_shortened(text), (x, y), (4, 3), textcoords="offset points", fontsize=8)


@contextlib.contextmanager
def _chart(path: Path, height: float, width: float = WIDTH, **look: Any) -> Iterator:
    """Yield the axes of a new figure, and write the figure to `path` when the block ends.

    `height` and `width` are in inches; `look` holds properties of the axes.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError(f"figures need matplotlib: {install_line('figures')}") from None
    with rc_context(fname=_STYLE):
        # A Figure without pyplot needs no display and leaves no state behind.
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
        axes.set(**look)
        yield axes
        if axes.get_xscale() == "log":
            _label_log_scale(axes)
        _, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(loc="outside upper center", ncols=min(3, len(labels)))
        figure.savefig(path)


def _curve(axes, name: str, x: Sequence, estimates: Estimates) -> None:
    value, *interval = np.asarray(estimates).T
    (line,) = axes.plot(x, value, label=name)
    if interval:
        axes.vlines(x, *interval, color=line.get_color())


def _label_log_scale(axes) -> None:
    """Label a logarithmic horizontal axis with several numbers, even if its range is narrow."""
    from matplotlib.ticker import NullFormatter

    axes.xaxis.set_major_locator(_log_locator(*axes.get_xlim()))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _log_locator(low: float, high: float):
    from matplotlib.ticker import LogLocator

    return LogLocator(10, (1, 2, 5) if high < 60 * low else (1,), numticks=12)


def _name_rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), _tick_labels(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(names) > _TALL:
        axes.tick_params(axis="x", top=True, labeltop=True)


def _tick_labels(names: Sequence[str]) -> list[str]:
    # Escape "$", which would start a formula.
    return ["\n".join(map(_shortened, name.split("\n"))).replace("$", r"\$") for name in names]


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"

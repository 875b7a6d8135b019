"""Charts for a page: narrow, with large letters, so that they can be read on a telephone. Each is written as a PNG file.

Colours are Okabe and Ito's, which the colour-blind tell apart; hatches and markers tell them apart in grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from humanpref.reports.figures import new_figure

WIDTH = 5.2
"""Inches, at 10-point letters: 500 pixels of a page at full size, three quarters of that on a telephone."""
DPI = 200
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GREY = "#666666"
_TALL = 30
"""With more names the axis stands above them as well."""


def bars(
    path: Path, names: Sequence[str], parts: Mapping[str, Sequence[float]], xlabel: str, height: float = 0.27
) -> None:
    """Horizontal bars, the first on top: one length per name and part, the parts laid end to end, their sum written behind.

    `height` is that of a bar, in inches.
    """
    figure, axes = new_figure(0.9 + height * len(names), WIDTH)
    places, left = np.arange(len(names)), np.zeros(len(names))
    for number, (part, values) in enumerate(parts.items()):
        look = {"color": COLOURS[number], "hatch": _HATCHES[number], "edgecolor": "white", "linewidth": 0.5}
        axes.barh(places, values, left=left, height=0.75, label=part, **look)
        left = left + np.asarray(values, dtype=np.float64)
    for place, total in zip(places, left, strict=True):
        axes.annotate(
            f"{total:,.0f}", (total, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9
        )
    _named(axes, names)
    axes.set_xlim(0, 1.15 * max(left.max(), 1e-9))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(xlabel)
    if len(parts) > 1:
        figure.legend(loc="outside upper center", ncols=len(parts), frameon=False)
    _save(figure, path)


def points(
    path: Path,
    names: Sequence[str],
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    xlabel: str,
    reference: float | None = None,
    log: bool = False,
) -> None:
    """One point with its interval per name, the first on top; a dashed line at `reference`."""
    figure, axes = new_figure(0.9 + 0.25 * len(names) + 0.13 * sum(name.count("\n") for name in names), WIDTH)
    places = np.arange(len(names))
    if reference is not None:
        axes.axvline(reference, color=_GREY, linestyle="--", linewidth=1)
    axes.hlines(places, low, high, color=COLOURS[0], linewidth=1.8)
    axes.plot(values, places, "o", color=COLOURS[0], markersize=5)
    _named(axes, names)
    if log:
        _log_scale(axes, np.min(low), np.max(high))
    # From the right end leftwards: below names, where there is room.
    axes.set_xlabel(xlabel, loc="right")
    _save(figure, path)


def compared_points(
    path: Path,
    names: Sequence[str],
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    xlabel: str,
    reference: float,
) -> None:
    """For each name, the first on top, one point with its interval of each series (values, low, high), one below the other."""
    figure, axes = new_figure(1.2 + 0.2 * len(series) * len(names), WIDTH)
    axes.axvline(reference, color=_GREY, linestyle="--", linewidth=1)
    for number, (name, (values, low, high)) in enumerate(series.items()):
        places = np.arange(len(names)) + 0.24 * (number - (len(series) - 1) / 2)
        axes.hlines(places, low, high, color=COLOURS[number], linewidth=1.8)
        axes.plot(values, places, _MARKERS[number], color=COLOURS[number], markersize=6, label=name)
    _named(axes, names)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
    _save(figure, path)


def curves(
    path: Path,
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
    xlabel: str,
    ylabel: str,
    reference: float | None = None,
    log: bool = False,
) -> None:
    """One line with a marker per point for each series (values, low, high); `x` are numbers or names of equal steps."""
    figure, axes = new_figure(3.4, WIDTH)
    named = isinstance(x[0], str)
    places = np.arange(len(x)) if named else np.asarray(x, dtype=np.float64)
    for number, (name, (values, low, high)) in enumerate(series.items()):
        style = {"color": COLOURS[number], "marker": _MARKERS[number], "linestyle": ("-", "--", "-.", ":")[number % 4]}
        if low is not None and high is not None:
            axes.vlines(places, low, high, color=COLOURS[number], linewidth=1.5)
        axes.plot(places, values, label=name, markersize=6, **style)
    if reference is not None:
        axes.axhline(reference, color=_GREY, linestyle=":", linewidth=1)
    if named:
        crowded = sum(map(len, x)) > 30
        axes.set_xticks(places, x, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    elif log:
        _log_scale(axes, places.min(), places.max())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        figure.legend(loc="outside upper center", ncols=min(3, len(series)), frameon=False)
    _save(figure, path)


def matrix(path: Path, names: Sequence[str], counts: np.ndarray, label: str) -> None:
    """A square of counts, (n, n), on a log scale, rows and columns in the order of the names; 0 stays white."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    size = max(WIDTH, 0.15 * len(names) + 2.2)
    figure, axes = new_figure(size, size)
    letters = 10 if len(names) <= 20 else 8
    # Lightness falls steadily: it reads in grey as well.
    shown = np.where(counts > 0, counts, np.nan)
    low = min(counts[counts > 0], default=1)
    high = max(2 * low, counts.max())
    image = axes.imshow(shown, cmap="cividis_r", norm=LogNorm(low, high))
    axes.set_xticks(range(len(names)), _shown(names), rotation=90, fontsize=letters)
    axes.set_yticks(range(len(names)), _shown(names), fontsize=letters)
    ticks = LogLocator(10, _steps(low, high), numticks=12)
    bar = figure.colorbar(image, ax=axes, label=label, shrink=0.6, location="top", format="{x:,g}", ticks=ticks)
    bar.ax.minorticks_off()
    _save(figure, path)


def reliability(path: Path, series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """A reliability diagram: for each name the mean predicted probability of each bin, the observed share, its low and high."""
    figure, axes = new_figure(4.6, WIDTH)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    for number, (name, (predicted, observed, low, high)) in enumerate(series.items()):
        axes.vlines(predicted, low, high, color=COLOURS[number], linewidth=1.5)
        style = {"color": COLOURS[number], "marker": _MARKERS[number], "linestyle": ("-", "--", "-.", ":")[number % 4]}
        axes.plot(predicted, observed, label=name, markersize=6, **style)
    top = max(max(np.nanmax(v) for v in values) for values in series.values())
    axes.set_xlim(0, min(1, top + 0.05))
    axes.set_ylim(0, min(1, top + 0.05))
    axes.set_xlabel("predicted probability (mean of a bin)")
    axes.set_ylabel("share of rows with that label")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    _save(figure, path)


def _log_scale(axes, low: float, high: float) -> None:
    """A logarithmic horizontal axis from one value to the other, with more than one number at it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, _steps(low, high), numticks=12))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _steps(low: float, high: float) -> tuple[int, ...]:
    """The numbers of a decade that stand at an axis."""
    return (1, 2, 5) if high < 40 * low else (1,)


def _named(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), _shown(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(names) > _TALL:
        axes.tick_params(axis="x", top=True, labeltop=True)


def _shown(names: Sequence[str]) -> list[str]:
    # "$" would start a formula.
    lines = ([line if len(line) <= 36 else line[:35] + "…" for line in name.split("\n")] for name in names)
    return ["\n".join(line).replace("$", r"\$") for line in lines]


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)

"""Compute closed-form 95 % intervals for counts, in tables that have too many entries to bootstrap
each of them. Rows of data are treated as independent."""

import numpy as np

Z = 1.959964
"""In a normal distribution, 95 % of values are within this many standard deviations of the mean."""


def share_interval(part: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson interval for part / whole, as (low, high); both are NaN where whole is 0.

    Source: Wilson (1927).

    Examples
    --------
    >>> [round(float(end), 3) for end in share_interval(8, 10)]
    [0.49, 0.943]
    """
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = part / whole
        centre = (share + Z**2 / (2 * whole)) / (1 + Z**2 / whole)
        half = Z * np.sqrt(share * (1 - share) / whole + Z**2 / (4 * whole**2)) / (1 + Z**2 / whole)
    # In exact arithmetic, the interval starts at 0 if part is 0 and ends at 1 if part equals whole.
    low = np.where(part == 0, 0 * centre, centre - half)
    return low, np.where(part == whole, 1 + 0 * centre, centre + half)


def ratio_interval(wins: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval for wins / losses, as (low, high). It is symmetric on the log scale.

    Half a win and half a loss are added, so that the interval exists even if there are no wins or
    no losses: 10 wins and 5 losses give exp(ln(10.5 / 5.5) ± 1.96 sqrt(1 / 10.5 + 1 / 5.5)).

    Source: Gart (1966), "Alternative analyses of contingency tables".

    Examples
    --------
    >>> [round(float(end), 2) for end in ratio_interval(10, 5)]
    [0.68, 5.36]
    """
    wins, losses = np.asarray(wins) + 0.5, np.asarray(losses) + 0.5
    half = Z * np.sqrt(1 / wins + 1 / losses)
    return wins / losses * np.exp(-half), wins / losses * np.exp(half)

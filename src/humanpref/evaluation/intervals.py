"""Closed-form 95 % intervals of counts, for tables with too many rows to resample each. Rows count
as independent."""

import numpy as np

_Z = 1.959964


def share_interval(part: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of part / whole; NaN where whole is 0. part = 8 of whole = 10 gives (0.490,
    0.943).

    Source: Wilson (1927).
    """
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = part / whole
        centre = (share + _Z**2 / (2 * whole)) / (1 + _Z**2 / whole)
        half = (
            _Z * np.sqrt(share * (1 - share) / whole + _Z**2 / (4 * whole**2)) / (1 + _Z**2 / whole)
        )
    # In exact arithmetic the ends are 0 and 1 for none and all.
    return np.where(part == 0, 0 * centre, centre - half), np.where(
        part == whole, 1 + 0 * centre, centre + half
    )


def ratio_interval(wins: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of wins / losses on the log scale, half a win and half a loss added so that it
    exists without either.

    10 wins and 5 losses give exp(ln(10.5 / 5.5) ± 1.96 sqrt(1 / 10.5 + 1 / 5.5)) = (0.68, 5.36).

    Source: Gart (1966), "Alternative analyses of contingency tables".
    """
    wins, losses = np.asarray(wins) + 0.5, np.asarray(losses) + 0.5
    half = _Z * np.sqrt(1 / wins + 1 / losses)
    return wins / losses * np.exp(-half), wins / losses * np.exp(half)

"""The packaged judge: a Davidson regression on structural features, read from a JSON file and
computed with numpy alone.

It is a `humanpref.models.sparse.SparseModel` without word features, and predicts the same
probabilities as that model (`humanpref.models.davidson`). They depend on two scores, the margin d
and the tie score nu. Each score is a sum over features, so the share that a feature
adds to it is exact:

    d = ln P(A) - ln P(B)                        one share per antisymmetric feature
    nu = ln P(tie) - (ln P(A) + ln P(B)) / 2     one share per symmetric feature, and a constant
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from humanpref.schema import refuse_failures
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, Columns, structural_features

PACKAGED = Path(__file__).with_name("packaged")
MODEL_FILE, CARD_FILE = "judge.json", "card.md"
CONSTANT = "constant"
"""The name of the share of nu that is the same for every row."""


class Shares(NamedTuple):
    """What every feature adds to the two scores of n rows, in nats.

    Attributes
    ----------
    d : ndarray
        (n, 22) float64: the shares of the margin, one column for each of `ANTISYMMETRIC`.
    nu : ndarray
        (n, 53) float64: the shares of the tie score, one column for each of `SYMMETRIC`, and the
        constant in the last column.
    """

    d: np.ndarray
    nu: np.ndarray


class LinearModel:
    """A fitted linear model of a pair's structural features. Exchanging A and B exchanges P(A) and
    P(B) exactly. The model reads texts in full, and several threads may use it at once.

    Attributes
    ----------
    about : str
        What the model is, and its known bias, in one sentence or two.
    """

    swap_equivariant = True

    def __init__(self, values: dict[str, Any]) -> None:
        self.about = str(values["about"])
        self._clip = float(values["clip"])
        self._d = _columns(values["d"], ANTISYMMETRIC, ("scale", "weight"))
        self._nu = _columns(values["nu"], SYMMETRIC, ("mean", "scale", "weight"))
        self._constant = float(values[CONSTANT])

    @classmethod
    def load(cls, path: Path = PACKAGED / MODEL_FILE) -> "LinearModel":
        """Read a model that `benchmarks/packaged_judge.py` wrote.

        Raises
        ------
        InputError
            If the file is damaged, or was made for other features.
        """
        with refuse_failures(f"{path}: not a linear judge"):
            return cls(json.loads(path.read_text(encoding="utf-8")))

    def shares(self, pairs: Columns) -> Shares:
        """Compute how much every feature adds to the margin d and to the tie score nu of n rows.
        The sums are exact: `math.fsum` of a row's shares is its d or nu."""
        x, z = structural_features(pairs)
        d, nu = self._d, self._nu
        x = np.clip(x / d["scale"], -self._clip, self._clip)
        z = np.clip((z - nu["mean"]) / nu["scale"], -self._clip, self._clip)
        constant = np.full((len(z), 1), self._constant)
        # Adding 0 turns -0.0 into 0.0.
        return Shares(x * d["weight"] + 0.0, np.hstack([z * nu["weight"] + 0.0, constant]))

    def predict_proba(self, pairs: Columns) -> np.ndarray:
        """Return P(A), P(B) and P(tie) of n rows, (n, 3) float64."""
        return probabilities_of(self.shares(pairs))


def probabilities_of(shares: Shares) -> np.ndarray:
    """Return P(A), P(B) and P(tie), (n, 3) float64, of n rows with these shares.

    Examples
    --------
    >>> probabilities_of(Shares(np.array([[0.0]]), np.array([[-1.0, 1.0]]))).round(3)
    array([[0.333, 0.333, 0.333]])
    """
    # math.fsum is exact, so that neither the order of the shares nor the number of rows matters.
    d, nu = (np.array(list(map(math.fsum, part.tolist())), dtype=np.float64) for part in shares)
    logits = np.stack([d / 2, -d / 2, nu], axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _columns(
    values: dict[str, list[float]], names: tuple[str, ...], numbers: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Turn `values`, which maps each feature to a list of numbers, into columns. Return a dict that
    maps each name in `numbers`, the names of the columns, to an array, (features,) float64."""
    if tuple(values) != names:
        raise ValueError("expected the features of this version of humanpref, got a different list")
    columns = np.array(list(values.values()), dtype=np.float64).reshape(len(names), len(numbers))
    if not np.isfinite(columns).all():
        raise ValueError("expected finite numbers")
    return dict(zip(numbers, columns.T.copy(), strict=True))

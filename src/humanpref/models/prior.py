"""A baseline that predicts the class rates of the training rows for every row; any other model must
beat its score."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.inner_folds import Labelled


class PriorModel(Model, family="prior"):
    """A model that predicts the weighted class rates of its training rows for every row. After
    `fit`, `rates_` holds them, (3,) float64."""

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        self.rates_ = np.average(rows.labels, axis=0, weights=rows.weights)

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return np.tile(self.rates_, (len(pairs), 1))

    def save_state(self, folder: Path) -> None:
        save_arrays(folder / STATE_FILE, {"rates": self.rates_})

    def load_state(self, folder: Path) -> None:
        self.rates_ = load_arrays(folder / STATE_FILE, {"rates": (3,)})["rates"]

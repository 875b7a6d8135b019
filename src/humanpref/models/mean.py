"""The plain mean of fitted models, the folds or seeds of one run, as one model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import Config, from_dict
from humanpref.models.base import Model
from humanpref.models.blend import equal_blend, write_state


class MeanModel(Model):
    """The mean of the models' probabilities. It is not fitted; saved, it is a blend of equal
    weights."""

    def __init__(self, models: list[Model]) -> None:
        self.models = models

    @property
    def config(self) -> Config:
        return from_dict({"family": "blend"}, "mean")

    @property
    def swap_equivariant(self) -> bool:
        return all(model.swap_equivariant for model in self.models)

    def fit(self, *arguments: Any, **options: Any) -> "MeanModel":
        raise NotImplementedError("a mean is of models that are fitted")

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return np.mean([model.predict_proba(pairs) for model in self.models], axis=0)

    def submodels(self) -> list[Model]:
        return self.models

    def mix(self, told: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
        there = ~np.isnan(told)
        counts = there.sum(axis=0)
        return np.where(
            counts > 0, np.where(there, told, 0).sum(axis=0) / np.maximum(counts, 1), np.nan
        )

    def save_state(self, folder: Path) -> None:
        write_state(
            folder,
            equal_blend("arithmetic", len(self.models)),
            [model.save for model in self.models],
        )

    def load_state(self, folder: Path) -> None:
        raise NotImplementedError("what was saved is a blend")

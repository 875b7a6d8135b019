"""The plain mean of fitted models, the folds or seeds of one run, as one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import from_dict
from humanpref.models.base import Model
from humanpref.models.blend import write_state
from humanpref.models.blend_weights import equal_blend


class MeanModel(Model):
    """The mean of the models' probabilities. It is not fitted; saved, it is a blend of equal
    weights."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__(from_dict({"family": "blend"}, "mean"))
        self.models_ = list(models)

    @property
    def swap_equivariant(self) -> bool:
        return all(model.swap_equivariant for model in self.models_)

    def fit(self, *arguments: Any, **options: Any) -> "MeanModel":
        raise NotImplementedError("a mean is of models that are fitted")

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return np.mean([model.predict_proba(pairs) for model in self.models_], axis=0)

    def members(self) -> list[Model]:
        return self.models_

    def mix(self, told: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
        there = ~np.isnan(told)
        counts = there.sum(axis=0)
        return np.where(
            counts > 0, np.where(there, told, 0).sum(axis=0) / np.maximum(counts, 1), np.nan
        )

    def save_state(self, folder: Path) -> None:
        write_state(
            folder,
            equal_blend("arithmetic", len(self.models_)),
            [model.save for model in self.models_],
        )

    def load_state(self, folder: Path) -> None:
        raise NotImplementedError("what was saved is a blend")

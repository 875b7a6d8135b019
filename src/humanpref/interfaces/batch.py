"""A judge for engines that send a callable to their workers, such as Ray and Spark."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.interfaces.judge import Judge, load
from humanpref.logloss import clipped_log
from humanpref.schema import InputError

PROBABILITIES, MARGIN = ("p_a", "p_b", "p_tie"), "margin"


def added_columns(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns to add to n rows, given their probabilities, (n, 3).

    Examples
    --------
    >>> added_columns(np.array([[0.5, 0.25, 0.25]]))["margin"].round(3)
    array([0.693])
    """
    logs = clipped_log(probabilities)
    added = dict(zip(PROBABILITIES, probabilities.T, strict=True))
    return added | {MARGIN: logs[:, 0] - logs[:, 1]}


def check_free(columns: Iterable[str]) -> None:
    """Raise InputError if one of the columns has the name of a column to be added."""
    if taken := {*PROBABILITIES, MARGIN} & {*columns}:
        raise InputError(f"these rows: column {min(taken)!r} already exists")


class BatchJudge:
    """A callable that adds `p_a`, `p_b`, `p_tie` and `margin` = ln P(A) - ln P(B) to a frame.

    It can be pickled: only the model's path is sent, and each process loads the model at its first
    call. Rows, their order, the index and all other columns stay as they are.

    Parameters
    ----------
    model : path, optional
        An artifact's folder, which every worker must be able to read; by default, the packaged
        judge.
    format : str, optional
        As for `humanpref.interfaces.judge.Judge.judge_many`.

    Examples
    --------
    >>> rows = {"prompt": ["Why?"], "response_a": ["So."], "response_b": ["Because of that."]}
    >>> list(BatchJudge()(pd.DataFrame(rows)))
    ['prompt', 'response_a', 'response_b', 'p_a', 'p_b', 'p_tie', 'margin']

    In Spark, each Python worker loads the model once per partition (this example was not run)::

        judge = humanpref.BatchJudge("artifact")  # a path that all workers can read
        schema = "prompt string, response_a string, response_b string, "
        schema += "p_a double, p_b double, p_tie double, margin double"
        frame.mapInPandas(lambda parts: map(judge, parts), schema=schema)

    In Ray Data, with one model in each of two actors (`humanpref.interfaces.shards` judges files)::

        rows.map_batches(
            humanpref.BatchJudge,
            fn_constructor_args=("artifact",),
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=2),
        )
    """

    def __init__(self, model: str | Path | None = None, format: str | None = None) -> None:
        self.model, self.format = None if model is None else str(model), format
        self._judge: Judge | None = None

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a copy of the frame with the four columns added.

        Raises
        ------
        InputError
            If a column to be added already exists, a column of texts is missing, or a cell is
            unusable.
        """
        check_free(frame)
        if self._judge is None:
            self._judge = load(self.model)
        return frame.assign(**added_columns(self._judge.judge_many(frame, self.format)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_judge": None}

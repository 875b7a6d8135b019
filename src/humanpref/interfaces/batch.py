"""A judge for engines that send a callable to their workers, such as Ray and Spark."""

from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.interfaces.judge import Judge, load
from humanpref.logloss import clipped_log
from humanpref.schema import InputError

PROBABILITIES, MARGIN = ("p_a", "p_b", "p_tie"), "margin"


class BatchJudge:
    """A callable that adds `p_a`, `p_b`, `p_tie` and `margin` = ln P(A) - ln P(B) to a frame.

    It can be pickled: only the model's path travels, and each process loads the model at its first
    call. Rows, their order, the index and all other columns stay as they are.

    Parameters
    ----------
    model : path, optional
        An artifact's folder, which every worker must be able to read; by default, the packaged
        judge.

    Examples
    --------
    >>> rows = {"prompt": ["Why?"], "response_a": ["So."], "response_b": ["Because of that."]}
    >>> list(BatchJudge()(pd.DataFrame(rows)))
    ['prompt', 'response_a', 'response_b', 'p_a', 'p_b', 'p_tie', 'margin']

    Spark: `frame.mapInPandas(lambda parts: map(judge, parts), schema)`; Ray Data:
    `rows.map_batches(BatchJudge, batch_format="pandas", concurrency=2)`.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        self.model = None if model is None else str(model)
        self._judge: Judge | None = None

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a copy of the frame with the four columns added.

        Raises
        ------
        InputError
            For a column that already exists or is missing, or an unusable cell.
        """
        if taken := [column for column in (*PROBABILITIES, MARGIN) if column in frame]:
            raise InputError(f"these rows: column {taken[0]!r} already exists")
        if self._judge is None:
            self._judge = load(self.model)
        probabilities = self._judge.judge_many(frame)
        logs = clipped_log(probabilities)
        added = dict(zip(PROBABILITIES, probabilities.T, strict=True))
        return frame.assign(**added, **{MARGIN: logs[:, 0] - logs[:, 1]})

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_judge": None}

"""Judge one pair or many: `humanpref.load` returns the packaged judge, or a judge for any artifact.

The packaged judge needs only numpy. pandas is imported only to judge several pairs, or texts whose
format is in doubt; other libraries are imported only to load an artifact.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humanpref.interfaces.linear import CONSTANT, LinearModel, probabilities_of
from humanpref.logloss import clipped_log
from humanpref.schema import CLASSES, ID, LONE_SURROGATE, TEXT_COLUMNS, InputError
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, Columns

if TYPE_CHECKING:
    import pandas as pd

    from humanpref.models import Model
    from humanpref.runs.artifact import Artifact

Text = str | Sequence[str | None] | None
"""A text, or a conversation as a list of turns."""

_READING = threading.RLock()
"""A lock that is held while an artifact's model predicts. The models of a process may share a
tokenizer, which is not thread-safe; besides, one call already uses all cores or the GPU."""


@dataclass(frozen=True)
class Judgement:
    """The judgement of one pair.

    Attributes
    ----------
    p_a, p_b, p_tie : float
        The probabilities that people prefer A, prefer B, or call it a tie. They sum to 1.
    margin : float
        ln P(A) - ln P(B), in nats. It is positive if A is preferred.
    tie_score : float
        ln P(tie) - (ln P(A) + ln P(B)) / 2, in nats. Probabilities below 1e-15
        are raised to 1e-15.
    margin_shares, tie_shares : dict of str to float
        How much every feature adds to `margin` and to `tie_score`, in nats; `math.fsum` of the
        values is the score. They are empty unless the model is linear in its features.
    cut : bool
        Whether the model read only a part of a text.
    """

    p_a: float
    p_b: float
    p_tie: float
    margin: float
    tie_score: float
    margin_shares: dict[str, float] = field(default_factory=dict)
    tie_shares: dict[str, float] = field(default_factory=dict)
    cut: bool = False

    @property
    def winner(self) -> str:
        """The most probable of `A`, `B` and `tie`; if several are equally probable, the first of
        them."""
        return CLASSES[int(np.argmax([self.p_a, self.p_b, self.p_tie]))]

    def to_dict(self) -> dict[str, Any]:
        """Return the winner and all attributes as plain JSON types."""
        return {"winner": self.winner, **dataclasses.asdict(self)}


class Judge:
    """A fitted model that judges pairs. Several threads may use it at once.

    Parameters
    ----------
    model : LinearModel or Model
        The packaged judge, or a fitted model of any family.

    Attributes
    ----------
    swap_equivariant : bool
        Whether, by construction, exchanging A and B exchanges P(A) and P(B).
    """

    def __init__(self, model: "LinearModel | Model") -> None:
        self.model = model
        self.swap_equivariant: bool = model.swap_equivariant

    def judge(self, prompt: Text, a: Text, b: Text) -> Judgement:
        """Judge two answers to a prompt.

        Parameters
        ----------
        prompt, a, b : str or list of str
            Three strings, each a single turn, or three lists with one string per turn (or of
            messages with `role` and `content`). If all three strings are JSON lists of strings, as
            the cells of the competition's files are, they are parsed into turns.

        Raises
        ------
        InputError
            If a text is neither a string nor a list of strings, or if some are strings and others
            are lists.

        Examples
        --------
        >>> result = load().judge("Why is the sky blue?", "Rayleigh scattering.", "I cannot say.")
        >>> result.winner, round(result.p_a + result.p_b + result.p_tie, 9)
        ('A', 1.0)
        """
        pairs = _one_row((prompt, a, b))
        if not isinstance(self.model, LinearModel):
            pairs = _frame(pairs)
            with _READING:
                probabilities = self.model.predict_proba(pairs)[0]
                cut = bool(self.model.cut_rows(pairs)[0])
            logs = clipped_log(probabilities)
            margin, tie_score = logs[0] - logs[1], logs[2] - (logs[0] + logs[1]) / 2
            return Judgement(*map(float, (*probabilities, margin, tie_score)), cut=cut)
        shares = self.model.shares(pairs)
        margin_shares, tie_shares = (
            dict(zip(names, part[0].tolist(), strict=True))
            for names, part in zip((ANTISYMMETRIC, (*SYMMETRIC, CONSTANT)), shares, strict=True)
        )
        return Judgement(
            *map(float, probabilities_of(shares)[0]),
            math.fsum(margin_shares.values()),
            math.fsum(tie_shares.values()),
            margin_shares,
            tie_shares,
        )

    def judge_many(
        self, rows: "pd.DataFrame | Iterable[dict[str, Any]]", format: str | None = None
    ) -> np.ndarray:
        """Judge many pairs.

        Parameters
        ----------
        rows : DataFrame, Dataset or iterable of dict
            n rows with `prompt`, `response_a` and `response_b`, or `conversation_a` and
            `conversation_b`, in any form that `humanpref.data.read_pairs` reads. One form applies
            to all texts: plain strings, lists of strings or lists of messages. `chosen` and
            `rejected` are refused, since they do not say which one is A.
        format : str, optional
            The format of the rows, one of `humanpref.schema.FORMATS`. By default, it is detected; a
            mixture of plain texts and JSON lists of strings is then refused. `plain` takes all
            texts as they are.

        Returns
        -------
        ndarray
            (n, 3) float64: P(A), P(B), P(tie), in the order of the rows.

        Raises
        ------
        InputError
            For a missing column or an unusable cell; the message names the row and the column.

        Examples
        --------
        >>> rows = [{"prompt": "Why?", "response_a": "Because.", "response_b": "Because."}]
        >>> p_a, p_b, p_tie = load().judge_many(rows)[0]
        >>> bool(p_a == p_b)
        True
        """
        pairs = _frame(rows, format)
        if not len(pairs):
            return np.empty((0, len(CLASSES)))
        if isinstance(self.model, LinearModel):
            return self.model.predict_proba(pairs)
        with _READING:
            return self.model.predict_proba(pairs)


def load(model: "str | Path | Artifact | Model | None" = None) -> Judge:
    """Return a judge: the packaged one by default, or any trained model.

    Parameters
    ----------
    model : path, Artifact or Model, optional
        An artifact, its folder, the folder of a model written by `Model.save`, or a fitted model.
        If an artifact has several fold models, the judge keeps all of them in memory.

    Raises
    ------
    InputError
        If the folder is not an artifact, or is damaged.
    """
    if model is None:
        return _packaged()
    from humanpref.runs.artifact import Artifact, load_model

    folder = model.folder if isinstance(model, Artifact) else model
    return Judge(load_model(folder) if isinstance(folder, str | Path) else folder)


@cache
def _packaged() -> Judge:
    return Judge(LinearModel.load())


def _one_row(texts: tuple[Text, Text, Text]) -> Columns:
    """Return the texts of one pair as the columns of a pairs frame. pandas is imported only if the
    texts must be parsed or repaired."""
    row = dict(zip(TEXT_COLUMNS, texts, strict=True))
    if all(isinstance(text, str) for text in texts):
        # They are parsed as JSON lists of turns only if all of them look like such lists.
        if all(not text or text.strip() == "null" or text.lstrip()[:1] == "[" for text in texts):
            with contextlib.suppress(InputError):
                return _frame([row])
        turns = {column: (text,) for column, text in row.items()}
    elif all(isinstance(text, list | tuple) for text in texts):
        turns = {column: tuple(text) for column, text in row.items()}
    else:
        return _frame([row])
    if not all(_is_clean(turn) for own in turns.values() for turn in own):
        return _frame([turns])
    return {column: [own] for column, own in turns.items()}


def _is_clean(turn: Any) -> bool:
    """Return whether a turn is a string without lone surrogates, as in a pairs frame."""
    return isinstance(turn, str) and (turn.isascii() or not LONE_SURROGATE.search(turn))


def _frame(rows: Any, format: str | None = None) -> "pd.DataFrame":
    """Return rows, in any form, as a pairs frame."""
    import pandas as pd

    from humanpref.data.formats.detect import CHOSEN_REJECTED
    from humanpref.data.reading import DRAWN, read

    if isinstance(rows, str | Path):
        raise InputError(f"expected rows, got the path {str(rows)!r}; read it with read_pairs")
    if isinstance(rows, dict):
        # The strings of pandas 3 cannot hold lone surrogates; objects can.
        rows = pd.DataFrame(rows, dtype=object)
    elif not isinstance(rows, pd.DataFrame):
        rows = list(rows)
    if not len(rows):
        return pd.DataFrame(columns=[ID, *TEXT_COLUMNS], dtype=object)
    # Ids are not needed, and in a part of a table they may repeat.
    reading = read(rows, labels=False, format=format, ids=False)
    if reading.format == CHOSEN_REJECTED:
        raise InputError(f"these rows: {DRAWN}")
    return reading.pairs

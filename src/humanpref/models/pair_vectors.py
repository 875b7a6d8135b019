"""Compare the texts of each row by the vectors that a frozen encoder gives them: mean vectors,
cosines and attention scores.

Everything is computed either for one answer at a time or for both orders of the answers, and then
combined. Symmetry under an exchange of A and B therefore holds by construction, as it does for the
structural features.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.models.sentence import FrozenEncoder, Windows
from humanpref.models.sentence_windows import Passage

SHARPNESS = 20.0
"""Factor that multiplies the cosines in the softmax of the attention scores. It is the scale at
which sentence-transformers are trained to tell matches from non-matches. Source: the default
`scale` of `MultipleNegativesRankingLoss` in that library."""

RESPONSE_COSINES = (
    "prompt_cosine",  # cosine of the entire prompt with the entire response
    "last_turn_cosine",  # cosine of the last prompt with the last response
    "best_window_cosine",  # cosine of the prompt with the response's nearest window
    "attended_cosine",  # mean cosine of each prompt window with the windows to which it attends
    "coherence",  # length of the mean of the response's windows; 1 if all are the same
)
ANTISYMMETRIC_COSINES = (
    *(f"{name}_difference" for name in RESPONSE_COSINES),
    "attention_difference",
    "coverage_difference",
)
SYMMETRIC_COSINES = (
    *(f"{name}_distance" for name in RESPONSE_COSINES),
    *(f"{name}_mean" for name in RESPONSE_COSINES),
    "answers_cosine",
    "last_turn_answers_cosine",
    "coverage_mean",
)


class PairVectors(NamedTuple):
    """The vectors and cosines of n rows, all float64.

    Attributes
    ----------
    prompt, a, b : ndarray
        (n, width) mean vectors of all turns of the prompt, of A and of B. Each has length 1, or 0
        if the text is empty.
    antisymmetric : ndarray
        (n, 7), the columns `ANTISYMMETRIC_COSINES`, which change sign when A and B are exchanged.
    symmetric : ndarray
        (n, 13), the columns `SYMMETRIC_COSINES`, which do not change.
    """

    prompt: np.ndarray
    a: np.ndarray
    b: np.ndarray
    antisymmetric: np.ndarray
    symmetric: np.ndarray


class Text(NamedTuple):
    """The vectors of one text.

    Attributes
    ----------
    windows : ndarray
        (windows, width) unit vectors of its windows.
    shares : ndarray
        (windows,) each window's share of the text's tokens.
    mean : ndarray
        (width,) mean of the windows, weighted by `shares` and scaled to length 1.
    """

    windows: np.ndarray
    shares: np.ndarray
    mean: np.ndarray


def pair_vectors(
    pairs: pd.DataFrame, encoder: FrozenEncoder, max_windows: int, batch_tokens: int, precision: str
) -> PairVectors:
    """Embed the prompts and answers, and return their vectors and comparisons.

    For each of the three sides (prompt, A and B), all turns are joined into one text. The last
    turn, which influences people's judgments most, is also compared separately. If the prompt has
    only one turn, this text equals the joined text and is embedded only once. The encoder's
    instructions precede prompts and answers.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows.
    encoder : FrozenEncoder
    max_windows, batch_tokens, precision
        See `FrozenEncoder.embed`.
    """
    rows = passages_of(pairs, encoder)
    passages = (passage for row in rows for passage in row)
    windows = encoder.embed(passages, max_windows, batch_tokens, precision)
    compared = [_compared(*(_text(windows[passage]) for passage in row)) for row in rows]
    widths = (encoder.width,) * 3 + (len(ANTISYMMETRIC_COSINES), len(SYMMETRIC_COSINES))
    return PairVectors(
        *(
            np.array([row[i] for row in compared]).reshape(len(rows), width)
            for i, width in enumerate(widths)
        )
    )


def passages_of(pairs: pd.DataFrame, encoder: FrozenEncoder) -> list[tuple[Passage, ...]]:
    """Return six passages per row, with the encoder's instructions: the text of all turns and the
    text of the last turn, for each of prompt, A and B."""
    asking, answering = encoder.instructions
    return [
        (
            *_passages(prompt, prompt, asking),
            *_passages(prompt, a, answering),
            *_passages(prompt, b, answering),
        )
        for prompt, a, b in zip(
            pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True
        )
    ]


def _passages(
    prompt: tuple[str, ...], turns: tuple[str, ...], instruction: str
) -> tuple[Passage, Passage]:
    """Return two texts of the prompt or of an answer: all of its turns, and only those from the
    index of the prompt's last turn onward (an empty text if there are none)."""
    last = turns[max(0, len(prompt) - 1) :]
    return Passage("\n\n".join(turns), instruction), Passage("\n\n".join(last), instruction)


def _text(windows: Windows) -> Text:
    units = _unit(windows.vectors.astype(np.float64))
    shares = windows.tokens / windows.tokens.sum()
    return Text(units, shares, _unit(shares @ units))


def _compared(
    prompt: Text, last_prompt: Text, a: Text, last_a: Text, b: Text, last_b: Text
) -> PairVectors:
    """Compute the `PairVectors` of one row. The arrays have no row axis."""
    of_a, of_b = (
        np.array(
            [
                prompt.mean @ response.mean,
                last_prompt.mean @ last_response.mean,
                (response.windows @ prompt.mean).max(),
                _attended(prompt, response),
                np.linalg.norm(response.shares @ response.windows),
            ]
        )
        for response, last_response in ((a, last_a), (b, last_b))
    )
    # The share of the prompt's attention that A gets, minus B's share. Both answers have the same
    # total weight.
    pull_a, pull_b = (_attraction(prompt, answer)[1].sum(axis=1) for answer in (a, b))
    attention = prompt.shares @ ((pull_a - pull_b) / (pull_a + pull_b))
    covered, covering = _attended(a, b), _attended(b, a)
    likeness = [a.mean @ b.mean, last_a.mean @ last_b.mean, (covered + covering) / 2]
    return PairVectors(
        prompt.mean,
        a.mean,
        b.mean,
        np.array([*(of_a - of_b), attention, covered - covering]),
        np.array([*np.abs(of_a - of_b), *((of_a + of_b) / 2), *likeness]),
    )


def _attraction(asking: Text, asked: Text) -> tuple[np.ndarray, np.ndarray]:
    """Compare each window of `asking` with each window of `asked`: return the cosines and the
    unnormalized attention scores, both (windows of `asking`, windows of `asked`)."""
    cosines = asking.windows @ asked.windows.T
    return cosines, asked.shares * np.exp(SHARPNESS * cosines)


def _attended(asking: Text, asked: Text) -> float:
    """Return the mean cosine, in [-1, 1], between the windows of `asking` and the windows of
    `asked` to which they attend."""
    cosines, scores = _attraction(asking, asked)
    return float(asking.shares @ ((scores * cosines).sum(axis=1) / scores.sum(axis=1)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors along the last axis to length 1; zero vectors stay unchanged."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)

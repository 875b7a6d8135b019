"""How the texts of a row compare under a frozen encoder: mean vectors, cosines, attention scores.

As with the structural features, what tells the answers apart is computed for one answer at a time,
or for the answers in both orders, and then combined, so that the symmetry under an exchange of A
and B holds by construction.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.models.sentence import FrozenEncoder, Windows

SHARPNESS = 20.0
"""What cosines are multiplied with before the softmax of the attention scores: the scale at which
sentence-transformers are trained to tell a match from what is none. Source:
`MultipleNegativesRankingLoss` of that library, default `scale`."""

RESPONSE_COSINES = (
    "prompt_cosine",  # of the whole prompt with the whole response
    "last_turn_cosine",  # of the last prompt with the last response
    "best_window_cosine",  # of the prompt with the response's nearest window
    "attended_cosine",  # of the prompt's windows with what each attends to in the response
    "coherence",  # length of the mean of the response's windows, 1 where they all say the same
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
    """What the encoder makes of n rows.

    `prompt`, `a` and `b` are the mean vectors of the whole conversation's texts, (n, width) float64
    of length 1, or 0 for an empty text. `antisymmetric` is (n, 7) and `symmetric` (n, 13) float64,
    their columns `ANTISYMMETRIC_COSINES`, which change their signs when A and B are exchanged, and
    `SYMMETRIC_COSINES`, which do not change.
    """

    prompt: np.ndarray
    a: np.ndarray
    b: np.ndarray
    antisymmetric: np.ndarray
    symmetric: np.ndarray


class Text(NamedTuple):
    """One text: windows of length 1 (windows, width), each one's share of the tokens (windows,),
    and the mean (width,)."""

    windows: np.ndarray
    shares: np.ndarray
    mean: np.ndarray


def pair_vectors(
    pairs: pd.DataFrame, encoder: FrozenEncoder, max_windows: int, batch_tokens: int, precision: str
) -> PairVectors:
    """Embed prompts and answers and compare them.

    A conversation of several turns is one text for each of the three sides; its last turn, which
    people judge most by, is compared once more by itself. For one turn both are the same text, and
    are embedded once.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows.
    encoder : FrozenEncoder
    max_windows, batch_tokens, precision
        See `FrozenEncoder.embed`.
    """
    rows = [
        (*_texts(prompt, prompt), *_texts(prompt, a), *_texts(prompt, b))
        for prompt, a, b in zip(
            pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True
        )
    ]
    windows = encoder.embed(
        (text for row in rows for text in row), max_windows, batch_tokens, precision
    )
    n, width = len(rows), encoder.width
    made = PairVectors(
        *(np.empty((n, width)) for _ in range(3)),
        np.empty((n, len(ANTISYMMETRIC_COSINES))),
        np.empty((n, len(SYMMETRIC_COSINES))),
    )
    for i, row in enumerate(rows):
        prompt, last_prompt, a, last_a, b, last_b = (_text(windows[text]) for text in row)
        made.prompt[i], made.a[i], made.b[i] = prompt.mean, a.mean, b.mean
        of_a, of_b = (
            _response(prompt, last_prompt, a, last_a),
            _response(prompt, last_prompt, b, last_b),
        )
        # The share of the prompt's attention that A gets, less B's, where the windows of each
        # answer weigh as much together.
        pull_a, pull_b = (
            _log_sum(SHARPNESS * prompt.windows @ r.windows.T, r.shares) for r in (a, b)
        )
        attention = prompt.shares @ np.tanh((pull_a - pull_b) / 2)
        covered, covering = _attended(a, b), _attended(b, a)
        made.antisymmetric[i] = [*(of_a - of_b), attention, covered - covering]
        alike = [a.mean @ b.mean, last_a.mean @ last_b.mean, (covered + covering) / 2]
        made.symmetric[i] = [*np.abs(of_a - of_b), *((of_a + of_b) / 2), *alike]
    return made


def _texts(prompt: tuple[str, ...], turns: tuple[str, ...]) -> tuple[str, str]:
    """All turns of a side, and what it says in the last round; empty where it says nothing
    there."""
    return "\n\n".join(turns), "\n\n".join(turns[max(0, len(prompt) - 1) :])


def _text(windows: Windows) -> Text:
    units = _unit(windows.vectors.astype(np.float64))
    shares = windows.tokens / windows.tokens.sum()
    return Text(units, shares, _unit(shares @ units))


def _response(prompt: Text, last_prompt: Text, response: Text, last_response: Text) -> np.ndarray:
    """The figures of one response, in the order of `RESPONSE_COSINES`."""
    return np.array(
        [
            prompt.mean @ response.mean,
            last_prompt.mean @ last_response.mean,
            (response.windows @ prompt.mean).max(),
            _attended(prompt, response),
            np.linalg.norm(response.shares @ response.windows),
        ]
    )


def _attended(asking: Text, asked: Text) -> float:
    """How near each window of one text comes to the windows of another that it attends to, a mean
    cosine in [-1, 1]."""
    cosines = asking.windows @ asked.windows.T
    attention = asked.shares * np.exp(SHARPNESS * (cosines - cosines.max(axis=1, keepdims=True)))
    attention /= attention.sum(axis=1, keepdims=True)
    return float(asking.shares @ (attention * cosines).sum(axis=1))


def _log_sum(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """log sum_j share_j exp(score_ij) of each row i."""
    top = scores.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(scores - top) @ shares)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in the last axis; a zero vector stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)

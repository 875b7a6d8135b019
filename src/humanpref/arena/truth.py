"""Compute the true class probabilities from the latents of the two answers and the prompt's kind.

They follow Davidson's tie-aware Bradley-Terry model: P(A), P(B), P(tie) are proportional to
exp(d / 2), exp(-d / 2), exp(nu), with a margin d that is antisymmetric in the two answers and a tie
score nu that depends on the prompt's kind and on whether the answers are identical.
"""

import numpy as np
import pandas as pd
from scipy.special import entr

from humanpref.arena.vocabulary import KINDS
from humanpref.schema import LABEL_COLUMNS

_IDENTICAL_NU = 2.7  # identical answers tie with a probability of 0.88


def _quality(answers: pd.DataFrame) -> pd.Series:
    """Return the balance of precise words against vague and misspelled ones in each answer, in
    (-1, 1)."""
    poor = answers.vague + answers.misspelled
    return (answers.precise - poor) / (answers.precise + poor + 4)


def _relevance(answers: pd.DataFrame) -> pd.Series:
    """Return the share of each answer's topical words that belong to the prompt's topic, in
    [0, 1)."""
    return answers.on_topic / (answers.on_topic + answers.off_topic + 2)


def _margin(a: pd.DataFrame, b: pd.DataFrame) -> pd.Series:
    """Return how much better A is than B, in log-odds. The margin is exactly antisymmetric, since
    it is computed only from differences."""
    # tanh saturates: ten times the length is worth little more than four times the length.
    longer = np.tanh(np.log(a.words + 10) - np.log(b.words + 10))
    return (
        0.9 * longer
        + 1.6 * (_quality(a) - _quality(b))
        + 0.8 * (_relevance(a) - _relevance(b))
        + 0.35 * (a.verdict - b.verdict)
        - 3.0 * (np.sign(a.silence) - np.sign(b.silence))
    )


def true_probabilities(
    a: pd.DataFrame, b: pd.DataFrame, kind: np.ndarray, identical: np.ndarray
) -> np.ndarray:
    """Return P(A), P(B) and P(tie) of each row, (n, 3). `a` and `b` come from `draw_answers`."""
    margin = _margin(a, b).to_numpy()
    nu = np.where(identical, _IDENTICAL_NU, KINDS.loc[kind, "nu"])
    weights = np.exp(np.stack([margin / 2, -margin / 2, nu], axis=1))
    # Not sum(axis=1), which adds A to B + tie: swapping A and B must not change the sum by one bit.
    return weights / (weights[:, 0] + weights[:, 1] + weights[:, 2])[:, None]


def bayes_log_loss(truth: pd.DataFrame) -> float:
    """Return the lowest log loss that any predictor can expect: the mean entropy of the true
    probabilities, in nats.

    `truth` has these probabilities in the three label columns, as in truth.csv.
    """
    return float(entr(truth[list(LABEL_COLUMNS)]).sum(axis=1).mean())

"""Measure properties of each answer, called axes (fluency, relevance, formatting, length), and how
closely preferences follow each axis."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.evaluation.slices import characters_of
from humanpref.extras import install_line
from humanpref.logloss import clipped_log
from humanpref.schema import InputError
from humanpref.text.features import formatting_marks
from humanpref.text.fluency import trigram_log_frequencies
from humanpref.text.overlap import ANTISYMMETRIC, SYMMETRIC, Similarities

DRAWS = 500
STATISTICS = ("people", "model", "excess", "margin")
_WINDOWS, _BATCH_TOKENS = 4, 16_384
_LEAST_SPREAD = 1e-7
"""A product of two standard deviations below this is a rounding error: if both quantities vary at
all, the product is far larger."""


@dataclass(frozen=True)
class Axis:
    """A property measured as one number per answer.

    Attributes
    ----------
    name, measure : str
        The name, and what is measured.
    unit : str
        The unit of the result of `level`.
    values : ndarray
        (2, n) float64: answers A, then answers B. A value is NaN if it cannot be measured (an empty
        answer has no fluency).
    level : callable
        Converts a mean of `values` to `unit`.
    """

    name: str
    measure: str
    unit: str
    values: np.ndarray
    level: Callable[[float], float]


def axes_of(
    pairs: pd.DataFrame, language_model: Path | None = None, sentence_encoder: Path | None = None
) -> list[Axis]:
    """Measure fluency, relevance, formatting and length of both answers of n rows.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame.
    language_model : path, optional
        A folder with the causal language model that measures fluency; by default, a proxy is used.
    sentence_encoder : path, optional
        A folder with the sentence encoder that measures relevance; by default, a proxy is used.

    Raises
    ------
    InputError
        If a folder does not contain such a model, or a library that it needs is not installed.
    """
    answers = [pairs["response_a"], pairs["response_b"]]
    marks = [answer.map(formatting_marks) for answer in answers]
    return [
        _fluency(["\n\n".join(turns) for turns in pd.concat(answers)], language_model),
        _relevance(pairs, sentence_encoder),
        Axis(
            "formatting",
            "ln(1 + list items, headings, bold, code blocks, inline code, table rows and formulas)",
            "marks (geometric mean)",
            np.log1p(marks),
            np.expm1,
        ),
        Axis(
            "length",
            "ln(1 + characters) of the answer, all turns",
            "characters (geometric mean)",
            np.log1p(characters_of(pairs)[["response_a", "response_b"]].to_numpy().T),
            np.expm1,
        ),
    ]


def _fluency(answers: list[str], folder: Path | None) -> Axis:
    if folder is None:
        name, unit = "fluency (proxy)", "perplexity per trigram (lower: more fluent)"
        measure = (
            "mean log-frequency of the answer's character trigrams in the other answers evaluated"
        )
        values = trigram_log_frequencies(answers)
    else:
        with loading("--language-model", folder):
            from humanpref.evaluation.perplexity import LanguageModel

            model = LanguageModel(str(folder))
        name, unit = "fluency", "perplexity per token (lower: more fluent)"
        measure = (
            f"mean log-probability of the answer's first {model.longest} tokens under "
            f"{folder.resolve().name}, without the prompt"
        )
        values = model.log_probabilities(answers)
    return Axis(name, measure, unit, values.reshape(2, -1), lambda mean: np.exp(-mean))


def _relevance(pairs: pd.DataFrame, folder: Path | None) -> Axis:
    if folder is None:
        name, measure = (
            "relevance (proxy)",
            "cosine of the words of prompt and answer, weighted by TF-IDF",
        )
        difference, symmetric = Similarities().fit(pairs).columns(pairs)
        half = difference[:, ANTISYMMETRIC.index("word_cosine_to_prompt_difference")] / 2
        mean = symmetric[:, SYMMETRIC.index("word_cosine_to_prompt_mean")]
    else:
        with loading("--sentence-encoder", folder):
            from humanpref.models import pair_vectors
            from humanpref.models.sentence import FrozenEncoder

            encoder = FrozenEncoder(str(folder))
        name = "relevance"
        measure = f"cosine of the embeddings of prompt and answer under {folder.resolve().name}"
        vectors = pair_vectors.pair_vectors(pairs, encoder, _WINDOWS, _BATCH_TOKENS, "auto")
        columns = pair_vectors.ANTISYMMETRIC_COSINES, pair_vectors.SYMMETRIC_COSINES
        half = vectors.antisymmetric[:, columns[0].index("prompt_cosine_difference")] / 2
        mean = vectors.symmetric[:, columns[1].index("prompt_cosine_mean")]
    return Axis(name, measure, "cosine", np.stack([mean + half, mean - half]), float)


@contextlib.contextmanager
def loading(option: str, folder: Path) -> Iterator[None]:
    """Raise InputError if `folder`, the value of `option`, is not a folder, or if the block imports
    a library that is not installed.

    Examples
    --------
    >>> with loading("--tokenizer", Path("nowhere")):
    ...     pass
    Traceback (most recent call last):
    humanpref.schema.InputError: --tokenizer nowhere: expected a folder with a model
    """
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: expected a folder with a model")
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{option} needs {error.name}: {install_line('torch')}") from None


def follow(
    axes: list[Axis],
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Measure how closely the preferences of people and of a model follow each axis.

    Only rows with label A or B count; these are called decided.

    Parameters
    ----------
    axes : list of Axis
        The axes, measured on the same n rows.
    labels, probabilities : ndarray
        (n, 3).
    groups : ndarray
        (n,) prompt keys. The bootstrap resamples prompts together with all their rows.
    draws : int
        Number of bootstrap resamples.

    Returns
    -------
    DataFrame
        One table row per axis, if both answers have a value in at least one decided row:

        - `axis`, `measure`, `unit`, `rows`;
        - the mean level of the answers that people `preferred` and `rejected`, and of those that
          the model has `chosen` (the likelier of A and B) and `passed_over`;
        - `people`: Spearman's correlation between the difference A - B on the axis and the
          preferred answer (1 for A, -1 for B);
        - `model`: the value that this correlation would be expected to have if each label were A
          with the model's probability P(A) / (P(A) + P(B));
        - `excess`: `model` minus `people`; if its interval is above 0, the model favors the axis
          more than people do;
        - `margin`: Spearman's correlation between the difference and ln P(A) - ln P(B); if it is
          near 1 or -1, the model ranks answers by this axis and little else.

        The last four each have a 95 % interval, `_low` to `_high`, and are 0 if one of the
        correlated quantities does not vary.
    """
    wins = labels[:, 0] - labels[:, 1]
    clipped = clipped_log(probabilities)
    margin = clipped[:, 0] - clipped[:, 1]
    decided = (labels.argmax(axis=1) != 2) & (wins != 0)
    records = []
    for axis in axes:
        rows = decided & ~np.isnan(axis.values).any(axis=0)
        if not rows.any():
            continue
        a, b = axis.values[:, rows]
        people = wins[rows] / labels[rows, :2].sum(axis=1)
        record = {
            "axis": axis.name,
            "measure": axis.measure,
            "unit": axis.unit,
            "rows": int(rows.sum()),
        }
        for more, less, choice in (
            ("preferred", "rejected", people),
            ("chosen", "passed_over", margin[rows]),
        ):
            half = np.sign(choice) * (a - b) / 2
            record[more] = float(axis.level(((a + b) / 2 + half).mean()))
            record[less] = float(axis.level(((a + b) / 2 - half).mean()))
        intervals = _statistics(a - b, people, margin[rows], groups[rows], draws)
        for name, (value, low, high) in zip(STATISTICS, intervals.T.tolist(), strict=True):
            record |= {name: value, f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def _statistics(
    difference: np.ndarray, people: np.ndarray, margin: np.ndarray, groups: np.ndarray, draws: int
) -> np.ndarray:
    """Return the four `STATISTICS` of these rows, then the lower ends of their intervals, then the
    upper ends, (3, 4)."""
    # tanh(margin / 2) = (P(A) - P(B)) / (P(A) + P(B))
    model = np.tanh(margin / 2)
    places = [np.unique(values, return_inverse=True)[1] for values in (difference, margin)]

    def weighted(weights: np.ndarray) -> tuple[float, float, float, float]:
        share = weights / weights.sum()
        ranks, order = (_centred_ranks(place, share) for place in places)
        by_people, by_model = (_with_choices(ranks, mean, share) for mean in (people, model))
        by_margin = _correlation(ranks, order, share, share @ order**2)
        return by_people, by_model, by_model - by_people, by_margin

    _, group = np.unique(groups.astype(str), return_inverse=True)
    count = group.max() + 1
    rng = np.random.default_rng(0)
    drawn = [
        weighted(np.bincount(rng.integers(count, size=count), minlength=count)[group])
        for _ in range(draws)
    ]
    return np.vstack([weighted(np.ones(len(group))), np.quantile(drawn, [0.025, 0.975], axis=0)])


def _centred_ranks(places: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return each row's weighted rank, in (0, 1), minus the mean rank. Equal values share a rank.

    `places`, (n,), is the index of each row's value among the sorted distinct values; `share`,
    (n,), is each row's share of the total weight.
    """
    mass = np.bincount(places, weights=share)
    ranks = (mass.cumsum() - mass / 2)[places]
    return ranks - share @ ranks


def _with_choices(ranks: np.ndarray, expected: np.ndarray, share: np.ndarray) -> float:
    """Return the correlation between `ranks` and choices of 1 or -1. `expected`, (n,), is the
    expected value of each choice."""
    if np.ptp(expected) == 0:
        return 0.0
    return _correlation(ranks, expected, share, max(0.0, 1 - (share @ expected) ** 2))


def _correlation(ranks: np.ndarray, other: np.ndarray, share: np.ndarray, variance: float) -> float:
    """Return the weighted correlation between centered ranks and `other`, whose variance is
    `variance`."""
    spread = np.sqrt((share @ ranks**2) * variance)
    return share @ (ranks * other) / spread if spread > _LEAST_SPREAD else 0.0

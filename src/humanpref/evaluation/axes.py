"""Axes besides preference: how fluent, relevant, formatted and long each answer is, and how far a
preference goes with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.logloss import clipped_log
from humanpref.schema import InputError
from humanpref.text.features import formatting_marks
from humanpref.text.fluency import trigram_log_frequencies
from humanpref.text.overlap import ANTISYMMETRIC, SYMMETRIC, Similarities

DRAWS = 500
_WINDOWS, _BATCH_TOKENS = 4, 16_384
_LEAST_SPREAD = 1e-7
"""Below it a spread is rounding: what varies at all is far above."""
_STATISTICS = ("people", "model", "excess", "margin")


@dataclass(frozen=True)
class Axis:
    """One number for each answer.

    `a` and `b` are (n,) float64, NaN where there is nothing to measure (an empty answer has no
    fluency). `level` turns a mean of them into a number of the unit.
    """

    name: str
    measure: str
    unit: str
    a: np.ndarray
    b: np.ndarray
    level: Callable[[float], float]


def axes_of(
    pairs: pd.DataFrame, language_model: Path | None = None, sentence_encoder: Path | None = None
) -> list[Axis]:
    """Fluency, relevance, formatting and length of both answers of n rows.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame.
    language_model : path, optional
        A folder with a causal language model for fluency; without one a proxy.
    sentence_encoder : path, optional
        A folder with a sentence encoder for relevance; without one a proxy.

    Raises
    ------
    InputError
        If a folder holds no such model, or the libraries for it are not installed.
    """
    a, b = (
        ["\n\n".join(turns) for turns in pairs[column]] for column in ("response_a", "response_b")
    )
    return [
        _fluency(a, b, language_model),
        _relevance(pairs, sentence_encoder),
        _formatting(pairs),
        Axis(
            "length",
            "ln(1 + characters) of the answer, all turns",
            "characters (geometric mean)",
            *(
                np.log1p([sum(map(len, turns)) for turns in pairs[column]])
                for column in ("response_a", "response_b")
            ),
            np.expm1,
        ),
    ]


def _fluency(a: list[str], b: list[str], folder: Path | None) -> Axis:
    if folder is None:
        name, unit = "fluency (proxy)", "perplexity per trigram (lower: more fluent)"
        values = trigram_log_frequencies(a + b)
        measure = (
            "mean log-frequency of the answer's character trigrams in the other answers judged"
        )
    else:
        _check_folder(folder, "--language-model")
        try:
            from humanpref.evaluation.perplexity import LanguageModel
        except ModuleNotFoundError as error:
            raise _missing(error, "--language-model") from None
        model = LanguageModel(str(folder))
        name, unit = "fluency", "perplexity per token (lower: more fluent)"
        measure = (
            f"mean log-probability of the answer's first {model.longest} tokens under "
            f"{folder.resolve().name}, by itself"
        )
        values = model.log_probabilities(a + b)
    return Axis(name, measure, unit, values[: len(a)], values[len(a) :], lambda mean: np.exp(-mean))


def _relevance(pairs: pd.DataFrame, folder: Path | None) -> Axis:
    if folder is None:
        name, measure = (
            "relevance (proxy)",
            "cosine of the words of prompt and answer, weighted by TF-IDF",
        )
        difference, symmetric = Similarities().fit(pairs).columns(pairs)
        columns = ANTISYMMETRIC, SYMMETRIC, "word_cosine_to_prompt"
    else:
        _check_folder(folder, "--sentence-encoder")
        try:
            from humanpref.models.pair_vectors import (
                ANTISYMMETRIC_COSINES,
                SYMMETRIC_COSINES,
                pair_vectors,
            )
            from humanpref.models.sentence import FrozenEncoder
        except ModuleNotFoundError as error:
            raise _missing(error, "--sentence-encoder") from None
        name, measure = (
            "relevance",
            f"cosine of the embeddings of prompt and answer under {folder.resolve().name}",
        )
        vectors = pair_vectors(pairs, FrozenEncoder(str(folder)), _WINDOWS, _BATCH_TOKENS, "auto")
        difference, symmetric = vectors.antisymmetric, vectors.symmetric
        columns = ANTISYMMETRIC_COSINES, SYMMETRIC_COSINES, "prompt_cosine"
    half = difference[:, columns[0].index(f"{columns[2]}_difference")] / 2
    mean = symmetric[:, columns[1].index(f"{columns[2]}_mean")]
    return Axis(name, measure, "cosine", mean + half, mean - half, float)


def _formatting(pairs: pd.DataFrame) -> Axis:
    a, b = (
        np.log1p([formatting_marks(turns) for turns in pairs[column]])
        for column in ("response_a", "response_b")
    )
    measure = (
        "ln(1 + list items, headings, bold, code blocks, inline code, table rows and formulas)"
    )
    return Axis("formatting", measure, "marks (geometric mean)", a, b, np.expm1)


def follow(
    axes: list[Axis],
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """How far people's and a model's preference go with each axis, over the decided rows, whose
    label is A or B.

    Parameters
    ----------
    axes : list of Axis
    labels, probabilities : ndarray
        (n, 3).
    groups : ndarray
        (n,) prompt keys, which the bootstrap resamples whole.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One line per axis that has a decided row with both values:

        - `axis`, `measure`, `unit`, `rows`;
        - the mean level of the answers that people `preferred` and `rejected`, and of those that
          the model has `chosen` (the likelier of A and B) and `passed_over`;
        - `people`: Spearman's correlation of the difference A - B with who was preferred (1 or -1);
        - `model`: what that would be if the labels were drawn from the model's P(A) / (P(A) +
          P(B)), and so its like;
        - `excess`: `model` less `people`; an interval above 0: the model favours the axis more than
          people do;
        - `margin`: Spearman's correlation of the difference with ln P(A) - ln P(B); near 1 or -1,
          the model orders answers by this axis and little else.

        These four with `_low` and `_high`, a 95 % interval, and 0 where something does not vary.
    """
    wins = labels[:, 0] - labels[:, 1]
    clipped = clipped_log(probabilities)
    margin = clipped[:, 0] - clipped[:, 1]
    decided = (labels.argmax(axis=1) != 2) & (wins != 0)
    records = []
    for axis in axes:
        rows = decided & ~np.isnan(axis.a) & ~np.isnan(axis.b)
        if not rows.any():
            continue
        a, b = axis.a[rows], axis.b[rows]
        people = wins[rows] / labels[rows, :2].sum(axis=1)
        found, low, high = _statistics(a - b, people, margin[rows], groups[rows], draws, seed)
        record = {
            "axis": axis.name,
            "measure": axis.measure,
            "unit": axis.unit,
            "rows": int(rows.sum()),
        }
        for (more, less), sign in (
            (("preferred", "rejected"), np.sign(people)),
            (("chosen", "passed_over"), np.sign(margin[rows])),
        ):
            half = sign * (a - b) / 2
            record[more] = float(axis.level(((a + b) / 2 + half).mean()))
            record[less] = float(axis.level(((a + b) / 2 - half).mean()))
        for name, *values in zip(_STATISTICS, found, low, high, strict=True):
            record |= dict(
                zip((name, f"{name}_low", f"{name}_high"), map(float, values), strict=True)
            )
        records.append(record)
    return pd.DataFrame(records)


def _statistics(
    difference: np.ndarray,
    people: np.ndarray,
    margin: np.ndarray,
    groups: np.ndarray,
    draws: int,
    seed: int,
) -> np.ndarray:
    """`_STATISTICS` of these rows, and the ends of their intervals: (3, 4)."""
    places = [np.unique(values, return_inverse=True)[1] for values in (difference, margin)]
    # tanh(margin / 2) = (P(A) - P(B)) / (P(A) + P(B))
    model = np.tanh(margin / 2)

    def of(weights: np.ndarray) -> tuple[float, float, float, float]:
        share = weights / weights.sum()
        ranks, order = (_centred(_ranks(place, share), share) for place in places)
        by_people, by_model = (
            _with_preference(ranks, expected, share) for expected in (people, model)
        )
        spread = np.sqrt((share @ ranks**2) * (share @ order**2))
        by_margin = share @ (ranks * order) / spread if spread > _LEAST_SPREAD else 0.0
        return by_people, by_model, by_model - by_people, by_margin

    _, group = np.unique(groups.astype(str), return_inverse=True)
    count = group.max() + 1
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            of(np.bincount(rng.integers(count, size=count), minlength=count)[group])
            for _ in range(draws)
        ]
    )
    return np.vstack([of(np.ones(len(group))), np.quantile(drawn, [0.025, 0.975], axis=0)])


def _with_preference(ranks: np.ndarray, expected: np.ndarray, share: np.ndarray) -> float:
    """Spearman's correlation with choices that are 1 or -1 and have this expectation, (n,) in [-1,
    1]."""
    spread = np.sqrt((share @ ranks**2) * max(0.0, 1 - (share @ expected) ** 2))
    if spread <= _LEAST_SPREAD or np.ptp(expected) == 0:
        return 0.0
    return share @ (ranks * expected) / spread


def _ranks(places: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Each row's rank in (0, 1), equal values sharing their mean; `places` number the distinct
    values in their order."""
    mass = np.bincount(places, weights=share)
    return (mass.cumsum() - mass / 2)[places]


def _centred(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    return values - share @ values


def _check_folder(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: expected a folder with a model")


def _missing(error: ModuleNotFoundError, option: str) -> Exception:
    """InputError for a library that is not installed; what is missing of ours stays as it is."""
    if error.name is None or error.name.startswith("humanpref"):
        return error
    return InputError(f"{option} needs {error.name}: pip install 'humanpref[torch]'")

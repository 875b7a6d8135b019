"""A Davidson regression on TF-IDF differences and structural features. It trains quickly on the CPU
and does not need torch."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from humanpref.bar import shown
from humanpref.config.cpu import SparseOptions
from humanpref.files import read_json, write_json
from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.blocks import (
    Blocks,
    Penalties,
    Scales,
    Side,
    fit_blocks,
    scales,
    state_shapes,
)
from humanpref.models.davidson import DavidsonRegression
from humanpref.models.inner_folds import Labelled
from humanpref.text.clean import preprocess
from humanpref.text.features import (
    ANTISYMMETRIC,
    PROCESS_CHARACTERS,
    SYMMETRIC,
    structural_features,
)
from humanpref.text.processes import in_parts, processes_for

VOCABULARY_FILE = "vocabulary.json"
PROMPT_SHARE = 5
"""The maximum size of the prompts' vocabulary is 1/`PROMPT_SHARE` of the maximum for the
responses."""


class SparseModel(Model, family="sparse"):
    """A Davidson regression. The margin d depends on TF-IDF(a) - TF-IDF(b) and on differences of
    structural features; the tie score nu depends on TF-IDF(prompt), the cosine of the answers'
    TF-IDF, and symmetric structural features.

    The parameters are the options of `humanpref.config.cpu.SparseOptions`, and `seed`.

    Attributes
    ----------
    responses_, prompts_ : TfidfVectorizer or None
        The fitted vectorizers; None if there are no terms.
    scales_ : Scales
        The scales of the structural features.
    regression_ : DavidsonRegression

    Examples
    --------
    >>> pairs = pd.DataFrame(
    ...     {"prompt": "Why?", "response_a": ["Yes.", "No.", "So."], "response_b": "No."}
    ... )
    >>> model = SparseModel(max_terms=20_000, min_rows=1).fit(pairs, [0, 2, 1])
    >>> model.predict(pairs)
    array([0, 2, 1])
    """

    swap_equivariant = True

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        options: SparseOptions = self.config.model
        a, b, prompts = (
            _texts(rows.pairs[column], options) for column in ("response_a", "response_b", "prompt")
        )
        self.responses_, terms = _vectorize([*a, *b], options, options.max_terms)
        prompt_terms = -(-options.max_terms // PROMPT_SHARE)
        self.prompts_, prompts = _vectorize(prompts, options, prompt_terms)
        x, z = structural_features(rows.pairs)
        self.scales_ = scales(x, z, rows.weights)
        of_a, of_b = terms[: len(rows.pairs)], terms[len(rows.pairs) :]
        blocks = self._blocks(of_a, of_b, prompts, x, z)
        penalties = Penalties(options.term_penalties, options.structure_penalties)
        seed, ties = self.config.seed, self.ties
        self.regression_, choice = fit_blocks(blocks, rows, penalties, seed, ties)
        self.report_ = {
            "terms": blocks.x.wide.shape[1],
            "prompt_terms": blocks.z.wide.shape[1],
            "term_penalty": choice.wide,
            "structure_penalty": choice.structure,
            "inner_log_loss": choice.inner_log_loss,
            "iterations": self.regression_.iterations_,
        }

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        sides = (
            (self.responses_, "response_a"),
            (self.responses_, "response_b"),
            (self.prompts_, "prompt"),
        )
        terms = [_terms(fitted, _texts(pairs[name], self.config.model)) for fitted, name in sides]
        blocks = self._blocks(*terms, *structural_features(pairs))
        return self.regression_.predict_proba(*blocks.matrices())

    def save_state(self, folder: Path) -> None:
        arrays = self.regression_.arrays() | self.scales_._asdict()
        vocabularies = {}
        for name, vectorizer in (("responses", self.responses_), ("prompts", self.prompts_)):
            terms, idf = [], np.empty(0)
            if vectorizer is not None:
                # Terms and idf are both in the order of the columns.
                terms, idf = vectorizer.get_feature_names_out().tolist(), vectorizer.idf_
            vocabularies[name], arrays[f"{name}_idf"] = terms, idf
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / VOCABULARY_FILE, vocabularies)

    def load_state(self, folder: Path) -> None:
        vocabularies = read_json(folder / VOCABULARY_FILE)
        responses, prompts = vocabularies["responses"], vocabularies["prompts"]
        # There is one additional symmetric column, which is not scaled: the answers' cosine.
        shapes = state_shapes(len(responses), len(prompts) + 1, len(ANTISYMMETRIC), len(SYMMETRIC))
        shapes |= {"responses_idf": (len(responses),), "prompts_idf": (len(prompts),)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        options: SparseOptions = self.config.model
        self.responses_ = _restored(responses, arrays["responses_idf"], options)
        self.prompts_ = _restored(prompts, arrays["prompts_idf"], options)
        self.scales_ = Scales(*(arrays[name] for name in Scales._fields))
        self.regression_ = DavidsonRegression.restored(arrays, self.ties)

    def _blocks(
        self,
        a: sparse.csr_matrix,
        b: sparse.csr_matrix,
        prompts: sparse.csr_matrix,
        x: np.ndarray,
        z: np.ndarray,
    ) -> Blocks:
        # The rows of a and b have length 1 (or 0), so the sum of their products is their cosine.
        cosine = np.asarray(a.multiply(b).sum(axis=1))
        x, z = self.scales_.scaled(x, z)
        return Blocks(Side((a - b).tocsr(), x), Side(prompts, np.hstack([z, cosine])))


def _vectorize(
    texts: list[str], options: SparseOptions, max_terms: int
) -> tuple[TfidfVectorizer | None, sparse.csr_matrix]:
    """Fit a vectorizer to the texts and return it with the texts' TF-IDF; the vectorizer is None if
    `max_terms` is 0 or no term occurs in enough texts.

    Repeated texts count once. Splitting texts into terms takes most of the time, so each text is
    split only once.
    """
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    least = min(options.min_rows, len(distinct))
    # scikit-learn raises ValueError if no term is left. Invalid arguments cannot be the cause,
    # since the configuration has already checked them.
    with contextlib.suppress(ValueError):
        if max_terms:
            vectorizer = _unfitted(options, min_df=least, max_features=max_terms)
            matrix = vectorizer.fit_transform(shown([*distinct], "learning terms", "text"))
            return vectorizer, matrix[[distinct[text] for text in texts]]
    return None, _terms(None, texts)


def _restored(terms: list[str], idf: np.ndarray, options: SparseOptions) -> TfidfVectorizer | None:
    if not terms:
        return None
    vectorizer = _unfitted(options, vocabulary=terms)
    vectorizer.idf_ = idf
    return vectorizer


def _unfitted(options: SparseOptions, **arguments: Any) -> TfidfVectorizer:
    # If texts are preprocessed, NLTK has already split them into words and punctuation.
    token = r"\w+" if options.preprocess == "none" else r"\S+"
    return TfidfVectorizer(
        ngram_range=(1, options.word_ngrams), token_pattern=token, sublinear_tf=True, **arguments
    )


def _terms(vectorizer: TfidfVectorizer | None, texts: list[str]) -> sparse.csr_matrix:
    """Return the TF-IDF of n texts, (n, terms), each row scaled to length 1. If `vectorizer` is
    None, there are no terms."""
    if vectorizer is None:
        return sparse.csr_matrix((len(texts), 0))
    processes = processes_for(sum(map(len, texts)), PROCESS_CHARACTERS)
    parts = in_parts(vectorizer.transform, texts, processes, "counting terms")
    return sparse.vstack(parts, format="csr")


def _texts(column: pd.Series, options: SparseOptions) -> list[str]:
    """Join the turns of each cell, preprocess the texts as configured, and return them."""
    texts = ["\n\n".join(turns) for turns in column]
    return texts if options.preprocess == "none" else preprocess(texts, options.preprocess)

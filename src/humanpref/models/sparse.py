"""TF-IDF differences and structural features into a Davidson regression: quick, on the CPU, without
torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from humanpref.config.cpu import SparseOptions
from humanpref.files import read_json, write_json
from humanpref.models.arrays import load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.blocks import Blocks, Scales, choose_penalties, fit_regression, scales
from humanpref.models.davidson import DavidsonRegression
from humanpref.schema import InputError
from humanpref.text.clean import preprocess
from humanpref.text.features import (
    ANTISYMMETRIC,
    PROCESS_CHARACTERS,
    SYMMETRIC,
    structural_features,
)
from humanpref.text.processes import in_parts, processes_for

STATE_FILE = "model.safetensors"
VOCABULARY_FILE = "vocabulary.json"
PROMPT_SHARE = 5
"""The prompts' vocabulary is capped at this fraction of the responses'."""


class SparseModel(Model, family="sparse"):
    """d from TF-IDF(a) - TF-IDF(b) and structural differences, nu from TF-IDF(prompt) and symmetric
    structure.

    After `fit`: `responses_` and `prompts_` (the fitted vectorizers, None where the rows hold no
    term often enough), `scales_` of the structural features, and `regression_`.

    The parameters are the options of `humanpref.config.cpu.SparseOptions`, and `seed`.

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

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "SparseModel":
        options: SparseOptions = self.config.model
        answers = [*_texts(pairs["response_a"], options), *_texts(pairs["response_b"], options)]
        self.responses_, terms = _vectorize(answers, options, options.max_terms)
        prompts = _texts(pairs["prompt"], options)
        self.prompts_, prompt_terms = _vectorize(
            prompts, options, -(-options.max_terms // PROMPT_SHARE)
        )
        x, z = structural_features(pairs)
        self.scales_ = scales(x, z, weights)
        features = self._features(terms[: len(pairs)], terms[len(pairs) :], prompt_terms, x, z)
        term_penalty, structure_penalty, inner = choose_penalties(
            pairs,
            features,
            labels,
            weights,
            options.term_penalties,
            options.structure_penalties,
            self.config.seed,
        )
        self.regression_ = fit_regression(
            features, term_penalty, structure_penalty, labels, weights
        )
        self.report_ = {
            "terms": features.x_wide.shape[1],
            "prompt_terms": features.z_wide.shape[1],
            "term_penalty": term_penalty,
            "structure_penalty": structure_penalty,
            "inner_log_loss": inner,
            "iterations": self.regression_.iterations_,
        }
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        options: SparseOptions = self.config.model
        a, b = (
            _terms(self.responses_, pairs[column], options)
            for column in ("response_a", "response_b")
        )
        features = self._features(
            a, b, _terms(self.prompts_, pairs["prompt"], options), *structural_features(pairs)
        )
        return self.regression_.predict_proba(features.x(), features.z())

    def save_state(self, folder: Path) -> None:
        arrays = self.regression_.arrays() | self.scales_._asdict()
        vocabularies = {}
        for name, vectorizer in (("responses", self.responses_), ("prompts", self.prompts_)):
            # The terms in the order of their columns.
            vocabularies[name] = (
                [] if vectorizer is None else vectorizer.get_feature_names_out().tolist()
            )
            arrays[f"{name}_idf"] = np.empty(0) if vectorizer is None else vectorizer.idf_
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / VOCABULARY_FILE, vocabularies)

    def load_state(self, folder: Path) -> None:
        path = folder / VOCABULARY_FILE
        vocabularies = read_json(path)
        shapes: dict[str, tuple[int, ...]] = {}
        terms: dict[str, list[str]] = {}
        for name in ("responses", "prompts"):
            terms[name] = vocabularies.get(name) if isinstance(vocabularies, dict) else None
            if not isinstance(terms[name], list) or not all(
                isinstance(term, str) for term in terms[name]
            ):
                raise InputError(f"{path}: {name}: expected a list of terms")
            if len(set(terms[name])) < len(terms[name]):
                raise InputError(f"{path}: {name}: a term stands twice")
            shapes[f"{name}_idf"] = (len(terms[name]),)
        x, z = len(ANTISYMMETRIC), len(SYMMETRIC)
        shapes |= {"x_scale": (x,), "z_mean": (z,), "z_scale": (z,), "c": (1,)}
        # One weight more in v: the cosine of the answers.
        shapes |= {"w": (len(terms["responses"]) + x,), "v": (len(terms["prompts"]) + z + 1,)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        vectorizers = [
            _restored(terms[name], arrays[f"{name}_idf"], self.config.model) for name in terms
        ]
        self.responses_, self.prompts_ = vectorizers
        self.scales_ = Scales(*(arrays[name] for name in Scales._fields))
        self.regression_ = DavidsonRegression.restored(arrays)

    def _features(
        self,
        a: sparse.csr_matrix,
        b: sparse.csr_matrix,
        prompts: sparse.csr_matrix,
        x: np.ndarray,
        z: np.ndarray,
    ) -> Blocks:
        # The rows of a and b have length 1 (or 0), so that the sum of products is their cosine.
        cosine = np.asarray(a.multiply(b).sum(axis=1))
        x, z = self.scales_.scaled(x, z)
        return Blocks((a - b).tocsr(), x, prompts, np.hstack([z, cosine]))


def _vectorize(
    texts: list[str], options: SparseOptions, max_terms: int
) -> tuple[TfidfVectorizer | None, sparse.csr_matrix]:
    """A vectorizer fitted to the texts, None where no term is wanted or stands in enough of them,
    and what it makes of each.

    A text that stands twice counts once. Taking the texts apart costs more than all else: it is
    done once.
    """
    nothing = None, sparse.csr_matrix((len(texts), 0))
    if max_terms == 0:
        return nothing
    places = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectorizer = _unfitted(
        options, min_df=min(options.min_rows, len(places)), max_features=max_terms
    )
    try:
        matrix = vectorizer.fit_transform(places)
    except ValueError:
        # How scikit-learn says that no term is left; its arguments are checked in the
        # configuration.
        return nothing
    return vectorizer, matrix[[places[text] for text in texts]]


def _restored(terms: list[str], idf: np.ndarray, options: SparseOptions) -> TfidfVectorizer | None:
    if not terms:
        return None
    vectorizer = _unfitted(options, vocabulary={term: column for column, term in enumerate(terms)})
    vectorizer.idf_ = idf
    return vectorizer


def _unfitted(options: SparseOptions, **arguments: Any) -> TfidfVectorizer:
    token = (
        r"\w+" if options.preprocess == "none" else r"\S+"
    )  # NLTK has found the words, marks and all
    return TfidfVectorizer(
        ngram_range=(1, options.word_ngrams), token_pattern=token, sublinear_tf=True, **arguments
    )


def _terms(
    vectorizer: TfidfVectorizer | None, column: pd.Series, options: SparseOptions
) -> sparse.csr_matrix:
    """TF-IDF of each cell, (n, terms), rows of length 1; without a vectorizer no columns."""
    if vectorizer is None:
        return sparse.csr_matrix((len(column), 0))
    texts = _texts(column, options)
    processes = processes_for(sum(map(len, texts)), PROCESS_CHARACTERS)
    return sparse.vstack(in_parts(vectorizer.transform, texts, processes), format="csr")


def _texts(column: pd.Series, options: SparseOptions) -> list[str]:
    """What the vectorizers see of each cell."""
    texts = ["\n\n".join(turns) for turns in column]
    return texts if options.preprocess == "none" else preprocess(texts, options.preprocess)

"""TF-IDF differences and structural features into a Davidson regression: quick, on the CPU, without torch."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from humanpref.config import SparseOptions
from humanpref.data import grouped_folds, prompt_keys
from humanpref.files import read_json, write_json
from humanpref.models.base import Model, Validation, as_probabilities, load_arrays, save_arrays
from humanpref.models.davidson import DavidsonRegression
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.text.features import PLAIN, antisymmetric_names, structure, symmetric_names

STATE_FILE = "model.safetensors"
VOCABULARY_FILE = "vocabulary.json"
INNER_FOLDS = 4
INNER_ROWS = 4_000
"""Penalties are compared on as many inner folds as it takes to have so many held-out rows: beyond, the choice is not noise."""
PROMPT_SHARE = 5
"""The prompts' vocabulary is capped at this fraction of the responses'."""


class Features(NamedTuple):
    """The matrices of n rows, antisymmetric (x) and symmetric (z), terms and structure apart."""

    x_terms: sparse.csr_matrix
    x_structure: np.ndarray
    z_terms: sparse.csr_matrix
    z_structure: np.ndarray

    def rows(self, mask: np.ndarray) -> "Features":
        return Features(*(matrix[mask] for matrix in self))

    def x(self) -> sparse.csr_matrix:
        return sparse.hstack([self.x_terms, self.x_structure], format="csr")

    def z(self) -> sparse.csr_matrix:
        return sparse.hstack([self.z_terms, self.z_structure], format="csr")


class SparseModel(Model):
    """d from TF-IDF(a) - TF-IDF(b) and structural differences, nu from TF-IDF(prompt) and symmetric structure.

    After `fit`: `responses_` and `prompts_` (the fitted vectorizers, None where the rows hold no term often enough), the
    standardisation of the structural features `x_scale_`, `z_mean_`, `z_scale_` (x is not centred: that would break its
    symmetry), and `regression_`.
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
        labels = as_probabilities(labels)
        options: SparseOptions = self.config.model
        responses = [*_texts(pairs["response_a"]), *_texts(pairs["response_b"])]
        self.responses_ = _vectorizer(responses, options, options.max_terms)
        self.prompts_ = _vectorizer(_texts(pairs["prompt"]), options, max(1, options.max_terms // PROMPT_SHARE))
        x, z = structure(pairs, PLAIN)
        self.x_scale_ = _nonzero(np.sqrt(np.average(x**2, axis=0, weights=weights)))
        self.z_mean_ = np.average(z, axis=0, weights=weights)
        self.z_scale_ = _nonzero(np.sqrt(np.average((z - self.z_mean_) ** 2, axis=0, weights=weights)))
        features = self._features(pairs, x, z)
        term_penalty, structure_penalty, inner = self._choose_penalties(pairs, features, labels, weights)
        self.regression_ = _regression(features, term_penalty, structure_penalty).fit(
            features.x(), features.z(), labels, weights
        )
        self.report_ = {
            "terms": features.x_terms.shape[1],
            "prompt_terms": features.z_terms.shape[1],
            "term_penalty": term_penalty,
            "structure_penalty": structure_penalty,
            "inner_log_loss": inner,
            "iterations": self.regression_.iterations_,
        }
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        features = self._features(pairs, *structure(pairs, PLAIN))
        return self.regression_.predict_proba(features.x(), features.z())

    def save_state(self, folder: Path) -> None:
        arrays = {"w": self.regression_.w_, "v": self.regression_.v_, "c": np.array([self.regression_.c_])}
        arrays |= {"x_scale": self.x_scale_, "z_mean": self.z_mean_, "z_scale": self.z_scale_}
        vocabularies = {}
        for name, vectorizer in (("responses", self.responses_), ("prompts", self.prompts_)):
            # The terms in the order of their columns.
            vocabularies[name] = [] if vectorizer is None else vectorizer.get_feature_names_out().tolist()
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
            if not isinstance(terms[name], list) or not all(isinstance(term, str) for term in terms[name]):
                raise InputError(f"{path}: {name}: expected a list of terms")
            if len(set(terms[name])) < len(terms[name]):
                raise InputError(f"{path}: {name}: a term stands twice")
            shapes[f"{name}_idf"] = (len(terms[name]),)
        x, z = len(antisymmetric_names(PLAIN)), len(symmetric_names(PLAIN))
        shapes |= {"x_scale": (x,), "z_mean": (z,), "z_scale": (z,), "c": (1,)}
        # One weight more in v: the cosine of the answers.
        shapes |= {"w": (len(terms["responses"]) + x,), "v": (len(terms["prompts"]) + z + 1,)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        vectorizers = [_restored(terms[name], arrays[f"{name}_idf"], self.config.model) for name in terms]
        self.responses_, self.prompts_ = vectorizers
        self.x_scale_, self.z_mean_, self.z_scale_ = arrays["x_scale"], arrays["z_mean"], arrays["z_scale"]
        w, v = arrays["w"], arrays["v"]
        self.regression_ = DavidsonRegression(np.zeros(len(w)), np.zeros(len(v)))
        self.regression_.w_, self.regression_.v_, self.regression_.c_ = w, v, float(arrays["c"][0])

    def _features(self, pairs: pd.DataFrame, x: np.ndarray, z: np.ndarray) -> Features:
        a, b = _terms(self.responses_, pairs["response_a"]), _terms(self.responses_, pairs["response_b"])
        prompts = _terms(self.prompts_, pairs["prompt"])
        # The rows of a and b have length 1 (or 0), so that the sum of products is their cosine.
        cosine = np.asarray(a.multiply(b).sum(axis=1))
        z_structure = np.hstack([(z - self.z_mean_) / self.z_scale_, cosine])
        return Features((a - b).tocsr(), x / self.x_scale_, prompts, z_structure)

    def _choose_penalties(
        self, pairs: pd.DataFrame, features: Features, labels: np.ndarray, weights: np.ndarray | None
    ) -> tuple[float, float, float | None]:
        """The structure's penalty, chosen without the terms; then the terms', beside it; and the inner log loss of the choice.

        The vectorizers and scales have seen the inner held-out rows, though not their labels: enough to rank penalties by.
        """
        options: SparseOptions = self.config.model
        structures, terms = options.structure_penalties, options.term_penalties
        if len(structures) == len(terms) == 1:
            return terms[0], structures[0], None
        if len(set(prompt_keys(pairs))) < INNER_FOLDS:
            return max(terms), max(structures), None
        labelled = pairs[["id", "prompt"]].assign(**dict(zip(LABEL_COLUMNS, labels.T, strict=True)))
        folds = grouped_folds(labelled, INNER_FOLDS, self.config.seed)
        used = min(INNER_FOLDS, math.ceil(INNER_ROWS / max(1, int((folds == 0).sum()))))
        no_terms = features._replace(
            x_terms=sparse.csr_matrix((len(pairs), 0)), z_terms=sparse.csr_matrix((len(pairs), 0))
        )
        losses = _inner_losses(no_terms, [(terms[0], s) for s in structures], labels, weights, folds, used)
        structure_penalty = structures[int(np.argmin(losses))]
        losses = _inner_losses(features, [(t, structure_penalty) for t in terms], labels, weights, folds, used)
        return terms[int(np.argmin(losses))], structure_penalty, float(np.min(losses))


def _inner_losses(
    features: Features,
    penalties: list[tuple[float, float]],
    labels: np.ndarray,
    weights: np.ndarray | None,
    folds: np.ndarray,
    used: int,
) -> np.ndarray:
    """Mean held-out log loss of each (term, structure) penalty over the first `used` folds; each fit starts from the last."""
    weight = np.ones(len(labels)) if weights is None else weights
    losses = np.zeros(len(penalties))
    for fold in range(used):
        kept, out = features.rows(folds != fold), features.rows(folds == fold)
        x, z = kept.x(), kept.z()
        start = None
        for i, penalty in enumerate(penalties):
            regression = _regression(features, *penalty).fit(x, z, labels[folds != fold], weight[folds != fold], start)
            start = regression.parameters
            probabilities = regression.predict_proba(out.x(), out.z())
            row_losses = -(labels[folds == fold] * np.log(probabilities)).sum(axis=1)
            losses[i] += weight[folds == fold] @ row_losses
    return losses / weight[folds < used].sum()


def _regression(features: Features, term_penalty: float, structure_penalty: float) -> DavidsonRegression:
    def penalties(terms: sparse.csr_matrix, dense: np.ndarray) -> np.ndarray:
        return np.repeat([term_penalty, structure_penalty], [terms.shape[1], dense.shape[1]])

    return DavidsonRegression(
        penalties(features.x_terms, features.x_structure), penalties(features.z_terms, features.z_structure)
    )


def _vectorizer(texts: list[str], options: SparseOptions, max_terms: int) -> TfidfVectorizer | None:
    """A fitted vectorizer, or None where no term stands in enough texts. A text that stands twice counts once."""
    texts = list(dict.fromkeys(texts))
    vectorizer = _unfitted(options, min_df=min(options.min_rows, len(texts)), max_features=max_terms)
    try:
        return vectorizer.fit(texts)
    except ValueError:
        # How scikit-learn says that no term is left; its arguments are checked in the configuration.
        return None


def _restored(terms: list[str], idf: np.ndarray, options: SparseOptions) -> TfidfVectorizer | None:
    if not terms:
        return None
    vectorizer = _unfitted(options, vocabulary={term: column for column, term in enumerate(terms)})
    vectorizer.idf_ = idf
    return vectorizer


def _unfitted(options: SparseOptions, **arguments: Any) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, options.word_ngrams), token_pattern=r"\w+", sublinear_tf=True, **arguments)


def _terms(vectorizer: TfidfVectorizer | None, column: pd.Series) -> sparse.csr_matrix:
    """TF-IDF of each cell, (n, terms), rows of length 1; without a vectorizer no columns."""
    return sparse.csr_matrix((len(column), 0)) if vectorizer is None else vectorizer.transform(_texts(column))


def _texts(column: pd.Series) -> list[str]:
    return ["\n\n".join(turns) for turns in column]


def _nonzero(scale: np.ndarray) -> np.ndarray:
    """A constant feature is left as it is."""
    return np.where(scale > 0, scale, 1.0)

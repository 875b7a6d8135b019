"""A Davidson regression on frozen embeddings and structural features. Only this small regression is
trained; the encoder is not."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.config.cpu import EmbeddingOptions, ForwardOptions
from humanpref.files import read_json, write_json
from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.blocks import (
    ROUNDING,
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
from humanpref.models.pair_vectors import (
    ANTISYMMETRIC_COSINES,
    SYMMETRIC_COSINES,
    PairVectors,
    pair_vectors,
)
from humanpref.models.sentence import load_frozen
from humanpref.schema import TEXT_COLUMNS
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, structural_features

DIGEST_FILE = "encoder-digest.json"
BACKBONE_FOLDER = "backbone"


class EmbeddingModel(Model, family="embedding"):
    """A Davidson regression. d depends on [a - b, p * (a - b)] and nu on [|a - b|, a * b, p]; both
    also depend on cosines, attention scores and structural features.

    p, a and b are principal components of the embeddings of the prompt and the two answers. The
    components keep their variances, so the penalty restrains minor ones more. Cosines and attention
    scores are in the wide block with the components, and share its penalty. Attributes after `fit`:
    `encoder_`, `center_` (width,), `basis_` (width, components), `scales_` (of structural features
    and cosines) and `regression_`. The parameters are the options of
    `humanpref.config.cpu.EmbeddingOptions` and `ForwardOptions`, and `seed`.
    """

    swap_equivariant = True

    def check(self) -> None:
        load_frozen(self.config.model.backbone, self.config.model.max_length)

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        options: EmbeddingOptions = self.config.model
        self.encoder_ = load_frozen(options.backbone, options.max_length)
        vectors, x, z = self._features(rows.pairs)
        self.center_, self.basis_ = principal_components(vectors, options.components, rows.weights)
        self.scales_ = scales(x, z, rows.weights)
        blocks = self._blocks(vectors, x, z)
        penalties = Penalties(options.embedding_penalties, options.structure_penalties)
        seed, ties = self.config.seed, self.ties
        self.regression_, choice = fit_blocks(blocks, rows, penalties, seed, ties)
        self.report_ = {
            "backbone": self.encoder_.facts(options.backbone),
            "embedding_penalty": choice.wide,
            "structure_penalty": choice.structure,
            "inner_log_loss": choice.inner_log_loss,
            "iterations": self.regression_.iterations_,
        }

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        blocks = self._blocks(*self._features(pairs))
        return self.regression_.predict_proba(*blocks.matrices())

    def cut_rows(self, pairs: pd.DataFrame) -> np.ndarray:
        windows = self.config.model.max_windows
        columns = (["\n\n".join(turns) for turns in pairs[column]] for column in TEXT_COLUMNS)
        return np.any([self.encoder_.is_cut(texts, windows) for texts in columns], axis=0)

    def save_state(self, folder: Path) -> None:
        arrays = self.regression_.arrays() | self.scales_._asdict()
        arrays |= {"center": self.center_, "basis": self.basis_}
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / DIGEST_FILE, self.encoder_.digest)
        if self.config.model.keep_backbone:
            self.encoder_.save(folder / BACKBONE_FOLDER)

    def load_state(self, folder: Path) -> None:
        options: EmbeddingOptions = self.config.model
        kept = str(folder / BACKBONE_FOLDER) if options.keep_backbone else options.backbone
        digest = str(read_json(folder / DIGEST_FILE))
        self.encoder_ = load_frozen(kept, options.max_length, digest)
        width = self.encoder_.width
        k = min(options.components, width)
        # Besides the scaled cosines, the wide block has 2 k columns in x and 3 k in z.
        shapes = state_shapes(
            2 * k,
            3 * k,
            len(ANTISYMMETRIC) + len(ANTISYMMETRIC_COSINES),
            len(SYMMETRIC) + len(SYMMETRIC_COSINES),
        )
        shapes |= {"center": (width,), "basis": (width, k)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        self.center_, self.basis_ = arrays["center"], arrays["basis"]
        self.scales_ = Scales(*(arrays[name] for name in Scales._fields))
        self.regression_ = DavidsonRegression.restored(arrays, self.ties)

    def _features(self, pairs: pd.DataFrame) -> tuple[PairVectors, np.ndarray, np.ndarray]:
        """Return the vectors, and the antisymmetric and the symmetric columns that are to be scaled
        (structural features, then cosines)."""
        inference: ForwardOptions = self.config.inference
        vectors = pair_vectors(
            pairs,
            self.encoder_,
            self.config.model.max_windows,
            inference.batch_tokens,
            inference.precision,
        )
        x, z = structural_features(pairs)
        return vectors, np.hstack([x, vectors.antisymmetric]), np.hstack([z, vectors.symmetric])

    def _blocks(self, vectors: PairVectors, x: np.ndarray, z: np.ndarray) -> Blocks:
        x, z = self.scales_.scaled(x, z)
        of_x, of_z = len(ANTISYMMETRIC), len(SYMMETRIC)
        p, a, b = (
            (side - self.center_) @ self.basis_ for side in (vectors.prompt, vectors.a, vectors.b)
        )
        return Blocks(
            Side(np.hstack([a - b, p * (a - b), x[:, of_x:]]), x[:, :of_x]),
            Side(np.hstack([np.abs(a - b), a * b, p, z[:, of_z:]]), z[:, :of_z]),
        )


def principal_components(
    vectors: PairVectors, components: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the directions in which the embeddings of prompts and answers vary most.

    Returns
    -------
    center : ndarray
        (width,) float64, the mean vector.
    basis : ndarray
        (width, min(components, width)) float64. `(vector - center) @ basis` gives a vector's
        components in descending order of variance. All are divided by the same number, which makes
        their mean square 1.
    """
    sides = np.concatenate([vectors.prompt, vectors.a, vectors.b])
    weights = np.tile(weights, 3)
    center = np.average(sides, axis=0, weights=weights)
    covariance = np.cov(sides, rowvar=False, aweights=weights, ddof=0)
    variances, directions = np.linalg.eigh(covariance)
    basis = directions[:, ::-1][:, :components]
    mean = variances[::-1][:components].mean()
    return center, basis / np.sqrt(mean if mean > ROUNDING**2 else 1.0)

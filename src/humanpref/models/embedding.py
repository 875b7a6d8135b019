"""A small head on frozen embeddings and structural features: a Davidson regression or a neural
network. Only the head is trained; the encoder is not."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.config.cpu import EmbeddingOptions, ForwardOptions
from humanpref.files import read_json, write_json
from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.bases import BASE_VARIABLE, is_folder_name, places, remember
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
from humanpref.models.pair_network import Orders, PairNetwork, fit_network, network_shapes
from humanpref.models.pair_vectors import (
    ANTISYMMETRIC_COSINES,
    SYMMETRIC_COSINES,
    PairVectors,
    pair_vectors,
    passages_of,
)
from humanpref.models.pretrained import local_folder
from humanpref.models.sentence import FrozenEncoder, load_frozen
from humanpref.schema import InputError
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, structural_features

DIGEST_FILE = "encoder-digest.json"
BACKBONE_FOLDER = "backbone"


class Columns(NamedTuple):
    """The inputs of a head for n rows.

    Attributes
    ----------
    p, a, b : ndarray
        (n, k) principal components of the embeddings of the prompt, of A and of B.
    x, z : ndarray
        (n, columns) scaled features; an exchange of A and B negates x and does not change z. The
        structural features come first, then the cosines and attention scores.
    """

    p: np.ndarray
    a: np.ndarray
    b: np.ndarray
    x: np.ndarray
    z: np.ndarray

    def blocks(self) -> Blocks:
        """Return the columns as inputs of the regression."""
        p, a, b, x, z = self
        of_x, of_z = len(ANTISYMMETRIC), len(SYMMETRIC)
        return Blocks(
            Side(np.hstack([a - b, p * (a - b), x[:, of_x:]]), x[:, :of_x]),
            Side(np.hstack([np.abs(a - b), a * b, p, z[:, of_z:]]), z[:, :of_z]),
        )

    def orders(self) -> Orders:
        """Return the columns as inputs of the network, in both orders of A and B."""
        p, a, b, x, z = self
        return Orders(
            np.hstack([a, b, a - b, a * b, p, x, z]), np.hstack([b, a, b - a, a * b, p, -x, z])
        )


class EmbeddingModel(Model, family="embedding"):
    """A Davidson regression or a neural network, which computes a margin d and a tie score nu from
    frozen embeddings.

    Let p, a and b be the principal components of the embeddings of the prompt, of A and of B. In
    the regression, d depends on [a - b, p * (a - b)] and nu on [|a - b|, a * b, p]. The network
    reads [a, b, a - b, a * b, p] in both orders of A and B. Both also use cosines, attention scores
    and structural features.

    In the regression, the structural features have one L2 penalty, and everything else has another.
    The latter restrains minor components more, since they are not scaled to equal variances.

    The parameters are the options of `humanpref.config.cpu.EmbeddingOptions` and `ForwardOptions`,
    and `seed`.

    Attributes
    ----------
    encoder_ : FrozenEncoder
    center_, basis_ : ndarray
        (width,) and (width, components); see `principal_components`.
    scales_ : Scales
        The scales of the structural features, cosines and attention scores.
    head_ : DavidsonRegression or PairNetwork
    """

    swap_equivariant = True

    def check(self) -> None:
        self._load(self.config.model.backbone)

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        options: EmbeddingOptions = self.config.model
        self.encoder_ = self._load(options.backbone)
        vectors, x, z = self._features(rows.pairs)
        self.center_, self.basis_ = principal_components(vectors, options.components, rows.weights)
        self.scales_ = scales(x, z, rows.weights)
        columns, seed = self._columns(vectors, x, z), self.config.seed
        self.report_ = {"backbone": self.encoder_.facts(options.backbone)}
        if options.head == "mlp":
            network = PairNetwork(options.hidden, options.weight_penalty, seed, self.ties)
            self.head_, steps, inner = fit_network(columns.orders(), rows, network, options.steps)
            self.report_ |= {"steps": steps, "inner_log_loss": inner}
            return
        penalties = Penalties(options.embedding_penalties, options.structure_penalties)
        self.head_, choice = fit_blocks(columns.blocks(), rows, penalties, seed, self.ties)
        self.report_ |= {
            "embedding_penalty": choice.wide,
            "structure_penalty": choice.structure,
            "inner_log_loss": choice.inner_log_loss,
            "iterations": self.head_.iterations_,
        }

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        columns = self._columns(*self._features(pairs))
        if isinstance(self.head_, PairNetwork):
            return self.head_.predict_proba(columns.orders())
        return self.head_.predict_proba(*columns.blocks().matrices())

    def cut_rows(self, pairs: pd.DataFrame) -> np.ndarray:
        windows = self.config.model.max_windows
        sides = list(zip(*passages_of(pairs, self.encoder_), strict=True))[::2]
        return np.any([self.encoder_.is_cut(list(side), windows) for side in sides], axis=0)

    def save_state(self, folder: Path) -> None:
        arrays = self.head_.arrays() | self.scales_._asdict()
        arrays |= {"center": self.center_, "basis": self.basis_}
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / DIGEST_FILE, self.encoder_.digest)
        if not self.config.model.keep_backbone:
            remember(self.encoder_.digest, local_folder(self.config.model.backbone))
        else:
            self.encoder_.save(folder / BACKBONE_FOLDER)

    def load_state(self, folder: Path) -> None:
        options: EmbeddingOptions = self.config.model
        digest = str(read_json(folder / DIGEST_FILE))
        if options.keep_backbone:
            self.encoder_ = self._load(str(folder / BACKBONE_FOLDER), digest)
        else:
            self.encoder_ = self._found(digest, folder)
        width = self.encoder_.width
        k = min(options.components, width)
        of_x = len(ANTISYMMETRIC) + len(ANTISYMMETRIC_COSINES)
        of_z = len(SYMMETRIC) + len(SYMMETRIC_COSINES)
        # Besides the scaled cosines, the wide block has 2 k columns in x and 3 k in z.
        shapes = state_shapes(2 * k, 3 * k, of_x, of_z)
        if options.head == "mlp":
            shapes |= network_shapes(5 * k + of_x + of_z, options.hidden)
        shapes |= {"center": (width,), "basis": (width, k)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        self.center_, self.basis_ = arrays["center"], arrays["basis"]
        self.scales_ = Scales(*(arrays[name] for name in Scales._fields))
        kind = PairNetwork if options.head == "mlp" else DavidsonRegression
        self.head_ = kind.restored(arrays, self.ties)

    def _found(self, digest: str, folder: Path) -> FrozenEncoder:
        """Find and load the backbone of a saved model that does not contain it
        (`humanpref.models.bases.places`)."""
        name, tried = self.config.model.backbone, []
        for place in map(str, places(name, digest, folder)):
            try:
                return self._load(place, digest)
            except InputError as error:
                tried.append(str(error))
        if not (tried or is_folder_name(name)):
            return self._load(name, digest)
        raise InputError(
            f"{folder}: {'; '.join(tried) or f'backbone {name}: not found'}; set {BASE_VARIABLE} "
            "to the folder that holds the original backbone"
        )

    def _load(self, name: str, digest: str | None = None) -> FrozenEncoder:
        options: EmbeddingOptions = self.config.model
        instructions = options.prompt_instruction, options.response_instruction
        return load_frozen(name, options.max_length, *instructions, digest)

    def _features(self, pairs: pd.DataFrame) -> tuple[PairVectors, np.ndarray, np.ndarray]:
        """Return the vectors of the texts, and two matrices of unscaled features: one that an
        exchange of A and B negates, and one that it does not change. In both, the structural
        features precede the cosines."""
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

    def _columns(self, vectors: PairVectors, x: np.ndarray, z: np.ndarray) -> Columns:
        p, a, b = (
            (side - self.center_) @ self.basis_ for side in (vectors.prompt, vectors.a, vectors.b)
        )
        return Columns(p, a, b, *self.scales_.scaled(x, z))


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
        components in descending order of variance. All components are divided by the same number,
        which makes their mean square 1.
    """
    sides = np.concatenate([vectors.prompt, vectors.a, vectors.b])
    weights = np.tile(weights, 3)
    center = np.average(sides, axis=0, weights=weights)
    covariance = np.cov(sides, rowvar=False, aweights=weights, ddof=0)
    variances, directions = np.linalg.eigh(covariance)
    basis = directions[:, ::-1][:, :components]
    mean = variances[::-1][:components].mean()
    return center, basis / np.sqrt(mean if mean > ROUNDING**2 else 1.0)

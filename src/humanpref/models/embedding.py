"""Frozen embeddings and structural features into a Davidson regression: a small head, the encoder
is not trained."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.config.cpu import EmbeddingOptions, ForwardOptions
from humanpref.files import read_json, write_json
from humanpref.models.arrays import load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.blocks import (
    ROUNDING,
    Blocks,
    Scales,
    choose_penalties,
    fit_regression,
    scales,
)
from humanpref.models.davidson import DavidsonRegression
from humanpref.models.pair_vectors import (
    ANTISYMMETRIC_COSINES,
    SYMMETRIC_COSINES,
    PairVectors,
    pair_vectors,
)
from humanpref.models.sentence import load_frozen
from humanpref.schema import InputError
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, structural_features

STATE_FILE = "model.safetensors"
ENCODER_FILE = "encoder.json"
BACKBONE_FOLDER = "backbone"


class EmbeddingModel(Model, family="embedding"):
    """d from [a - b, p * (a - b)], nu from [|a - b|, a * b, p], both beside cosines, attention
    scores and structure.

    p, a and b are principal components of the embeddings of prompt and answers. They keep their
    variances, so that the penalty holds back the minor ones more, and share the penalty of the wide
    block with cosines and attention scores. After `fit`: `encoder_`, `center_` (width,) and
    `basis_` (width, components), `scales_` of structure and cosines, and `regression_`. The
    parameters are the options of `humanpref.config.cpu.EmbeddingOptions` and `ForwardOptions`,
    and `seed`.
    """

    swap_equivariant = True

    def check(self) -> None:
        load_frozen(self.config.model.backbone, self.config.model.max_length)

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "EmbeddingModel":
        options: EmbeddingOptions = self.config.model
        self.encoder_ = load_frozen(options.backbone, options.max_length)
        vectors, (x, z) = self._vectors(pairs), structural_features(pairs)
        self.center_, self.basis_ = principal_components(vectors, options.components, weights)
        self.scales_ = scales(
            np.hstack([x, vectors.antisymmetric]), np.hstack([z, vectors.symmetric]), weights
        )
        blocks = self._blocks(vectors, x, z)
        embedding_penalty, structure_penalty, inner = choose_penalties(
            pairs,
            blocks,
            labels,
            weights,
            options.embedding_penalties,
            options.structure_penalties,
            self.config.seed,
        )
        self.regression_ = fit_regression(
            blocks, embedding_penalty, structure_penalty, labels, weights
        )
        self.report_ = {
            "backbone": self.encoder_.facts(options.backbone),
            "embedding_penalty": embedding_penalty,
            "structure_penalty": structure_penalty,
            "inner_log_loss": inner,
            "iterations": self.regression_.iterations_,
        }
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        blocks = self._blocks(self._vectors(pairs), *structural_features(pairs))
        return self.regression_.predict_proba(blocks.x(), blocks.z())

    def save_state(self, folder: Path) -> None:
        arrays = self.regression_.arrays() | self.scales_._asdict()
        arrays |= {"center": self.center_, "basis": self.basis_}
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / ENCODER_FILE, {"digest": self.encoder_.digest})
        if self.config.model.keep_backbone:
            self.encoder_.save(folder / BACKBONE_FOLDER)

    def load_state(self, folder: Path) -> None:
        options: EmbeddingOptions = self.config.model
        path = folder / ENCODER_FILE
        facts = read_json(path)
        digest = facts.get("digest") if isinstance(facts, dict) else None
        if not isinstance(digest, str):
            raise InputError(f"{path}: key 'digest': expected a text, got {digest!r}")
        kept = str(folder / BACKBONE_FOLDER) if options.keep_backbone else options.backbone
        self.encoder_ = load_frozen(kept, options.max_length, digest)
        width = self.encoder_.width
        k = min(options.components, width)
        x = len(ANTISYMMETRIC) + len(ANTISYMMETRIC_COSINES)
        z = len(SYMMETRIC) + len(SYMMETRIC_COSINES)
        shapes = {
            "center": (width,),
            "basis": (width, k),
            "x_scale": (x,),
            "z_mean": (z,),
            "z_scale": (z,),
            "w": (2 * k + x,),
            "v": (3 * k + z,),
            "c": (1,),
        }
        arrays = load_arrays(folder / STATE_FILE, shapes)
        self.center_, self.basis_ = arrays["center"], arrays["basis"]
        self.scales_ = Scales(*(arrays[name] for name in Scales._fields))
        self.regression_ = DavidsonRegression.restored(arrays)

    def _vectors(self, pairs: pd.DataFrame) -> PairVectors:
        inference: ForwardOptions = self.config.inference
        windows = self.config.model.max_windows
        return pair_vectors(
            pairs, self.encoder_, windows, inference.batch_tokens, inference.precision
        )

    def _blocks(self, vectors: PairVectors, x: np.ndarray, z: np.ndarray) -> Blocks:
        """The scaled features; x and z are the structure's."""
        columns_x, columns_z = x.shape[1], z.shape[1]
        x, z = self.scales_.scaled(
            np.hstack([x, vectors.antisymmetric]), np.hstack([z, vectors.symmetric])
        )
        p, a, b = (
            (side - self.center_) @ self.basis_ for side in (vectors.prompt, vectors.a, vectors.b)
        )
        return Blocks(
            np.hstack([a - b, p * (a - b), x[:, columns_x:]]),
            x[:, :columns_x],
            np.hstack([np.abs(a - b), a * b, p, z[:, columns_z:]]),
            z[:, :columns_z],
        )


def principal_components(
    vectors: PairVectors, components: int, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which the embeddings of prompts and answers differ most.

    Returns
    -------
    center : ndarray
        (width,) float64, the mean vector.
    basis : ndarray
        (width, min(components, width)) float64; `(vector - center) @ basis` are the components,
        largest variance first, all divided by one number so that the mean of their squares is 1.
    """
    sides = np.concatenate([vectors.prompt, vectors.a, vectors.b])
    weight = np.ones(len(sides)) if weights is None else np.tile(weights, 3)
    center = np.average(sides, axis=0, weights=weight)
    centered = sides - center
    variances, directions = np.linalg.eigh(centered.T @ (centered * weight[:, None]) / weight.sum())
    basis = directions[:, ::-1][:, :components]
    mean = variances[::-1][:components].mean()
    return center, basis / np.sqrt(mean if mean > ROUNDING**2 else 1.0)

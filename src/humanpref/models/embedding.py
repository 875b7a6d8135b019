"""Frozen embeddings and structural features into a Davidson regression: a small head, the encoder is not trained."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.config import EmbeddingInference, EmbeddingOptions
from humanpref.files import read_json, write_json
from humanpref.models.base import Model, Validation, as_probabilities, load_arrays, save_arrays
from humanpref.models.blocks import Blocks, choose_penalties, regression, scales
from humanpref.models.davidson import DavidsonRegression
from humanpref.models.frozen import load_frozen
from humanpref.models.similarity import ANTISYMMETRIC_COSINES, SYMMETRIC_COSINES, PairVectors, pair_vectors
from humanpref.schema import InputError
from humanpref.text.features import antisymmetric_names, structure, symmetric_names

STATE_FILE = "model.safetensors"
ENCODER_FILE = "encoder.json"
BACKBONE_FOLDER = "backbone"


class EmbeddingModel(Model):
    """d from [a - b, p * (a - b)], nu from [|a - b|, a * b, p], both beside cosines, attention scores and structure.

    After `fit`: `encoder_`, the scale of the embedding blocks `x_wide_scale_`, `z_wide_mean_`, `z_wide_scale_`, that of cosines
    and structure `x_scale_`, `z_mean_`, `z_scale_`, and `regression_`.
    """

    swap_equivariant = True

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "EmbeddingModel":
        labels = as_probabilities(labels)
        options: EmbeddingOptions = self.config.model
        self.encoder_ = load_frozen(options.backbone, options.max_length)
        x_wide, z_wide, x, z = self._features(pairs)
        self.x_wide_scale_, self.z_wide_mean_, self.z_wide_scale_ = scales(x_wide, z_wide, weights)
        self.x_scale_, self.z_mean_, self.z_scale_ = scales(x, z, weights)
        blocks = self._scaled(x_wide, z_wide, x, z)
        embedding_penalty, structure_penalty, inner = choose_penalties(
            pairs, blocks, labels, weights, options.embedding_penalties, options.structure_penalties, self.config.seed
        )
        self.regression_ = regression(blocks, embedding_penalty, structure_penalty).fit(
            blocks.x(), blocks.z(), labels, weights
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
        blocks = self._scaled(*self._features(pairs))
        return self.regression_.predict_proba(blocks.x(), blocks.z())

    def save_state(self, folder: Path) -> None:
        arrays = {name: getattr(self, f"{name}_") for name in _SCALES}
        arrays |= {"w": self.regression_.w_, "v": self.regression_.v_, "c": np.array([self.regression_.c_])}
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
        x_wide, z_wide = 2 * self.encoder_.width, 3 * self.encoder_.width
        x = len(antisymmetric_names()) + len(ANTISYMMETRIC_COSINES)
        z = len(symmetric_names()) + len(SYMMETRIC_COSINES)
        shapes = dict(zip(_SCALES, ((x_wide,), (z_wide,), (z_wide,), (x,), (z,), (z,)), strict=True))
        shapes |= {"w": (x_wide + x,), "v": (z_wide + z,), "c": (1,)}
        arrays = load_arrays(folder / STATE_FILE, shapes)
        for name in _SCALES:
            setattr(self, f"{name}_", arrays[name])
        w, v = arrays["w"], arrays["v"]
        self.regression_ = DavidsonRegression(np.zeros(len(w)), np.zeros(len(v)))
        self.regression_.w_, self.regression_.v_, self.regression_.c_ = w, v, float(arrays["c"][0])

    def _features(self, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The embeddings' columns, antisymmetric and symmetric, and those of cosines and structure; as they come."""
        inference: EmbeddingInference = self.config.inference
        windows = self.config.model.max_windows
        vectors = pair_vectors(pairs, self.encoder_, windows, inference.batch_tokens, inference.precision)
        x, z = structure(pairs)
        return (*embedding_columns(vectors), np.hstack([x, vectors.antisymmetric]), np.hstack([z, vectors.symmetric]))

    def _scaled(self, x_wide: np.ndarray, z_wide: np.ndarray, x: np.ndarray, z: np.ndarray) -> Blocks:
        return Blocks(
            x_wide / self.x_wide_scale_,
            x / self.x_scale_,
            (z_wide - self.z_wide_mean_) / self.z_wide_scale_,
            (z - self.z_mean_) / self.z_scale_,
        )


_SCALES = ("x_wide_scale", "z_wide_mean", "z_wide_scale", "x_scale", "z_mean", "z_scale")
"""The learned scales, as they are named in the weights' file."""


def embedding_columns(vectors: PairVectors) -> tuple[np.ndarray, np.ndarray]:
    """Antisymmetric [a - b, p * (a - b)], (n, 2 width), and symmetric [|a - b|, a * b, p], (n, 3 width), float64."""
    p, a, b = vectors.prompt, vectors.a, vectors.b
    return np.hstack([a - b, p * (a - b)]), np.hstack([np.abs(a - b), a * b, p])

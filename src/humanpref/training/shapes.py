"""Read the sizes of a backbone from its configuration or, for known backbones, from
`shapes.toml`."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from types import SimpleNamespace
from typing import Any

DISENTANGLED = ("deberta", "deberta-v2")
"""Model types whose attention also scores positions, and keeps all scores."""


def published_sizes(backbone: str) -> dict[str, Any] | None:
    """Return the entries of a backbone's published config.json that determine its shape, or None if
    `shapes.toml` lacks the backbone. Only the last part of its name counts, without `-it` or
    `-instruct`."""
    text = resources.files("humanpref.training").joinpath("shapes.toml").read_text("utf-8")
    name = backbone.rstrip("/").rpartition("/")[2].lower()
    return tomllib.loads(text).get(name.removesuffix("-it").removesuffix("-instruct"))


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer."""

    layers: int
    hidden: int
    """Width of the hidden states."""
    intermediate: int
    """Width inside a feed-forward block."""
    attention: int
    """Width of all queries together."""
    keys: int
    """Width of all keys together."""
    heads: int
    vocabulary: int
    embedding: int
    """Width of a token's embedding."""
    gated: bool
    """Whether the feed-forward block multiplies the outputs of two layers and the norms divide by
    the root mean square, as in Llama."""
    norms: int
    """Number of norms in each layer."""
    scores: bool
    """Whether attention keeps its scores, rather than computing them block by block."""
    positions: int
    """Number of relative positions for which attention computes scores; 0 if it computes none."""
    shared: bool
    """Whether all layers have the same weights."""

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Read the sizes from a transformers configuration.

        Examples
        --------
        >>> Shape.published("microsoft/deberta-v3-base").layers
        12
        """

        def read(name: str, default: Any = None) -> Any:
            value = getattr(config, name, None)
            return default if value is None else value

        heads, hidden = config.num_attention_heads, config.hidden_size
        width = read("head_dim", hidden // heads)
        buckets = read("position_buckets", 0)
        span = buckets if buckets > 0 else read("max_position_embeddings", 0)
        disentangled = config.model_type in DISENTANGLED
        gated = read("num_key_value_heads") is not None
        return cls(
            layers=config.num_hidden_layers,
            hidden=hidden,
            intermediate=read("intermediate_size", 4 * hidden),
            attention=heads * width,
            keys=read("num_key_value_heads", heads) * width,
            heads=heads,
            vocabulary=config.vocab_size,
            embedding=read("embedding_size", hidden),
            gated=gated,
            norms=4 if config.model_type.startswith(("gemma2", "gemma3")) else 2,
            scores=disentangled or read("attn_logit_softcapping") is not None,
            positions=2 * span if disentangled and read("relative_attention", False) else 0,
            shared=config.model_type == "albert",
        )

    @classmethod
    def published(cls, backbone: str) -> "Shape | None":
        """Return the shape with the sizes of `published_sizes`, or None if there are none."""
        sizes = published_sizes(backbone)
        return None if sizes is None else cls.of(SimpleNamespace(**sizes))

    @property
    def layer_weights(self) -> int:
        """Number of weights in the matrices of one layer."""
        projections = 2 * self.hidden * (self.attention + self.keys)
        return projections + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def embedding_weights(self) -> int:
        """Number of weights in the token embedding."""
        return self.vocabulary * self.embedding

    @property
    def weights(self) -> int:
        """Number of weights in the backbone. Norms, biases and the output layer that scores the
        vocabulary are not counted."""
        layers = 1 if self.shared else self.layers
        return self.embedding_weights + layers * self.layer_weights

    def frozen_bytes(self, per_weight: float) -> float:
        """Return the bytes of a frozen backbone: `per_weight` for each weight of a matrix, and two
        for each weight of the embedding, which is never quantized."""
        return 2 * self.embedding_weights + per_weight * (self.weights - self.embedding_weights)

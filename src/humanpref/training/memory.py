"""Estimate how much memory training on a frozen base takes, and suggest options to reduce it."""

from dataclasses import dataclass, replace

T4_GIB = 14.0
"""GiB of a 16 GB T4 that tensors can use."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The sizes that determine the memory of a training run."""

    base_weights: int
    """Number of frozen weights."""
    base_bytes: float
    """Bytes of the frozen weights."""
    trainable: int
    """Number of trainable weights."""
    layers: int
    hidden: int
    """Width of the hidden states."""
    intermediate: int
    """Width inside a feed-forward block."""
    attention: int
    """Width of all queries together."""
    keys: int
    """Width of all keys together."""
    tokens: int
    """Tokens in one forward pass, padding included."""
    activation_bytes: int
    """Bytes per activation: 4, or 2 under mixed precision."""
    checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    scores: int = 0
    """Scores over the vocabulary that exist at one time."""

    def gib(self) -> dict[str, float]:
        """Estimate the GiB of the frozen `base`, of the `trainable` weights with their gradients
        and AdamW's two moments, and of the `activations`.

        Activations are those that layers keep for the backward pass: inputs of the linear layers
        (with LoRA's dropped-out copies), the norms, the attention and the product in the
        feed-forward block. Their estimate is accurate to about a third. With checkpointing, every
        layer keeps only its input, and one layer at a time keeps the rest. Embeddings and the head
        are small by comparison.
        """
        wide = 12 * self.hidden + 4 * self.attention + 6 * self.keys + 6 * self.intermediate
        layer = self.tokens * wide * self.activation_bytes
        layer_input = self.tokens * self.hidden * self.activation_bytes
        activations = self.layers * (layer_input if self.checkpointing else layer)
        if self.checkpointing:
            activations += layer
        sizes = {
            "base": self.base_bytes,
            "trainable": self.trainable * 16.0,
            # The scores in float32, their softmax, and the gradient.
            "activations": activations + 12 * self.scores,
        }
        return {name: size / 2**30 for name, size in sizes.items()}


def advice(estimate: MemoryEstimate, longest: int, limit: float = T4_GIB) -> list[str]:
    """List options to change, in order, until the run fits; if it never does, the last line says
    so.

    Parameters
    ----------
    estimate : MemoryEstimate
        The run with its current options.
    longest : int
        Tokens of the longest row, which is the minimum size of a forward pass.
    limit : float
        Available memory in GiB.
    """

    def with_base(bytes_per_weight: float) -> dict[str, float]:
        lowered = min(estimate.base_bytes, estimate.base_weights * bytes_per_weight)
        return {"activation_bytes": 2, "base_bytes": lowered}

    steps = {
        "training.gradient_checkpointing=true": {"checkpointing": True},
        f"training.forward_tokens={longest}": {"tokens": longest},
        "model.base_dtype=float16": with_base(2),
        "model.quantisation=4bit": with_base(0.5),
    }
    changes, size = [], sum(estimate.gib().values())
    for option, values in steps.items():
        if size <= limit:
            break
        estimate = replace(estimate, **values)
        lowered = sum(estimate.gib().values())
        if lowered < size:
            changes.append(f"{option} → {lowered:.1f} GiB")
            size = lowered
    if size > limit:
        changes.append("and a shorter model.max_length or a smaller model")
    return changes

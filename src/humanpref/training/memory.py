"""How much memory a training run with a frozen base takes, estimated beforehand."""

from dataclasses import dataclass, replace

T4_GIB = 14.0
"""What a 16 GB T4 really has for tensors."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What the memory of a training run depends on: sizes of its model and of a forward pass."""

    base_weights: int
    """Frozen weights."""
    base_bytes: float
    """What they take."""
    trainable: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    """Width of all queries together."""
    keys: int
    """Width of all keys together."""
    tokens: int
    """In one forward pass, padding included."""
    activation_bytes: int
    """4, or 2 under mixed precision."""
    checkpointing: bool
    scores: int = 0
    """Scores over the vocabulary that exist at one time."""

    def gib(self) -> dict[str, float]:
        """GiB by what they are for: `base`, `trainable` (weights, gradients, two moments of AdamW),
        `activations`.

        The activations are those that a layer keeps for the backward pass, to about a third: inputs
        of the linear layers, of the norms, of the attention and of the product in the feed-forward
        block, with LoRA's dropped copies. With checkpointing every layer keeps its input, and one
        at a time the rest. Embeddings and the head are small beside them.
        """
        wide = 12 * self.hidden + 4 * self.attention + 6 * self.keys + 6 * self.intermediate
        layer = self.tokens * wide * self.activation_bytes
        kept = self.tokens * self.hidden * self.activation_bytes
        activations = self.layers * kept + layer if self.checkpointing else self.layers * layer
        parts = {
            "base": self.base_bytes,
            "trainable": self.trainable * 16.0,
            # The scores in float32, their softmax, and the gradient.
            "activations": activations + 12 * self.scores,
        }
        return {name: size / 2**30 for name, size in parts.items()}


def advice(estimate: MemoryEstimate, longest: int, limit: float = T4_GIB) -> list[str]:
    """What to change, one after the other, until the run fits; the last line says so if it never
    does.

    Parameters
    ----------
    estimate : MemoryEstimate
        As it stands.
    longest : int
        Tokens of the longest row: the least that a forward pass can hold.
    limit : float
        GiB.
    """
    steps = [
        ("training.gradient_checkpointing=true", replace(estimate, checkpointing=True)),
        (
            f"training.forward_tokens={longest}",
            replace(estimate, checkpointing=True, tokens=longest),
        ),
        ("model.base_dtype=float16", _lower(estimate, longest, 2)),
        ("model.quantisation=4bit", _lower(estimate, longest, 0.5)),
    ]
    changes, size = [], sum(estimate.gib().values())
    for option, changed in steps:
        if size <= limit:
            return changes
        now = sum(changed.gib().values())
        if now < size:
            changes.append(f"{option} → {now:.1f} GiB")
            size = now
    return (
        changes
        if size <= limit
        else [*changes, "and a shorter model.max_length or a smaller model"]
    )


def _lower(estimate: MemoryEstimate, longest: int, bytes_per_weight: float) -> MemoryEstimate:
    fewer = min(estimate.base_bytes, estimate.base_weights * bytes_per_weight)
    return replace(
        estimate, checkpointing=True, tokens=longest, activation_bytes=2, base_bytes=fewer
    )

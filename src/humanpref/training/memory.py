"""Estimate how much GPU memory training takes, and suggest options to reduce it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from humanpref.config.neural import LoopOptions
from humanpref.training.shapes import Shape

logger = logging.getLogger(__name__)

T4_GIB = 14.0
"""GiB of a 16 GB T4 that one process can fill."""
RESERVED_GIB = 0.75
"""GiB of a GPU that are lost to its driver and to fragmentation."""
CUDA_GIB = 0.5
"""GiB of a process's CUDA context and libraries."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The sizes that determine the memory of a training run.

    The memory is counted tensor by tensor: everything that torch's modules keep for the backward
    pass, plus the largest intermediate results. `benchmarks/tracked_memory.py` compares the result
    with the storages of real training steps. For DeBERTa, the estimate assumes
    `model.attention=eager`; `fused` needs less.
    """

    shape: Shape
    frozen_bytes: float
    """Bytes of the frozen weights."""
    trainable: int
    """Number of trainable weights."""
    length: int
    """Number of tokens in a sequence, padding included."""
    half: bool
    """Whether autocast computes in half precision."""
    sequences: int = 1
    """Number of sequences in one forward pass of one process."""
    checkpointing: bool = False
    """Whether activations are recomputed in the backward pass."""
    trained_embedding: int = 0
    """Number of trainable weights in the token embedding."""
    adapted: int = 0
    """Total width of the inputs that one layer keeps for the gradients of its adapters and trained
    weights."""
    scored: int = 0
    """Number of positions whose scores over the vocabulary are in memory at the same time."""
    backward: bool = True
    """Whether gradients flow through the backbone, which they do not if only the head is trained.
    """
    processes: int = 1
    sequences_per_row: int = 1

    @classmethod
    def of_module(
        cls, module: Any, training: LoopOptions, longest: int, half: bool, **sizes: int
    ) -> "MemoryEstimate":
        """Return the estimate for training a neural family's module.

        Parameters
        ----------
        module : Module
            Its `backbone` is a transformers model, possibly inside an adapter.
        training : LoopOptions
            The `[training]` section.
        longest : int
            Tokens of the longest sequence.
        half : bool
            Whether autocast computes in half precision.
        **sizes : int
            The estimate's fields `processes`, `sequences_per_row` and `scored`.
        """
        backbone = module.backbone
        shape = Shape.of(backbone.config)
        embedding = backbone.get_input_embeddings().weight
        trained = [p for p in module.parameters() if p.requires_grad]
        frozen = [p for p in module.parameters() if not p.requires_grad]
        in_backbone = [
            (name, p.shape, p.numel()) for name, p in backbone.named_parameters() if p.requires_grad
        ]
        widths = (
            size[-1] if len(size) == 2 and 1 not in size else count
            for name, size, count in in_backbone
            if not name.endswith("bias")
        )
        return cls(
            shape=shape,
            frozen_bytes=float(sum(p.numel() * p.element_size() for p in frozen)),
            trainable=sum(p.numel() for p in trained),
            length=longest,
            half=half,
            checkpointing=training.gradient_checkpointing,
            trained_embedding=embedding.numel() if embedding.requires_grad else 0,
            adapted=sum(widths) // shape.layers if shape.gated else 0,
            backward=bool(in_backbone),
            **sizes,
        ).batched(training)

    def batched(self, training: LoopOptions) -> "MemoryEstimate":
        """Return the estimate for the largest batch that the training loop will form."""
        row = self.sequences_per_row * self.length
        share = -(-training.batch_size * training.accumulation // self.processes)
        rows = min(training.batch_size, share, max(1, training.forward_tokens // row))
        return replace(self, sequences=self.sequences_per_row * rows)

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass, padding included."""
        return self.sequences * self.length

    @property
    def bytes(self) -> int:
        """Bytes of one element of an activation."""
        return 2 if self.half else 4

    def gib(self) -> dict[str, float]:
        """Return the estimated GiB of each part: the `frozen` weights; the `trainable` weights with
        their gradients and AdamW's two moments; the `activations` with all other temporary tensors;
        and the memory that CUDA itself occupies (`cuda`)."""
        layers, results = self.shape.layers, self._largest_result()
        if not self.backward:
            kept = 0.0
        elif self.checkpointing:
            kept = 4.0 * layers * self.tokens * self.shape.hidden
            results += self._layer()
        else:
            kept = layers * self._layer()
        # The vocabulary's scores, their exponentials and two gradients, in float32, are gone before
        # the backward pass reaches the layers.
        passes = kept + max(results, 16.0 * self.scored * self.shape.vocabulary)
        # Add autocast's copies of the float32 matrices, then the embeddings and the states that the
        # head reads.
        passes += 2.0 * self.half * (self.trainable - self.trained_embedding)
        passes += 16.0 * self.tokens * self.shape.hidden
        # Other peaks are the embedding's dense gradient, at the end of the backward pass, and the
        # square root of the second moment, in the optimizer's step.
        temporary = max(passes, 4.0 * self.trained_embedding, 4.0 * self.trainable)
        sizes = {
            "frozen": self.frozen_bytes,
            "trainable": 16.0 * self.trainable,
            "activations": temporary,
            "cuda": CUDA_GIB * 2**30,
        }
        return {name: size / 2**30 for name, size in sizes.items()}

    def total(self) -> float:
        """Estimate the GiB of the run."""
        return sum(self.gib().values())

    def _layer(self) -> float:
        """Return the bytes that one layer keeps for the backward pass."""
        shape, size = self.shape, self.bytes
        if shape.gated:
            # The norms' inputs in float32; queries, keys (repeated for each head), values and the
            # result; the gate before and after its activation, and the values that it multiplies.
            token = 4 * shape.norms * shape.hidden + (3 if shape.scores else 4) * (
                size * shape.attention
            )
            token += 3 * size * shape.intermediate + self.adapted * (size + 1)
        else:
            # The inputs of the linear layers, and autocast's copies of them; queries, keys, values
            # and the context; two dropout masks and the inputs of two norms.
            parts = (7 if shape.positions else 6) + 2 * self.half
            token = (parts * size + 10) * shape.hidden + 2 * size * shape.intermediate
        return self.tokens * token + self._kept_by_attention()

    def _kept_by_attention(self) -> float:
        """Return the bytes that attention keeps in one layer, besides queries, keys and values."""
        shape, size, square = self.shape, self.bytes, self.length**2
        if not shape.scores:
            return size * self.sequences * square
        # The softmax in float32; dropout's mask and result or, in a decoder, the capped scores and
        # a cast.
        each = 5 + size if not shape.gated else 8
        kept = self.sequences * square * (each * shape.heads + 1)
        # The scores of all relative positions, their keys and queries for each sequence, and the
        # indices with which scores are gathered.
        scores = self.tokens * shape.heads + self.sequences * shape.hidden
        return kept + (2 * size * shape.positions * scores + 16 * square * (shape.positions > 0))

    def _largest_result(self) -> float:
        """Return the bytes of the largest intermediate results, in attention or in the feed-forward
        block of the last layer."""
        shape, size = self.shape, self.bytes
        scores = 0
        if shape.scores:
            scores = (2 * size + 4 * self.half) * self.sequences * shape.heads * self.length**2
        # With autocast, adapters compute in float32.
        wide = (5.75 if self.half else 3) if shape.gated else 2
        block = wide * size * self.tokens * shape.intermediate
        return max(scores, block)


def advice(estimate: MemoryEstimate, limit: float = T4_GIB) -> list[str]:
    """List the options to change, in order, until the run fits into `limit`. Options that change
    only the speed come before those that change the model. If the run never fits, the last entry
    says so.

    Parameters
    ----------
    estimate : MemoryEstimate
        The run with its current options.
    limit : float
        Available memory in GiB.
    """
    changes = []
    for variants in (_smaller_batches, _checkpointed, _smaller_base, _shorter):
        size = estimate.total()
        smaller = [variant for variant in variants(estimate) if variant[1].total() < size]
        if size > limit and smaller:
            fitting = [variant for variant in smaller if variant[1].total() <= limit]
            option, estimate = fitting[0] if fitting else smaller[-1]
            changes.append(f"{option} → {estimate.total():.1f} GiB")
    if estimate.total() > limit:
        changes.append("and a smaller model")
    return changes


Variants = Iterator[tuple[str, MemoryEstimate]]


def _smaller_batches(estimate: MemoryEstimate) -> Variants:
    per_row, rows = estimate.sequences_per_row, estimate.sequences // estimate.sequences_per_row
    while rows > 1:
        rows //= 2
        tokens = rows * per_row * estimate.length
        yield f"training.forward_tokens={tokens}", replace(estimate, sequences=rows * per_row)


def _checkpointed(estimate: MemoryEstimate) -> Variants:
    yield "training.gradient_checkpointing=true", replace(estimate, checkpointing=True)


def _smaller_base(estimate: MemoryEstimate) -> Variants:
    for option, size in (("base_dtype=float16", 2.0), ("quantisation=4bit", 0.5)):
        base = min(estimate.frozen_bytes, estimate.shape.frozen_bytes(size))
        yield f"model.{option}", replace(estimate, frozen_bytes=base)


def _shorter(estimate: MemoryEstimate) -> Variants:
    length = estimate.length
    while length > 128:
        length //= 2
        yield f"model.max_length={length}", replace(estimate, length=length)


def log_memory(
    module: Any, training: LoopOptions, lengths: np.ndarray, per_row: int, scored: int = 0
) -> None:
    """Log the estimated memory for training a module. If it exceeds the memory of this process's
    GPU (or of a T4 if there is no GPU), also log a warning that names the options to change.

    Parameters
    ----------
    module : Module
        A neural family's module.
    training : LoopOptions
        The `[training]` section.
    lengths : ndarray
        (n,) number of tokens in each row, including the padding that makes its sequences equally
        long.
    per_row : int
        Number of sequences in a row.
    scored : int
        Number of positions whose scores over the vocabulary are in memory at the same time.
    """
    # Imported here, because an estimate without a module needs no torch.
    import torch

    from humanpref.training.precision import process_state, resolve

    launched = process_state()
    estimate = MemoryEstimate.of_module(
        module,
        training,
        longest=int(lengths.max()) // per_row,
        half=resolve(training.precision, launched.device, "training.precision") != "no",
        processes=launched.num_processes,
        sequences_per_row=per_row,
        scored=scored,
    )
    limit, name, gib = T4_GIB, "a 16 GB T4", estimate.gib()
    if launched.device.type == "cuda":
        limit = torch.cuda.mem_get_info(launched.device)[1] / 2**30 - RESERVED_GIB
        name = "this GPU"
    else:
        del gib["cuda"]
    sizes = ", ".join(f"{part} {size:.2f}" for part, size in gib.items())
    total, tokens = sum(gib.values()), estimate.tokens
    logger.info("memory: about %.2f GiB (%s) at %d tokens per pass", total, sizes, tokens)
    if estimate.total() > limit:
        changes = "; ".join(advice(estimate, limit))
        logger.warning(
            "memory: estimate above the %.1f GiB of %s; to reduce it: %s", limit, name, changes
        )

"""Estimate the time of forward and backward passes by the roofline model: each kernel takes as long
as its arithmetic or its memory traffic, whichever is longer.

Products with a layer's weights are bound by arithmetic, everything else by memory. The bytes below
were counted kernel by kernel on fake tensors (`benchmarks/layer_traffic.py`), by changing one size
of a layer at a time. Those of DeBERTa are for `model.attention=eager`; fused attention takes about
a tenth less time.
"""

from dataclasses import dataclass
from typing import NamedTuple

from humanpref.training.shapes import Shape


class Device(NamedTuple):
    """The speed that a device reaches in practice.

    Attributes
    ----------
    flops : float
        Floating-point operations per second in matrix products.
    bandwidth : float
        Bytes per second.
    kernel : float
        Seconds that the host takes to start a kernel; no kernel can take less.
    element : int
        Bytes of one element of an activation.
    """

    flops: float
    bandwidth: float
    kernel: float
    element: int


T4 = Device(30e12, 250e9, 15e-6, 2)
"""A T4 in half precision, at the power that it can sustain."""
LINK = 5e9
"""Bytes per second between two GPUs on PCIe."""


class _Traffic(NamedTuple):
    """The memory traffic of one layer's kernels in half precision, and their number.

    Attributes
    ----------
    hidden, attention, intermediate, adapted : float
        Bytes read and written per token and per unit of the width of that name (`Shape`,
        `Passes.adapted`).
    scores : float
        Bytes per attention score, one for each head and pair of tokens.
    kernels : int
        Number of kernels.
    """

    hidden: float
    attention: float
    intermediate: float
    adapted: float
    scores: float
    kernels: int


_ENCODER = {True: _Traffic(576, 0, 21, 0, 144, 176), False: _Traffic(162, 0, 6.25, 0, 67, 61)}
_DECODER = {True: _Traffic(153, 225, 66, 83, 82, 230), False: _Traffic(33, 123, 18, 32, 40, 95)}
"""The memory traffic of one layer in training (True; the sum of forward and backward pass) and in
inference (False). A decoder's `hidden` is counted once per norm, and `scores` only if a layer keeps
its attention scores (`Shape.scores`)."""
_ENDS = 240
"""Bytes that the embeddings and the head move per token and per unit of the hidden width, in each
direction (forward and backward)."""
_EMBEDDING = 12
"""Bytes moved for each trained weight of the token embedding in every backward pass, which makes
its dense gradient."""
_OPTIMIZER = 40
"""Bytes that AdamW's step moves for each trained weight."""
_SCORED = 26
"""Bytes moved for each score over the vocabulary, in each direction."""


@dataclass(frozen=True)
class Passes:
    """The sizes that determine how long a model's forward and backward passes take."""

    shape: Shape
    training: bool
    frozen: bool = False
    """Whether the backbone's weights are frozen, so that no gradient is computed for them."""
    adapted: int = 0
    """Total width of the inputs of one layer's adapters."""
    checkpointing: bool = False
    quantized: bool = False
    trained_embedding: int = 0
    scored: float = 0.0
    """Share of all tokens for which the whole vocabulary is scored."""

    def seconds(self, sequences: int, length: int, device: Device = T4) -> float:
        """Return the time of one forward pass and, in training, its backward pass, over `sequences`
        sequences of `length` tokens, padding included.

        Examples
        --------
        >>> base = Passes(Shape.published("microsoft/deberta-v3-base"), training=True)
        >>> round(base.seconds(8, 512), 2)
        0.35
        """
        shape, tokens, directions = self.shape, sequences * length, 1 + self.training
        uses = directions + (self.training and self.checkpointing)
        products = uses + (self.training and not self.frozen)
        flops = shape.layers * shape.layer_weights * products
        flops += shape.vocabulary * shape.hidden * self.scored * (3 if self.training else 1)
        traffic = shape.layers * sum(self._bytes(one, length) for one in self._layer)
        traffic += _ENDS * shape.hidden * directions
        traffic += _SCORED * directions * self.scored * shape.vocabulary
        traffic *= tokens * device.element / 2
        traffic += _EMBEDDING * self.trained_embedding
        if self.quantized:
            # To use a layer, four bits are read and two bytes written for each of its weights.
            traffic += 2.5 * (shape.weights - shape.embedding_weights) * uses
        busy = 2.0 * flops * tokens / device.flops + traffic / device.bandwidth
        return max(busy, self.kernels * device.kernel)

    @property
    def kernels(self) -> int:
        """Number of kernels in one pass."""
        return self.shape.layers * sum(one.kernels for one in self._layer) + 100

    @property
    def _layer(self) -> list[_Traffic]:
        """The memory traffic of one layer, as a list to be summed: its forward pass in inference,
        its forward and backward pass in training and, with checkpointing, a second forward pass."""
        table = _DECODER if self.shape.gated else _ENCODER
        again = [table[False]] if self.training and self.checkpointing else []
        return [table[self.training], *again]

    def _bytes(self, one: _Traffic, length: int) -> float:
        """Return the bytes per token for one entry of `_layer`, in sequences of `length` tokens."""
        shape = self.shape
        hidden = one.hidden * shape.hidden * (shape.norms if shape.gated else 1)
        widths = one.attention * shape.attention + one.intermediate * shape.intermediate
        scores = one.scores * shape.heads * length if shape.scores else 0.0
        return hidden + widths + one.adapted * self.adapted + scores


def step_seconds(trainable: int, gpus: int = 1, device: Device = T4) -> float:
    """Return the time of AdamW's step and, with several GPUs, of exchanging the gradients."""
    exchange = 4 * trainable / LINK if gpus > 1 else 0.0
    return _OPTIMIZER * trainable / device.bandwidth + exchange

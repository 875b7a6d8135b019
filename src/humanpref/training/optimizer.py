"""Which weights learn how fast: backbone and head, layer by layer, with and without decay."""

import re
from typing import Any

from torch import nn

from humanpref.config.neural import LoopOptions

_LAYER = re.compile(r"\.layers?\.(\d+)\.")
BACKBONE = "backbone."


def parameter_groups(module: nn.Module, options: LoopOptions) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, one per pair of learning rate and weight decay.

    What is named `backbone.…` learns at `learning_rate`, a layer k places below the top at
    `learning_rate * layer_decay ** k`, and the embeddings and the rest of the backbone like a layer
    below the lowest. Everything else learns at `head_learning_rate`. Matrices decay; biases and the
    gains of norms do not. Frozen weights are left out.

    Source of the layer-wise rates: Clark et al. (2020), "ELECTRA", appendix A; Sun et al. (2019),
    section 5.3.2.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    layers = [
        int(found.group(1))
        for name, _ in named
        if (found := _LAYER.search(name)) and name.startswith(BACKBONE)
    ]
    top = max(layers, default=-1)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in named:
        if name.startswith(BACKBONE):
            found = _LAYER.search(name)
            below = top - int(found.group(1)) if found else top + 1
            rate = options.learning_rate * options.layer_decay**below
        else:
            rate = options.head_learning_rate or options.learning_rate
        decay = options.weight_decay if weight.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()
    ]

"""Choose each weight's learning rate and weight decay, by its layer in the backbone or its place in
the head."""

import re
from typing import Any

from torch import nn

from humanpref.config.neural import LoopOptions

_LAYER = re.compile(r"\.layers?\.(\d+)\.")
BACKBONE = "backbone."


def parameter_groups(module: nn.Module, options: LoopOptions) -> list[dict[str, Any]]:
    """Group the trainable weights for AdamW, one group per pair of learning rate and weight decay.

    In the backbone (weights named `backbone.…`), the layer that is k layers below the top learns at
    `learning_rate * layer_decay ** k`; the embeddings and everything else in the backbone count as
    one further layer at the bottom. All other weights learn at `head_learning_rate`, or at
    `learning_rate` if that is None. Weight decay applies to matrices, but not to biases or the
    gains of norms.

    Source of the layer-wise rates: Clark et al. (2020), "ELECTRA", appendix A; Sun et al. (2019),
    section 5.3.2.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    layers = {
        name: int(layer.group(1)) if (layer := _LAYER.search(name)) else -1
        for name, _ in named
        if name.startswith(BACKBONE)
    }
    top = max(layers.values(), default=-1)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in named:
        if name in layers:
            rate = options.learning_rate * options.layer_decay ** (top - layers[name])
        else:
            rate = options.head_learning_rate or options.learning_rate
        decay = options.weight_decay if weight.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()
    ]

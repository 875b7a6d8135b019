"""Read and restore the learned state of a module, which checkpoints and artifacts store: its
trainable weights and its buffers."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights and the buffers by name. Frozen weights are stored elsewhere."""
    weights = module.named_parameters(remove_duplicate=False)
    names = {name for name, weight in weights if weight.requires_grad}
    names.update(name for name, _ in module.named_buffers())
    return {name: tensor for name, tensor in module.state_dict().items() if name in names}


def load_learned(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state that `learned_state` returned.

    Raises
    ------
    ValueError
        If a name is missing or unexpected.
    """
    expected = set(learned_state(module))
    if set(state) != expected:
        raise ValueError(
            f"names of weights differ from the module's: {sorted(set(state) ^ expected)[:5]}"
        )
    module.load_state_dict(state, strict=False)


@contextlib.contextmanager
def frozen_embeddings(module: nn.Module, frozen: bool) -> Iterator[None]:
    """Within the block, do not train the token embeddings of `module.backbone` if `frozen` is true.

    Afterwards, mark them as trainable again, since an artifact contains only trainable weights.
    """
    weight = module.get_submodule("backbone").get_input_embeddings().weight if frozen else None
    if weight is None or not weight.requires_grad:
        yield
        return
    weight.requires_grad_(False)
    try:
        yield
    finally:
        weight.requires_grad_(True)

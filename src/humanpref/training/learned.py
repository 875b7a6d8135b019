"""What training changes of a module: the part that is worth keeping, in checkpoints and in
artifacts."""

from torch import Tensor, nn


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """The trainable weights and the buffers, by name; frozen weights, which somebody else keeps,
    are left out."""
    names = {
        name
        for name, weight in module.named_parameters(remove_duplicate=False)
        if weight.requires_grad
    }
    names |= {name for name, _ in module.named_buffers()}
    return {name: tensor for name, tensor in module.state_dict().items() if name in names}


def load_learned(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `learned_state` gave.

    Raises
    ------
    ValueError
        If a name is missing or too many.
    """
    expected = set(learned_state(module))
    if set(state) != expected:
        raise ValueError(
            f"these weights differ from the module's: {sorted(set(state) ^ expected)[:5]}"
        )
    module.load_state_dict(state, strict=False)

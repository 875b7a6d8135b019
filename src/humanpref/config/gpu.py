"""Determine whether a run uses a GPU and whether it needs one, from the run's options."""

from humanpref.config.cpu import BlendOptions, NoOptions
from humanpref.config.families import Config
from humanpref.config.loading import load_config, member_words
from humanpref.config.neural import SCRATCH, LoopOptions


def trained_models(config: Config) -> list[Config]:
    """Return the configuration of each model that a run trains: for a blend, each member's;
    otherwise, the run's own."""
    if not isinstance(config.model, BlendOptions):
        return [config]
    return [load_config(*member_words(text)) for text in config.model.members]


def uses_gpu(config: Config) -> bool:
    """Return whether any model of the run uses a GPU if one is available."""
    return any(not isinstance(model.inference, NoOptions) for model in trained_models(config))


def needs_gpu(config: Config) -> bool:
    """Return whether any model of the run trains pretrained weights by gradient descent, which
    would take days on a CPU.

    Models trained from scratch are small, and frozen models are not trained.
    """
    return any(
        isinstance(model.training, LoopOptions) and model.model.backbone != SCRATCH
        for model in trained_models(config)
    )

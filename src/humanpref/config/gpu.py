"""Tell from a run's options whether it uses a GPU, and whether it needs one."""

from humanpref.config.cpu import BlendOptions, NoOptions
from humanpref.config.families import Config
from humanpref.config.loading import load_config, member_words
from humanpref.config.neural import LoopOptions


def trained_models(config: Config) -> list[Config]:
    """Return the configurations of the models that a run trains: its own, or a blend's members'."""
    if not isinstance(config.model, BlendOptions):
        return [config]
    return [load_config(*member_words(text)) for text in config.model.members]


def uses_gpu(config: Config) -> bool:
    """Whether some model of the run computes on a GPU where there is one."""
    return any(not isinstance(model.inference, NoOptions) for model in trained_models(config))


def needs_gpu(config: Config) -> bool:
    """Whether the run would take days on a CPU: some model trains pretrained weights by gradient
    descent.

    Models from scratch and frozen ones are small. Quantization, which requires a GPU, applies to
    pretrained weights only.
    """
    return any(
        isinstance(model.training, LoopOptions) and model.model.backbone != "scratch"
        for model in trained_models(config)
    )

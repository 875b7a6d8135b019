"""Parameter-efficient fine-tuning with peft: choose which weights of a frozen base are trained."""

import sys
from types import ModuleType

from torch import nn

from humanpref.config.neural import AdaptedOptions
from humanpref.schema import InputError

# Last layers of feed-forward blocks, as decoders name them: (IA)^3 scales their inputs.
_FEED_FORWARD = {"down_proj", "fc2", "w2", "c_proj", "dense_4h_to_h"}


def import_peft() -> ModuleType:
    """Import peft so that it works alongside an old torchao.

    Kaggle's image has torchao 0.10; peft 0.19 requires torchao 0.16 and raises ImportError at the
    first LoRA layer, although nothing here uses torchao. So torchao is hidden while peft looks for
    it; peft caches the answer.
    """
    import peft
    from peft.import_utils import is_torchao_available

    try:
        is_torchao_available()
    except ImportError:
        loaded = sys.modules.get("torchao")
        sys.modules["torchao"] = None  # Python's own mark for "not installed"
        is_torchao_available()
        del sys.modules["torchao"]
        if loaded:
            sys.modules["torchao"] = loaded
    return peft


def adapt(base: nn.Module, options: AdaptedOptions) -> nn.Module:
    """Freeze a base model, except the weights that the option `model.peft` selects for training.
    These are converted to float32.

    Parameters
    ----------
    base : Module
        A transformers model; changed in place.
    options : AdaptedOptions
        The configuration's section `model`.

    Returns
    -------
    Module
        A peft model that wraps the base, or the base itself for `bias`, `head` and `none`.

    Raises
    ------
    InputError
        If the base has no biases to train, or lacks the modules in `model.target_modules`.

    Source: LoRA arXiv 2106.09685, rsLoRA 2312.03732, DoRA 2402.09353, (IA)^3 2205.05638, LayerNorm
    tuning 2312.11420, BitFit (biases) 2106.10199.
    """
    if options.peft in ("lora", "rslora", "dora", "ia3", "layernorm"):
        base = _with_peft(base, options)
    else:
        base.requires_grad_(options.peft == "none")
        if options.peft == "bias":
            biases = [weight for name, weight in base.named_parameters() if name.endswith("bias")]
            if not biases:
                raise InputError(
                    f"option model.peft: backbone {options.backbone} has no biases to train"
                )
            for bias in biases:
                bias.requires_grad_()
    for weight in base.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return base


def _with_peft(base: nn.Module, options: AdaptedOptions) -> nn.Module:
    peft = import_peft()
    targets: list[str] | str | None = options.target_modules
    if targets != "all-linear":
        targets = [name.strip() for name in targets.split(",") if name.strip()]
    if options.peft == "ia3":
        # Without names, peft uses its defaults for the model type.
        named = None if targets == "all-linear" else targets
        inner = named and [name for name in named if name in _FEED_FORWARD]
        config = peft.IA3Config(target_modules=named, feedforward_modules=inner)
    elif options.peft == "layernorm":
        kinds = {name: type(module).__name__ for name, module in base.named_modules()}
        norms = sorted(name for name, kind in kinds.items() if kind.endswith("Norm"))
        config = peft.LNTuningConfig(target_modules=norms)
    else:
        config = peft.LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=targets,
            use_rslora=options.peft == "rslora",
            use_dora=options.peft == "dora",
        )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise InputError(
            f"option model.target_modules: {options.peft} cannot be applied to "
            f"{options.target_modules!r} of backbone {options.backbone} "
            f"({str(error).splitlines()[0][:200]})"
        ) from None


def merged(backbone: nn.Module) -> nn.Module:
    """Add an adapter's updates to the weights of its base, and return the base; a backbone without
    an adapter is returned unchanged.

    Parameters
    ----------
    backbone : Module
        A module that `adapt` returned, in float32; changed in place.
    """
    return backbone.merge_and_unload() if hasattr(backbone, "merge_and_unload") else backbone


def keep_gradients(base: nn.Module) -> None:
    """Make the 4-bit layers of a base pass gradients on every CPU.

    On CPUs with AVX512-BF16, bitsandbytes repacks a layer's weights the first time that the layer
    runs in evaluation mode. From then on, it computes in bfloat16 and without gradients, even in
    training.
    """
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False

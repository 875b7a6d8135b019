"""Parameter-efficient fine-tuning by peft: which weights of a frozen base learn."""

import sys
from types import ModuleType

import torch
from torch import nn

from humanpref.config.neural import AdaptedOptions
from humanpref.schema import InputError


def import_peft() -> ModuleType:
    """Import peft so that it works beside an old torchao.

    Kaggle's image holds torchao 0.10, and peft 0.19 asks for 0.16 or raises ImportError at the
    first LoRA layer, although nothing here uses torchao. The question is asked once while torchao
    cannot be found; peft remembers the answer.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise InputError("option model.peft: needs peft: pip install 'humanpref[torch]'") from None
    from peft.import_utils import is_torchao_available

    try:
        is_torchao_available()
    except ImportError:
        loaded = {name: sys.modules.pop(name) for name in ("torchao",) if name in sys.modules}
        sys.modules["torchao"] = None  # what Python itself takes for "not installed"
        try:
            is_torchao_available()
        finally:
            del sys.modules["torchao"]
            sys.modules.update(loaded)
    return peft


def adapt(base: nn.Module, options: AdaptedOptions) -> nn.Module:
    """Freeze a base model but for what `model.peft` lets learn, which becomes float32.

    Parameters
    ----------
    base : Module
        A transformers model; changed in place.
    options : AdaptedOptions
        Its section of the configuration.

    Returns
    -------
    Module
        A peft model around the base, or the base itself for `bias`, `head` and `none`.

    Raises
    ------
    InputError
        If the base has nothing of the kind, or not the target modules.

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
                    f"option model.peft: backbone {options.backbone} has no biases to learn"
                )
            for bias in biases:
                bias.requires_grad_()
    for weight in base.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return base


def _with_peft(base: nn.Module, options: AdaptedOptions) -> nn.Module:
    peft = import_peft()
    named = options.target_modules != "all-linear"
    targets = (
        [name.strip() for name in options.target_modules.split(",") if name.strip()]
        if named
        else None
    )
    if options.peft == "ia3":
        inner = [name for name in targets if name in _FEED_FORWARD] if named else None
        config = peft.IA3Config(target_modules=targets, feedforward_modules=inner)
    elif options.peft == "layernorm":
        norms = {
            name for name, module in base.named_modules() if type(module).__name__.endswith("Norm")
        }
        config = peft.LNTuningConfig(target_modules=sorted(norms))
    else:
        config = peft.LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=targets or "all-linear",
            use_rslora=options.peft == "rslora",
            use_dora=options.peft == "dora",
        )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise InputError(
            f"option model.target_modules: {options.peft} cannot sit at {options.target_modules!r} "
            "of backbone "
            f"{options.backbone} ({str(error).splitlines()[0][:200]})"
        ) from None


# What (IA)^3 scales at its input: the last layer of a feed-forward block, by the names that
# decoders give it.
_FEED_FORWARD = ("down_proj", "fc2", "w2", "c_proj", "dense_4h_to_h")


def check_quantisation(options: AdaptedOptions) -> None:
    """Raise InputError where bitsandbytes or a GPU for it is missing."""
    if options.quantisation == "none":
        return
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"option model.quantisation: {options.quantisation} needs bitsandbytes: pip install "
            "bitsandbytes, or set it to none"
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"option model.quantisation: {options.quantisation} needs a CUDA GPU, and there is "
            "none; set it to none"
        )

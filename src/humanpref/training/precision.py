"""The device of this process, and the mixed precision suited to it."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from humanpref.schema import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def process_state() -> PartialState:
    """Return accelerate's state of this process: its device, its rank and the number of launched
    processes."""
    # `accelerate launch --cpu` sets this variable; PartialState, unlike Accelerator, ignores it.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def resolve(precision: str, device: torch.device, option: str = "precision") -> str:
    """Return the precision to use: `auto` becomes `bf16`, `fp16` or `no`, and a precision that the
    device does not support is refused.

    A T4 (compute capability 7.5) claims to support bf16 but emulates it at a fraction of its speed,
    so on a T4 `auto` means fp16 with gradient scaling, and bf16 is refused.

    Parameters
    ----------
    precision : str
        As in the configuration.
    device : torch.device
    option : str
        The option's name for the error message, for example `training.precision`.

    Raises
    ------
    InputError
        For fp16 on the CPU, and for bf16 on a GPU that only emulates it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "no"
        return "bf16" if has_bf16(device) else "fp16"
    if precision == "fp16" and device.type == "cpu":
        raise InputError(f"option {option}: fp16 needs a GPU; on the CPU use 'no' or 'bf16'")
    if precision == "bf16" and not has_bf16(device):
        raise InputError(f"option {option}: this GPU only emulates bf16; use fp16 or auto")
    return precision


def has_bf16(device: torch.device) -> bool:
    """Return whether the device supports bf16: False for a CUDA GPU that only emulates it."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)

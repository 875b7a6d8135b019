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


def resolve(precision: str, device: torch.device) -> str:
    """Turn `auto` into `bf16`, `fp16` or `no`, and refuse a precision that the device lacks.

    A T4 (compute capability 7.5) claims to support bf16 but emulates it at a fraction of its speed,
    so on a T4 `auto` means fp16 with gradient scaling.

    Raises
    ------
    InputError
        For fp16 on the CPU.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type == "cpu":
        raise InputError("option precision: fp16 needs a GPU; on the CPU use 'no' or 'bf16'")
    return precision

"""Mixed precision that fits the device."""

import torch

from humanpref.schema import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_of_run() -> torch.device:
    """The device that accelerate would choose: the process's GPU, Apple's, or the CPU."""
    from accelerate import PartialState

    return PartialState().device


def resolve(precision: str, device: torch.device) -> str:
    """Turn `auto` into `bf16`, `fp16` or `no`, and refuse what the device cannot do.

    A T4 (compute capability 7.5) emulates bf16 at a fraction of its speed and says that it supports it; `auto` asks for the
    real thing and takes fp16 with gradient scaling there.

    Raises
    ------
    InputError
        For fp16 on a device without it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type == "cpu":
        raise InputError("option precision: fp16 needs a GPU; on the CPU use 'no' or 'bf16'")
    return precision

"""Which GPUs are here, whether torch has kernels for them, and what becomes of a run that needs one
and has none.

What a run needs follows from its options (`humanpref.config.gpu`). On Kaggle it stops; elsewhere,
and in a dry run, which sets `DRY_RUN`, it goes on on the CPU after a warning.
"""

import json
import logging
import os
import re
import subprocess
import sys
from typing import Any

from humanpref.config import Config
from humanpref.config.gpu import needs_gpu
from humanpref.files import is_main_process
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

DRY_RUN = "HUMANPREF_DRY_RUN"
"""The environment variable that a dry run sets: it looks like Kaggle, and is not."""


def look() -> dict[str, Any]:
    """What torch sees, as plain JSON types: its version, its architectures, and each GPU's name and
    compute capability."""
    import torch

    numbers = range(torch.cuda.device_count())
    return {
        "torch": torch.__version__,
        "architectures": torch.cuda.get_arch_list(),
        "gpus": [
            (torch.cuda.get_device_name(n), tuple(torch.cuda.get_device_capability(n)))
            for n in numbers
        ],
    }


def runs(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a torch that was built for these architectures has kernels for a GPU of this compute
    capability.

    Machine code (`sm_75`) runs on its own major version from its own minor one on; what
    `compute_75` stands for is compiled for anything newer as well. With an `a` behind it either is
    for that very capability, with an `f` for its major version. ROCm's architectures (`gfx942`) say
    nothing of capabilities: its GPUs are taken to work.
    """
    if any(name.startswith("gfx") for name in architectures):
        return True
    for kind, major, minor, suffix in re.findall(
        r"\b(sm|compute)_(\d+)(\d)([af]?)\b", " ".join(architectures)
    ):
        built = int(major), int(minor)
        newer = capability >= built and (
            capability[0] == built[0] or (kind == "compute" and not suffix)
        )
        if newer and (suffix != "a" or capability == built):
            return True
    return False


def lacking() -> str:
    """Why no GPU can be used, in one line; empty if one can. Logs what is here.

    A GPU that torch has no kernels for is hidden from this process, if it has not begun to use
    CUDA, and from those that it starts. The look takes a process of its own: CUDA would keep
    hundreds of megabytes of the GPU in this one.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__], capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        return (
            f"torch cannot say what is here ({(done.stderr.splitlines() or [done.returncode])[-1]})"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    known = [runs(tuple(capability), found["architectures"]) for _, capability in found["gpus"]]
    told = [f"{name} (sm_{major}{minor})" for name, (major, minor) in found["gpus"]]
    version, built = f"torch {found['torch']}", " ".join(found["architectures"]) or "no GPU"
    logger.info(
        "GPUs: %d%s; %s is built for %s",
        len(told),
        ": " * bool(told) + ", ".join(told),
        version,
        built,
    )
    if not told:
        return "none is here"
    if all(known):
        return ""
    strange = ", ".join(gpu for gpu, kernels in zip(told, known, strict=True) if not kernels)
    reason = f"{version} has no kernels for {strange}, only for {built}"
    logger.warning("not used: %s", reason)
    usable = [name for name, kernels in zip(names(len(told)), known, strict=True) if kernels]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(usable)
    return "" if usable else reason


def require(reason: str, what: str) -> None:
    """Stop what needs a GPU where `lacking` gives a reason.

    Raises
    ------
    InputError
        On Kaggle, but not in the hidden rerun, in which anything is better than the prior;
        elsewhere it is a warning.
    """
    if not reason:
        return
    text = f"{what}: needs a GPU, and {reason}"
    on_kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ and not os.environ.get(DRY_RUN)
    if on_kaggle and not os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        raise InputError(f"{text}; choose the accelerator GPU T4 x2")
    logger.warning("%s; it goes on on the CPU, which may take days", text)


def require_for(config: Config) -> None:
    """Stop a run, or warn of it, that needs a GPU where none can be used; see `require`."""
    if needs_gpu(config) and is_main_process():
        named = f"preset {config.preset}" if config.preset else f"family {config.family}"
        require(lacking(), named)


def gpus() -> int:
    """Return how many GPUs torch sees; asked without starting CUDA in this process."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def names(count: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the first so many GPUs that this process sees."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] or [str(number) for number in range(count)]


def leave_group() -> None:
    """End the communication between launched processes, if there is any: left to the interpreter's
    end, it may abort there."""
    torch = sys.modules.get("torch")
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps(look()))

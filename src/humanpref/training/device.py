"""Find the GPUs that torch can use. If there is none, stop a run that needs a GPU, or log a
warning.

A run's options determine whether it needs a GPU (`humanpref.config.gpu`). Without one, a run on
Kaggle stops; elsewhere, and in a dry run (which sets `DRY_RUN`), it continues on the CPU after a
warning.
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
"""Environment variable that marks a dry run, which looks like Kaggle but is not."""
PLAYED_GPUS = "HUMANPREF_DRY_RUN_GPUS"
"""Environment variable with the number of GPUs that a dry run simulates with processes on the CPU.
It has no effect without `DRY_RUN`."""


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables that set how long OpenMP's threads spin before they sleep."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that configure torch's allocator: the current name and the old one."""


def prepare() -> None:
    """Set torch's environment for this process and its children, before torch is imported. Values
    that the user has set remain.

    The CUDA allocator is set to extend its segments. Batches differ in length, and fixed segments
    would leave gaps that no tensor fits. OpenMP's threads spin while they wait for each other, and
    then sleep. The time that they spin is set to a thirtieth of the default, which is too long for
    a busy machine: spinning threads occupy the cores that the other threads need. Not spinning at
    all would cost time on a quiet machine.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = "10000"
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ.update(dict.fromkeys(ALLOCATOR, "expandable_segments:True"))


def look() -> dict[str, Any]:
    """Return torch's version, the GPU architectures that it was built for, and each GPU's name and
    compute capability, as plain JSON types."""
    from torch import __version__, cuda

    return {
        "torch": __version__,
        "architectures": cuda.get_arch_list(),
        "gpus": [
            (cuda.get_device_name(number), tuple(cuda.get_device_capability(number)))
            for number in range(cuda.device_count())
        ],
    }


def runs(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether a build of torch for these architectures has kernels for a GPU of this compute
    capability.

    Machine code (`sm_75`) runs on GPUs of the same major version and the same or a higher minor
    version; intermediate code (`compute_75`) can also be compiled for any newer GPU. The suffix `a`
    limits either to exactly that capability, and the suffix `f` to its major version. ROCm's
    architectures (`gfx942`) do not name capabilities; their GPUs are assumed to work.

    Examples
    --------
    >>> runs((8, 6), ["sm_80"]), runs((9, 0), ["sm_80"]), runs((9, 0), ["compute_80"])
    (True, False, True)
    """
    if any(name.startswith("gfx") for name in architectures):
        return True
    pattern = r"\b(sm|compute)_(\d+)(\d)([af]?)\b"
    for kind, major, minor, suffix in re.findall(pattern, " ".join(architectures)):
        built = int(major), int(minor)
        compiled = kind == "compute" and not suffix
        if capability == built:
            return True
        if capability > built and suffix != "a" and (compiled or capability[0] == built[0]):
            return True
    return False


def lacking() -> str:
    """Log the GPUs. Return one line that says why none of them can be used, or "" if one can.

    GPUs for which torch has no kernels are hidden from child processes, and also from this process
    unless it has already started CUDA. A separate process queries torch, because starting CUDA in
    this one would occupy hundreds of megabytes of GPU memory.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__], capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        last = (done.stderr.splitlines() or [done.returncode])[-1]
        return f"torch cannot list the GPUs ({last})"
    seen = json.loads(done.stdout.splitlines()[-1])
    version, built = f"torch {seen['torch']}", " ".join(seen["architectures"]) or "no GPU"
    gpus = [f"{name} (sm_{major}{minor})" for name, (major, minor) in seen["gpus"]]
    listed = f": {', '.join(gpus)}" if gpus else ""
    logger.info("GPUs: %d%s; %s is built for %s", len(gpus), listed, version, built)
    if not gpus:
        return "none was found"
    known = [runs(tuple(capability), seen["architectures"]) for _, capability in seen["gpus"]]
    if all(known):
        return ""
    unknown = ", ".join(gpu for gpu, usable in zip(gpus, known, strict=True) if not usable)
    reason = f"{version} has no kernels for {unknown}, only for {built}"
    logger.warning("some GPUs are not used: %s" if any(known) else "no GPU is used: %s", reason)
    numbers = zip(names(len(gpus)), known, strict=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(number for number, usable in numbers if usable)
    return "" if any(known) else reason


def require(reason: str, what: str) -> None:
    """Raise an error or log a warning if there is a `reason` why no GPU can be used, as returned by
    `lacking`. `what` names the object that needs a GPU.

    Raises
    ------
    InputError
        On Kaggle, except when Kaggle reruns a submitted notebook on the hidden test set. If that
        run stopped, only the prior's predictions would remain, and any model is better.
    """
    if not reason:
        return
    text = f"{what}: needs a GPU, and {reason}"
    on_kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ and not os.environ.get(DRY_RUN)
    if on_kaggle and not os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        raise InputError(f"{text}; choose the accelerator GPU T4 x2")
    logger.warning("%s; continuing on the CPU, which may take days", text)


def require_for(config: Config) -> None:
    """Call `require` if the options of a run show that it needs a GPU."""
    if needs_gpu(config) and is_main_process():
        require(
            lacking(), f"preset {config.preset}" if config.preset else f"family {config.family}"
        )


def gpus() -> int:
    """Count the GPUs that torch sees, or that a dry run simulates, without starting CUDA in this
    process."""
    if os.environ.get(DRY_RUN) and (played := os.environ.get(PLAYED_GPUS)):
        return len(names(int(played)))
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def names(count: int) -> list[str]:
    """Return the names of this process's first `count` GPUs, as used in `CUDA_VISIBLE_DEVICES`."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] or [str(number) for number in range(count)]


def leave_group() -> None:
    """Close the process group of the launched processes, if there is one. If it is left open, the
    process may abort when the interpreter exits."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps(look()))

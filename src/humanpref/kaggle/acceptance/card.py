"""Measure a device's performance: matrix products, memory traffic and kernel launches."""

import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from humanpref.kaggle.acceptance.setting import Row, Setting, autocast, device, scratch, synchronize
from humanpref.kaggle.acceptance.workload import preset_config, workload
from humanpref.training.inputs import moved
from humanpref.training.precision import DTYPES, resolve
from humanpref.training.roofline import Device, Passes
from humanpref.training.shapes import Shape


def measure(quick: bool = False) -> Device:
    """Measure the speed of this process's device, as `humanpref.training.roofline` needs it.

    Parameters
    ----------
    quick : bool
        Whether to use small tensors; the measured speeds then say little.
    """
    place, half = device(), DTYPES.get(resolve("auto", device()), torch.float32)
    size, elements = (256, 2**20) if quick else (4_096, 2**27)
    left, right = (torch.randn(size, size, device=place).to(half) for _ in range(2))
    source = torch.randn(elements, device=place)
    target = torch.empty_like(source)
    product = fastest(lambda: left @ right)
    copy = fastest(lambda: torch.mul(source, 2.0, out=target))
    return Device(
        flops=2.0 * size**3 / product,
        bandwidth=2.0 * source.nbytes / copy,
        kernel=_kernel_seconds(),
        element=half.itemsize,
    )


def fastest(work: Callable[[], object], rounds: int = 5) -> float:
    """Call `work` several times after a warm-up call, and return the shortest time in seconds."""
    taken = []
    for _ in range(rounds + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _kernel_seconds() -> float:
    """Return the seconds that the host takes to start one GPU kernel. They are measured by training
    a model so small that the kernels themselves take almost no time."""
    with scratch() as folder:
        work = workload(preset_config("deberta-v3-small", folder, quick=True))
    rows = work.rows(np.full((2, 3), 16))
    batch = moved(rows(np.arange(2)), device())

    def learn() -> None:
        with autocast():
            logits = work.module(**batch)
        logits.float().logsumexp(dim=1).mean().backward()

    kernels = Passes(Shape.of(work.module.backbone.config), training=True).kernels
    return fastest(learn) / kernels


def name() -> str:
    """Return the device's name, preceded by the number of GPUs if there are several."""
    if device().type == "cpu":
        return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    number, own = torch.cuda.device_count(), torch.cuda.get_device_name()
    return f"{number} x {own}" if number > 1 else own


def check(setting: Setting) -> list[Row]:
    """Report the device, its memory and its measured speed. Without a GPU, the check fails; in a
    quick run it is not judged."""
    found = measure(setting.quick)
    facts = [
        f"{found.flops / 1e12:.3g} TFLOP/s",
        f"{found.bandwidth / 1e9:.3g} GB/s",
        f"{1e6 * found.kernel:.1f} µs a kernel",
    ]
    if device().type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        total = torch.cuda.mem_get_info()[1] / 2**30
        facts = [f"sm_{major}{minor}", f"{total:.1f} GiB", *facts]
    versions = f"torch {torch.__version__}, {resolve('auto', device())} by default"
    passed = device().type == "cuda" or (None if setting.quick else False)
    return [Row("device", name(), ", ".join(facts), versions, passed)]

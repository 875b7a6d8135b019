"""Lets a torch that was built for the CPU take `cuda:0` for a device.

Torch's C++ asks two tables before it makes a tensor that says `cuda`: the registry of device
guards, and the virtual functions of `CUDAHooksInterface`, by which autograd finds the accelerator.
Both are changed in this process; nothing undoes that, so a process that plays a GPU does nothing
else.
"""

import ctypes
from pathlib import Path

import torch

BACKENDS = 21
"""Entries of the registry of device guards."""
VIRTUAL_FUNCTIONS = 48
"""More than `CUDAHooksInterface` has."""
IS_BUILT, HAS_PRIMARY_CONTEXT = 2, 4
"""Places in its table; the first two are destructors."""

kept = []
"""The table of functions, which must live as long as the process."""


def install() -> None:
    """Install a device guard that does nothing, and let the CUDA hooks say that CUDA was built.

    Raises
    ------
    RuntimeError
        If this torch's tables are laid out in another way.
    """
    libraries = Path(torch.__file__).parent / "lib"
    registry = (ctypes.c_void_p * BACKENDS).in_dll(
        ctypes.CDLL(str(libraries / "libc10.so")), "_ZN3c104impl26device_guard_impl_registryE"
    )
    kinds = torch._C._autograd.DeviceType
    cuda, lazy = int(kinds.CUDA), int(kinds.Lazy)
    if kept or registry[cuda]:
        return
    # A guard that counts no devices makes torch put its own no-op guard in the guard's place.
    registry[cuda] = registry[lazy]
    torch._C._ensureCUDADeviceGuardSet()
    cpu = ctypes.CDLL(str(libraries / "libtorch_cpu.so"))
    hooks = cpu._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    instance = ctypes.cast(hooks(), ctypes.POINTER(ctypes.c_void_p))
    functions = ctypes.cast(instance[0], ctypes.POINTER(ctypes.c_void_p))
    table = (ctypes.c_void_p * VIRTUAL_FUNCTIONS)(*functions[:VIRTUAL_FUNCTIONS])
    # Any C++ function without arguments that returns true will do.
    true = ctypes.cast(cpu._ZN2at7Context9hasOpenMPEv, ctypes.c_void_p).value
    table[IS_BUILT] = table[HAS_PRIMARY_CONTEXT] = true
    kept.append(table)
    instance[0] = ctypes.addressof(table)
    current = torch.accelerator.current_accelerator(check_available=False)
    if registry[cuda] == registry[lazy] or current != torch.device("cuda"):
        raise RuntimeError(f"torch {torch.__version__}: its CUDA hooks are laid out in another way")

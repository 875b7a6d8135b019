"""Make torch's CPU build accept `cuda:0` as a device.

Before it makes a tensor on `cuda`, torch's C++ consults two tables: the registry of device guards,
and the virtual functions of `CUDAHooksInterface`, by which autograd finds the accelerator.
`install` changes both for the life of the process.
"""

import ctypes
from pathlib import Path

import torch

BACKENDS = 21
"""Number of entries in the registry of device guards."""
VIRTUAL_FUNCTIONS = 48
"""Number of virtual functions to copy; `CUDAHooksInterface` has fewer."""
IS_BUILT, HAS_PRIMARY_CONTEXT = 2, 4
"""Their positions in its table, after two destructors."""

kept = []
"""The new table of functions, which must live as long as the process."""


def install() -> None:
    """Install a device guard that does nothing, and make the CUDA hooks report that CUDA is built.

    Raises
    ------
    RuntimeError
        If this version of torch lays out its tables differently.
    """
    if kept:
        return
    libraries = Path(torch.__file__).parent / "lib"
    registry = (ctypes.c_void_p * BACKENDS).in_dll(
        ctypes.CDLL(str(libraries / "libc10.so")), "_ZN3c104impl26device_guard_impl_registryE"
    )
    kinds = torch._C._autograd.DeviceType
    cuda, lazy = int(kinds.CUDA), int(kinds.Lazy)
    # Torch replaces a guard that counts no devices by one that does nothing.
    registry[cuda] = registry[lazy]
    torch._C._ensureCUDADeviceGuardSet()
    cpu = ctypes.CDLL(str(libraries / "libtorch_cpu.so"))
    hooks = cpu._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    instance = ctypes.cast(hooks(), ctypes.POINTER(ctypes.c_void_p))
    functions = ctypes.cast(instance[0], ctypes.POINTER(ctypes.c_void_p))
    table = (ctypes.c_void_p * VIRTUAL_FUNCTIONS)(*functions[:VIRTUAL_FUNCTIONS])
    # Any C++ function that takes no arguments and returns true will do.
    true = ctypes.cast(cpu._ZN2at7Context9hasOpenMPEv, ctypes.c_void_p).value
    table[IS_BUILT] = table[HAS_PRIMARY_CONTEXT] = true
    kept.append(table)
    instance[0] = ctypes.addressof(table)
    current = torch.accelerator.current_accelerator(check_available=False)
    if registry[cuda] == registry[lazy] or current != torch.device("cuda"):
        raise RuntimeError(f"torch {torch.__version__}: its CUDA hooks are laid out differently")

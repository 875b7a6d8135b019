"""A CUDA device played by the CPU.

Tensors say `cuda:0` and their arithmetic runs on the CPU, so that what a GPU refuses is refused
here: an operation on tensors of two devices raises. Copies and waits are counted with the line of
the package that caused them, and results with their dtype. Matrix products in half precision
accumulate in float32, as tensor cores do.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import humanpref

from . import hooks

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
PACKAGE = f"{Path(humanpref.__file__).parent}/"
TO_THE_DEVICE, TO_THE_HOST = "to the device", "to the host"
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
}
"""Operations whose result the host has to wait for."""
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
"""Operations that also take indices on the CPU; a boolean index makes the host wait."""
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
SOFTMAX = {aten._softmax.default, aten._log_softmax.default}
SOFTMAX_BACKWARD = {aten._softmax_backward_data.default, aten._log_softmax_backward_data.default}


class PlayedGpu:
    """What the device did since the last `clear`, and its memory.

    Attributes
    ----------
    copies, waits : Counter
        Copies to the device, and points at which the host waits for it: by kind and line of the
        package (`training/loop.py:212`; `?` in the backward pass).
    dtypes : Counter
        Floating-point results: by operation, dtype and file of the package (`?` likewise).
    largest : int
        Elements of the largest result.
    room : int, optional
        Elements that one result may have. A larger one raises torch.OutOfMemoryError.
    failures : int
        How often that happened.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.copies: Counter[tuple[str, str]] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.dtypes: Counter[tuple[str, torch.dtype, str]] = Counter()
        self.room: int | None = None
        self.largest = self.failures = 0

    def copied(self, kind: str) -> None:
        self.copies[kind, package_line()] += 1

    def waited(self, kind: str) -> None:
        self.waits[kind, package_line()] += 1

    def computed(self, operation: Any, result: Tensor) -> None:
        if self.room is not None and result.numel() > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory: {result.numel()} elements")
        self.largest = max(self.largest, result.numel())
        if result.is_floating_point():
            file = package_line().partition(":")[0]
            self.dtypes[operation.overloadpacket.__name__, result.dtype, file] += 1


gpu = PlayedGpu()


def package_line() -> str:
    """Return the innermost line of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class PlayedTensor(Tensor):
    """A tensor that says `cuda:0` and keeps its values in `inner`, a tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "PlayedTensor":
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"PlayedTensor({self.inner})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> "PlayedTensor":
        return PlayedTensor(parts["inner"])

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "PlayedTensor") -> None:
        Tensor.data.__set__(self, value)
        self.inner = value.inner

    def tolist(self) -> Any:
        gpu.waited(TO_THE_HOST)
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        gpu.waited(TO_THE_HOST)
        return self.inner.numpy(force=True)

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return run(operation, arguments, options or {})


class PlayedDevice(TorchDispatchMode):
    """Sends the operations that concern `cuda` to `run`."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        leaves = tree_leaves((arguments, options))
        if on_cuda(options.get("device")) or any(isinstance(x, PlayedTensor) for x in leaves):
            return run(operation, arguments, options)
        return operation(*arguments, **options)


def run(operation: Any, arguments: tuple, options: dict[str, Any]) -> Any:
    """Run one operation that concerns the device."""
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
    played = [tensor for tensor in tensors if isinstance(tensor, PlayedTensor)]
    device = options.get("device")
    to_cuda = bool(played) if device is None else on_cuda(device)
    inner_arguments, inner_options = tree_map(inner_of, (arguments, dict(options)))
    if device is not None:
        inner_options["device"] = torch.device("cpu")
        inner_options.pop("pin_memory", None)
    if operation is aten._to_copy.default and device is not None:
        if to_cuda and not played:
            gpu.copied(TO_THE_DEVICE)
        elif played and not to_cuda:
            gpu.waited(TO_THE_HOST)
    elif operation is aten.copy_.default and len(played) == 1:
        if isinstance(arguments[0], PlayedTensor):
            gpu.copied(TO_THE_DEVICE)
        else:
            gpu.waited(TO_THE_HOST)
        operation(*inner_arguments, **inner_options)
        return arguments[0]
    elif played:
        if operation in WAITS:
            gpu.waited(WAITS[operation])
        check_devices(operation, arguments, tensors)
    result = compute(operation, inner_arguments, inner_options)
    if not to_cuda:
        return result
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            gpu.computed(operation, leaf)
    result = tree_map(lambda leaf: PlayedTensor(leaf) if is_plain(leaf) else leaf, result)
    return return_and_correct_aliasing(operation, arguments, options, result) if played else result


def on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, PlayedTensor)


def inner_of(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, PlayedTensor) else leaf


def check_devices(operation: Any, arguments: tuple, tensors: list[Tensor]) -> None:
    """Raise where an operation mixes devices, as CUDA does; a scalar on the CPU is taken."""
    if operation in INDEXING and isinstance(arguments[0], PlayedTensor):
        indices = [index for index in arguments[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            gpu.waited("boolean index")
        if any(is_plain(index) for index in indices):
            gpu.copied("index")
        tensors = [tensor for tensor in tensors if all(tensor is not index for index in indices)]
    strangers = [tuple(t.shape) for t in tensors if is_plain(t) and t.dim() > 0]
    if strangers:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({operation}, {strangers} on the CPU)"
        )


def compute(operation: Any, arguments: tuple, options: dict[str, Any]) -> Any:
    """Compute on the CPU, in several steps where a GPU has one kernel and the CPU has none."""
    if operation in SOFTMAX and arguments[2]:
        return operation(arguments[0].float(), arguments[1], False)
    if operation in SOFTMAX_BACKWARD and arguments[3] != arguments[0].dtype:
        return operation(*arguments[:3], arguments[0].dtype).to(arguments[3])
    if operation in PRODUCTS and arguments[0].dtype == torch.half:
        widened = (leaf.float() if isinstance(leaf, Tensor) else leaf for leaf in arguments)
        return operation(*widened, **options).half()
    return operation(*arguments, **options)


@contextlib.contextmanager
def played_gpu(capability: tuple[int, int] = (7, 5)) -> Iterator[PlayedGpu]:
    """Play one GPU of this compute capability, a T4's by default."""
    hooks.install()
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: gpu.waited("synchronize"),
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda including_emulation=True: (
            capability[0] >= 8 or including_emulation
        ),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_device_name": lambda device=None: "a played GPU",
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        # Nothing is free, so that transformers reserves nothing in advance.
        "mem_get_info": lambda device=None: (0, 16 * 2**30),
    }
    lifts = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        # A tensor subclass cannot be made in inference mode.
        stack.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(PlayedDevice())
        yield gpu

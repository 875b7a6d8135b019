"""A CUDA device played by the CPU.

Tensors say `cuda:0` and their arithmetic runs on the CPU, so that what a GPU punishes fails here,
too: an operation on tensors of two devices raises. Copies and synchronisations are counted with the
line of the package that caused them, and so are the dtypes in which operations run. Matrix products
in half precision add up in float32, as tensor cores do.
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
from tests.gpu import hooks

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
PACKAGE = str(Path(humanpref.__file__).parent)
SYNCHRONISING = {
    aten._local_scalar_dense.default: "item",
    aten.is_nonzero.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
}
"""Operations whose result the host must wait for."""
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
"""Operations that take their index from the CPU as well; a boolean one makes the host wait."""
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}


class Record:
    """What happened on the device since the last `clear`.

    Attributes
    ----------
    copies, waits : Counter
        Copies to the device, and points at which the host waits for it, by kind and line of the
        package (`training/loop.py:212`; `?` in the backward pass).
    dtypes : Counter
        Floating-point operations by name, dtype of the result, and file of the package.
    """

    def __init__(self) -> None:
        self.copies: Counter[tuple[str, str]] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.dtypes: Counter[tuple[str, torch.dtype, str]] = Counter()

    def clear(self) -> None:
        for counter in (self.copies, self.waits, self.dtypes):
            counter.clear()


record = Record()


def package_line() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
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

    def tolist(self) -> Any:
        record.waits["tolist", package_line()] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return run(operation, arguments, options or {})


def on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def run(operation: Any, arguments: tuple, options: dict[str, Any]) -> Any:
    """Run one operation that concerns the device."""
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
    played = [tensor for tensor in tensors if isinstance(tensor, PlayedTensor)]
    device = options.get("device")
    to_cuda = bool(played) if device is None else on_cuda(device)
    inner_arguments, inner_options = tree_map(unwrapped, (arguments, dict(options)))
    if to_cuda and device is not None:
        inner_options["device"] = torch.device("cpu")
    copy = operation in (aten._to_copy.default, torch.ops.prims.device_put.default)
    if copy and device is not None:
        inner_options.pop("pin_memory", None)
        if to_cuda and not played:
            record.copies["to the device", package_line()] += 1
        elif played and not to_cuda:
            record.waits["to the host", package_line()] += 1
    elif operation is aten.copy_.default and len(played) == 1:
        if isinstance(arguments[0], PlayedTensor):
            record.copies["to the device", package_line()] += 1
        else:
            record.waits["to the host", package_line()] += 1
        operation(*inner_arguments, **inner_options)
        return arguments[0]
    elif played:
        check_devices(operation, arguments, tensors)
    output = compute(operation, inner_arguments, inner_options)
    if operation is aten._local_scalar_dense.default:
        return output
    for tensor in tree_leaves(output):
        if to_cuda and isinstance(tensor, Tensor) and tensor.is_floating_point():
            name, file = operation.overloadpacket.__name__, package_line().partition(":")[0]
            record.dtypes[name, tensor.dtype, file] += 1
    wrapped = tree_map(PlayedTensor, output) if to_cuda and isinstance(output, Tensor) else output
    if to_cuda and not isinstance(output, Tensor):
        wrapped = tree_map(lambda leaf: PlayedTensor(leaf) if plain(leaf) else leaf, output)
    return return_and_correct_aliasing(operation, arguments, options, wrapped) if played else wrapped


def plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, PlayedTensor)


def unwrapped(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, PlayedTensor) else leaf


def check_devices(operation: Any, arguments: tuple, tensors: list[Tensor]) -> None:
    """Raise where an operation mixes devices, as CUDA does; a scalar on the CPU is taken."""
    if operation in SYNCHRONISING:
        record.waits[SYNCHRONISING[operation], package_line()] += 1
    if operation in INDEXING and isinstance(arguments[0], PlayedTensor):
        indices = [index for index in arguments[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            record.waits["boolean index", package_line()] += 1
        if any(plain(index) for index in indices):
            record.copies["index", package_line()] += 1
        tensors = [arguments[0]]
    strangers = [tensor for tensor in tensors if plain(tensor) and tensor.dim() > 0]
    if strangers:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found cuda:0 and cpu "
            f"({operation}, {[tuple(tensor.shape) for tensor in strangers]})"
        )


def compute(operation: Any, arguments: tuple, options: dict[str, Any]) -> Any:
    """The operation on the CPU, with what a GPU does in one kernel and the CPU has no kernel
    for."""
    if operation in (aten._softmax.default, aten._log_softmax.default) and arguments[2]:
        return operation(arguments[0].float(), arguments[1], False)
    backward = (aten._softmax_backward_data.default, aten._log_softmax_backward_data.default)
    if operation in backward and arguments[3] != arguments[0].dtype:
        return operation(*arguments[:3], arguments[0].dtype).to(arguments[3])
    halves = [leaf for leaf in arguments if isinstance(leaf, Tensor) and leaf.dtype == torch.half]
    if operation in PRODUCTS and halves:
        widened = (leaf.float() if isinstance(leaf, Tensor) else leaf for leaf in arguments)
        return operation(*widened, **options).half()
    return operation(*arguments, **options)


class PlayedDevice(TorchDispatchMode):
    """Sends every operation that concerns `cuda` to `run`."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        leaves = tree_leaves((arguments, options))
        if on_cuda(options.get("device")) or any(isinstance(x, PlayedTensor) for x in leaves):
            return run(operation, arguments, options)
        return operation(*arguments, **options)


@contextlib.contextmanager
def played_cuda(capability: tuple[int, int] = (7, 5)) -> Iterator[Record]:
    """Play one GPU of this compute capability, a T4's by default."""
    hooks.install()
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: record.waits.update([("synchronize", package_line())]),
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda including_emulation=True: (
            capability[0] >= 8 or including_emulation
        ),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }
    lifts = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        # Wrapped tensors cannot be made in inference mode.
        stack.enter_context(
            mock.patch.object(
                torch,
                "inference_mode",
                lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext(),
            )
        )
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(PlayedDevice())
        yield record

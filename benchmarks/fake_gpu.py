"""Full-size models on a GPU that does not exist: fake tensors on `cuda`, which have a shape and a
dtype but no elements, and a record of what their operations would take.

It needs torch's CPU build on Linux, and changes torch for the life of the process.
"""

import contextlib
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gpu"))
import hooks

aten = torch.ops.aten
WITHOUT_KERNEL = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.empty_strided.default,
    aten.detach.default,
}


class Record(TorchDispatchMode):
    """What the operations on a device take.

    Attributes
    ----------
    now, peak : int
        Bytes of the living storages, now and at most.
    kernels : int
        Number of kernels.
    costs : list of tuple
        Of each kernel: the floating-point operations of matrix products, the bytes of all tensors
        that it reads and writes, and whether any is in half precision.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.known = device, {}
        self.now = self.peak = 0
        self.clear()

    def clear(self) -> None:
        """Set the counts of kernels to zero; the storages stay."""
        self.kernels = 0
        self.costs: list[tuple[int, int, bool]] = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        made = [t for t in tree_leaves(result) if self.counts(t)]
        for tensor in made:
            self.hold(tensor.untyped_storage())
        if made and not operation.is_view and operation not in WITHOUT_KERNEL:
            self.count(operation, arguments, options or {}, result)
        return result

    def counts(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.device.type == self.device

    def hold(self, storage: Any) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // 512) * 512
        if key not in self.known:
            self.known[key] = weakref.ref(storage, lambda _: self.release(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def release(self, key: int, size: int) -> None:
        del self.known[key]
        self.now -= size

    def count(self, operation: Any, arguments: tuple, options: dict, result: Any) -> None:
        tensors = [t for t in tree_leaves((arguments, options, result)) if self.counts(t)]
        formula = flop_registry.get(operation._overloadpacket)
        flops = formula(*arguments, **options, out_val=result) if formula else 0
        moved = sum(t.numel() * t.element_size() for t in tensors)
        self.kernels += 1
        self.costs.append((flops, moved, any(t.dtype == torch.half for t in tensors)))


class Unknown(TorchDispatchMode):
    """Answers what would depend on the elements: a scalar is 1, or 0 on the GPU; a mask selects
    everything."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is aten._local_scalar_dense.default:
            dtype = arguments[0].dtype
            if dtype == torch.bool:
                return not self.padded
            number = arguments[0].device.type != "cuda"
            return float(number) if dtype.is_floating_point else int(number)
        first = arguments[1][0] if operation is aten.index.Tensor and arguments[1] else None
        if first is not None and first.dtype == torch.bool:
            return arguments[0].new_empty((first.numel(), *arguments[0].shape[first.dim() :]))
        if operation is aten.nonzero.default:
            shape = arguments[0].numel(), arguments[0].dim()
            return torch.empty(shape, dtype=torch.int64, device=arguments[0].device)
        return operation(*arguments, **(options or {}))


def attention_of_a_t4(original: Any) -> Any:
    """Return `scaled_dot_product_attention` as a T4 runs it: memory-efficient, or by plain products
    where key heads are shared."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa and q.shape[1] != k.shape[1]:
            return original(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True)
        bias = attn_mask
        if torch.is_autocast_enabled("cuda"):
            q, k, v = (tensor.half() for tensor in (q, k, v))
        if bias is not None and bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(~bias, -torch.inf)
        if bias is not None:
            bias = bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        kept = torch.is_grad_enabled()
        return aten._scaled_dot_product_efficient_attention(
            q, k, v, bias, kept, dropout_p, is_causal, scale=scale
        )[0]

    return attention


@contextlib.contextmanager
def fake_gpu(padded: bool = True) -> Iterator[Record]:
    """Make tensors on `cuda` fake and record their operations; `padded` says whether batches have
    padding."""
    import transformers.masking_utils as masking

    hooks.install()
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (7, 5),
        "get_rng_state": lambda device=None: torch.zeros(1),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None,
    }
    kinds = [Tensor, torch.nn.Parameter, FakeTensor]
    functional = torch.nn.functional
    patches = [
        *((torch.cuda, name, answer) for name, answer in answers.items()),
        (FakeTensorMode, "avoid_device_init", True),
        (_foreach_utils, "_foreach_supported_types", kinds),
        (optimizer, "_foreach_supported_types", kinds),
        (FakeTensor, "numpy", lambda self, **_: np.ones(tuple(self.shape), dtype=bool)),
        # Otherwise, a module with fake weights cannot be moved to another device.
        (torch.utils, "weakref", SimpleNamespace(getweakrefs=lambda tensor: (), ref=weakref.ref)),
        (masking, "is_tracing", lambda *_: False),
        (
            functional,
            "scaled_dot_product_attention",
            attention_of_a_t4(functional.scaled_dot_product_attention),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, value in patches:
            stack.enter_context(mock.patch.object(place, name, value, create=True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        stack.enter_context(Unknown(padded))
        yield stack.enter_context(Record("cuda"))

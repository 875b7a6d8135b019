"""DeBERTa's attention, `model.attention` eager and fused, side by side.

    python benchmarks/deberta_attention.py [--hidden 768] [--layers 2] [--tokens 1024] [--pairs 9]

Layers of the given width with random weights read batches of `--tokens` tokens at each length, in
inference and in training with dropout; one row of each batch is padded by a quarter. Two tables
with ratios of eager to fused, so that above 1 favors fused:

time    medians of the processor's time on one thread, in turns, so that other processes weigh on
        both alike.
bytes   what every operation reads and writes, views left out and repeated elements counted once,
        and what the forward pass keeps for the backward pass, under fp16 autocast on the GPU that
        `tests/gpu` plays. Attention counts as the kernel that CUDA chooses for a mask of floats,
        which keeps no probabilities.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DebertaV2Config, DebertaV2Model

from humanpref.models import deberta_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from gpu import hooks
from gpu.played import PlayedTensor, played_gpu

LENGTHS = (64, 128, 256, 512, 1_024)
efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
efficient_backward = torch.ops.aten._scaled_dot_product_efficient_attention_backward.default


class Traffic(TorchDispatchMode):
    """Count the bytes that operations read and write. CUDA's attention, which the CPU does not
    have, gives zeros of the right shapes."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is efficient:
            query, *_ = arguments
            heads = query.shape[:-1]
            number = torch.zeros((), dtype=torch.long, device=query.device)
            lse = torch.zeros(heads, device=query.device)
            output = torch.zeros_like(query), lse, number, number
        elif operation is efficient_backward:
            output = tuple(torch.zeros_like(tensor) for tensor in arguments[1:5])
        else:
            output = operation(*arguments, **(options or {}))
        if not operation.is_view:
            for leaf in tree_leaves((arguments, options, output)):
                if isinstance(leaf, Tensor):
                    sizes = zip(leaf.shape, leaf.stride(), strict=True)
                    elements = math.prod(size for size, stride in sizes if stride)
                    self.bytes += elements * leaf.element_size()
        return output


def cuda_attention(query, key, value, mask, dropout_p, scale):
    train = torch.is_grad_enabled()
    return efficient(query, key, value, mask, train, dropout_p, False, scale=scale)[0]


@contextmanager
def kept(module: nn.Module) -> Iterator[dict[int, int]]:
    """Collect the sizes of the distinct storages kept for the backward pass, weights left out."""
    weights = {weight.inner.untyped_storage().data_ptr() for weight in module.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = (tensor.inner if isinstance(tensor, PlayedTensor) else tensor).untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def step(module: nn.Module, batch: dict[str, Tensor], train: bool) -> None:
    module.train(train)
    with torch.set_grad_enabled(train):
        states = module(**batch).last_hidden_state
    if train:
        states.float().sum().backward()
        module.zero_grad()


def seconds(modules: dict[str, nn.Module], batch: dict[str, Tensor], train: bool, pairs: int):
    found: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(pairs + 1):
        for name, module in modules.items():
            started = time.process_time()
            step(module, batch, train)
            found[name].append(time.process_time() - started)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def moved(module: nn.Module, batch: dict[str, Tensor], train: bool) -> int:
    with Traffic() as traffic, torch.autocast("cuda", torch.float16):
        step(module, batch, train)
    return traffic.bytes


def batch_of(rows: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, length * 3 // 4 :] = 0
    return {"input_ids": torch.randint(5, 1_000, (rows, length)), "attention_mask": mask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1_024)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hooks.install()  # before the first backward pass, which starts a thread for each device
    config = DebertaV2Config(
        vocab_size=1_000,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    )
    torch.manual_seed(0)
    eager = DebertaV2Model(config)
    fused = copy.deepcopy(eager)
    deberta_attention.fuse_attention(fused)
    modules = {"eager": eager, "fused": fused}
    batches = {n: batch_of(max(2, options.tokens // n), n) for n in LENGTHS}
    header("inference, ms", "training, ms")
    for length, batch in batches.items():
        cells = []
        for train in (False, True):
            cells += compared(seconds(modules, batch, train, options.pairs), 1e-3)
        print(f"| {length} | {' | '.join(cells)} |", flush=True)
    header("moved in inference, MiB", "moved in training, MiB", "kept, MiB")
    attention = "scaled_dot_product_attention"
    with played_gpu(), mock.patch.object(deberta_attention, attention, cuda_attention):
        for module in modules.values():
            module.cuda()
        for length, batch in batches.items():
            on_gpu = {name: tensor.cuda() for name, tensor in batch.items()}
            cells = []
            for train in (False, True):
                found = {n: moved(m, on_gpu, train) for n, m in modules.items()}
                cells += compared(found, 2**20)
            sizes = {}
            for name, module in modules.items():
                with kept(module) as sizes[name], Traffic(), torch.autocast("cuda", torch.float16):
                    module(**on_gpu)
            cells += compared({name: sum(found.values()) for name, found in sizes.items()}, 2**20)
            print(f"| {length} | {' | '.join(cells)} |", flush=True)


def header(*columns: str) -> None:
    cells = [f"{column}: eager | fused | ratio" for column in columns]
    print(f"\n| length | {' | '.join(cells)} |\n|---{'|---' * 3 * len(columns)}|")


def compared(found: dict[str, float], unit: float) -> list[str]:
    ratio = f"{found['eager'] / found['fused']:.2f}"
    return [*(f"{value / unit:,.0f}" for value in found.values()), ratio]


if __name__ == "__main__":
    main()

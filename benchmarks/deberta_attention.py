"""DeBERTa's attention, eager and fused, side by side: time, bytes moved, bytes kept for backward.

    python benchmarks/deberta_attention.py [--hidden 768] [--layers 2] [--tokens 2048] [--repeats 7]

Layers of the given width with random weights read batches of `--tokens` tokens at each length,
forward alone and forward with backward, eager and fused in turns; the medians' ratio is what
counts. Bytes moved are those of every operation's inputs and outputs, views left out; on a GPU,
where attention is bound by memory, they are its time.
"""

import argparse
import copy
import statistics
import time

import torch
from fused_attention import fuse_attention
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DebertaV2Config, DebertaV2Model

LENGTHS = (64, 128, 256, 512, 1024)


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, views left out."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        output = operation(*arguments, **(options or {}))
        if not operation.is_view:
            for leaf in tree_leaves((arguments, options, output)):
                if isinstance(leaf, Tensor):
                    self.bytes += leaf.numel() * leaf.element_size()
        return output


def step(module: nn.Module, batch: dict[str, Tensor], train: bool) -> None:
    with torch.set_grad_enabled(train):
        states = module(**batch).last_hidden_state
    if train:
        states.sum().backward()
        module.zero_grad()


def kept_bytes(module: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes of the distinct tensors that a forward pass keeps for the backward pass."""
    sizes = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(**batch)
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2_048)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
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
    fuse_attention(fused)
    modules = {"eager": eager, "fused": fused}
    print("| length | forward | with backward | moved forward | with backward | kept |")
    print("|---|---|---|---|---|---|")
    for length in LENGTHS:
        rows = max(2, options.tokens // length)
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[0, length * 3 // 4 :] = 0
        batch = {"input_ids": torch.randint(5, 1_000, (rows, length)), "attention_mask": mask}
        cells = []
        for train in (False, True):
            seconds = {name: [] for name in modules}
            for _ in range(options.repeats + 1):
                for name, module in modules.items():
                    module.train(train)
                    started = time.perf_counter()
                    step(module, batch, train)
                    seconds[name].append(time.perf_counter() - started)
            medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
            cells.append(f"{medians['eager'] / medians['fused']:.2f}")
        for train in (False, True):
            moved = {}
            for name, module in modules.items():
                with Traffic() as traffic:
                    step(module, batch, train)
                moved[name] = traffic.bytes
            cells.append(f"{moved['eager'] / moved['fused']:.2f}")
        kept = {name: kept_bytes(module, batch) for name, module in modules.items()}
        cells.append(f"{kept['eager'] / kept['fused']:.2f}")
        print(f"| {length} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

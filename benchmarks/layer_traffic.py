"""What one layer's kernels take on a T4, counted on fake tensors: the origin of the constants in
`humanpref.training.roofline`.

    PYTORCH_JIT=0 python benchmarks/layer_traffic.py

Each line is the difference between two layers and one, per token: the floating-point operations of
the kernels that are bound by arithmetic, the bytes of all others, and the number of kernels. One
size changes at a time, so that the difference of two lines is what that size costs.
"""

import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from fake_gpu import fake_gpu
from tracked_memory import EAGER, deberta, decoder, module_of
from transformers.integrations import sdpa_attention

from humanpref.config import load_config
from humanpref.reports.table_text import markdown
from humanpref.training.roofline import T4

SINGLE = 5e12
"""Floating-point operations per second of a T4 in single precision."""
UNCHECKED = "training.gradient_checkpointing=false"
ALL = "model.target_modules=all-linear"


def encoder_of(intermediate: int = 3_072) -> Callable[[int], Any]:
    def make(layers: int) -> Any:
        config = deberta(768, layers, 12)
        config.intermediate_size = intermediate
        return config

    return make


def decoder_of(kind: str, *sizes: int) -> Callable[[int], Any]:
    return lambda layers: decoder(kind, layers, *sizes, 1_000)


LLAMA = decoder_of("llama", 2_048, 32, 8, 64, 8_192)
GEMMA = decoder_of("gemma2", 3_584, 16, 8, 256, 14_336)
QWEN = decoder_of("qwen2", 3_584, 28, 4, 128, 18_944)
BEST, LORA = "deberta-best", "llama-3.2-1b-lora"
CASES = {
    "DeBERTa, 32 x 128": (BEST, encoder_of(), 32, 128, EAGER),
    "DeBERTa, 8 x 512": (BEST, encoder_of(), 8, 512, EAGER),
    "DeBERTa, 4 x 1,024": (BEST, encoder_of(), 4, 1_024, EAGER),
    "DeBERTa, 8 x 512, intermediate 6,144": (BEST, encoder_of(6_144), 8, 512, EAGER),
    "DeBERTa, 8 x 512, fused": (BEST, encoder_of(), 8, 512),
    "DeBERTa, 4 x 1,024, fused": (BEST, encoder_of(), 4, 1_024),
    "Llama, 8 x 512": (LORA, LLAMA, 8, 512),
    "Llama, intermediate 4,096": (LORA, decoder_of("llama", 2_048, 32, 8, 64, 4_096), 8, 512),
    "Llama, hidden 1,024": (LORA, decoder_of("llama", 1_024, 32, 8, 64, 8_192), 8, 512),
    "Llama, 16 heads": (LORA, decoder_of("llama", 2_048, 16, 4, 64, 8_192), 8, 512),
    "Llama, all linear": (LORA, LLAMA, 8, 512, ALL),
    "Gemma 2, 8 x 512": ("gemma-2-9b-qlora", GEMMA, 8, 512, UNCHECKED),
    "Gemma 2, 2 x 2,048": ("gemma-2-9b-qlora", GEMMA, 2, 2_048, UNCHECKED),
    "Qwen 2.5, 2 x 2,048": ("qwen-2.5-7b-qlora", QWEN, 2, 2_048, UNCHECKED),
}


def counted(preset: str, backbone: Any, rows: int, length: int, train: bool, *sets: str) -> list:
    with fake_gpu() as record:
        options = ["model.quantisation=none"] if "qlora" in preset else []
        config = load_config(preset, None, [*options, *sets])
        module = module_of(config, backbone, True, "cuda").train(train)
        for weight in module.parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        columns = ["input_ids", "attention_mask", *(["parts"] * (config.family == "encoder"))]
        shape = (rows, 1, length)
        batch = {name: torch.ones(shape, dtype=torch.int64, device="cuda") for name in columns}
        record.clear()
        with torch.autocast("cuda", torch.half), torch.set_grad_enabled(train):
            outputs = module(**batch)
        if train:
            outputs.float().logsumexp(dim=1).mean().backward()
        flops = moved = 0
        for products, traffic, half in record.costs:
            if products / (T4.flops if half else SINGLE) > traffic / T4.bandwidth:
                flops += products
            else:
                moved += traffic
        return [flops / (rows * length), moved / (rows * length), record.kernels]


def main() -> None:
    # Below compute capability 8.0 the package repeats keys itself.
    sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    lines = []
    for name, (preset, make, rows, length, *sets) in CASES.items():
        for train in (True, False):
            one, two = (counted(preset, make(n), rows, length, train, *sets) for n in (1, 2))
            flops, moved, kernels = (b - a for a, b in zip(one, two, strict=True))
            case = "forward and backward" if train else "forward"
            lines.append([name, case, f"{flops / 1e6:.1f}", f"{moved / 1e3:.0f}", kernels])
            print(lines[-1], file=sys.stderr, flush=True)
    columns = ["layer", "pass", "MFLOP per token", "kB per token", "kernels"]
    print(markdown(pd.DataFrame(lines, columns=columns)))


if __name__ == "__main__":
    main()

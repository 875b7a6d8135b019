"""The roofline that `humanpref kaggle estimate` uses, with this CPU's numbers, against real passes.

    OMP_NUM_THREADS=1 python benchmarks/roofline_on_cpu.py --encoder FOLDER --decoder FOLDER

In one process and one thread, interleaved, the fastest of several rounds each: a float32 matrix
product of a layer's size, an elementwise pass over a tensor that no cache holds, a training step
(forward and backward) and an inference batch of the package's own modules. `ratio` is the measured
time over the roofline's. Times are the processor's, since other programs may share it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModel

from humanpref.config.neural import DecoderOptions, EncoderOptions
from humanpref.models.backbone import load_backbone
from humanpref.models.decoder import PairDecoder
from humanpref.models.encoder import PairEncoder
from humanpref.reports.table_text import markdown
from humanpref.training.roofline import Device, Passes
from humanpref.training.shapes import Shape

PRODUCT = (1_024, 512, 1_536)
TENSOR = 16 * 2**20
"""Elements of the tensor that is read and written."""


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def batch(rows: int, length: int, encoder: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1_000, 20_000, (rows, 1, length), generator=generator)
    columns = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return columns | ({"parts": torch.full_like(ids, 2)} if encoder else {})


def train_step(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    module.train()
    module(**inputs).logsumexp(dim=1).mean().backward()


def read(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    module.eval()
    with torch.inference_mode():
        module(**inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = PairEncoder(load_backbone(str(options.encoder)), EncoderOptions(inputs="joint"))
    base = AutoModel.from_pretrained(options.decoder, dtype=torch.float32)
    decoder = PairDecoder(base, DecoderOptions(target_modules="q_proj,v_proj"))
    shapes = Shape.of(encoder.backbone.config), Shape.of(base.config)
    learned = Passes(shapes[0], True, trained_embedding=shapes[0].embedding_weights)
    adapted = Passes(shapes[1], True, frozen=True, adapted=2 * shapes[1].hidden)
    cases = {}
    for kind, module, passes in (("encoder", encoder, learned), ("decoder", decoder, adapted)):
        for rows, length in ((8, 128), (2, 512)):
            inputs = batch(rows, length, kind == "encoder")
            name = f"{kind}, {rows} x {length}"
            cases[f"{name}, step"] = (train_step, module, inputs, passes)
            reading = Passes(passes.shape, False, passes.frozen, passes.adapted)
            cases[f"{name}, inference"] = (read, module, inputs, reading)
    m, k, n = PRODUCT
    left, right = torch.randn(m, k), torch.randn(k, n)
    source, target = torch.randn(TENSOR), torch.empty(TENSOR)
    best = dict.fromkeys([*cases, "product", "copy"], float("inf"))
    for _ in range(options.rounds):
        for name, (work, module, inputs, _) in cases.items():
            product = min(seconds(lambda: left @ right) for _ in range(5))
            copy = seconds(lambda: torch.mul(source, 2.0, out=target))
            taken = seconds(lambda work=work, module=module, inputs=inputs: work(module, inputs))
            for key, value in ((name, taken), ("product", product), ("copy", copy)):
                best[key] = min(best[key], value)
    device = Device(2.0 * m * k * n / best["product"], 8.0 * TENSOR / best["copy"], 0.0, 4)
    print(f"{device.flops / 1e9:.0f} GFLOP/s, {device.bandwidth / 1e9:.1f} GB/s")
    table = []
    for name, (_, _, inputs, passes) in cases.items():
        rows, _, length = inputs["input_ids"].shape
        modeled = passes.seconds(rows, length, device)
        table.append([name, best[name], modeled, best[name] / modeled])
    columns = ["pass", "measured s", "roofline s", "ratio"]
    print(markdown(pd.DataFrame(table, columns=columns)))


if __name__ == "__main__":
    main()

"""Train pretrained models for a few steps in fp16 and compare their probabilities with float32's.

    python benchmarks/fp16_real_weights.py --train CSV PRESET=FOLDER … [--steps 20] [--tokens 128]

Runs on a GPU, or on the CPU playing one (`tests/gpu`), where half-precision products are computed
in float32 and rounded. Each model is trained by the package's loop with the gradient scaler; its
probabilities for other rows are then computed in fp16, and in float32 with the same weights. In the
table, `stream`
is the largest absolute value that a layer passes on to the next, `float16` the largest one that a
linear layer outputs in float16, whose limit is 65,504.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from humanpref.config import load_config
from humanpref.data import labels_of, read_pairs
from humanpref.models import build_model
from humanpref.models.neural import NeuralModel

BATCH = 2
JUDGED = 16


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    """Use the GPU if there is one, otherwise play one."""
    if torch.cuda.is_available():
        yield
        return
    os.environ |= {"ACCELERATE_USE_CPU": "false", "HF_DEACTIVATE_ASYNC_LOAD": "true"}
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.gpu.played import played_gpu

    with played_gpu():
        yield


class Largest:
    """The largest absolute values in a backbone's forward passes: of its layers' outputs, and of
    its linear layers' outputs in float16."""

    def __init__(self, backbone: nn.Module) -> None:
        self.stream = self.half = 0.0
        count = backbone.config.num_hidden_layers
        layers = [
            part
            for part in backbone.modules()
            if isinstance(part, nn.ModuleList) and len(part) == count
        ]
        for layer in layers[0]:
            layer.register_forward_hook(self.see_layer)
        for part in backbone.modules():
            if isinstance(part, nn.Linear):
                part.register_forward_hook(self.see_linear)

    def see_layer(self, _: nn.Module, __: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        self.stream = max(self.stream, states.detach().abs().max().item())

    def see_linear(self, _: nn.Module, __: tuple, output: Tensor) -> None:
        if output.dtype == torch.float16:
            self.half = max(self.half, output.detach().abs().max().item())


def measure(preset: str, folder: Path, options: argparse.Namespace) -> str:
    """Train one model and return its row of the table."""
    pairs = read_pairs(options.train, labels=True)
    rows = options.steps * BATCH
    learned, judged = (
        pairs[part].reset_index(drop=True) for part in (slice(rows), slice(rows, rows + JUDGED))
    )
    overrides = [
        f"model.backbone={folder}",
        f"model.max_length={options.tokens}",
        f"training.batch_size={BATCH}",
        "training.precision=fp16",
        "inference.precision=fp16",
        *options.set,
    ]
    config = load_config(preset, overrides=overrides)
    model = build_model(config)
    assert isinstance(model, NeuralModel)
    built, largest = model.build, []

    def build(rows: object) -> None:
        built(rows)
        largest.append(Largest(model.module_.backbone))

    model.build = build
    started = time.perf_counter()
    model.fit(learned, labels_of(learned))
    report = model.report_["training"]
    half = model.predict_proba(judged)
    stream, written = largest[0].stream, largest[0].half
    model.module_.float()
    model.set_params(inference=replace(model.inference, precision="no"))
    exact = model.predict_proba(judged)
    print(f"{folder.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    cells = (
        folder.name,
        preset,
        report["steps"],
        report["skipped_steps"],
        f"{stream:,.0f}",
        f"{written:,.0f}",
        f"{np.abs(half - exact).max():.1e}",
        f"{exact.std(axis=0).max():.4f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="PRESET=FOLDER")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print("| weights | preset | steps | skipped | stream | float16 | max Δp | spread of p |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with gpu():
        for model in options.models:
            preset, _, folder = model.partition("=")
            print(measure(preset, Path(folder), options), flush=True)


if __name__ == "__main__":
    main()

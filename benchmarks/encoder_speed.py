"""The speed of training and inference of a dual-branch encoder: the report's recipe, transformers'
Trainer, and ours.

    python benchmarks/encoder_speed.py --train CSV --backbone FOLDER --rows 128 [--json FILE]
    [--threads N]

Four arms on the same rows, weights and precision, side by side in one process:

report    both sequences padded to max_length, batches of 16 in a fixed order.
trainer   transformers' Trainer with length grouping and padding to the longest of a batch; for
          inference the rows are sorted by length first (its own grouping would give predictions in
          another order).
ours      `humanpref.training`: windows drawn at random, what goes through the backbone together is
          of similar length; a DeBERTa's attention is `fused`.
ours, eager  the same with transformers' own attention, as in the first two arms.

Each is one epoch of AdamW steps of 16 rows (in micro-batches of 4, so that it fits into memory),
then inference over the same rows. Before that, the arms predict with the same untrained head, and
the largest difference between their probabilities is `max_difference`. Tokens are counted where the
backbone reads them: padding share = 1 - real / read. Peak memory is that of the process while the
arm runs, or the GPU's. On a CPU, seconds are the processor's, so that other processes count little
(with one thread; memory and caches are still shared). `--rounds` repeats the whole and takes the
median of each arm's rounds; `--only predict` leaves the training out.
"""

import argparse
import dataclasses
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, get_linear_schedule_with_warmup

from humanpref.config import Config, load_config
from humanpref.data import labels_of, read_pairs
from humanpref.models.backbone import load_backbone
from humanpref.models.encoder import EncoderModel, PairEncoder
from humanpref.models.pretrained import load_tokenizer
from humanpref.reports.table_text import markdown
from humanpref.training.inputs import Examples, TokenRows, moved
from humanpref.training.loop import train
from humanpref.training.losses import loss_of
from humanpref.training.precision import DTYPES, process_state, resolve
from humanpref.training.predict import predict_logits

BATCH, MICRO_BATCH = 16, 4
STEPS = ("train", "predict")


@dataclass
class Task:
    """What every arm gets: rows as token ids, labels, and a fresh model with the same weights each
    time."""

    config: Config
    collate: TokenRows
    labels: np.ndarray
    backbone: nn.Module
    device: torch.device

    def model(self, arm: str) -> nn.Module:
        options = self.config.model
        if arm != "ours":
            options = dataclasses.replace(options, attention="eager")
        torch.manual_seed(self.config.seed)
        self.backbone = load_backbone(options.backbone)
        return PairEncoder(self.backbone, options).to(self.device)

    def autocast(self) -> Any:
        dtype = DTYPES.get(resolve("auto", self.device))
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


@dataclass
class Meter:
    """Seconds, tokens and memory of what runs inside `measured`."""

    seconds: float = 0.0
    read: int = 0
    real: int = 0
    memory: float = 0.0
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))

    @contextmanager
    def measured(self, model: PairEncoder, device: torch.device) -> Iterator[None]:
        def count(_: nn.Module, __: tuple, inputs: dict[str, Tensor]) -> None:
            self.read += inputs["input_ids"].numel()
            self.real += int(inputs["attention_mask"].sum())

        hook = model.backbone.register_forward_pre_hook(count, with_kwargs=True)
        reset_peak(device)
        clock = clock_of(device)
        started = clock()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds = clock() - started
        self.memory = peak(device)
        hook.remove()


def clock_of(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" else time.perf_counter


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew


def peak(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**20


def one_call(read: Callable[..., Tensor], inputs: dict[str, Tensor], _: np.ndarray) -> Tensor:
    return read(**inputs)


@contextmanager
def as_padded() -> Iterator[None]:
    """The backbone reads a batch as it was padded, in one call, as it does without our grouping and
    cutting."""
    with mock.patch("humanpref.models.encoder.hidden_states", one_call):
        yield


class Padded:
    """The rows, all padded to `max_length`."""

    def __init__(self, collate: TokenRows, max_length: int) -> None:
        self.collate, self.max_length = collate, max_length
        self.lengths = np.full(len(collate.lengths), max_length)

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        batch = self.collate(rows)
        missing = self.max_length - batch["input_ids"].shape[-1]
        fill = {"input_ids": self.collate.pad}
        return {
            name: nn.functional.pad(value, (0, missing), value=fill.get(name, 0))
            if isinstance(value, Tensor)
            else value
            for name, value in batch.items()
        }


class Report:
    """Everything padded to max_length, rows as they come."""

    def fit(self, task: Task, model: nn.Module) -> None:
        rows = len(task.labels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=task.config.training.learning_rate)
        schedule = get_linear_schedule_with_warmup(optimizer, 0, -(-rows // BATCH))
        scaler = torch.amp.GradScaler(
            task.device.type, enabled=resolve("auto", task.device) == "fp16"
        )
        labels = torch.tensor(task.labels, dtype=torch.float32, device=task.device)
        model.train()
        with as_padded():
            for start in range(0, rows, BATCH):
                window = np.arange(start, min(start + BATCH, rows))
                for first in range(0, len(window), MICRO_BATCH):
                    own = window[first : first + MICRO_BATCH]
                    with task.autocast():
                        logits = model(**self.padded(task, own))
                    loss = nn.functional.cross_entropy(
                        logits.float(), labels[own], reduction="sum"
                    ) / len(window)
                    scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                optimizer.zero_grad()

    def predict(self, task: Task, model: nn.Module) -> np.ndarray:
        model.eval()
        made = []
        with as_padded(), torch.inference_mode(), task.autocast():
            for start in range(0, len(task.labels), BATCH):
                rows = np.arange(start, min(start + BATCH, len(task.labels)))
                made.append(model(**self.padded(task, rows)).double().cpu().numpy())
        return softmax(np.concatenate(made), axis=-1)

    def padded(self, task: Task, rows: np.ndarray) -> dict[str, Any]:
        return moved(Padded(task.collate, task.config.model.max_length)(rows), task.device)


class WithLoss(nn.Module):
    """The model as transformers' Trainer wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        logits = self.model(**inputs)
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}


class Transformers:
    """transformers' Trainer, length grouping and dynamic padding."""

    def trainer(self, task: Task, model: nn.Module, folder: str) -> Trainer:
        precision = resolve("auto", task.device)
        arguments = {
            "output_dir": folder,
            "per_device_train_batch_size": MICRO_BATCH,
            "gradient_accumulation_steps": BATCH // MICRO_BATCH,
            "per_device_eval_batch_size": BATCH,
            "num_train_epochs": 1,
            "learning_rate": task.config.training.learning_rate,
            "max_grad_norm": 0.0,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "fp16": precision == "fp16",
            "bf16": precision == "bf16",
            "use_cpu": task.device.type == "cpu",
            "logging_strategy": "no",
        }
        try:
            made = TrainingArguments(**arguments, group_by_length=True)
        except TypeError:  # as it is called from 5.1 on
            made = TrainingArguments(**arguments, train_sampling_strategy="group_by_length")

        def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
            rows = np.array([item["row"] for item in items])
            return {
                **task.collate(rows),
                "labels": torch.tensor(task.labels[rows], dtype=torch.float32),
            }

        trainer = Trainer(
            WithLoss(model), made, data_collator=collate, train_dataset=self.items(task)
        )
        trainer.model_accepts_loss_kwargs = False
        return trainer

    def items(self, task: Task, order: np.ndarray | None = None) -> list[dict[str, Any]]:
        rows = range(len(task.labels)) if order is None else order
        # The sampler looks at the length of input_ids only.
        return [
            {"row": int(row), "input_ids": range(int(task.collate.lengths[row]))} for row in rows
        ]

    def fit(self, task: Task, model: nn.Module) -> None:
        with tempfile.TemporaryDirectory() as folder, as_padded():
            self.trainer(task, model, folder).train()

    def predict(self, task: Task, model: nn.Module) -> np.ndarray:
        order = np.argsort(-task.collate.lengths, kind="stable")
        with tempfile.TemporaryDirectory() as folder, as_padded():
            trainer = self.trainer(task, model, folder)
            trainer._get_eval_sampler = torch.utils.data.SequentialSampler
            logits = trainer.predict(self.items(task, order)).predictions
        made = np.empty_like(logits, dtype=np.float64)
        made[order] = logits
        return softmax(made, axis=-1)


class Ours:
    """`humanpref.training` as `humanpref train` and `predict` use it."""

    def fit(self, task: Task, model: nn.Module) -> None:
        options, rows = task.config.training, task.collate
        examples = Examples(rows, task.labels, lengths=rows.lengths)
        train(model, examples, loss_of(options), options, task.config.seed)

    def predict(self, task: Task, model: nn.Module) -> np.ndarray:
        options = task.config.inference
        return softmax(
            predict_logits(
                model, task.collate, task.collate.lengths, options.batch_tokens, options.precision
            ),
            axis=-1,
        )


ARMS = {"report": Report(), "trainer": Transformers(), "ours, eager": Ours(), "ours": Ours()}


def measure(
    task: Task, rounds: int, arms: dict[str, Any], only: str | None
) -> dict[str, dict[str, Meter]]:
    """For each arm the median of its rounds of `predict` and of `train`, or of one of them; the
    arms take turns."""
    found: dict[str, dict[str, list[Meter]]] = {name: {} for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            model = task.model(name)
            steps: dict[str, Callable[[], Any]] = {
                "predict": lambda arm=arm, model=model: arm.predict(task, model),
                "train": lambda arm=arm, model=model: arm.fit(task, model),
            }
            for step, run in steps.items() if only is None else [(only, steps[only])]:
                meter = Meter()
                with meter.measured(model, task.device):
                    made = run()
                print(f"{name}, {step}: {meter.seconds:.1f} s", flush=True)
                if step == "predict":
                    meter.probabilities = made
                found[name].setdefault(step, []).append(meter)
    return {
        name: {
            step: sorted(own, key=lambda meter: meter.seconds)[len(own) // 2]
            for step, own in steps.items()
        }
        for name, steps in found.items()
    }


def arguments(doc: str) -> argparse.Namespace:
    """The command line's, with the number of threads set."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="labelled rows")
    parser.add_argument(
        "--backbone", required=True, help="a folder with the backbone's weights and tokenizer"
    )
    parser.add_argument(
        "--rows", type=int, default=128, help="so many rows, drawn from all (default 128)"
    )
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=STEPS, help="measure this alone")
    parser.add_argument("--arms", nargs="+", help="measure these, `ours` among them")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option, as for humanpref",
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    return options


def drawn(train_csv: Path, rows: int) -> pd.DataFrame:
    """So many of the file's rows, the same each time."""
    pairs = read_pairs(train_csv, labels=True)
    chosen = np.random.default_rng(0).permutation(len(pairs))[:rows]
    return pairs.iloc[chosen].reset_index(drop=True)


def report(task: Task, best: dict[str, dict[str, Meter]]) -> dict[str, Any]:
    """Print the table and give it with the ratios of `ours` to the other arms."""
    rows = len(task.labels)
    steps = [step for step in STEPS if step in best["ours"]]
    records = [
        {
            "step": step,
            "arm": name,
            "rows_per_second": rows / meters[step].seconds,
            "useful_tokens_per_second": meters[step].real / meters[step].seconds,
            "padding_share": 1 - meters[step].real / meters[step].read,
            "peak_memory_gib": meters[step].memory,
        }
        for step in steps
        for name, meters in best.items()
    ]
    result: dict[str, Any] = {
        step: {
            f"vs_{n}": best[n][step].seconds / best["ours"][step].seconds
            for n in best
            if n != "ours"
        }
        for step in steps
    }
    device = torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else "cpu"
    result |= {"rows": rows, "device": device, "threads": torch.get_num_threads(), "arms": records}
    print(markdown(pd.DataFrame(records)), end="")
    for step in steps:
        print(step, ", ".join(f"{name} {ratio:.2f}" for name, ratio in result[step].items()))
    if "predict" in steps:
        made = [meters["predict"].probabilities for meters in best.values()]
        result["max_difference"] = float(max(np.abs(a - b).max() for a in made for b in made))
        print(f"largest difference in probability {result['max_difference']:.2g}")
    return result


def main() -> None:
    options = arguments(__doc__)
    config = load_config(
        "deberta-v3-small",
        None,
        (
            f"model.backbone={options.backbone}",
            f"model.max_length={options.max_length}",
            *options.set,
        ),
    )
    pairs = drawn(options.train, options.rows)
    backbone = load_backbone(options.backbone)
    model = EncoderModel.from_config(config)
    model.tokenizer_ = load_tokenizer(options.backbone)
    model.module_ = PairEncoder(backbone, config.model)
    collate = model.inputs(pairs)
    task = Task(config, collate, labels_of(pairs), backbone, process_state().device)
    arms = {name: ARMS[name] for name in options.arms or ARMS}
    best = measure(task, options.rounds, arms, options.only)
    result = report(task, best)
    result["matmul_peak_gflops"] = matmul_peak(task)
    layer_flops = 24 * backbone.config.num_hidden_layers * backbone.config.hidden_size**2
    for step in best["ours"]:
        passes = {"train": 3, "predict": 1}[step]
        share = passes * layer_flops * best["ours"][step].real / best["ours"][step].seconds / 1e9
        result[step]["share_of_matmul_peak"] = share / result["matmul_peak_gflops"]
        print(
            f"{step}: the linear layers' products over real tokens alone are {share:.0f} GFLOP/s, "
            f"{result[step]['share_of_matmul_peak']:.0%} of the {result['matmul_peak_gflops']:.0f} "
            "of one large product"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def matmul_peak(task: Task) -> float:
    """GFLOP/s of a large product in the precision of the run."""
    size = 2_048 if task.device.type == "cpu" else 8_192
    dtype = DTYPES.get(resolve("auto", task.device)) or torch.float32
    a = torch.randn(size, size, device=task.device, dtype=dtype)
    seconds, clock = [], clock_of(task.device)
    for _ in range(5):
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        product = a @ a
        float(product[0, 0])
        seconds.append(clock() - started)
    return 2 * size**3 / min(seconds) / 1e9


if __name__ == "__main__":
    main()

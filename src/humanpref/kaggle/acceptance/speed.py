"""Compare a preset's speed and memory on the device with the estimates."""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from humanpref.config import load_config
from humanpref.kaggle.acceptance.backbones import layers_of
from humanpref.kaggle.acceptance.card import measure
from humanpref.kaggle.acceptance.setting import Row, Setting, device, scratch
from humanpref.kaggle.acceptance.workload import Workload, preset_config, workload
from humanpref.runs.estimate import ROWS, estimate, memory_of, shape_of
from humanpref.runs.lengths import Lengths, assumed_lengths
from humanpref.training.memory import CUDA_GIB
from humanpref.training.predict import predict_logits
from humanpref.training.roofline import Device

SECONDS = 3.0
"""Estimated duration of a measured training, which determines its number of rows."""
FACTOR = 1.5
"""Largest accepted ratio between a measured time and the roofline's, in either direction."""
UNDER, OVER = 0.95, 1.30
"""Minimum and maximum of the estimated memory divided by the measured peak."""


def speed(setting: Setting, preset: str) -> Iterator[Row]:
    """Train a preset's model on random rows, and predict them. Yield results for the peak memory,
    the training time and the inference time."""
    case = f"{preset}{layers_of(load_config(preset).model.backbone)}"
    with scratch() as folder:
        config = preset_config(preset, folder / "backbone", setting.quick)
        work = workload(config)
        yield _memory(setting, case, work)
        yield from _times(setting, case, work, measure(setting.quick))


def _memory(setting: Setting, case: str, work: Workload) -> Row:
    """Train two steps on rows of the maximum length and judge the memory; this also warms up."""
    config = work.config
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rows = work.rows(np.full((2 * config.training.batch_size, 3), config.model.max_length))
    report = work.train(rows)
    peak = report["peak_memory_bytes"] / 2**30
    shape = shape_of(config.model.backbone)
    estimated = memory_of(config, shape, config.model.max_length).total() - CUDA_GIB
    # The estimate counts DeBERTa's attention as eager.
    fused = getattr(work.module, "attention", "") == "fused"
    judged = setting.judged
    measured, passed = f"estimate {estimated:.2f} GiB", None
    if judged:
        ratio = estimated / peak
        measured = f"{peak:.2f} GiB, {measured} ({ratio - 1:+.0%})"
        passed = ratio >= UNDER and (fused or ratio <= OVER)
    if report["forward_tokens"] < config.training.forward_tokens:
        measured += f"; memory ran out, forward_tokens {report['forward_tokens']}"
        passed = False
    expected = (
        f"estimate {UNDER - 1:+.0%} to {'any (fused attention)' if fused else f'{OVER - 1:+.0%}'}"
    )
    return Row("memory", case, measured, expected, passed)


def _times(setting: Setting, case: str, work: Workload, card: Device) -> Iterator[Row]:
    """Train on rows with real lengths, predict them once, and judge the times."""
    config, number = work.config, 2 * work.config.training.batch_size
    if not setting.quick:
        sample, _, _ = _modeled(work, 256, card)
        number = int(np.clip(SECONDS / sample * 256, number, 2_000))
    training, reading, texts = _modeled(work, number, card)
    rows, hours = work.rows(texts), ROWS / number / 3_600

    def row(check: str, seconds: float, modeled: float, *facts: str) -> Row:
        ratio = seconds / modeled
        measured = ", ".join([*facts, f"roofline {modeled * hours:.2g} h (x {ratio:.2f})"])
        expected = f"1/{FACTOR} to {FACTOR} times the roofline's time"
        passed = bool(1 / FACTOR <= ratio <= FACTOR)
        return Row(check, case, measured, expected, passed if setting.judged else None)

    report = work.train(rows)
    seconds, shape = report["seconds"], shape_of(config.model.backbone)
    # A frozen backbone computes no gradients of its weights.
    products = 2.0 * shape.layers * shape.layer_weights * (3 if config.family == "encoder" else 2)
    reached = products * report["tokens"] / seconds
    facts = [
        f"{report['tokens'] / seconds:,.0f} tokens/s",
        f"{reached / card.flops:.0%} of the product's speed",
        f"{seconds * hours:.2g} h for {ROWS:,} rows",
    ]
    if report["skipped_steps"]:
        facts.append(f"{report['skipped_steps']} of {report['steps']} steps skipped")
    yield row("training", seconds, training, *facts)

    options = config.inference
    predict = partial(
        predict_logits, work.module, rows, rows.lengths, options.batch_tokens, options.precision
    )
    predict()
    start = time.perf_counter()
    outputs = predict()
    seconds = time.perf_counter() - start
    fact = f"{report['tokens'] / seconds:,.0f} tokens/s"
    if not np.isfinite(outputs).all():
        fact, seconds = "outputs are not finite", np.nan
    yield row("inference", seconds, reading, fact)


def _modeled(work: Workload, number: int, card: Device) -> tuple[float, float, np.ndarray]:
    """Return the seconds that the roofline predicts for training on `number` rows with real
    lengths, and for predicting these rows once. Also return the numbers of tokens in their texts,
    (number, 3)."""
    config, rng = work.config, np.random.default_rng(0)
    texts = rng.permutation(np.resize(assumed_lengths().train, (number, 3)))
    # Pass the same rows in the same order; by default, the estimate would draw its own.
    found = estimate(
        config, "", Lengths(texts, texts, ""), rows=number, test_rows=number, device=card
    )
    reads = 2 if config.family == "dpo" else 1
    reading = 2 * found.predict[0] / reads
    # DPO's reference reads the rows before the first step.
    training = found.train[1] - (reading if config.family == "dpo" else 0.0)
    return 3_600 * training, 3_600 * reading, texts

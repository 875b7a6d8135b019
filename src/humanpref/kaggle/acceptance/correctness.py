"""Compare training on the device with training on the CPU, and a resumed training with an
uninterrupted one."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig

from humanpref.kaggle.acceptance.backbones import save_small, without_dropout
from humanpref.kaggle.acceptance.setting import (
    Row,
    Setting,
    fit,
    on_the_cpu,
    precisions,
    scratch,
    small,
    some_pairs,
    texts_of,
)
from humanpref.models import Model
from humanpref.runs.artifact import load_model
from humanpref.training.shapes import Shape

FAMILIES = ("encoder", "decoder", "dpo")
SHARE = {"no": 1e-4, "fp16": 0.05, "bf16": 0.4}
"""By precision, the largest accepted difference from the probabilities in float32, as a share of
their standard deviation over the rows. bf16 is eight times as coarse as fp16."""
RESUMED = 0.05
"""The same limit for a resumed training; a GPU adds gradients in no fixed order."""
LEAST_SPREAD = 1e-3
"""Minimum standard deviation of the probabilities; below it, a comparison would say nothing."""
RATE = {"encoder": 5e-5, "decoder": 5e-4, "dpo": 5e-4}
"""Learning rates for pretrained backbones, by family."""
SKIPPED = 2
"""Number of steps that may be skipped because fp16's first gradient scale, 65,536, is too large."""


def parity(setting: Setting) -> Iterator[Row]:
    """Train each family on the CPU in float32, and on the device in each half precision; compare
    the predictions. Then predict on the device with the CPU's weights, and compare again."""
    pairs = some_pairs(12 if setting.quick else 32)
    for family in FAMILIES:
        with scratch() as folder:
            for number, (case, *words) in enumerate(_backbones(setting, family, folder, pairs)):
                with on_the_cpu():
                    exact = fit(small(family, *words), pairs)
                    expected = exact.predict_proba(pairs)
                exact.save(folder / f"exact-{number}")
                for precision in precisions():
                    model = fit(small(family, *words, *_in(precision, family)), pairs)
                    reader = load_model(folder / f"exact-{number}")
                    yield _compared(
                        f"{case}, {precision}", precision, model, reader, expected, pairs
                    )


def _compared(
    case: str,
    precision: str,
    model: Model,
    reader: Model,
    expected: np.ndarray,
    pairs: pd.DataFrame,
) -> Row:
    """Check that two models predict on the device about what `expected` has: the predictions of
    the model that was trained and run on the CPU.

    `model` was trained on the device in half precision. `reader` has the weights that were trained
    on the CPU.
    """
    report = model.report_["training"]
    trained = np.abs(model.predict_proba(pairs) - expected).max()
    reader.set_params(inference=dataclasses.replace(reader.inference, precision=precision))
    read = np.abs(reader.predict_proba(pairs) - expected).max()
    spread = float(expected.std(axis=0).max())
    allowed, skipped = SHARE[precision] * spread, report["skipped_steps"]
    dtypes = {weight.dtype for weight in model.module_.parameters() if weight.requires_grad}
    right = trained <= allowed and read <= allowed and dtypes == {torch.float32}
    return Row(
        "parity with the CPU",
        case,
        f"Δp {read:.1e} with the same weights, {trained:.1e} after training, of a spread of "
        f"{spread:.1e}; {skipped} of {report['steps']} steps skipped",
        f"at most {allowed:.1e}; at most {SKIPPED} skipped",
        bool(right and skipped <= SKIPPED and spread > LEAST_SPREAD),
    )


def _in(precision: str, family: str) -> list[str]:
    chosen = [f"training.precision={precision}", f"inference.precision={precision}"]
    if family != "encoder":
        chosen += [f"model.base_dtype={'float16' if precision == 'fp16' else 'bfloat16'}"]
    return chosen


def _backbones(
    setting: Setting, family: str, folder: Path, pairs: pd.DataFrame
) -> Iterator[tuple[str, ...]]:
    """Yield a name, a folder and overrides for each backbone on which a family is checked: a
    backbone with random weights, and the backbones in `setting.weights` that fit the family."""
    yield family, str(save_small(folder / "random", family, texts_of(pairs), setting.quick))
    for path in setting.weights:
        if Shape.of(AutoConfig.from_pretrained(path)).gated == (family != "encoder"):
            backbone = without_dropout(path, folder / path.name)
            yield f"{family} {path.name}", str(backbone), f"training.learning_rate={RATE[family]}"


def resume(setting: Setting) -> Iterator[Row]:
    """Stop a training of each family after its first step, resume it, and compare the predictions
    with those of an uninterrupted training."""
    pairs = some_pairs(12)
    for family in FAMILIES:
        with scratch() as folder:
            backbone = save_small(
                folder / "random", family, texts_of(pairs), setting.quick, dropout=0.1
            )
            config = small(family, backbone, "training.epochs=2")
            whole = fit(config, pairs)
            stopped = small(family, backbone, "training.epochs=2", "training.seconds=1e-9")
            first = fit(stopped, pairs, folder / "checkpoint").report_["training"]["steps"]
            resumed = fit(config, pairs, folder / "checkpoint")
            yield _resumed(family, whole, resumed, first, pairs)


def _resumed(family: str, whole: Model, resumed: Model, first: int, pairs: pd.DataFrame) -> Row:
    reports = [model.report_["training"] for model in (whole, resumed)]
    steps = [(report["steps"], report["skipped_steps"]) for report in reports]
    expected = whole.predict_proba(pairs)
    far = float(np.abs(resumed.predict_proba(pairs) - expected).max())
    spread = float(expected.std(axis=0).max())
    return Row(
        "resume",
        family,
        f"stopped after {first} of {steps[0][0]} steps; Δp {far:.1e} of a spread of {spread:.1e}",
        f"at most {RESUMED * spread:.1e}, the same steps",
        bool(far <= RESUMED * spread and steps[0] == steps[1] and first < steps[0][0]),
    )
